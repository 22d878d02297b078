"""What is known of every wallet, but no part of what it is placed by: laws of experience, age and recent sales."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.known import DRAWN_BY, LEVELS, experience, known
from models.rows import blank_rows
from models.rules import DAY_MS
from tests.partition import NOON_MS, touch, transaction
from tests.test_features import folded, habit, lives, unbroken

NAMES = [level.name for level in LEVELS]
PRODUCTS = ("spot", "derivatives", "staking", "lending", "wallet")
SLOW, FAST = 45 * DAY_MS, 3 * DAY_MS


def own(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The transactions among events."""
    return [value for value in values if "campaign_id" not in value]


def share_of_sales(values: list[dict[str, Any]], half_life: int) -> tuple[float, float]:
    """By the definition: the decayed share of sales as of the newest transaction, and the decayed count."""
    now = max(value["occurred_at"] for value in values)
    weights = [2.0 ** ((value["occurred_at"] - now) / half_life) for value in values]
    sold = [weight for value, weight in zip(values, weights, strict=True) if value.get("side") == "sell"]
    return math.fsum(sold) / math.fsum(weights), math.fsum(weights)


@given(lives())
def test_recent_sales_are_the_fast_share_drawn_to_the_slow_one_by_three_transactions(
    values: list[dict[str, Any]],
) -> None:
    found = known(unbroken(values).rows[0], NOON_MS).sell_fast
    slow, (fast, count) = share_of_sales(own(values), SLOW)[0], share_of_sales(own(values), FAST)
    expected = (fast * count + DRAWN_BY * slow) / (count + DRAWN_BY)
    assert abs(found - expected) < 1e-4
    assert min(slow, fast) - 1e-4 <= found <= max(slow, fast) + 1e-4


def test_a_wallet_that_sells_before_a_deadline_shows_it_within_a_day_and_no_longer_weeks_after() -> None:
    holds = habit(1, 60, 1.5, side="buy")
    sells = habit(2, 1, 20, NOON_MS + 60 * DAY_MS, side="sell")
    holds_again = habit(3, 20, 1.5, NOON_MS + 61 * DAY_MS, side="buy")
    stages = (holds, [*holds, *sells], [*holds, *sells, *holds_again])
    quiet, selling, after = (known(folded(stage).rows[0], NOON_MS).sell_fast for stage in stages)
    assert quiet == 0
    assert selling > 0.6
    assert after < 0.2


@given(lives(), st.integers(0, 400))
def test_age_and_recency_are_days_of_event_time_and_never_below_zero(values: list[dict[str, Any]], days: int) -> None:
    now_ms = NOON_MS + days * DAY_MS
    found = known(folded(values).rows[0], now_ms)
    first, newest = (of(value["occurred_at"] for value in group) for of, group in ((min, values), (max, own(values))))
    assert found.age_days == pytest.approx(max(0, now_ms - first) / DAY_MS, abs=0.006)
    assert found.recency_days == pytest.approx(max(0, now_ms - newest) / DAY_MS, abs=0.006)


@given(lives())
def test_transactions_and_products_are_counted_over_the_whole_life(values: list[dict[str, Any]]) -> None:
    """Also when the slow scale has begun anew."""
    found = known(folded(values).rows[0], NOON_MS)
    assert found.transactions == len(own(values))
    assert found.products == len({value["product"] for value in own(values)} & {*PRODUCTS})


def test_a_product_used_once_years_ago_is_not_forgotten_nor_when_the_slow_scale_begins_anew() -> None:
    once = transaction("once", "w", NOON_MS - 900 * DAY_MS, product="staking")
    turned = habit(2, 6, 8, NOON_MS + 60 * DAY_MS, product="derivatives", usd=50.0)
    found = folded([once, *habit(1, 60, 1), *turned])
    assert found.rows["rebased_s"][0] > 0
    assert known(found.rows[0], NOON_MS).products == 3


@given(lives(days=2000))
def test_no_wallet_ever_loses_experience(values: list[dict[str, Any]]) -> None:
    levels = [known(folded(values[:stop]).rows[0], NOON_MS).experience for stop in range(1, len(values) + 1)]
    assert all(NAMES.index(before) <= NAMES.index(after) for before, after in pairwise(levels))


@given(st.integers(0, 2000), st.floats(0, 1000), st.integers(0, 5))
def test_a_level_takes_everything_it_names_and_the_next_one_takes_more(
    transactions: int, days: float, products: int
) -> None:
    has, place = (transactions, days, products), NAMES.index(experience(transactions, days, products))
    assert all(its >= least for its, least in zip(has, LEVELS[place][1:], strict=True))
    for level in LEVELS[place + 1 :]:
        assert any(its < least for its, least in zip(has, level[1:], strict=True))


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_begins_exactly_at_its_bounds(level: Any) -> None:
    assert experience(*level[1:]) == level.name
    place = NAMES.index(level.name)
    for less in range(3):
        if level[1 + less] > LEVELS[max(place - 1, 0)][1 + less]:
            has = [bound - (number == less) for number, bound in enumerate(level[1:])]
            assert experience(*has) == NAMES[place - 1]


def test_waiting_makes_nobody_experienced() -> None:
    values = [transaction(f"e{i}", "w", NOON_MS + i) for i in range(600)]
    found = known(folded(values).rows[0], NOON_MS + 1000 * DAY_MS)
    assert (found.experience, found.transactions) == ("beginner", 600)


def test_of_a_wallet_without_a_transaction_little_is_known() -> None:
    visited = known(folded([touch("t", "w", NOON_MS)]).rows[0], NOON_MS + 3 * DAY_MS)
    assert visited == (3.0, None, 0, 0, "beginner", 0.0)
    assert known(blank_rows(1)[0], NOON_MS) == (0.0, None, 0, 0, "beginner", 0.0)
