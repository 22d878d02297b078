"""The oracle by hand: small cases whose results are written down here, and nothing shared with the product."""

from __future__ import annotations

import ast
import base64
import json
import random
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.simulate import SimulationPlan, simulate
from streams.truth import DECAY
from tests import oracle as module
from tests.oracle import decay, murmur2, oracle, split, time_ms

NOON_MS = 1_775_044_800_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
MIB = 1 << 20
RULES = ("first", "last", "linear", "time_decay", "position")


def fee(name: str, at_ms: int, usd: str = "1", **more: Any) -> str:
    event = {
        "event_id": name,
        "wallet_id": "w",
        "occurred_at": at_ms,
        "kind": "trade",
        "product": "spot",
        "asset": "BTC",
    }
    return line("wallet.transactions", event | {"fee_usd": usd} | more)


def touch(name: str, at_ms: int, campaign: str = "c", **more: Any) -> str:
    event = {"event_id": name, "wallet_id": "w", "occurred_at": at_ms, "campaign_id": campaign, "channel": "email"}
    return line("campaign.touches", event | more)


def line(topic: str, value: Any, **more: Any) -> str:
    at_ms = value["occurred_at"] if isinstance(value, dict) and type(value.get("occurred_at")) is int else NOON_MS
    return json.dumps({"topic": topic, "key": "w", "value": value, "timestamp": at_ms} | more)


def revenue(lines: list[str]) -> dict[str, dict[str | None, int]]:
    """By rule: campaign -> micro-USD."""
    rows = oracle(lines)["roi"]
    return {rule: {r["campaign_id"]: r["revenue_micros"] for r in rows if r["rule"] == rule} for rule in RULES}


# ------------------------------------------------------------------ independence


def test_the_oracle_shares_no_code_with_the_product() -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not [name for name in names if name.split(".")[0] in {"models", "streams", "tests", "numpy", "pydantic"}]


# ------------------------------------------------------------------ credit


def test_one_dollar_over_four_touches_under_five_rules() -> None:
    touches = [touch(f"t{n}", NOON_MS + n * 180 * HOUR_MS, campaign) for n, campaign in enumerate("abcd")]
    assert revenue([*touches, fee("x", NOON_MS + 540 * HOUR_MS)]) == {
        "first": {"a": 1_000_000},
        "last": {"d": 1_000_000},
        "linear": {"a": 250_000, "b": 250_000, "c": 250_000, "d": 250_000},
        "time_decay": {"a": 66_667, "b": 133_333, "c": 266_667, "d": 533_333},  # 1 2 4 8 of 15, half-life 7.5 days
        "position": {"a": 400_000, "b": 100_000, "c": 100_000, "d": 400_000},
    }


def test_a_rebate_takes_back_by_the_same_split_and_is_no_conversion() -> None:
    touches = [touch(name, NOON_MS + place, name) for place, name in enumerate("abc")]
    rows = oracle([*touches, fee("x", NOON_MS + 9, "-0.000005")])["roi"]
    linear = {row["campaign_id"]: row["revenue_micros"] for row in rows if row["rule"] == "linear"}
    assert linear == {"a": -2, "b": -2, "c": -1}
    assert all(row["conversions_micros"] == 0 for row in rows)


def test_cost_counts_for_every_touch_and_under_every_rule_but_sent_earns_nothing() -> None:
    lines = [touch("t", NOON_MS, touch="sent", cost_usd=0.25), fee("x", NOON_MS + 1, "0.5")]
    rows = {(row["campaign_id"], row["rule"]): row for row in oracle(lines)["roi"]}
    for rule in RULES:
        assert rows["c", rule]["cost_micros"] == 250_000
        assert rows["c", rule]["revenue_micros"] == 0
        assert rows[None, rule]["revenue_micros"] == 500_000
        assert rows[None, rule]["conversions_micros"] == 1_000_000


@pytest.mark.parametrize(
    ("before_ms", "earns"), [(0, True), (30 * DAY_MS, True), (30 * DAY_MS + 1, False), (-1, False)]
)
def test_the_look_back_includes_both_its_ends(before_ms: int, earns: bool) -> None:
    lines = [touch("t", NOON_MS), fee("x", NOON_MS + before_ms)]
    assert revenue(lines)["linear"] == {"c" if earns else None: 1_000_000}


def test_only_the_newest_64_touches_share() -> None:
    touches = [touch(f"t{n:02}", NOON_MS + n, f"c{n:02}") for n in range(70)]
    shared = revenue([*touches, fee("x", NOON_MS + 99)])["linear"]
    assert sorted(map(str, shared)) == [f"c{n:02}" for n in range(6, 70)]
    assert set(shared.values()) == {15_625}


def test_touches_of_one_moment_stand_in_the_order_of_the_utf8_bytes_of_their_ids() -> None:
    touches = [touch("\U0001f600", NOON_MS, "later"), touch("\uffee", NOON_MS, "earlier")]  # UTF-16 says otherwise
    shared = revenue([*touches, fee("x", NOON_MS)])
    assert shared["first"] == {"earlier": 1_000_000}
    assert shared["last"] == {"later": 1_000_000}


@given(st.integers(0, 10**12), st.lists(st.integers(0, 2**24), min_size=1, max_size=64).filter(any))
def test_shares_add_up_and_are_less_than_a_unit_from_exact(total: int, parts: list[int]) -> None:
    shares = split(total, parts)
    assert sum(shares) == total
    assert all(abs(share * sum(parts) - total * part) < sum(parts) for share, part in zip(shares, parts, strict=True))


def test_left_over_units_go_to_the_largest_remainders_and_ties_to_the_earlier() -> None:
    assert split(5, [1, 1, 1]) == [2, 2, 1]
    assert split(10, [1, 5, 5]) == [1, 5, 4]
    assert split(1, [3, 4]) == [0, 1]


def test_the_decay_table_is_the_published_one() -> None:
    hours = (0, 1, 90, 180, 720)
    assert tuple(map(decay, hours)) == (16_777_216, 16_712_734, 11_863_283, 8_388_608, 1_048_576)
    assert tuple(map(decay, range(721))) == DECAY


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_hands_out_exactly_what_came_in(rule: str) -> None:
    counted = oracle(simulate(SimulationPlan(3, 40, 40, date(2026, 3, 1), 0.1, 0.1, 0.1, 3000)))
    rows = [row for row in counted["roi"] if row["rule"] == rule]
    assert sum(row["revenue_micros"] for row in rows) == counted["totals"]["revenue_micros"] > 0
    assert sum(row["cost_micros"] for row in rows) == counted["totals"]["cost_micros"] > 0


def test_the_order_of_arrival_within_the_lateness_changes_no_credit() -> None:
    lines = [touch(f"t{n}", NOON_MS + n * 60_000, f"c{n % 3}") for n in range(15)]
    lines += [fee(f"x{n}", NOON_MS + n * 60_000 + 30_000, "0.000007") for n in range(15)]
    lines = [json.dumps(json.loads(each) | {"timestamp": NOON_MS + HOUR_MS}) for each in lines]
    expected = oracle(lines)
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        assert oracle(lines)["roi"] == expected["roi"]


# ------------------------------------------------------------------ repeats and arrival


def test_the_32_newest_ids_are_remembered_of_both_topics_together() -> None:
    between = [fee(f"x{n}", NOON_MS + n) for n in range(31)]
    assert oracle([touch("t", NOON_MS), *between, fee("t", NOON_MS + 40)])["totals"]["duplicates"] == 1
    one_more = [*between, fee("x31", NOON_MS + 32)]
    assert oracle([touch("t", NOON_MS), *one_more, fee("t", NOON_MS + 40)])["totals"]["duplicates"] == 0


def test_the_first_content_wins_and_a_touch_arrives_before_a_transaction_of_the_same_moment() -> None:
    totals = oracle([fee("same", NOON_MS, "5"), touch("same", NOON_MS, cost_usd="2")])["totals"]
    assert (totals["touches"], totals["transactions"], totals["duplicates"]) == (1, 0, 1)
    assert (totals["cost_micros"], totals["revenue_micros"]) == (2_000_000, 0)


def test_a_lane_is_never_reordered() -> None:
    late = json.dumps(json.loads(fee("same", NOON_MS, "1")) | {"timestamp": NOON_MS + 9})
    early = json.dumps(json.loads(fee("same", NOON_MS, "2")) | {"timestamp": NOON_MS})
    assert oracle([late, early])["totals"]["revenue_micros"] == 1_000_000


def test_a_repeat_of_another_wallet_is_none() -> None:
    other = json.dumps(json.loads(fee("same", NOON_MS, wallet_id="v")) | {"key": "v"})
    counted = oracle([fee("same", NOON_MS), other])
    assert counted["totals"]["duplicates"] == 0
    assert counted["accepted"] == {"v": 1, "w": 1}


def test_a_line_without_a_timestamp_takes_the_events_or_the_one_before() -> None:
    lines = [fee("a", NOON_MS), line("wallet.transactions", None), fee("b", NOON_MS + 601_000)]
    lines = [json.dumps({name: part for name, part in json.loads(x).items() if name != "timestamp"}) for x in lines]
    assert [record.at_ms for record in module.read(lines)] == [NOON_MS, NOON_MS, NOON_MS + 601_000]


# Published by Apache Kafka in its own tests (UtilsTest).
@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829), ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)  # fmt: skip
def test_the_partitioner_is_javas(key: str, hashed: int) -> None:
    assert murmur2(key.encode()) == hashed & 0x7FFFFFFF


# ------------------------------------------------------------------ what is an event


GOOD = {"event_id": "e", "wallet_id": "w", "occurred_at": NOON_MS, "kind": "trade", "product": "spot", "asset": "btc"}
NESTED: list[Any] = []
for _ in range(30):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, None), ({"asset": None}, "missing_field"), ({"usd_value": None, "more": {"a": [1]}}, None),
        ({"event_id": "e" * 128}, None), ({"event_id": "e" * 129}, "out_of_range"), ({"event_id": ""}, "out_of_range"),
        ({"event_id": 5}, "wrong_type"), ({"kind": "Trade"}, "unknown_value"), ({"kind": ["trade"]}, "wrong_type"),
        ({"kind": "no", "fee_usd": True}, "wrong_type"), ({"kind": "no", "fee_usd": "-1e9"}, "unknown_value"),
        ({"fee_usd": "-1000000000"}, "out_of_range"), ({"fee_usd": "-999999999.999999"}, None),
        ({"fee_usd": 1e9}, "out_of_range"),
        ({"usd_value": "-0.0000001"}, "out_of_range"), ({"usd_value": 1e12}, "out_of_range"),
        ({"usd_value": "NaN"}, "wrong_type"),
        ({"quantity": "1e-18"}, None), ({"quantity": "much"}, "wrong_type"), ({"quantity": True}, "wrong_type"),
        ({"leverage": 1}, None), ({"leverage": 1000.5}, "out_of_range"), ({"leverage": "2"}, "wrong_type"),
        ({"jurisdiction": "GB"}, None), ({"jurisdiction": "UK"}, "unknown_value"), ({"side": "buy"}, None),
        ({"occurred_at": "2026-04-01T12:00:00Z"}, None), ({"occurred_at": "2026-04-01T12:00:00"}, "wrong_type"),
        ({"occurred_at": str(NOON_MS)}, "wrong_type"), ({"occurred_at": NOON_MS // 1000}, "out_of_range"),
        ({"occurred_at": float(NOON_MS)}, "wrong_type"), ({"occurred_at": NOON_MS + 600_000}, None),
        ({"occurred_at": NOON_MS + 600_001}, "from_the_future"), ({"wallet_id": "v"}, "key_mismatch"),
        ({"note": NESTED}, None), ({"note": [NESTED]}, "too_deep"),
    ],
)  # fmt: skip
def test_transactions_are_judged_by_the_first_reason_of_the_list(change: dict[str, Any], verdict: str | None) -> None:
    told = json.dumps({"topic": "wallet.transactions", "key": "w", "value": GOOD | change, "timestamp": NOON_MS})
    assert oracle([told])["totals"]["rejected"] == ({} if verdict is None else {verdict: 1})


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        (b"", "not_json"), (b"{", "not_json"), (b"\xff{}", "not_utf8"), (b"[]", "not_an_object"),
        (b"7", "not_an_object"),
        (b"{}", "missing_field"), (b"{" + b" " * MIB + b"}", "too_large"), (b" " * (MIB - 2) + b"{}", "missing_field"),
        (json.dumps(GOOD).encode(), None), (b"\0\0\0\0\7" + json.dumps(GOOD).encode(), None),
        (json.dumps(GOOD | {"usd_value": float("inf")}).encode(), "wrong_type"),
    ],
)  # fmt: skip
def test_values_are_judged_by_their_bytes(raw: bytes, verdict: str | None) -> None:
    sent = {"topic": "wallet.transactions", "key": "w", "value_base64": base64.b64encode(raw).decode()}
    rejected = oracle([json.dumps(sent | {"timestamp": NOON_MS})])["totals"]["rejected"]
    assert rejected == ({} if verdict is None else {verdict: 1})


def test_a_missing_key_and_a_null_value_are_refused() -> None:
    lines = [line("wallet.transactions", GOOD, key=None), line("campaign.touches", None)]
    assert oracle(lines)["totals"]["rejected"] == {"key_missing": 1, "null_value": 1}


def test_amounts_round_half_to_even_at_the_sixth_decimal() -> None:
    for text, micros in (
        ("0.0000005", 0),
        ("0.0000015", 2),
        ("0.00000250000000000000000000001", 3),
        ("-0.0000015", -2),
    ):
        assert oracle([fee("x", NOON_MS, text)])["totals"]["revenue_micros"] == micros


@given(st.datetimes().filter(lambda when: 2009 <= when.year < 9999), st.integers(-1439, 1439))
def test_times_are_read_as_the_standard_library_reads_them(when: datetime, ahead: int) -> None:
    moment = when.replace(tzinfo=timezone(timedelta(minutes=ahead)))
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert time_ms(moment.isoformat()) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-29T00:00:00Z",
        "2026-04-01 12:00:00Z",
        "2026-04-01T24:00:00Z",
        "2026-04-01T12:00Z",
        "2026-13-01T00:00:00Z",
    ],
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert time_ms(text) is None
