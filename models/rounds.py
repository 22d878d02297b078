"""A batch laid out in rounds, so that what must happen in turn for a wallet happens for all wallets at once.

Round k holds the k-th event of every wallet that has one, wallets with most events first. It is a slice of the
batch whose rows continue the first rows of round k-1, so a recurrence is one vector operation per round, with
nothing gathered or scattered, and exact per event; the tail of a single busy wallet is one `accumulate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.float64, np.int64)


@dataclass(frozen=True, slots=True)
class Rounds:
    """Places (n,) are positions in round order; wallets (k,) are ordered by events, most first.

    `order`: place -> event in order of arrival. `wallet`: place -> wallet. `rank`: place -> how many events of
    the wallet came before. `before`: place -> place of the wallet's previous event, -1 none. `count`: events of
    each wallet. `busiest`: wallet -> its number before the reordering. `slices`: (start, stop) of each round.
    `last`: wallet -> place of its last event.
    """

    order: NDArray[np.int64]
    wallet: NDArray[np.int64]
    rank: NDArray[np.int64]
    before: NDArray[np.int64]
    count: NDArray[np.int64]
    busiest: NDArray[np.int64]
    slices: list[tuple[int, int]]
    last: NDArray[np.int64]


def lay_out(wallet_of: NDArray[np.int64], wallets: int) -> Rounds:
    """Events in order of arrival (n,), each with its wallet, 0 .. wallets-1, every wallet with an event."""
    events = len(wallet_of)
    count = np.bincount(wallet_of, minlength=wallets)
    busiest = np.argsort(-count, kind="stable")
    place_of = np.empty(wallets, np.int64)
    place_of[busiest] = np.arange(wallets)
    wallet, count = place_of[wallet_of], count[busiest]
    by_wallet = np.argsort(small(wallet, wallets), kind="stable")
    ranked = np.arange(events) - np.repeat(np.cumsum(count) - count, count)
    rank = np.empty(events, np.int64)
    rank[by_wallet] = ranked
    order = by_wallet[np.argsort(small(ranked, events), kind="stable")]
    sizes = np.bincount(rank)
    stops = np.cumsum(sizes)
    before = np.full(events, -1)
    before[wallets:] = np.arange(wallets, events) - np.repeat(sizes[:-1], sizes[1:])
    slices = list(zip((stops - sizes).tolist(), stops.tolist(), strict=True))
    last = (stops - sizes)[count - 1] + np.arange(wallets)
    return Rounds(order, wallet[order], rank[order], before, count, busiest, slices, last)


def small(numbers: NDArray[np.int64], limit: int) -> NDArray[Any]:
    """Numbers below `limit`, in 16 bits if they fit: NumPy sorts those by radix, five times as fast."""
    return numbers.astype(np.uint16) if limit <= 1 << 16 else numbers


def scan(operation: np.ufunc, first: NDArray[Number], steps: NDArray[Number], rounds: Rounds) -> NDArray[Number]:
    """Out = operation(value of the wallet's previous event, step), strictly in turn.

    `first`: (k, …) each wallet's value before the batch. `steps`: (n, …) in round order; so is the result.
    """
    out = np.empty_like(steps)
    previous = first
    for start, stop in rounds.slices:
        if stop - start == 1:  # one wallet is left: its whole tail at once
            tail = steps[start:].copy()
            tail[:1] = operation(previous[:1], tail[:1])
            operation.accumulate(tail, axis=0, out=out[start:])
            break
        operation(previous[: stop - start], steps[start:stop], out=out[start:stop])
        previous = out[start:stop]
    return out
