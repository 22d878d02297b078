"""Rounds: what happens in turn for each wallet, whatever the layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.rounds import lay_out, scan


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[NDArray[np.int64], int]:
    """The wallet of each event, and how many wallets there are; each has an event, one may have most of them."""
    wallets = draw(st.integers(1, 8))
    more = draw(st.lists(st.integers(0, wallets - 1) | st.just(0), max_size=40))
    return np.array(draw(st.permutations([*range(wallets), *more])), np.int64), wallets


@given(arrivals())
def test_every_event_has_one_place_and_rounds_continue_each_other(case: tuple[NDArray[np.int64], int]) -> None:
    wallet_of, wallets = case
    rounds = lay_out(wallet_of, wallets)
    assert sorted(rounds.order.tolist()) == list(range(len(wallet_of)))
    assert rounds.busiest[rounds.wallet].tolist() == wallet_of[rounds.order].tolist()
    assert rounds.count.tolist() == sorted(np.bincount(wallet_of).tolist(), reverse=True)
    stops = [stop for _, stop in rounds.slices]
    assert [start for start, _ in rounds.slices] == [0, *stops[:-1]]
    assert stops[-1] == len(wallet_of)
    for rank, (start, stop) in enumerate(rounds.slices):
        assert rounds.wallet[start:stop].tolist() == list(range(stop - start))
        assert set(rounds.rank[start:stop].tolist()) == {rank}


@given(arrivals())
def test_the_place_before_is_the_event_before_of_the_same_wallet(case: tuple[NDArray[np.int64], int]) -> None:
    wallet_of, wallets = case
    rounds = lay_out(wallet_of, wallets)
    place_of = {event: place for place, event in enumerate(rounds.order.tolist())}
    latest: dict[int, int] = {}
    for event, wallet in enumerate(wallet_of.tolist()):
        assert rounds.before[place_of[event]] == latest.get(wallet, -1)
        latest[wallet] = place_of[event]
    assert rounds.last.tolist() == [latest[wallet] for wallet in rounds.busiest.tolist()]


@pytest.mark.parametrize("operation", [np.add, np.maximum])
@given(case=arrivals(), width=st.sampled_from([0, 1, 3]), seed=st.integers(0, 99))
def test_scan_is_a_loop_over_each_wallet(
    operation: np.ufunc, case: tuple[NDArray[np.int64], int], width: int, seed: int
) -> None:
    """In floating point too, bit by bit: nothing is added in another order."""
    wallet_of, wallets = case
    rounds = lay_out(wallet_of, wallets)
    dice = np.random.default_rng(seed)
    shape = (width,) if width else ()
    first = dice.lognormal(0, 20, (wallets, *shape))
    steps = dice.lognormal(0, 20, (len(wallet_of), *shape))
    before = first.copy(), steps.copy()
    value = first.copy()
    expected = np.empty_like(steps)
    for event in range(len(wallet_of)):
        place = int(np.flatnonzero(rounds.order == event)[0])
        wallet = int(rounds.wallet[place])
        value[wallet] = operation(value[wallet], steps[place])
        expected[place] = value[wallet]
    assert scan(operation, first, steps, rounds).tobytes() == expected.tobytes()
    assert (first.tobytes(), steps.tobytes()) == (before[0].tobytes(), before[1].tobytes())
