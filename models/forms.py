"""The input contract as tables for compiled code, made from its types in `models.events`: it is written down once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from models.arrivals import CODE_OF, STABLE_ASSETS
from models.compiled import inlined
from models.eights import SIZE as HALF
from models.eights import eight, packed
from models.events import PRODUCTS, AmountRule, Time, Touch, Transaction

#: How a field is written.
TEXT, TIME, AMOUNT, NUMBER, WORD = range(5)
#: What becomes of it: nothing, it is only checked; or what its name says.
(CHECKED, EVENT_ID, WALLET_ID, AT_MS, PRODUCT, ASSET, USD, FEE, SIDE, LEVERAGE, JURISDICTION, CAMPAIGN, CHANNEL, SENT,
 COST) = range(15)  # fmt: skip
USES = {
    "event_id": EVENT_ID, "wallet_id": WALLET_ID, "occurred_at": AT_MS, "kind": CHECKED, "product": PRODUCT,
    "asset": ASSET, "quantity": CHECKED, "usd_value": USD, "fee_usd": FEE, "side": SIDE, "leverage": LEVERAGE,
    "jurisdiction": JURISDICTION, "kyc_tier": CHECKED, "campaign_id": CAMPAIGN, "channel": CHANNEL, "touch": SENT,
    "variant": CHECKED, "cost_usd": COST, "goal": CHECKED,
}  # fmt: skip
#: What a word stands for in an event, by the field; 0 where nothing is said.
NUMBERS: dict[str, dict[str, int]] = {
    "product": PRODUCTS,
    "jurisdiction": {country: code for country, code in CODE_OF.items() if country is not None},
    "side": {"sell": 1},
    "touch": {"sent": 1},
}
#: A field. `head`, `tail`: its name and a quote, eight bytes each, and which of these count; `size`: bytes of the name
#: without it. `words`: whose words it may be, in `WORDS`. Bounds by form: characters of a text; least and most of a
#: number; the magnitude of an amount is below 10^most, any if that is negative. `is_cased`: upper and lower case of the
#: text are the same; only ASCII is plain then. `is_signed`: an amount may be below 0.
FIELD = np.dtype(
    [
        ("head", "u8"),
        ("tail", "u8"),
        ("head_mask", "u8"),
        ("tail_mask", "u8"),
        ("size", "i8"),
        ("form", "i8"),
        ("use", "i8"),
        ("words", "i8"),
        ("least", "i8"),
        ("most", "i8"),
        ("is_required", "?"),
        ("is_cased", "?"),
        ("is_signed", "?"),
    ]
)
#: Bytes of the longest name or word; fields of a topic at most.
LONGEST, FIELDS_MOST = 16, 16
#: Bounds that are known here; any other makes a field one that cannot be read.
BOUNDS = ("ge", "gt", "le", "lt", "min_length", "max_length", "to_upper", "to_lower")
UNKNOWN = ("pattern", "strip_whitespace", "ascii_only", "multiple_of", "max_digits", "decimal_places")
CONTRACTS = (Transaction, Touch)


def unwrapped(kind: Any) -> tuple[Any, list[Any]]:
    """A type without what may be absent or null, and the rules it is annotated with."""
    rules: list[Any] = []
    while True:
        if get_origin(kind) is NotRequired:
            (kind,) = get_args(kind)
        elif get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            rules += more
        elif get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
            kind = Union[tuple(each for each in get_args(kind) if each is not NoneType)]  # noqa: UP007 -- known only here
        else:
            return kind, rules


def bounds_of(rules: list[Any]) -> dict[str, Any]:
    """The bounds among rules. Raises TypeError for one that is not known here."""
    parts = list(chain.from_iterable((rule, *getattr(rule, "metadata", ())) for rule in rules))
    for name in UNKNOWN:
        if any(getattr(part, name, None) is not None for part in parts):
            raise TypeError(f"the scanner knows no bound {name}")
    return {name: bound for part in parts for name in BOUNDS if (bound := getattr(part, name, None)) is not None}


def form_of(kind: Any) -> tuple[int, int, int, bool, bool]:
    """Form, least, most, `is_cased` and `is_signed` of a field. Raises TypeError for a type without a rule here."""
    inner, rules = unwrapped(kind)
    if inner == Time:
        return TIME, 0, 0, False, False
    if get_origin(inner) is Literal:
        return WORD, 0, 0, False, False
    bounds = bounds_of(rules)
    names = set(bounds)
    if any(isinstance(rule, AmountRule) for rule in rules):
        return amount_form(bounds)
    if inner is float and names == {"ge", "le"}:
        return NUMBER, bounds["ge"], bounds["le"], False, False
    if inner is str and {"min_length", "max_length"} <= names <= {"min_length", "max_length", "to_upper", "to_lower"}:
        return TEXT, bounds["min_length"], bounds["max_length"], len(names) > 2, False
    raise TypeError(f"the scanner knows no form for {kind}")


def amount_form(bounds: dict[str, Any]) -> tuple[int, int, int, bool, bool]:
    """The same of an amount: from 0 on, or as far below it as above; and below a power of ten, if it has a bound."""
    bound = bounds.get("lt")
    most = -1 if bound is None else len(str(int(bound))) - 1
    if bounds in ({"ge": 0}, {"ge": 0, "lt": bound}, {"gt": -(bound or 0), "lt": bound}) and bound in (None, 10**most):
        return AMOUNT, 0, most, False, "gt" in bounds
    raise TypeError(f"the scanner knows no amount with the bounds {bounds}")


def halves(word: str) -> tuple[np.uint64, np.uint64]:
    """A word of at most 16 characters of Latin-1 as two numbers, filled up with zeros."""
    head, tail = np.frombuffer(word.encode("latin-1").ljust(LONGEST, b"\0"), "<u8")
    return head, tail


def field_of(name: str, kind: Any, words: int) -> tuple[Any, ...]:
    """One field as a row of `FIELD`. Raises TypeError for one that has no use here."""
    if name not in USES or not name.isascii() or not 0 < len(name) < LONGEST:
        raise TypeError(f"the scanner does not know what to do with {name}")
    form, least, most, is_cased, is_signed = form_of(kind)
    head, tail = halves(f'{name}"')
    head_mask, tail_mask = halves("\xff" * (len(name) + 1))
    is_required = get_origin(kind) is not NotRequired
    bounds = least, most, is_required, is_cased, is_signed
    return head, tail, head_mask, tail_mask, len(name), form, USES[name], words, *bounds


def fields_of(lane: int) -> Iterator[tuple[str, Any, int]]:
    """Name and type of each field of a lane, in the contract's order, and the number of its words."""
    kinds = get_type_hints(CONTRACTS[lane], include_extras=True)
    for place, (name, kind) in enumerate(kinds.items()):
        yield name, kind, STABLE + 1 + lane * FIELDS_MOST + place


def made_fields() -> NDArray[np.void]:
    """The fields of each lane, (2, 16); those behind the last have no name."""
    fields = np.zeros((len(CONTRACTS), FIELDS_MOST), FIELD)
    for lane in range(len(CONTRACTS)):
        rows = [field_of(*each) for each in fields_of(lane)]
        fields[lane, : len(rows)] = rows
    return fields


# ------------------------------------------------------------------ words

#: A word that is known. `head`, `tail`: its bytes, eight each, the first one lowest. `of`: whose word; 0 nobody's, the
#: place is empty. `number`: what it stands for.
ENTRY = np.dtype([("head", "u8"), ("tail", "u8"), ("of", "i8"), ("number", "i8")])
#: Whose words there are besides those of the fields: names of fields, one more by lane; and stable assets.
NAMES, STABLE = 1, 3
PLACES, HEAD_PRIME, TAIL_PRIME, OF_STEP = 1024, np.uint64(8191), np.uint64(127), 131


def slot(head: np.uint64, tail: np.uint64, of: int) -> int:
    """Where to look for a word first."""
    return int(np.int64(head % HEAD_PRIME + tail % TAIL_PRIME) + OF_STEP * of) % PLACES


slot_of = inlined(slot)


def known_words() -> Iterator[tuple[str, int, int]]:
    """Every word, whose it is, and what it stands for."""
    for lane in range(len(CONTRACTS)):
        for place, (name, kind, words) in enumerate(fields_of(lane)):
            yield name, NAMES + lane, place
            inner, _ = unwrapped(kind)
            for word in get_args(inner) if get_origin(inner) is Literal else ():
                yield word, words, NUMBERS.get(name, {}).get(word, 0)
    for asset in STABLE_ASSETS:
        yield asset, STABLE, 1


def made_words() -> NDArray[np.void]:
    """All words, each at the first free place from its `slot` on. Raises TypeError for one that is too long."""
    words = np.zeros(PLACES, ENTRY)
    for word, of, number in known_words():
        if not word.isascii() or not 0 < len(word) <= LONGEST:
            raise TypeError(f"the scanner knows no word like {word}")
        head, tail = halves(word)
        at = slot(head, tail, of)
        while words[at]["of"]:
            at = (at + 1) % PLACES
        words[at] = head, tail, of, number
    return words


FIELDS, WORDS = made_fields(), made_words()
#: Of each lane, the bits of its required fields.
REQUIRED = np.array([sum(1 << place for place, row in enumerate(lane) if row["is_required"]) for lane in FIELDS])


@inlined
def looked_up(text: NDArray[np.uint8], at: int, end: int, of: int) -> int:
    """What a stretch of a text, without zeros, stands for among someone's words; -1 if it is none of them."""
    if end - at > LONGEST:
        return -1
    return number_under(packed(text, at, end), packed(text, at + HALF, end), of)


@inlined
def number_under(head: np.uint64, tail: np.uint64, of: int) -> int:
    """The same of a word as two numbers."""
    place = slot_of(head, tail, of)
    while WORDS[place]["of"] != 0:
        entry = WORDS[place]
        if entry["head"] == head and entry["tail"] == tail and entry["of"] == of:
            return int(entry["number"])
        place = (place + 1) % PLACES
    return -1


@inlined
def is_named(text: NDArray[np.uint8], at: int, end: int, field: np.void) -> bool:
    """Whether the name of a field and a quote come next; near the end of the text it is not seen."""
    if at + 2 * HALF > len(text) or at + field["size"] >= end:
        return False
    head = (eight(text, at) ^ field["head"]) & field["head_mask"]
    return bool((head | (eight(text, at + HALF) ^ field["tail"]) & field["tail_mask"]) == 0)
