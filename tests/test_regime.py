from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.regime import CELL, CLOSES_MS, FEWEST, LASTS_MS, NO_FLOW, Flow, add_hours, count_hours, judge, note
from models.rules import HOUR_MS

#: A Monday.
START = 20_000 * 24 + 4 * 24


def rate(hour: int, wallets: float) -> float:
    """Active wallets of a usual hour: quiet at night and at weekends."""
    return wallets * (1 + 0.6 * math.sin(hour % 24 / 24 * 2 * math.pi)) * (0.75 if hour // 24 % 7 >= 5 else 1.0)


def season(seed: int, days: int, wallets: float, factor: dict[int, float] | None = None, ramp: float = 0.0) -> Flow:
    """Hour after hour is told and judged. `factor`: by hour, how much busier; `ramp`: growth of a day at the end."""
    draw, flow = np.random.default_rng(seed), Flow.unknown()
    for hour in range(days * 24):
        grown = (1 + ramp) ** max(0, hour / 24 - (days - 21))
        active = draw.poisson(rate(hour, wallets) * grown * (factor or {}).get(hour, 1.0))
        if active:
            flow = note(flow, 0, np.array([[START + hour, 3.0 * active, active, 10.0]]))
        flow = judge(flow, (START + hour + 1) * HOUR_MS, (START + hour + 1) * HOUR_MS)
    return flow


CRASH = {35 * 24 + 13: 4.0, 35 * 24 + 14: 5.0, 35 * 24 + 15: 3.0}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wallets", [60, 500])
def test_a_crash_is_noticed_and_over_three_days_after_its_last_hour(seed: int, wallets: float) -> None:
    flow = season(seed, 40, wallets, CRASH)
    begins, ends = (START + hour for hour in (min(CRASH), max(CRASH)))
    assert begins <= flow.from_ms // HOUR_MS <= begins + 1
    assert (ends - 1) * HOUR_MS + LASTS_MS <= flow.until_ms <= (ends + 2) * HOUR_MS + LASTS_MS
    assert flow.regime_at(flow.from_ms) == "crash"
    assert flow.regime_at(flow.until_ms) == flow.regime_at(flow.from_ms - 1) == "normal"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wallets", [0.3, 5, 500])
def test_neither_a_calm_stream_nor_a_ramp_to_a_deadline_is_a_crash(seed: int, wallets: float) -> None:
    assert season(seed, 60, wallets).until_ms == 0
    assert season(seed, 60, wallets, ramp=0.09).until_ms == 0


def test_a_collapse_is_an_outage_and_no_crash() -> None:
    assert season(0, 40, 5000, dict.fromkeys(range(700, 730), 0.05)).until_ms == 0


def test_a_robot_is_one_wallet_however_much_it_does() -> None:
    at_ms = np.full(5000, START * HOUR_MS + 7)
    previous = np.concatenate(([0], at_ms[1:]))
    (found,) = count_hours(at_ms, previous, np.ones(5000), [5000])
    assert found.tolist() == [[START, 5000, 1, 5000]]


def test_an_alarm_comes_within_the_hour_and_needs_some_wallets() -> None:
    flow = season(0, 30, 500)
    hour = START + 30 * 24
    early = note(flow, 0, np.array([[hour, 9e4, 9e3, 1.0]]))
    assert judge(early, hour * HOUR_MS, hour * HOUR_MS + 1).from_ms == hour * HOUR_MS
    tiny = season(0, 30, 0.05)
    few = note(tiny, 0, np.array([[hour, FEWEST, FEWEST - 1.0, 1.0]]))
    assert judge(few, hour * HOUR_MS, (hour + 1) * HOUR_MS).until_ms == 0


@given(st.integers(0, 10**6))
def test_totals_replace_and_never_double_or_shrink(seed: int) -> None:
    draw = np.random.default_rng(seed)
    totals = np.cumsum(draw.integers(0, 9, (4, 3)), axis=0).astype(np.float64)
    tellings = [np.concatenate(([START], each))[None] for each in totals]
    once = note(Flow.unknown(), 3, tellings[-1])
    again = Flow.unknown()
    for at in (*range(4), *draw.integers(0, 4, 6).tolist()):
        again = note(again, 3, tellings[at])
    assert again.cells.tolist() == once.cells.tolist() == [[3, START, *totals[-1]]]


def test_an_hour_is_open_until_every_partition_is_past_it_or_the_first_is_far_ahead() -> None:
    cells = np.array([[START, 9.0, 5.0, 1.0]])
    flow = note(note(Flow.unknown(), 0, cells), 1, cells)
    within, past = START * HOUR_MS + 5, (START + 3) * HOUR_MS
    waiting = judge(flow, within, past)
    assert (len(waiting.cells), waiting.usual[2]) == (2, 0)
    closed = judge(waiting, past, past)
    assert (len(closed.cells), closed.usual[2], closed.usual[0]) == (0, 1, pytest.approx(np.log(10.5)))
    assert judge(waiting, within, past + CLOSES_MS).usual[2] == 1
    assert note(closed, 0, cells).cells.shape == (0, 5)  # too late: the hour was learned


def test_cells_that_are_no_numbers_are_left_out() -> None:
    flow = note(Flow.unknown(), 0, np.array([[START, np.nan, 5.0, 1.0], [START + 1, 9.0, np.inf, 1.0]]))
    assert len(flow.cells) == 0


#: Hour, the hour of the wallet's transaction before it, USD; 0 for unknown.
Transaction = tuple[int, int, float]


def transactions(hours: st.SearchStrategy[int], usd: st.SearchStrategy[float]) -> st.SearchStrategy[list[Transaction]]:
    return st.lists(st.tuples(hours, st.integers(-1, 5), usd), max_size=30)


def hours_of(*parts: list[Transaction]) -> list[NDArray[np.float64]]:
    """The flow cells of each part's transactions, all counted at once."""
    events = [event for part in parts for event in part]
    at_ms = np.array([(START + hour) * HOUR_MS for hour, _, _ in events], np.int64)
    previous = np.array([(START + before) * HOUR_MS if before >= 0 else 0 for _, before, _ in events], np.int64)
    usd = np.array([float(usd) if usd else np.nan for _, _, usd in events])
    return count_hours(at_ms, previous, usd, [len(part) for part in parts])


@given(
    st.lists(
        transactions(st.integers(0, 5), st.floats(0, 1e6)) | transactions(st.just(3), st.floats(0, 1e6)), max_size=4
    )
)
def test_hours_counted_together_are_to_the_last_bit_what_each_partition_has_alone(
    parts: list[list[Transaction]],
) -> None:
    alone = [hours_of(part)[0].tolist() for part in parts]
    assert [cells.tolist() for cells in hours_of(*parts)] == alone
    for part, cells in zip(parts, alone, strict=True):
        acted = {hour: sum(before < hour for at, before, _ in part if at == hour) for hour, _, _ in part}
        assert {cell[0] - START: cell[2] for cell in cells} == acted


@given(transactions(st.integers(0, 5), st.integers(0, 9)), st.integers(1, 29))
def test_hours_of_two_batches_add_up_to_those_of_one(events: list[Transaction], cut: int) -> None:
    whole = add_hours(NO_FLOW, hours_of(events)[0], 48)
    parts = [hours_of(events[part])[0] for part in (slice(cut), slice(cut, None))]
    assert add_hours(add_hours(NO_FLOW, parts[0], 48), parts[1], 48).tolist() == whole.tolist()
    assert whole.shape[1] == len(CELL)
    assert add_hours(whole, NO_FLOW, 2).tolist() == whole[-2:].tolist()
