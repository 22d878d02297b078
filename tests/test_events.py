"""Bytes in, one event or one reason out; and the fast tier says what the slow one says."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.arrivals import CODE_OF, asset_of
from models.columns import Events, read
from models.events import (
    EARLIEST_MS,
    LATEST_MS,
    MONEY,
    ORDER,
    PRODUCTS,
    Kind,
    Product,
    Rejected,
    Touch,
    TouchKind,
    Transaction,
    json_schema,
    judge,
    to_micros,
    to_ms,
)
from models.hashing import hash64
from models.records import Record, records_of
from models.rules import LARGEST_VALUE
from models.state import TOUCHES, TRANSACTIONS
from tests.partition import NOON_MS, touch, transaction

REASONS = {"null_value", "too_large", "not_utf8", "not_json", "not_an_object", "too_deep", *ORDER}
FULL = (
    transaction(
        "e1", "w1", NOON_MS, quantity="1.5", usd_value=10, fee_usd="0.25", side="sell", leverage=2.5,
        jurisdiction="US", kyc_tier="full",
    ),
    touch("e1", "w1", NOON_MS, touch="open", variant="b", cost_usd=0.125, goal="retention"),
)  # fmt: skip


def record(value: bytes | None) -> Record:
    return Record(0, NOON_MS, b"w1", value)


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def with_raw(lane: int, name: str, raw: str) -> bytes:
    """A valid value whose field `name` is exactly this JSON text."""
    rest = {field: found for field, found in FULL[lane].items() if field != name}
    return encode(rest)[:-1] + f', "{name}": {raw}}}'.encode()


def events_of(values: Sequence[bytes | None], lanes: bytes) -> tuple[Events, dict[int, Rejected]]:
    return read(records_of(map(record, values)), lanes)


def text(events: Events, name: str, place: int = 0) -> str:
    (found,) = events.texts(name, np.array([place]))
    return found.decode()


def agree(lane: int, value: bytes | None) -> str | None:
    """One event or one reason of the list, the same from both tiers; the reason."""
    verdict = judge(lane, value)
    events, rejected = events_of([value], bytes([lane]))
    assert len(events) + len(rejected) == 1
    if isinstance(verdict, Rejected):
        assert verdict.reason in REASONS
        assert rejected == {0: verdict}
        verdict.detail.encode()
        return verdict.reason
    assert not rejected
    exact = verdict["exact"]
    row = events.rows[0]
    assert row["at_ms"] == to_ms(verdict["occurred_at"])
    assert EARLIEST_MS <= row["at_ms"] <= LATEST_MS
    assert (text(events, "event_id"), text(events, "wallet_id")) == (verdict["event_id"], verdict["wallet_id"])
    assert row["id_hash"] == hash64([verdict["event_id"].encode()])[0]
    assert row["fee_micros"] == to_micros(exact.get("fee_usd", Decimal(0)))
    assert row["cost_micros"] == to_micros(exact.get("cost_usd", Decimal(0)))
    assert row["is_touch"] == (lane == TOUCHES)
    if lane == TOUCHES:
        assert text(events, "campaign") == verdict["campaign_id"]
        assert text(events, "channel").lower() == verdict["channel"]
        assert row["is_sent"] == (verdict["touch"] == "sent")
        return None
    assert (row["asset"], row["jurisdiction"]) == (asset_of(verdict["asset"]), CODE_OF[verdict["jurisdiction"]])
    assert row["product"] == PRODUCTS[verdict["product"]]
    assert row["is_sell"] == (verdict["side"] == "sell")
    assert row["leverage"] == (verdict["leverage"] or 1.0)
    usd = exact.get("usd_value")
    assert row["usd"] == float(usd) if usd is not None else math.isnan(row["usd"])
    return None


# ------------------------------------------------------------------ any bytes


@given(st.sampled_from([TRANSACTIONS, TOUCHES]), st.one_of(st.none(), st.binary(max_size=200)))
def test_any_bytes_are_one_event_or_one_reason(lane: int, value: bytes | None) -> None:
    agree(lane, value)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from([TRANSACTIONS, TOUCHES]), anything)
def test_any_json_is_one_event_or_one_reason(lane: int, value: Any) -> None:
    agree(lane, encode(value))


@given(st.sampled_from([TRANSACTIONS, TOUCHES]), st.data())
def test_damaged_bytes_are_one_event_or_one_reason(lane: int, data: st.DataObject) -> None:
    value = bytearray(encode(FULL[lane]))
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    agree(lane, bytes(value))


@pytest.mark.parametrize("depth", [*range(30, 36), 200, *range(300, 1100, 40), 5000, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_nesting_of_any_depth_has_a_verdict(depth: int, brackets: tuple[str, str]) -> None:
    opening, closing = brackets
    raw = opening * (depth - 1) + "1" + closing * (depth - 1)  # one level is the event itself
    assert agree(TRANSACTIONS, with_raw(TRANSACTIONS, "more", raw)) == ("too_deep" if depth > 32 else None)


def test_brackets_in_a_text_are_no_levels() -> None:
    assert agree(TRANSACTIONS, encode({**FULL[0], "more": "[{" * 100})) is None


# ------------------------------------------------------------------ field by field

#: JSON texts that a tier could read in its own way.
ODD = [
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "1.0",
    "-0.0",
    "-0",
    "1e3",
    "1E+2",
    "1e-400",
    "-1e-400",
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "999.999999999999999999",
    "1000.0000000000000000001",
    "0.99999999999999999999",
    "1e12",
    "999999999999.99999999999",
    "1e9",
    "-1e9",
    "999999999.99999999999",
    "-999999999.99999999999",
    "1000000000.0000000001",
    "1e99999999999999999999",
    "-1e99999999999999999999",
    "1e-99999999999999999999",
    "-1e-99999999999999999999",
    "0.0000005",
    "0.0000015",
    "0.00000050000000000000000000000000000001",
    "0.00000249999999999999999999999",
    "1775001600000",
    "1775001600000.0",
    "1775001600",
    "1775001600000000000000",
    "-5",
    "[]",
    "{}",
    "[1]",
    '""',
    '"x"',
    '"1"',
    '"-1"',
    '"+1"',
    '"1_000"',
    '"1__0"',
    '"_1"',
    '"1_"',
    '"1."',
    '".5"',
    '"0x10"',
    '"1e3"',
    '"1e400"',
    '"-1e-400"',
    '"nan"',
    '"inf"',
    '"Infinity"',
    '"-inf"',
    '"1e99999999999999999999"',
    '"1e-99999999999999999999"',
    '"-1e-99999999999999999999"',
    '"\\ud800"',
    '"a\\ud800b"',
    '"\\u0000"',
    '"\\uff11"',
    '"\\u0661"',
    '"1775001600000"',
    '"2026-04-01T00:00:00Z"',
    '"2026-02-30T00:00:00Z"',
    '"2026-04-01t00:00:00.123456789z"',
    '"2026-04-01T00:00:00"',
    '"2026-04-01"',
    '"2026-04-01T24:00:00Z"',
    '"2026-04-01T23:59:60Z"',
    '"2026-04-01T00:00:00+05:30"',
    '"2026-04-01T00:00:00+05:99"',
    '"2026-04-01T00:00:00+24:00"',
    '"2026-04-01T00:00:00-23:59"',
    '"1969-01-01T00:00:00Z"',
    '"2009-01-02T23:59:59.999Z"',
    '"2009-01-03T00:00:00Z"',
    '"9999-12-31T23:59:59.999Z"',
    '"9999-12-31T23:59:59-01:00"',
    '"0000-01-01T00:00:00Z"',
    '"0001-01-01T00:00:00+23:00"',
    '"\\u0662026-04-01T00:00:00Z"',
    '"trade"',
    '"TRADE"',
    '"spot"',
    '"sell"',
    '"Sell"',
    '"sent"',
    '"US"',
    '"us"',
    '"XX"',
    '"full"',
    '"retention"',
]
ODD_TEXTS = [*ODD, '" 1 "', '"2026-04-01 00:00:00Z"']
LONG = [json.dumps("x" * n) for n in (63, 64, 65, 128, 129)] + [json.dumps("ß" * 64), json.dumps("İ" * 64)]
FIELDS = [(lane, name) for lane, full in enumerate(FULL) for name in full]


@pytest.mark.parametrize(("lane", "name"), FIELDS)
def test_the_tiers_agree_on_every_field(lane: int, name: str) -> None:
    for raw in [*ODD_TEXTS, *LONG, "1" * 400, "0." + "1" * 400, "1" * 5000, json.dumps("1" * 5000)]:
        agree(lane, with_raw(lane, name, raw))


@pytest.mark.parametrize(("lane", "name"), FIELDS)
def test_a_null_is_an_absent_field(lane: int, name: str) -> None:
    without = {field: found for field, found in FULL[lane].items() if field != name}
    needed = name in json_schema()["$defs"][("wallet.transactions", "campaign.touches")[lane]]["required"]
    for value in (encode(without), with_raw(lane, name, "null")):
        assert agree(lane, value) == ("missing_field" if needed else None)


@given(
    lane=st.sampled_from([TRANSACTIONS, TOUCHES]),
    changes=st.dictionaries(
        st.sampled_from(sorted({name for _, name in FIELDS} | {"unknown"})),
        st.sampled_from(ODD_TEXTS + LONG),
        max_size=4,
    ),
    framed=st.booleans(),
)
@settings(max_examples=150)
def test_the_tiers_agree_on_several_fields_at_once(lane: int, changes: dict[str, str], framed: bool) -> None:
    value = encode(FULL[lane])[:-1] + "".join(f', "{name}": {raw}' for name, raw in changes.items()).encode() + b"}"
    agree(lane, b"\0\0\0\0\7" + value if framed else value)


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from(ODD_TEXTS)), max_size=12))
@settings(max_examples=50)
def test_a_batch_is_read_as_its_records_one_by_one(odd: list[tuple[int, str]]) -> None:
    values = [with_raw(lane, ("fee_usd", "cost_usd")[lane], raw) for lane, raw in odd]
    lanes = bytes(lane for lane, _ in odd)
    events, rejected = events_of(values, lanes)
    places = events.rows["place"].tolist()
    assert places == [place for place in range(len(values)) if place not in rejected]
    for place, value in enumerate(values):
        alone, why = events_of([value], lanes[place : place + 1])
        assert rejected.get(place) == why.get(0)
        if not why:
            row, other = events.rows[places.index(place)], alone.rows[0]
            for name in ("fee_micros", "cost_micros", "is_touch", "id_hash"):
                assert row[name] == other[name]
            assert text(events, "campaign", places.index(place)) == text(alone, "campaign")


def test_the_last_of_two_equal_names_counts() -> None:
    value = encode(FULL[0])[:-1] + b', "fee_usd": 7, "event_id": "later"}'
    events, _ = events_of([value], b"\0")
    assert (events.rows["fee_micros"].tolist(), text(events, "event_id")) == ([7_000_000], "later")
    assert agree(0, value) is None


def test_what_is_absent_has_its_default() -> None:
    values = [encode(transaction("e", "w", NOON_MS)), encode(touch("e", "w", NOON_MS))]
    events, rejected = events_of(values, b"\0\1")
    assert not rejected
    for name, blank in (("is_sell", 0), ("is_sent", 0), ("leverage", 1), ("fee_micros", 0), ("cost_micros", 0)):
        assert events.rows[name].tolist() == [blank, blank]
    assert np.isnan(events.rows["usd"]).all()
    assert (text(events, "campaign", 1), text(events, "channel", 1)) == ("spring", "email")


# ------------------------------------------------------------------ reasons

EXAMPLES: list[tuple[str, int, bytes | None]] = [
    ("null_value", 0, None),
    ("too_large", 0, b" " * (LARGEST_VALUE + 1)),
    ("not_utf8", 0, b'{"a": "\xff"}'),
    ("not_json", 0, b"{"),
    ("not_json", 0, b""),
    ("not_json", 0, b"\0"),
    ("not_json", 0, b"\xef\xbb\xbf{}"),
    ("not_an_object", 0, b"[1]"),
    ("not_an_object", 0, b"null"),
    ("too_deep", 0, b'{"a":' * 33 + b"1" + b"}" * 33),
    ("missing_field", 0, b"{}"),
    ("missing_field", 1, encode(FULL[0])),
    ("wrong_type", 0, with_raw(0, "fee_usd", "true")),
    ("wrong_type", 0, with_raw(0, "leverage", '"2"')),
    ("wrong_type", 0, with_raw(0, "usd_value", "NaN")),
    ("wrong_type", 0, with_raw(0, "occurred_at", '"1775001600000"')),
    ("wrong_type", 0, with_raw(0, "occurred_at", "1775001600000.0")),
    ("wrong_type", 0, with_raw(0, "occurred_at", '"2026-02-30T00:00:00Z"')),
    ("wrong_type", 1, with_raw(1, "channel", "5")),
    ("unknown_value", 0, with_raw(0, "kind", '"steal"')),
    ("unknown_value", 0, with_raw(0, "jurisdiction", '"XX"')),
    ("unknown_value", 1, with_raw(1, "touch", '"seen"')),
    ("out_of_range", 0, with_raw(0, "usd_value", "1e12")),
    ("out_of_range", 0, with_raw(0, "quantity", "-1e-400")),
    ("out_of_range", 0, with_raw(0, "fee_usd", "-1000000000")),
    ("out_of_range", 0, with_raw(0, "leverage", "1001")),
    ("out_of_range", 0, with_raw(0, "occurred_at", "1775001600")),
    ("out_of_range", 0, with_raw(0, "occurred_at", '"2008-12-31T00:00:00Z"')),
    ("out_of_range", 1, with_raw(1, "cost_usd", '"1000000000"')),
    ("out_of_range", 1, with_raw(1, "event_id", '""')),
    ("out_of_range", 1, with_raw(1, "variant", json.dumps("x" * 65))),
]


@pytest.mark.parametrize(("reason", "lane", "value"), EXAMPLES)
def test_one_example_of_every_reason(reason: str, lane: int, value: bytes | None) -> None:
    assert agree(lane, value) == reason


def test_every_reason_has_an_example() -> None:
    assert {reason for reason, _, _ in EXAMPLES} == REASONS


def test_the_first_reason_wins() -> None:
    deep = b'"deep":' + b"[" * 40 + b"]" * 40
    faults: list[tuple[str, dict[str, Any]]] = [  # each later one is there as well
        ("missing_field", {"asset": None, "kind": 5, "side": "none", "fee_usd": 1e9}),
        ("wrong_type", {"kind": 5, "side": "none", "fee_usd": 1e9}),
        ("unknown_value", {"side": "none", "fee_usd": 1e9}),
        ("out_of_range", {"fee_usd": 1e9}),
    ]
    for reason, wrong in faults:
        value = encode({**FULL[0], **wrong})
        assert agree(0, value) == reason
        assert agree(0, value[:-1] + b"," + deep + b"}") == "too_deep"
    assert agree(0, b"[" + b"\xff" * (LARGEST_VALUE + 1)) == "too_large"
    assert agree(0, b"[\xff") == "not_utf8"
    assert agree(0, b"[" * 40 + b"]" * 40) == "not_an_object"


def test_a_record_of_the_largest_size_is_read() -> None:
    value = encode(FULL[0])
    assert agree(0, value + b" " * (LARGEST_VALUE - len(value))) is None
    assert agree(0, value + b" " * (LARGEST_VALUE - len(value) + 1)) == "too_large"


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        ("1775001600", "seconds instead of milliseconds?"),
        ("1230940799999", "before 2009-01-03"),
        ("-5", "before 2009-01-03"),
        ("4294967295001", "after 2106-02-07T06:28:15Z"),
        ("1775001600000000", "microseconds instead of milliseconds?"),
        ("1775001600000000000", "nanoseconds instead of milliseconds?"),
        ("1" + "0" * 30, "after 2106-02-07T06:28:15Z"),
        ('"2008-12-31T00:00:00Z"', "before 2009-01-03"),
        ('"2106-02-08T00:00:00Z"', "after 2106-02-07T06:28:15Z"),
    ],
)
def test_a_time_out_of_range_is_rejected_with_what_is_wrong_with_it(raw: str, detail: str) -> None:
    for lane in (TRANSACTIONS, TOUCHES):
        assert agree(lane, with_raw(lane, "occurred_at", raw)) == "out_of_range"
        assert judge(lane, with_raw(lane, "occurred_at", raw)) == Rejected("out_of_range", f"occurred_at: {detail}")


PATTERN = next(
    re.compile(form["pattern"])
    for form in json_schema()["$defs"]["campaign.touches"]["properties"]["cost_usd"]["anyOf"]
    if form["type"] == "string"
)


@given(
    st.text(st.sampled_from("0123456789_ .+-eE\n\t\u0661"), max_size=8)
    | st.sampled_from(["1_000", "_5_", " 5 ", "5\n"])
)
@example("5\n")
@example("5")
@settings(max_examples=300)
def test_a_text_is_an_amount_where_the_published_schema_says_so(text: str) -> None:
    is_decimal = PATTERN.fullmatch(text) is not None
    for lane, name in ((0, "fee_usd"), (0, "usd_value"), (0, "quantity"), (1, "cost_usd")):
        reason = agree(lane, with_raw(lane, name, json.dumps(text)))
        assert (reason != "wrong_type") == is_decimal


# ------------------------------------------------------------------ amounts and times

EXACT = Context(prec=500)


def exact_micros(text: str) -> int:
    scaled = EXACT.multiply(Decimal(text), Decimal(1_000_000))
    return int(scaled.to_integral_value(ROUND_HALF_EVEN, EXACT))


def read_fee(text: str, *, quoted: bool) -> int:
    events, rejected = events_of([with_raw(0, "fee_usd", json.dumps(text) if quoted else text)], b"\0")
    assert not rejected
    return int(events.rows["fee_micros"][0])


amounts = st.one_of(
    st.decimals(-999_999_999, 999_999_999, allow_nan=False, places=6),
    st.decimals(-999_999_999, 999_999_999, allow_nan=False, places=9),
    # a half micro and its nearest neighbours
    st.builds(
        lambda whole, sign, tiny, places: (whole + Decimal("0.5") + sign * Decimal(tiny).scaleb(-places)).scaleb(-6),
        st.integers(-(10**14), 10**14), st.sampled_from([-1, 0, 1]), st.integers(1, 9), st.integers(1, 12),
    ),
    st.integers(-999_999_999, 999_999_999).map(Decimal),
)  # fmt: skip


@given(amounts.map(lambda amount: f"{amount:f}"), st.booleans())
@example("0.0000005", True)
@example("0.0000015", True)
@example("0.00000050000000000000000000000000000001", False)
@example("-0.00000149999999999999999999999999999999999", True)
@example("999999999.9999999999999", True)
@settings(max_examples=200)
def test_micros_are_the_decimal_rounded_half_to_even(text: str, quoted: bool) -> None:
    assert read_fee(text, quoted=quoted) == exact_micros(text)


def test_halves_of_every_size_round_to_even() -> None:
    """A double often lies beside the half that the decimal is."""
    dice = np.random.default_rng(0)
    wholes = (10 ** dice.uniform(0, 14.9, 5_000)).astype(np.int64)
    events, _ = events_of([with_raw(0, "fee_usd", f"{whole}.5e-6") for whole in wholes], bytes(len(wholes)))
    assert events.rows["fee_micros"].tolist() == (wholes + wholes % 2).tolist()


def test_a_half_micro_without_a_time_is_rejected_for_its_time() -> None:
    value = encode({**FULL[0], "occurred_at": "2026-02-30T00:00:00Z", "fee_usd": "0.0000005"})
    assert agree(0, value) == "wrong_type"


@given(
    st.integers(EARLIEST_MS + 86_400_000, LATEST_MS - 86_400_000),
    st.integers(0, 999_999),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
    st.integers(0, 12),
    st.sampled_from("Tt"),
)
def test_a_text_and_its_milliseconds_are_the_same_time(
    at_ms: int, micros_: int, offset: int, digits: int, letter: str
) -> None:
    """Below milliseconds is cut off."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=micros_)
    fraction = f".{at.microsecond:06d}999999"[: digits + 1] if digits else ""
    sign = "-" if offset < 0 else "+"
    text = f"{at:%Y-%m-%d}{letter}{at:%H:%M:%S}{fraction}{sign}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}"
    text = f"{at.year:04d}{text[text.index('-') :]}"
    shown = int(fraction[1:4].ljust(3, "0")) if fraction else 0
    seconds = (at.replace(microsecond=0) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    assert to_ms(text) == (seconds - offset * 60) * 1000 + shown
    assert agree(0, with_raw(0, "occurred_at", json.dumps(text))) is None


# ------------------------------------------------------------------ the published contract


def test_the_json_schema_names_every_field_of_both_topics() -> None:
    definitions = json_schema()["$defs"]
    for title, contract in (("wallet.transactions", Transaction), ("campaign.touches", Touch)):
        schema = definitions[title]
        assert schema["title"] == title
        assert set(schema["properties"]) == set(get_type_hints(contract))
        assert "event_id" in schema["required"]
        assert "usd_value" not in schema["required"]
    assert {name for _, name in FIELDS} == {name for schema in definitions.values() for name in schema["properties"]}


def test_the_json_schema_takes_amounts_as_text_too_and_says_what_an_absent_field_stands_for() -> None:
    transaction, touch = json_schema()["$defs"].values()
    for field in (*(transaction["properties"][name] for name in MONEY[0]), touch["properties"]["cost_usd"]):
        assert [form["type"] for form in field["anyOf"]] == ["number", "string", "null"]
        assert all(re.search(field["anyOf"][1]["pattern"], text) for text in ("1", "-0.5", "1.25e3", ".5"))
        assert not re.search(field["anyOf"][1]["pattern"], "1_000")
    assert transaction["properties"]["fee_usd"]["default"] == touch["properties"]["cost_usd"]["default"] == 0
    assert touch["properties"]["touch"]["default"] == "click"
    assert "default" not in transaction["properties"]["usd_value"]


def test_the_json_schema_is_plain_json_and_knows_the_lists() -> None:
    text = json.dumps(json_schema(), allow_nan=False)
    for name in (*get_args(Kind), *get_args(Product), *get_args(TouchKind), "ZW"):
        assert f'"{name}"' in text
    references = [each["$ref"].removeprefix("#/$defs/") for each in json_schema()["oneOf"]]
    assert references == list(json_schema()["$defs"])
