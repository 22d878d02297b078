"""Amounts split over the touches of paths, by largest remainders, for all amounts of a batch at once.

The touches of many paths lie in one row, one path's after the other's, so paths of any length are split in one go
and nothing is padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.journeys import widths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.journeys import Path

#: The rules that share an amount, in the order of their weights in a path's block: linear, time decay, position.
RULES = np.arange(3)[:, None]
#: More than any key.
NOBODY = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Runs:
    """Paths of at least one touch laid end to end; (m,) by path, (p,) by touch.

    `start`: path -> its first touch. `touches`: their number. `path`: touch -> path. `code`: of its campaign.
    `weight`: (3, p) and `total`: (3, m), a path's weights and their sums, by rule.
    """

    start: NDArray[np.int64]
    touches: NDArray[np.int64]
    path: NDArray[np.int64]
    code: NDArray[np.int64]
    weight: NDArray[np.int64]
    total: NDArray[np.int64]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Runs:
        """The runs of paths that have touches, in their order."""
        block = np.frombuffer(b"".join([path.block for path in paths]), np.int64)
        touches = np.array([path.touches for path in paths], np.int64)
        wide = widths(touches)
        begin = before(4 * wide + 4)
        start, path = before(touches), np.repeat(np.arange(len(touches)), touches)
        place = np.arange(len(path)) + np.repeat(begin - start, touches)
        weight = block[place + (RULES + 1) * np.repeat(wide, touches)]
        return cls(start, touches, path, block[place], weight, block[begin + 4 * wide + RULES])

    def by_touch(self, column: NDArray[np.int64]) -> NDArray[np.int64]:
        """A column by path (…, m) as one by touch (…, p)."""
        return np.repeat(column, self.touches, axis=-1)

    def pick(self, chosen: NDArray[np.int64]) -> tuple[Runs, NDArray[np.int64]]:
        """The runs of the chosen paths (any order, any repeats), and for each of their touches its place in here."""
        touches = self.touches[chosen]
        start, path = before(touches), np.repeat(np.arange(len(touches)), touches)
        place = np.arange(len(path)) + np.repeat(self.start[chosen] - start, touches)
        weight, total = self.weight.take(place, axis=1), self.total.take(chosen, axis=1)
        return Runs(start, touches, path, self.code[place], weight, total), place


def before(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of all counts before each."""
    sums: NDArray[np.int64] = np.cumsum(counts) - counts
    return sums


def split(amount: NDArray[np.int64] | int, runs: Runs) -> NDArray[np.int64]:
    """Amounts (m,) >= 0 over the touches of their paths, by each rule: (3, p).

    Share = floor(amount x weight / total); the units left over go to the largest exact remainders, ties to the
    earlier. The amount's multiple of the total is taken out first, so products stay below 2^54.
    """
    whole, rest = np.divmod(amount, runs.total)
    floor, remainder = np.divmod(runs.by_touch(rest) * runs.weight, runs.by_touch(runs.total))
    shares: NDArray[np.int64] = runs.by_touch(whole) * runs.weight + floor
    left = rest - np.add.reduceat(floor, runs.start, axis=1)
    # one key orders by path, then remainder, then place: the units left over go to the largest of each path
    most = int(runs.touches.max())
    span = int(runs.total.max()) * most + most
    key = remainder * most + runs.by_touch(np.arange(len(runs.start)) * span + runs.start)
    key -= np.arange(len(runs.path))
    from_last = runs.start + runs.touches - np.maximum(left, 1)
    least = np.sort(key, axis=1)[RULES, from_last]
    shares += key >= runs.by_touch(np.where(left > 0, least, NOBODY))
    return shares
