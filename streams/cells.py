"""The ROI cells a partition has at hand. It takes sums only after their commit, and dies with the partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.counters import NUMBERS, decode_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.counters import CellDeltas


class CellCache:
    """A table with a row for each cell; beyond `capacity` all are forgotten and read again as they are needed.

    Exact at any size: once a number is too large for an int64, the table is one of Python's integers.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._slots: dict[bytes, int] = {}
        self._numbers: NDArray[Any] = np.zeros((0, NUMBERS), np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    def missing(self, names: Sequence[bytes]) -> list[bytes]:
        """Which of the cells have to be read and admitted first."""
        if len(self) > self.capacity:
            self._slots.clear()
        return [name for name in names if name not in self._slots]

    def admit(self, names: Sequence[bytes], stored: Sequence[bytes | None]) -> None:
        """Take the missing cells, as they are stored. Raises `ValueError` for what is no cell."""
        cells, begin = [decode_cell(cell) for cell in stored], len(self)
        if begin + len(cells) > len(self._numbers):
            self._numbers = np.resize(self._numbers, (2 * (begin + len(cells)), NUMBERS))
        self._slots |= zip(names, range(begin, begin + len(cells)), strict=True)
        self.keep(names, np.array(cells, np.object_).reshape(-1, NUMBERS))

    def added(self, deltas: CellDeltas) -> NDArray[Any]:
        """What the cells of a batch will be (m, 11); all of them have been admitted."""
        known, more = self._numbers[self._slots_of(deltas.names)], deltas.deltas
        sums = known + more
        # A sum has wrapped around, and only then, if its sign is that of neither of its parts.
        if ((known ^ sums) & (more ^ sums)).min(initial=0) < 0:
            return np.asarray(known.astype(np.object_) + more)
        return sums

    def keep(self, names: Sequence[bytes], numbers: NDArray[Any]) -> None:
        """Take the cells as they are now."""
        try:
            numbers = numbers.astype(self._numbers.dtype, copy=False)
        except OverflowError:
            self._numbers = self._numbers.astype(np.object_)
        self._numbers[self._slots_of(names)] = numbers

    def _slots_of(self, names: Sequence[bytes]) -> list[int]:
        return [self._slots[name] for name in names]
