"""The law book of the lifecycle: when silence is a surprise, and when a wallet is looked at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.arrivals import EVENT
from models.features import COUNT, SLOW_MS, decay, fold, renew, since_ms, weight_days
from models.lifecycle import (
    AWAKE,
    DORMANT_BELOW,
    GRID_MS,
    IDLE,
    IDLE_MS,
    NEVER_MS,
    SHORTEST_MS,
    SILENT,
    first_due,
    horizon,
    look,
    on_grid,
    queue,
    queue_again,
    surprise_ms,
    wake,
)
from models.rows import ACTIVE, DORMANT, LIFECYCLE, NEW, RETURNED, SLOWING, blank_rows
from models.rules import DAY_MS, HOUR_MS

START_MS = 1_775_001_600_000
EVIDENCE = 5


def traded(times: list[int]) -> np.void:
    """The row of a wallet with transactions at these times."""
    row: np.void = blank_rows(1)[0]
    event = np.zeros(1, EVENT)[0]
    row["first_s"], event["leverage"], event["usd"] = times[0] // 1000, 1.0, np.nan
    for at_ms in times:
        event["at_ms"] = at_ms
        fold(row, event)
        wake(row, at_ms, EVIDENCE)
    return row


def every(hours: float, days: float = 60) -> list[int]:
    return [START_MS + int(n * hours * HOUR_MS) for n in range(int(days * 24 / hours))]


def test_the_gap_test_is_the_published_one() -> None:
    """Without decay ((T + b) / (T + b + g))^(c + a) is what is below the level at the gap, and was not before it."""
    times = [START_MS + n * DAY_MS for n in range(5)]
    gap_days = surprise_ms(traded(times), 1e-3) / DAY_MS
    seen_days, count = 4.0, 5
    assert ((seen_days + 4) / (seen_days + 4 + gap_days)) ** (count + 0.5) == pytest.approx(1e-3, rel=0.25)


def test_after_the_slow_scale_began_anew_the_gap_test_counts_from_there() -> None:
    """Neither few transactions in a long life, which would be a slow wallet, nor a burst taken for a long habit."""
    burst = [START_MS + 60 * DAY_MS + n * HOUR_MS // 4 for n in range(12)]
    row = traded([*every(24 * 3, 59), *burst])
    assert renew(row, burst[-1], 3.0)
    seen_days, count = weight_days(burst[-1] - since_ms(row), SLOW_MS / DAY_MS), row["sums"][COUNT]
    count *= decay(burst[-1], row["slow_landmark"], SLOW_MS)
    gap_days = surprise_ms(row, DORMANT_BELOW) / DAY_MS
    assert ((seen_days + 4) / (seen_days + 4 + gap_days)) ** (count + 0.5) == pytest.approx(1e-3)
    assert 3 < gap_days < surprise_ms(traded(every(24 * 3)), DORMANT_BELOW) / DAY_MS / 2


def test_the_busier_a_wallet_the_sooner_its_silence_is_a_surprise() -> None:
    gaps = [surprise_ms(traded(every(hours)), DORMANT_BELOW) for hours in (2, 24, 24 * 7)]
    assert gaps == sorted(gaps)
    assert gaps[0] == SHORTEST_MS < 3 * DAY_MS - GRID_MS + 1
    assert 5 * DAY_MS < gaps[1] < 10 * DAY_MS < 30 * DAY_MS < gaps[2]


@given(st.lists(st.integers(0, 200 * DAY_MS), min_size=1, max_size=40), st.integers(0, 10 * DAY_MS))
def test_who_is_queued_is_due_later_and_on_the_grid(gaps: list[int], ahead: int) -> None:
    times = sorted(START_MS + gap for gap in gaps)
    row, clock_ms = traded(times), times[-1] + ahead
    queue(row, clock_ms)
    due_ms = int(row["due_s"]) * 1000
    assert due_ms == first_due(clock_ms) == horizon(clock_ms, NEVER_MS) > clock_ms
    assert due_ms % GRID_MS == 0
    found = look(row, due_ms)
    queue_again(row, due_ms, found)
    if found == SILENT:
        assert (row["due_s"], row["lifecycle"]) == (0, DORMANT)
    else:
        assert due_ms < int(row["due_s"]) * 1000 <= due_ms + IDLE_MS + GRID_MS
        assert int(row["due_s"]) * 1000 % GRID_MS == 0


@given(st.integers(1, 48), st.integers(0, 400))
def test_a_wallet_that_stays_silent_is_found_dormant_at_the_first_due_time_it_can_be(hours: int, more: int) -> None:
    times = every(hours, 20 + more / 10)
    row, due_ms = traded(times), 0
    queue(row, times[-1])
    while row["lifecycle"] != DORMANT:
        due_ms = int(row["due_s"]) * 1000
        queue_again(row, due_ms, look(row, due_ms))
    surprised_ms = times[-1] + surprise_ms(row, DORMANT_BELOW)
    assert due_ms == max(on_grid(surprised_ms), first_due(times[-1]))


def test_a_batch_ends_before_anybody_it_queues_is_due() -> None:
    assert horizon(START_MS, NEVER_MS) == first_due(START_MS)
    assert horizon(START_MS, START_MS + 1) == START_MS + 1
    assert horizon(0, NEVER_MS) == 0  # a partition without a clock: its first event sets it, and is a batch


def test_the_stages_follow_from_age_silence_and_return() -> None:
    row = traded(every(24, 5))
    assert row["lifecycle"] == NEW
    row = traded(every(24, 30))
    assert row["lifecycle"] == ACTIVE
    last_ms = int(row["last_at_ms"])
    assert look(row, last_ms + DAY_MS) == AWAKE
    assert look(row, last_ms + 5 * DAY_MS) == IDLE
    assert row["lifecycle"] == SLOWING
    assert look(row, last_ms + 12 * DAY_MS) == SILENT
    assert row["lifecycle"] == DORMANT
    wake(row, last_ms - 1, EVIDENCE)
    assert row["lifecycle"] == DORMANT  # it came late and says nothing of today
    row["last_at_ms"] = back_ms = last_ms + 20 * DAY_MS
    wake(row, back_ms, EVIDENCE)
    row["changed_s"] = back_ms // 1000
    assert row["lifecycle"] == RETURNED
    for days, stage in ((13, RETURNED), (15, ACTIVE)):
        wake(row, back_ms + days * DAY_MS, EVIDENCE)
        assert row["lifecycle"] == stage
    assert LIFECYCLE[ACTIVE] == "active"  # rows of before are 0
