"""Credit is exact, and it does not depend on the order in which a wallet's events arrive."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.attribution import work_through
from models.counters import RULES as NAMES
from models.counters import campaign_field
from models.memory import LINEAR, PATH_ROWS, REVENUE, TOTALS
from models.rules import HOUR_MS, Rules
from models.splits import share_out
from models.state import TOUCHES, TRANSACTIONS
from tests.journals import largest_remainders, weights_of
from tests.oracle import oracle
from tests.partition import (
    NOON_MS,
    Arrival,
    Partition,
    Season,
    catalogue_of,
    encoded,
    numbered,
    touch,
    transaction,
)

MILLION = 1_000_000
RULES = Rules()

# ------------------------------------------------------------------ largest remainders


def shares_of(amount: int, rows: list[list[int]]) -> list[list[int]]:
    """An amount split by the step's loop, by each of three rows of weights."""
    touches = len(rows[0])
    path = np.zeros((PATH_ROWS, max(3, touches)), np.int64)
    path[LINEAR : LINEAR + 3, :touches] = rows
    path[TOTALS, :3] = [sum(row) for row in rows]
    share_out(path, touches, amount, REVENUE)
    shares: list[list[int]] = path[REVENUE : REVENUE + 5, :touches].tolist()
    assert shares[0] == [amount, *[0] * (touches - 1)]
    assert shares[1] == shares[0][::-1]
    return shares[2:]


rows_of_weights = st.tuples(st.integers(1, 64), st.sampled_from([2, 3, 9, 2**24])).flatmap(
    lambda drawn: st.lists(
        st.lists(st.integers(1, drawn[1]), min_size=drawn[0], max_size=drawn[0]), min_size=3, max_size=3
    )
)


@given(st.integers(0, 10**15) | st.integers(0, 99), rows_of_weights)
@example(1, [[2**24] * 64] * 3)
@example(10**15 - 1, [[2**24] * 64] * 3)
@example(10**15 - 1, [[2**24 - place for place in range(64)]] * 3)
@example(10**15 - 1, [[2**24 - place for place in range(1024)]] * 3)
@example(10**15 - 1, [[2**24, 1]] * 3)
@settings(max_examples=500)
def test_a_split_is_that_of_largest_remainders(amount: int, rows: list[list[int]]) -> None:
    """In Python's integers."""
    found = shares_of(amount, rows)
    assert found == [largest_remainders(amount, row) for row in rows]
    assert {sum(row) for row in found} == {amount}


@given(st.integers(2, 64), st.integers(0, 2**24), st.randoms())
@settings(max_examples=300)
def test_a_split_is_exact_where_quotients_are_whole_or_nearly(touches: int, units: int, dice: Any) -> None:
    """There a rounded quotient would be off by one."""
    weights = [dice.randint(2**23, 2**24) for _ in range(touches)]
    for more in (-1, 0, 1):
        amount = max(0, sum(weights) * units // dice.choice(weights) + more)
        assert shares_of(amount, [weights] * 3)[1] == largest_remainders(amount, weights)


def test_a_tie_goes_to_the_earlier_touch() -> None:
    assert shares_of(10, [[1, 1, 1], [2, 1, 2], [1, 1, 1]]) == [[4, 3, 3], [4, 2, 4], [4, 3, 3]]
    assert shares_of(5, [[1, 1], [1, 3], [3, 1]]) == [[3, 2], [1, 4], [4, 1]]


# ------------------------------------------------------------------ the contract's definition, word by word


def naive(values: list[dict[str, Any]]) -> dict[bytes, list[int]]:
    """The cells by campaign of all wallets, from the final set of their events."""
    cells: dict[bytes, list[int]] = defaultdict(lambda: [0] * 11)
    for each in values:
        if "campaign_id" in each:
            cells[field_of(each)][0] += micros(each.get("cost_usd", 0))
        elif fee := micros(each.get("fee_usd", 0)):
            credit(each, fee, eligible(each, values), cells)
    return {name: cell for name, cell in cells.items() if any(cell)}


def eligible(paid: dict[str, Any], values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    t = paid["occurred_at"]
    found = [
        each
        for each in values
        if "campaign_id" in each and each["wallet_id"] == paid["wallet_id"] and each.get("touch", "click") != "sent"
        if t - RULES.look_back_ms <= each["occurred_at"] <= t
    ]
    return sorted(found, key=lambda each: (each["occurred_at"], each["event_id"].encode()))[-64:]


def credit(paid: dict[str, Any], fee: int, path: list[dict[str, Any]], cells: dict[bytes, list[int]]) -> None:
    sign, converted = (1, MILLION) if fee > 0 else (-1, 0)
    for place, rule in enumerate(NAMES):
        if not path:
            cells[b"|"][1 + place] += fee
            cells[b"|"][6 + place] += converted
            continue
        weights = weights_of(rule, [each["occurred_at"] for each in path])
        shares = largest_remainders(abs(fee), weights), largest_remainders(converted, weights)
        for each, revenue, conversions in zip(path, *shares, strict=True):
            cells[field_of(each)][1 + place] += sign * revenue
            cells[field_of(each)][6 + place] += conversions


def field_of(value: dict[str, Any]) -> bytes:
    return campaign_field(value["campaign_id"], value["channel"])


def micros(amount: Any) -> int:
    return int(Decimal(str(amount)) * MILLION)


# ------------------------------------------------------------------ any order within the lateness


@st.composite
def wallets(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events of a few wallets; all of the last half hour, or some of the days before."""
    values: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 25))):
        wallet = draw(st.sampled_from(["a", "a", "b"]))
        at_ms = NOON_MS + draw(st.integers(0, 6)) * HOUR_MS // 7
        event_id = f"e{number}"
        if draw(st.booleans()):
            kind = draw(st.sampled_from(["click", "click", "open", "impression", "visit", "sent"]))
            campaign = draw(st.sampled_from(["x", "y", "z|", "%"]))
            cost = f"{draw(st.integers(0, 10**7)) / MILLION:.6f}"
            values.append(touch(event_id, wallet, at_ms, campaign_id=campaign, touch=kind, cost_usd=cost))
        else:
            fee = draw(st.integers(-(10**7), 10**8) | st.sampled_from([1, 2, -1, 999_999_999_999_999]))
            values.append(transaction(event_id, wallet, at_ms, fee_usd=f"{Decimal(fee) / MILLION:f}"))
    return values


def arrivals(values: list[dict[str, Any]]) -> list[Arrival]:
    sent_at_ms = NOON_MS + HOUR_MS
    return numbered(encoded(TOUCHES if "campaign_id" in value else TRANSACTIONS, value, sent_at_ms) for value in values)


def placed() -> Any:
    return catalogue_of(events=1500)


@given(wallets(), st.randoms(), st.integers(1, 30), st.booleans())
@settings(max_examples=120)
def test_any_order_with_any_repeats_ends_in_the_same_credit(
    values: list[dict[str, Any]], dice: Any, size: int, segments: bool
) -> None:
    """For all five rules, added up over segments; equal to the contract's definition."""
    again = [dice.choice(values) for _ in range(5)]
    shuffled = dice.sample([*values, *again], len(values) + len(again))
    partition = Partition(placed()) if segments else Partition()
    partition.take(arrivals(shuffled), size)
    assert partition.by_campaign() == {name: tuple(cell) for name, cell in naive(values).items()}
    assert partition.counted.duplicates == len(again)
    assert partition.counted.beyond_memory == 0


@given(wallets(), st.integers(0, 40))
def test_old_touches_are_eligible_for_thirty_days(values: list[dict[str, Any]], days: int) -> None:
    """A wallet's touches first, in order; their transactions `days` later."""
    first = [value for value in values if "campaign_id" in value]
    later = [
        {**value, "occurred_at": value["occurred_at"] + days * 24 * HOUR_MS} for value in values if "fee_usd" in value
    ]
    in_order = sorted([*first, *later], key=lambda value: (value["occurred_at"], "fee_usd" in value))
    partition = Partition().take(numbered(encoded(int("campaign_id" in v), v) for v in in_order), 4)
    assert partition.by_campaign() == {name: tuple(cell) for name, cell in naive(in_order).items()}


def test_the_season_is_credited_as_the_oracle_says() -> None:
    """A second opinion that shares no code; without events later than the allowed hour."""
    season = Season(events=3000, late=0.0, bad=0.0, hot=0.2).arrivals()
    partition = Partition(placed()).take(season)
    topics = ("wallet.transactions", "campaign.touches")
    lines = [
        f'{{"topic": "{topics[lane]}", "key": "{(record.key or b"").decode()}", "timestamp": {record.timestamp}, '
        f'"value": {(record.value or b"").decode()}}}'
        for lane, record in season
    ]
    expected = oracle(lines, partitions=1)
    for name in ("transactions", "touches", "duplicates", "revenue_micros", "cost_micros", "wallets", "rejected"):
        assert getattr(partition.counted, name) == expected["totals"][name]
    assert partition.counted.beyond_memory == 0
    rows = {
        (campaign_field(row["campaign_id"], row["channel"]) if row["campaign_id"] else b"|", NAMES.index(row["rule"])):
            (row["cost_micros"], row["revenue_micros"], row["conversions_micros"])
        for row in expected["roi"]
    }  # fmt: skip
    found = {
        (name, rule): (cell[0], cell[1 + rule], cell[6 + rule])
        for name, cell in partition.by_campaign().items()
        for rule in range(5)
        if cell[0] or cell[1 + rule] or cell[6 + rule]
    }
    assert found == rows


# ------------------------------------------------------------------ memory


def test_a_wallet_remembers_256_fees_and_what_is_dropped_is_counted() -> None:
    paid = [transaction(f"t{i}", "w", NOON_MS + i, fee_usd=1) for i in range(259)]
    first = touch("a", "w", NOON_MS)
    for size in (1, 7, 1000):
        partition = Partition().take(arrivals([*paid, first]), size)
        assert partition.counted.beyond_memory == 3
        assert partition.by_campaign()[b"spring|email"][1] == 256 * MILLION
        assert partition.by_campaign()[b"|"][1] == 3 * MILLION


def test_fees_that_no_touch_can_reach_any_more_leave_no_journal() -> None:
    paid = [transaction(f"t{i}", "w", NOON_MS + i * 2 * HOUR_MS, fee_usd=1) for i in range(20)]
    for size in (1, 20):
        assert not Partition().take([encoded(TRANSACTIONS, value) for value in paid], size).journals


def test_a_touch_later_than_the_allowed_hour_earns_nothing_back() -> None:
    clock = transaction("clock", "other", NOON_MS + HOUR_MS + 2)
    for late, expected in ((1, {b"|"}), (2, {b"spring|email"})):
        paid = transaction("t", "w", NOON_MS + late, fee_usd=5)
        partition = Partition().take(arrivals([paid, clock, touch("a", "w", NOON_MS + 1)]), 1)
        assert set(partition.by_campaign()) == expected
        assert partition.sums()[1] == 5 * MILLION


@pytest.mark.parametrize("fee", ["-3", "3"])
def test_a_rebate_is_credited_and_is_no_conversion(fee: str) -> None:
    partition = Partition().take(arrivals([touch("a", "w", NOON_MS), transaction("t", "w", NOON_MS, fee_usd=fee)]))
    conversions = MILLION if fee == "3" else 0
    assert partition.by_campaign() == {b"spring|email": (0, *[int(fee) * MILLION] * 5, *[conversions] * 5)}


def test_amounts_beyond_64_bits_are_added_exactly() -> None:
    most = 999_999_999_999_999
    paid = [transaction(f"t{i}", "w", NOON_MS, fee_usd="999999999.999999") for i in range(10_000)]
    partition = Partition().take(arrivals(paid), 10_000)
    assert partition.sums()[1:6] == (10_000 * most,) * 5
    assert 10_000 * most > 2**62


def test_the_segment_of_a_credit_is_the_one_it_was_given_in() -> None:
    """A late touch takes the credit back from where it was, though the wallet has moved on."""
    catalogue = placed()
    paid = [transaction(f"t{i}", "w", NOON_MS + i, fee_usd=1, usd_value=100) for i in range(8)]
    partition = Partition(catalogue).take(arrivals([*paid, touch("a", "w", NOON_MS)]), 1)
    segments = {name.split(b"|")[0]: cell for name, cell in partition.cells.items() if b"spring" in name}
    assert len(segments) == 2
    assert segments[b"unassigned"].split()[1] == b"4000000"
    assert not any(
        int(number) for name, cell in partition.cells.items() if name.endswith(b"||") for number in cell.split()
    )


def test_every_loop_is_compiled_for_one_kind_of_arguments() -> None:
    """A column of another type or layout would compile the whole of it again, in the middle of the traffic."""
    for size in (1, 900):
        Partition(placed()).take(Season(events=900).arrivals(), size)
    assert len(getattr(work_through, "signatures")) == 1  # noqa: B009 -- only Numba knows this attribute
