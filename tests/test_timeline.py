"""What announced changes amount to: flaps, time in segments, what held."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rules import DAY_MS
from models.timeline import (
    FLAP_MS,
    MONTH_MS,
    departures,
    flaps,
    held,
    histories,
    miscalibration,
    moves,
    reliability,
    returns,
    segment_at,
    segments_at,
    stayed_away,
    wallet_months,
)


class Moved(NamedTuple):
    wallet: str
    decided_at_ms: int
    left: int
    joined: int


def path(wallet: str, *steps: tuple[float, int]) -> list[Moved]:
    """Changes of a wallet: (day, segment it joins), from outside."""
    before = [0, *(segment for _, segment in steps)]
    return [Moved(wallet, int(day * DAY_MS), left, to) for left, (day, to) in zip(before, steps, strict=False)]


steps = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 3)), min_size=1, max_size=8).map(
    lambda drawn: [one for one, last in pairwise([*sorted(drawn), (101.0, 0)]) if one[1] != last[1]]
)


def test_only_going_back_within_fourteen_days_is_a_flap() -> None:
    told = histories(
        [
            *path("back", (0, 1), (10, 2), (20, 1)),
            *path("late", (0, 1), (10, 2), (24.5, 1)),
            *path("on", (0, 1), (10, 2), (11, 3)),
            *path("round about", (0, 1), (10, 2), (11, 3), (12, 1)),
            *path("gone", (0, 1), (10, 0), (20, 0)),
        ]
    )
    assert [change.wallet for change in flaps(told)] == ["back", "round about"]
    assert FLAP_MS == 14 * DAY_MS


def test_who_was_silent_and_comes_back_has_returned_and_not_wavered() -> None:
    told = histories([*path("soon", (0, 1), (10, 0), (20, 1)), *path("late", (0, 1), (10, 0), (24.5, 1))])
    assert flaps(told) == []
    assert [change.wallet for change in returns(told)] == ["soon"]


def test_who_is_given_a_segment_again_has_not_stayed_away() -> None:
    told = histories(
        [*path("gone", (0, 1), (10, 0)), *path("back", (0, 1), (10, 0), (20, 1), (22, 0)), *path("on", (0, 1), (10, 2))]
    )
    at_once = histories(path("w", (0, 1), (10, 0), (10, 1)))
    assert not stayed_away(at_once, at_once["w"][1], 0)
    left = departures(told, 0, 21 * DAY_MS)
    assert [(change.wallet, change.left) for change in left] == [("gone", 1), ("back", 1)]
    for days, stayed in ((7, [True, True]), (9.9, [True, True]), (10, [True, False]), (30, [True, False])):
        assert [stayed_away(told, change, int(days * DAY_MS)) for change in left] == stayed
    assert departures(told, 21 * DAY_MS, 30 * DAY_MS) == [told["back"][-1]]


def test_time_without_a_segment_does_not_count() -> None:
    told = histories([*path("a", (0, 1), (15, 2)), *path("b", (10, 1), (20, 0), (25, 1))])
    assert wallet_months(told, 0, MONTH_MS) == pytest.approx(1 + 10 / 30 + 5 / 30)
    assert wallet_months(told, 28 * DAY_MS, MONTH_MS) == pytest.approx(4 / 30)


@given(steps, st.floats(0, 120))
def test_the_months_before_and_after_a_moment_are_all_there_are(drawn: list[tuple[float, int]], day: float) -> None:
    told, cut = histories(path("w", *drawn)), int(day * DAY_MS)
    end = 150 * DAY_MS
    parts = wallet_months(told, 0, cut) + wallet_months(told, cut, end)
    assert parts == pytest.approx(wallet_months(told, 0, end))


@given(steps)
def test_a_wallet_is_where_its_last_change_put_it(drawn: list[tuple[float, int]]) -> None:
    changes = path("w", *drawn)
    told = histories(changes)
    for change, after in pairwise([*changes, Moved("w", 1 << 60, 0, 0)]):
        if change.decided_at_ms < after.decided_at_ms:
            assert segment_at(changes, change.decided_at_ms) == change.joined
            assert segment_at(changes, after.decided_at_ms - 1) == change.joined
            assert held(told, change, after.decided_at_ms - 1 - change.decided_at_ms)
    assert segment_at(changes, changes[0].decided_at_ms - 1) == 0
    assert segments_at(told, -1) == {}


def test_first_entries_and_departures_are_no_moves() -> None:
    told = histories(path("a", (1, 1), (2, 2), (3, 0), (4, 1)))
    assert [change.joined for change in moves(told, 0, 100 * DAY_MS)] == [2]
    assert moves(told, int(2.5 * DAY_MS), 100 * DAY_MS) == []


def test_confidence_is_judged_by_equal_steps() -> None:
    found = reliability([(0.91, True), (0.99, False), (1.0, True), (0.5, False)])
    assert [(one.changes, round(one.right, 2)) for one in found] == [(1, 0.0), (3, 0.67)]
    assert miscalibration(found) == pytest.approx((0.5 + 3 * abs((0.91 + 0.99 + 1) / 3 - 2 / 3)) / 4)
    assert miscalibration([]) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_every_outcome_is_in_one_bin(outcomes: list[tuple[float, bool]]) -> None:
    found = reliability(outcomes)
    assert sum(one.changes for one in found) == len(outcomes)
    assert 0 <= (miscalibration(found) or 0) <= 1
