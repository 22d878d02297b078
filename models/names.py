"""What people read: features in natural units, and a name for a segment: from its centre, or given by a user."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import chain, count
from typing import TYPE_CHECKING, NamedTuple

from models.rows import FEATURES
from models.segments import LARGEST_WHALE, Catalogue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: A decayed count with half-life H days settles at rate x H / ln 2.
_DAYS_SLOW, _DAYS_FAST = 45 / math.log(2), 3 / math.log(2)
#: Standard deviations from the average wallet at which a property deserves a word.
NOTABLE = 0.5


def _itself(value: float) -> float:
    return value


def _squared(value: float) -> float:
    return value * value


_NATURAL: dict[str, Callable[[float], float]] = {
    "frequency": lambda value: math.expm1(value) / _DAYS_SLOW,
    "frequency_fast": lambda value: math.expm1(value) / _DAYS_FAST,
    "ticket": math.expm1,
    "ticket_fast": math.expm1,
    "ticket_spread": math.exp,
    "wallet_size": math.expm1,
    "leverage": math.exp,
    "leverage_fast": math.exp,
    "spot": _squared,
    "derivatives": _squared,
    "staking": _squared,
    "lending": _squared,
    "wallet": _squared,
    "stable": _itself,
    "sell": _itself,
    "diversity": lambda value: 1.0 / max(value, 1e-3),
}


def natural(feature: str, value: float) -> float:
    """A feature in the unit people think in, to four significant digits and a millionth; what is beyond e^700 as that.

    frequency, frequency_fast: transactions a day; ticket, ticket_fast, wallet_size: USD; ticket_spread: factor by
    which tickets vary; leverage, leverage_fast: times; products, stable, sell: share 0..1; diversity: assets.
    """
    return float(f"{round(_NATURAL[feature](min(value, LARGEST_WHALE)), 6):.4g}")


def natural_row(row: NDArray[np.float64]) -> dict[str, float]:
    """A feature row (16,) in natural units, by feature."""
    return {feature: natural(feature, float(value)) for feature, value in zip(FEATURES, row, strict=True)}


def name_for(centre: NDArray[np.float64], scaled: NDArray[np.float64], taken: Collection[str]) -> str:
    """A name nobody has yet for the segment with this centre (16,), in feature units and scaled to the average."""
    contrast = dict(zip(FEATURES, scaled.tolist(), strict=True))
    kind = _kind(natural_row(centre), contrast)
    others = set(map(folded, taken))
    return next(name for name in _candidates(kind, _adjectives(contrast), contrast) if folded(name) not in others)


def _kind(value: dict[str, float], contrast: dict[str, float]) -> str:
    """What the wallets of a segment mostly do; on a young stream nobody has traded much, so busier than most counts."""
    if value["derivatives"] >= 0.3:
        return "leveraged traders" if value["leverage"] >= 1.5 else "derivatives traders"
    if value["staking"] + value["lending"] >= 0.4:
        return _yield_seekers(value["staking"], value["lending"])
    if value["wallet"] >= 0.5:
        return "transfer users"
    return "traders" if value["frequency"] >= 1.0 or contrast["frequency"] >= NOTABLE / 2 else "holders"


def _yield_seekers(staking: float, lending: float) -> str:
    if staking >= 2 * lending:
        return "stakers"
    return "lenders" if lending >= 2 * staking else "DeFi users"


#: Feature, the word for much of it, the word for little of it; in order of preference.
_WORDS = (
    ("wallet_size", "large", "small"),
    ("frequency", "busy", "quiet"),
    ("ticket", "big-ticket", "small-ticket"),
    ("leverage", "leveraged", ""),
    ("sell", "selling", "buying"),
    ("stable", "cautious", "bold"),
    ("diversity", "focused", "diversified"),
    ("ticket_spread", "uneven", "regular"),
    ("frequency_fast", "lately active", "lately calm"),
)


def _adjectives(contrast: dict[str, float]) -> list[str]:
    """Words for what sets the segment apart, the most striking first."""
    striking = sorted(_WORDS, key=lambda word: -abs(contrast[word[0]]))
    notable = [word for word in striking if abs(contrast[word[0]]) >= NOTABLE]
    words = [much if contrast[feature] > 0 else little for feature, much, little in notable]
    return [word for word in words if word]


def _candidates(kind: str, adjectives: list[str], contrast: dict[str, float]) -> Iterator[str]:
    """Names from the plainest to the most particular; endless."""
    if kind == "holders" and contrast["frequency"] <= -NOTABLE and contrast["wallet_size"] <= -NOTABLE:
        yield "new and small"
    plain: Iterable[str] = ["steady holders", "quiet holders"] if kind == "holders" else [kind]
    if kind == "traders":
        plain = ["active traders"]
    fitting = [word for word in adjectives if word.split("-")[0] not in kind]
    two = (f"{first} {second} {kind}" for first in fitting for second in fitting if first != second)
    yield from chain(plain, (f"{word} {kind}" for word in fitting), two)
    yield from (f"{next(iter(plain))} {number}" for number in count(2))


#: Bounds of what a user gives, in characters, and names that would be taken for something else.
NAME_LENGTH, DESCRIPTION_LENGTH = 64, 500
RESERVED = {
    "a segment's id": re.compile(r"unassigned|s\d+"),
    "the overlay of the largest wallets": re.compile(r"whales?"),
}


class GivenName(NamedTuple):
    """What a user calls a segment, and what he wrote about it."""

    name: str
    description: str = ""


class WrongName(ValueError):
    """A name that cannot be given; its text is one line for people."""


def tidied(text: str) -> str:
    """A user's text in the one form it is kept in: composed characters (NFC), single spaces between its words."""
    spaced = (" " if unicodedata.category(letter) == "Zs" else letter for letter in unicodedata.normalize("NFC", text))
    return re.sub(" +", " ", "".join(spaced)).strip()


@lru_cache(maxsize=1024)
def folded(name: str) -> str:
    """What two names have in common that people would take for one: case, width, composition and spaces are gone."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", tidied(name)).casefold())


def give(catalogue: Catalogue, number: int, given: GivenName, others: Mapping[int, GivenName]) -> bytes:
    """A name for a segment as it is stored, canonical JSON. `others`: those given so far. Raises `WrongName`."""
    name, description = map(tidied, given)
    if catalogue.column_of(number) < 0 and number not in catalogue.retired_names:
        raise WrongName(f"there is no segment s{number}: `tidemark segments` lists all")
    if fault := _fault_of_name(name):
        raise WrongName(fault)
    if len(description) > DESCRIPTION_LENGTH or not description.isprintable():
        raise WrongName(f"a description has at most {DESCRIPTION_LENGTH} characters that can be printed, in one line")
    named = _names_of(catalogue) | {other: each.name for other, each in others.items()}
    for other, taken in named.items():
        if other != number and folded(taken) == folded(name):
            raise WrongName(f"s{other} is called {taken}: choose another name, or rename that one first")
    return json.dumps(GivenName(name, description)._asdict(), separators=(",", ":"), sort_keys=True).encode()


def _fault_of_name(name: str) -> str | None:
    """Why nobody can be called so, or None."""
    if not (1 <= len(name) <= NAME_LENGTH and name.isprintable()):
        return f"a name has 1 to {NAME_LENGTH} characters that can be printed"
    if not any(letter.isalnum() for letter in name):
        return f"{name} has no letter and no digit: tables print a dash for nothing, a name has to say something"
    for meant, reserved in RESERVED.items():
        if reserved.fullmatch(folded(name)):
            return f"{name} would be taken for {meant}: choose another name"
    return None


def read_given(found: Mapping[bytes, bytes]) -> dict[int, GivenName]:
    """The names users have given, by segment, of the hash they are stored in; what cannot be read is left out."""
    given = {}
    for number, text in found.items():
        try:
            given[int(number)] = GivenName(*map(tidied, GivenName(**json.loads(text))))
        except (ValueError, TypeError):
            continue
    return given


def with_names(catalogue: Catalogue, given: Mapping[int, GivenName]) -> Catalogue:
    """The catalogue with the names users have given, to retired segments too, and no others of theirs.

    An automatic name that says the same gets a number. The same object where nothing changes.
    """
    if not (given or catalogue.retired_by_users or any(segment.automatic for segment in catalogue.segments)):
        return catalogue
    known = _names_of(catalogue)
    taken = {folded(each.name) for number, each in given.items() if number in known}
    segments = []
    for segment in catalogue.segments:
        automatic = catalogue.automatic_name_of(segment.number)
        name, description, automatic = _told(given.get(segment.number), automatic, taken)
        segments.append(replace(segment, name=name, description=description, automatic=automatic))
    names, by_users = {}, {}
    for number in catalogue.retired_names:
        names[number], *told = _told(given.get(number), catalogue.automatic_name_of(number), taken)
        if any(told):
            by_users[number] = (told[0], told[1])
    unchanged = names == catalogue.retired_names and by_users == catalogue.retired_by_users
    if unchanged and tuple(segments) == catalogue.segments:
        return catalogue
    return replace(catalogue, segments=tuple(segments), retired_names=names, retired_by_users=by_users)


def carried(catalogue: Catalogue, given: Mapping[int, GivenName]) -> dict[int, GivenName]:
    """The names users had given when the catalogue was made, and those of `given`, which win.

    A pinned catalogue may be all there is of them: a name or description it has is kept, but for a name that another
    segment was given since.
    """
    known = _names_of(catalogue)
    by_users = {segment.number for segment in catalogue.segments if segment.automatic or segment.description}
    by_users |= catalogue.retired_by_users.keys() & known.keys()
    taken = {folded(its.name) for number, its in given.items() if number in known}
    kept = {n: GivenName(known[n], catalogue.description_of(n)) for n in by_users if folded(known[n]) not in taken}
    return kept | dict(given)


def _told(its: GivenName | None, automatic: str, taken: set[str]) -> tuple[str, str, str]:
    """Name, description and, where the name is not it, automatic name of a segment; the name is `taken` from now on."""
    if its:
        return its.name, its.description, automatic
    name = _free(automatic, taken)
    taken.add(folded(name))
    return name, "", "" if name == automatic else automatic


def _names_of(catalogue: Catalogue) -> dict[int, str]:
    return catalogue.retired_names | {segment.number: segment.name for segment in catalogue.segments}


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or the name with the first number that makes it nobody's. `taken`: folded."""
    if folded(name) not in taken:
        return name
    return next(numbered for number in count(2) if folded(numbered := f"{name} {number}") not in taken)
