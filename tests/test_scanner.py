"""What the scanner calls plain, `judge` accepts with these very values; and what sane producers send is plain."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, NotRequired

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import Field

from models import forms
from models.arrivals import CODE_OF, EVENT, asset_of
from models.eights import hash_of
from models.events import PRODUCTS, Rejected, judge, to_micros, to_ms
from models.hashing import hash64
from models.records import Record, Records, records_of
from models.rules import LARGEST_VALUE
from models.scanner import Scanned, scan
from models.state import TOUCHES, TRANSACTIONS
from scripts.bench_traffic import TRANSACTIONS as TRANSACTIONS_TOPIC
from scripts.bench_traffic import Traffic
from streams.simulate import SimulationPlan, simulate
from tests.partition import NOON_MS, touch, transaction
from tests.test_events import FIELDS, FULL, LONG, ODD_TEXTS, encode, with_raw

Lined = tuple[int, bytes | None]
LANES = st.sampled_from([TRANSACTIONS, TOUCHES])
#: What the caller fills in.
NOT_SCANNED = {"wallet", "part"}


def scanned(values: Iterable[Lined]) -> tuple[Records, NDArray[np.void], Scanned]:
    """The values among other bytes, as they lie in what was fetched."""
    given = list(values)
    records = records_of(Record(place, NOON_MS, b'{"', value, [("a", b'"}')]) for place, (_, value) in enumerate(given))
    return judged(records, bytes(lane for lane, _ in given))


def judged(records: Records, lanes: bytes) -> tuple[Records, NDArray[np.void], Scanned]:
    """Scan records, and hold what is plain against `judge`."""
    events = np.zeros(len(records), EVENT)
    found = scan(records, lanes, events)
    odd, hard = set(found.odd.tolist()), {place: rest for place, *rest in found.hard.tolist()}
    assert found.odd.tolist() == sorted(odd)
    assert found.hard.shape == (len(hard), 3)
    assert not odd & set(hard)
    for place, record in enumerate(records):
        if place not in odd:
            agrees(records, (lanes[place], record.value), events[place], hard.get(place))
    return records, events, found


def agrees(records: Records, lined: Lined, event: np.void, hard: list[int] | None) -> None:
    """Every field of a plain event is what `judge` says."""
    verdict = judge(*lined)
    assert not isinstance(verdict, Rejected), (lined, verdict)
    told = {name: event[name].item() for name in EVENT.names or ()}
    usd, text = told.pop("usd"), records.text
    row = records.rows[told["place"]]
    for name in ("event_id", "wallet_id", "campaign", "channel"):
        begin, end = told[name], told.pop(f"{name}_end")
        assert (begin, end) == (0, 0) or row["value"] < begin < end < row["value_end"]
        told[name] = text[begin:end].decode()
    told["channel"] = told["channel"].lower()
    for name in NOT_SCANNED:
        assert told.pop(name) == 0
    assert told == meant(lined[0], verdict) | {"place": told["place"]}
    exact = verdict["exact"].get("usd_value")
    if hard is not None:
        begin, end = hard
        assert Decimal(text[begin:end].decode()) == exact
    elif exact is None:
        assert math.isnan(usd)
    else:
        assert (usd, math.copysign(1, usd)) == (float(exact), 1)


def meant(lane: int, verdict: dict[str, Any]) -> dict[str, Any]:
    """All numbers and texts of an event but `usd`."""
    exact, is_touch = verdict["exact"], lane == TOUCHES
    return {
        "at_ms": to_ms(verdict["occurred_at"]),
        "leverage": max(verdict.get("leverage") or 1.0, 1.0),
        "product": 0 if is_touch else PRODUCTS[verdict["product"]],
        "asset": 0 if is_touch else asset_of(verdict["asset"]),
        "fee_micros": to_micros(exact.get("fee_usd", Decimal(0))),
        "cost_micros": to_micros(exact.get("cost_usd", Decimal(0))),
        "jurisdiction": CODE_OF[verdict.get("jurisdiction")],
        "is_touch": is_touch,
        "is_sell": verdict.get("side") == "sell",
        "is_sent": verdict.get("touch") == "sent",
        "id_hash": int(hash64([verdict["event_id"].encode()])[0]),
        "event_id": verdict["event_id"],
        "wallet_id": verdict["wallet_id"],
        "campaign": verdict.get("campaign_id", ""),
        "channel": verdict.get("channel", ""),
    }


def is_plain(lane: int, value: bytes | None) -> bool:
    """Whether a value is plain, and what it says is right if so."""
    _, _, found = scanned([(lane, value)])
    return len(found.odd) == 0


def changed(lane: int, **raw: str) -> bytes:
    """A full value with some of its fields exactly so."""
    fields = {name: json.dumps(found) for name, found in FULL[lane].items()} | raw
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}").encode()


# ------------------------------------------------------------------ what is plain, is right


@given(LANES, st.one_of(st.none(), st.binary(max_size=200)))
def test_any_bytes(lane: int, value: bytes | None) -> None:
    is_plain(lane, value)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(LANES, anything, st.booleans())
def test_any_json(lane: int, value: Any, is_ascii: bool) -> None:
    is_plain(lane, encode(value))
    more = json.dumps({**FULL[lane], "more": value}, ensure_ascii=is_ascii, allow_nan=True)
    is_plain(lane, more.encode(errors="surrogatepass"))


@given(LANES, st.data())
@settings(max_examples=300)
def test_damaged_bytes(lane: int, data: st.DataObject) -> None:
    value = bytearray(encode(FULL[lane]))
    for _ in range(data.draw(st.integers(1, 3))):
        place, act = data.draw(st.integers(0, len(value) - 1)), data.draw(st.sampled_from(["change", "insert", "drop"]))
        byte = data.draw(st.sampled_from(b'"{}[]:,\\ 019.-+eEu\0\x1f\x7f\x80\xc2\xed\xff') | st.integers(0, 255))
        value[place : place + (act != "insert")] = [] if act == "drop" else [byte]
    is_plain(lane, bytes(value))


ODDER = [
    "1" * 400, "0." + "1" * 400, json.dumps("1" * 400), "00", "01", "1.", ".5", "+1", "1e", '"01.50"', "1e0001", "tru",
    "nul", "nulls", "true1", '"\x1f"', '"\x7f"', '"a\\"b"', '"ue\\u0041"', '"\\x"', '"\\u00g0"', "[1,]",
    "{1:2}", "0.1e-9",
]  # fmt: skip


@pytest.mark.parametrize(("lane", "name"), FIELDS)
def test_every_field_as_any_odd_text(lane: int, name: str) -> None:
    texts = [*ODD_TEXTS, *LONG, *ODDER]
    scanned((lane, with_raw(lane, name, raw)) for raw in texts)
    scanned((lane, changed(lane, **{name: raw})) for raw in texts)


parts = st.text(st.sampled_from("0123456789"), max_size=22)
numbers = st.builds(
    lambda sign, whole, point, part, power: f"{sign}{whole}{point}{part}{power}",
    st.sampled_from(["", "", "", "-", "+"]),
    parts,
    st.sampled_from(["", "."]),
    parts,
    st.sampled_from(["", ""])
    | st.integers(-30, 30).map(lambda power: f"e{power}")
    | st.sampled_from(["E+2", "e-0", "e"]),
)
values = st.sampled_from(ODD_TEXTS + LONG) | numbers | numbers.map(json.dumps) | anything.map(json.dumps)
blanks = st.text(st.sampled_from(" \t\r\n"), max_size=2)
NAMES = sorted(
    {name for _, name in FIELDS} | {"unknown", "", "event_id\\u0000", "\\u0065vent_id", "événement", "event_ie"}
)


@given(LANES, st.data(), st.booleans())
@settings(max_examples=400)
def test_several_fields_in_any_order_with_any_whitespace(lane: int, data: st.DataObject, framed: bool) -> None:
    fields = [(name, json.dumps(found)) for name, found in FULL[lane].items()]
    fields += data.draw(st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=2))
    fields = data.draw(st.permutations(fields))
    if data.draw(st.booleans()):  # else a later one is the second of its name
        fields = list(dict(fields).items())
    blank = [data.draw(blanks) for _ in range(4)]
    inner = ",".join(f'{blank[0]}"{name}"{blank[1]}:{blank[2]}{raw}{blank[3]}' for name, raw in fields)
    value = f"{blank[3]}{{{inner}}}{blank[0]}".encode(errors="surrogatepass")
    is_plain(lane, b"\0\0\0\0\7" + value if framed else value)


@given(st.sampled_from(["usd_value", "fee_usd", "quantity", "leverage", "cost_usd"]), numbers, st.booleans())
@settings(max_examples=600)
@example("fee_usd", "0.0000005", True)
@example("fee_usd", "0.0000015", True)
@example("fee_usd", "-0.00000150000000000000000000000000000001", False)
@example("fee_usd", "0.00000050000000000000000000000000000001", False)
@example("fee_usd", "1000000000", False)
@example("fee_usd", "999999999.99999999999", False)
@example("usd_value", "999999999999.99999999999", False)
@example("usd_value", "9007199254740993", False)
@example("usd_value", "100000000000000000000000e-22", False)
@example("usd_value", "1e-23", False)
def test_any_number(name: str, text: str, quoted: bool) -> None:
    lane = TOUCHES if name == "cost_usd" else TRANSACTIONS
    is_plain(lane, changed(lane, **{name: json.dumps(text) if quoted else text}))


@given(
    st.integers(0, 10**14), st.sampled_from(["5", "50", "500000000000000000001", "4999"]), st.sampled_from(["", "-"])
)
@settings(max_examples=300)
def test_halves_of_a_micro(whole: int, tail: str, sign: str) -> None:
    text = f"{sign}{whole // 10**6}.{whole % 10**6:06d}{tail}"
    assert is_plain(TRANSACTIONS, changed(TRANSACTIONS, fee_usd=text))


def test_amounts_of_every_length_are_exact() -> None:
    """A division by a power that is not exact, or of a mantissa that is not, is wrong only now and then."""
    dice = np.random.default_rng(7)
    texts = [f"{dice.integers(10**17, 10**18)}"[: 12 + place % 7] for place in range(12_000)]
    lined = [
        (
            TRANSACTIONS,
            changed(TRANSACTIONS, usd_value=f"{text}e-{dice.integers(7, 26)}", fee_usd=f'"{text[:9]}.{text[9:]}"'),
        )
        for text in texts
    ]
    _, _, found = scanned(lined)
    assert not len(found.odd)
    assert 0.1 < len(found.hard) / len(lined) < 0.9


@given(
    st.text(st.sampled_from("0123456789"), min_size=14, max_size=14),
    st.sampled_from(["", ".1", ".123", ".123456", ".123456789", ".", ".x"]),
    st.sampled_from(["Z", "z", "+00:00", "-00:00", "+23:59", "-05:30", "+24:00", "+05:60", "", "Z ", "+0530", "+05:3"]),
)
@settings(max_examples=300)
@example("20240229235959", "", "Z")
@example("20230229235959", "", "Z")
@example("21000229000000", "", "Z")
@example("20090103000000", "", "+00:01")
@example("21060207062815", ".0009", "Z")
@example("21060207062815", ".001", "Z")
@example("20260401235960", "", "Z")
@example("20260401240000", "", "Z")
@example("99991231235959", "", "-01:00")
@example("00000101000000", "", "Z")
def test_any_time(digits: str, fraction: str, offset: str) -> None:
    day = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}T{digits[8:10]}:{digits[10:12]}:{digits[12:]}"
    near = f"20{digits[2:4]}-{int(digits[4:6]) % 13:02d}-{int(digits[6:8]) % 33:02d}t{int(digits[8:10]) % 25:02d}:59:01"
    scanned((TOUCHES, changed(TOUCHES, occurred_at=f'"{at}{fraction}{offset}"')) for at in (day, near))


@given(
    st.binary(max_size=6) | st.text(max_size=2).map(lambda text: text.encode(errors="surrogatepass")), st.integers(0, 8)
)
@settings(max_examples=600)
@example(b"\xc1\xbf", 0)
@example(b"\xe0\x9f\xbf", 0)
@example(b"\xed\xa0\x80", 0)
@example(b"\xf0\x8f\xbf\xbf", 0)
@example(b"\xf4\x90\x80\x80", 0)
@example(b"\xf5\x80\x80\x80", 0)
@example(b"\xe2\x82", 0)
def test_any_bytes_in_a_string(inner: bytes, before: int) -> None:
    for lane, name in [(0, "wallet_id"), (0, "asset"), (1, "channel"), (1, "variant"), (0, "more"), (0, "kind")]:
        for filled in (b"x" * before + inner, inner * 30):
            here = encode({**FULL[lane], name: "@@"}).replace(b"@@", filled)
            is_plain(lane, here)
    is_plain(0, encode({**FULL[0], "@@": 1}).replace(b"@@", inner))


def test_two_fields_of_a_name_are_odd_and_null_is_no_way_round_it() -> None:
    for lane, name in FIELDS:
        for raw in ("null", json.dumps(FULL[lane][name])):
            again = encode(FULL[lane])[:-1] + f', "{name}": {raw}}}'.encode()
            before = f'{{"{name}": {raw}, '.encode() + encode(FULL[lane])[1:]
            assert not is_plain(lane, again)
            assert not is_plain(lane, before)


def test_a_required_field_is_required() -> None:
    for lane, name in FIELDS:
        without = {field: found for field, found in FULL[lane].items() if field != name}
        fine = not isinstance(judge(lane, encode(without)), Rejected)
        assert is_plain(lane, encode(without)) == is_plain(lane, changed(lane, **{name: "null"})) == fine


@pytest.mark.parametrize("lane", [TRANSACTIONS, TOUCHES])
def test_a_value_that_ends_abruptly_is_odd_whatever_comes_behind_it(lane: int) -> None:
    more = {"usd_value": "12.5e1", "more": {"a": [True, None, "\\u00e9"]}, "at": -1.5e-3}
    wide = json.dumps({**FULL[lane], **more, "wallet_id": "ßé漢🦊"}, ensure_ascii=False).encode()
    for value in (encode(FULL[lane]), b"\0abcd" + wide, changed(lane, occurred_at='"2026-04-01T00:00:00.5+01:30"')):
        whole = records_of([Record(0, NOON_MS, b"k", value)])
        judged(whole, bytes([lane]))
        for size in range(len(value)):
            cut = whole.rows.copy()
            cut["value_end"] = cut["value"] + size
            at_the_end = records_of([Record(0, NOON_MS, None, value[:size])])
            for records in (Records(whole.text, cut), at_the_end):
                events = np.zeros(1, EVENT)
                assert scan(records, bytes([lane]), events).odd.tolist() == [0]


@pytest.mark.parametrize(
    "behind", [b"}", b"x", b"{}", b",", b"\0", b'"', b"\xff", b"\xc2\xa0", b"\x0c", b"null", b" 1"]
)
def test_anything_but_whitespace_behind_the_object_is_odd(behind: bytes) -> None:
    for lane in (TRANSACTIONS, TOUCHES):
        assert not is_plain(lane, encode(FULL[lane]) + behind)
        assert not is_plain(lane, behind + encode(FULL[lane]))


@pytest.mark.parametrize("text", ["é", "ß", "ŉ", "ǆ", "İ", "\u212a", "Ä-b"])
def test_cases_of_letters_beyond_ascii_are_left_to_others(text: str) -> None:
    for lane, name in ((TRANSACTIONS, "asset"), (TOUCHES, "channel")):
        assert not is_plain(lane, changed(lane, **{name: f'"{text}"'}))


def test_null_too_large_and_empty_values_are_odd() -> None:
    assert not is_plain(0, None)
    assert not is_plain(0, b"")
    assert not is_plain(0, b"\0\0\0")
    value = encode(FULL[0])
    assert is_plain(0, value + b" " * (LARGEST_VALUE - len(value)))
    assert not is_plain(0, value + b" " * (LARGEST_VALUE - len(value) + 1))


def test_no_records_are_no_events() -> None:
    found = scan(records_of([]), b"", np.zeros(0, EVENT))
    assert (found.odd.shape, found.hard.shape) == ((0,), (0, 3))


@given(st.lists(st.tuples(LANES, st.sampled_from(ODD_TEXTS), st.booleans()), max_size=12))
@settings(max_examples=60)
def test_a_batch_is_scanned_as_its_records_one_by_one(odd: list[tuple[int, str, bool]]) -> None:
    lined: list[Lined] = []
    for lane, raw, is_full in odd:
        lined.append((lane, encode(FULL[lane]) if is_full else changed(lane, **{("usd_value", "cost_usd")[lane]: raw})))
    records, events, found = scanned(lined)
    lanes = bytes(lane for lane, _ in lined)
    odd_alone, hard_alone = [], []
    for place in range(len(lined)):
        event = np.zeros(1, EVENT)
        alone = scan(records[place : place + 1], lanes[place : place + 1], event)
        odd_alone += [place] * len(alone.odd)
        hard_alone += [[place, *rest] for _, *rest in alone.hard.tolist()]
        event["place"] = place
        if not len(alone.odd):
            assert event.tobytes() == events[place : place + 1].tobytes()
    assert (found.odd.tolist(), found.hard.tolist()) == (odd_alone, hard_alone)


# ------------------------------------------------------------------ what is sane, is plain


def test_everything_the_simulator_sends_is_plain() -> None:
    plan = SimulationPlan(seed=3, wallets=300, days=60, start=date(2026, 4, 1), late=0.1, duplicates=0.1, events=3000)
    lines = [json.loads(line) for line in simulate(plan)]
    lanes = bytes(int(line["topic"] != TRANSACTIONS_TOPIC) for line in lines)
    for form in ({}, {"separators": (",", ":")}, {"indent": 2, "sort_keys": True}):
        values = [json.dumps(line["value"], **form).encode() for line in lines]
        _, _, found = scanned(zip(lanes, values, strict=True))
        assert not len(found.odd)
        assert not len(found.hard)


def test_everything_of_the_benchmarks_is_plain() -> None:
    sent = list(Traffic(wallets=500).records(3000))
    _, _, found = scanned((int(each.topic != TRANSACTIONS_TOPIC), each.value) for each in sent)
    assert not len(found.odd)
    assert not len(found.hard)


SANE: list[tuple[int, dict[str, str]]] = [
    (0, {"occurred_at": '"2026-04-01T00:00:00Z"'}),
    (0, {"occurred_at": '"2026-04-01t00:00:00.123456789z"'}),
    (1, {"occurred_at": '"2024-02-29T23:59:59.9-23:59"'}),
    (1, {"occurred_at": '"2009-01-03T00:00:00+00:00"'}),
    (0, {"usd_value": '"1234.50"', "fee_usd": '"+.5"', "quantity": '"7."'}),
    (0, {"usd_value": "1.25E+3", "fee_usd": "-1e-3", "quantity": "1e300"}),
    (0, {"usd_value": "0", "fee_usd": "-0.0", "quantity": "0.0"}),
    (0, {"usd_value": "135.79500000000002", "fee_usd": "0.13579500000000002"}),
    (0, {"usd_value": '"0.100000000000000000000000000000"', "quantity": '"' + "123456789." * 1 + "1" * 40 + '"'}),
    (0, {"usd_value": '"12345678901.12345678901234567890"'}),
    (0, {"leverage": "1"}),
    (0, {"leverage": "1000.0"}),
    (0, {"leverage": "null", "side": "null", "kyc_tier": "null", "usd_value": "null", "fee_usd": "null"}),
    (0, {"asset": '"usdC"'}),
    (0, {"asset": '"eth"'}),
    (0, {"asset": '"a-very-long-name-of-an-asset:0x0123456789abcdef"'}),
    (0, {"jurisdiction": '"ZW"', "kind": '"liquidation"', "product": '"derivatives"', "kyc_tier": '"institutional"'}),
    (0, {"wallet_id": '"кошелёк-漢字-🦊"', "event_id": json.dumps("ß" * 128, ensure_ascii=False)}),
    (1, {"campaign_id": '"été"', "channel": '"E-Mail"', "touch": '"sent"', "variant": '"ß"'}),
    (1, {"cost_usd": '"0.0000005"', "goal": '"acquisition"'}),
    (0, {"more": '{"a": [1, -2.5e3, true, false, null, "x\\n\\u00e9\\"", {"b": {}}, []], "event_id": "other"}'}),
    (0, {"more": "[[[[[[[1]]]]]]]", "price": "0.1", "note": '"a \\"quoted\\" text \\\\ / \\/"', "": "0"}),
]  # fmt: skip


@pytest.mark.parametrize(("lane", "fields"), SANE)
def test_what_sane_producers_send_is_plain(lane: int, fields: dict[str, str]) -> None:
    value = changed(lane, **fields)
    assert is_plain(lane, value)
    assert is_plain(lane, b"\0\0\0\0\1" + value)
    assert is_plain(lane, b"\n\t" + value.replace(b", ", b"\r\n , ").replace(b": ", b" :\t") + b" \n")
    last, first = list(FULL[lane]), transaction("e", "w", NOON_MS) if lane == TRANSACTIONS else touch("e", "w", NOON_MS)
    assert is_plain(lane, encode({name: FULL[lane][name] for name in reversed(last)}))
    assert is_plain(lane, encode(first))


def test_only_what_takes_two_roundings_is_left_to_others() -> None:
    texts = ["0.1", "123456789.12", "9007199254740991", "1e-7", "9007199254740993e-8", "0.30000000000000004", "1e-23"]
    lined = [(TRANSACTIONS, changed(TRANSACTIONS, usd_value=text)) for text in texts]
    records, _, found = scanned(lined)
    assert [records.text[begin:end].decode() for _, begin, end in found.hard.tolist()] == texts[4:]


# ------------------------------------------------------------------ the contract is written once


def test_a_field_without_a_rule_here_is_no_field() -> None:
    with pytest.raises(TypeError, match="does not know what to do with colour"):
        forms.field_of("colour", str, 99)
    for kind in (
        str,
        int,
        NotRequired[float],
        Annotated[str, Field(pattern="^x$")],
        Annotated[float, Field(ge=0)],
        list[str],
    ):
        with pytest.raises(TypeError, match="the scanner knows no"):
            forms.field_of("kind", kind, 99)


def test_every_word_is_found_and_nothing_near_it() -> None:
    for word, of, number in forms.known_words():
        for padded, size in ((f"{word}{' ' * 20}", len(word)), (word, len(word))):
            text = np.frombuffer(padded.encode(), np.uint8)
            assert forms.looked_up(text, 0, size, of) == number
            assert forms.looked_up(text, 0, size, 99) == -1
        known = {other for other, whose, _ in forms.known_words() if whose == of}
        for near in (word[:-1], word + "s", word.swapcase()):
            text = np.frombuffer(near.encode() + b'"', np.uint8)
            assert near in known or forms.looked_up(text, 0, len(near), of) == -1


@given(st.binary(max_size=40), st.integers(0, 9))
def test_a_stretch_has_the_hash_of_its_bytes(stretch: bytes, behind: int) -> None:
    text = np.frombuffer(b"abc" + stretch + b"\xff" * behind, np.uint8)
    assert hash_of(text, 3, 3 + len(stretch), False) == hash64([stretch])[0]
    letters = bytes(byte & 0x7F for byte in stretch)
    text = np.frombuffer(b"abc" + letters + b"\xff" * behind, np.uint8)
    assert hash_of(text, 3, 3 + len(stretch), True) == hash64([letters.upper()])[0]
