"""The ROI cells a partition has at hand. It takes sums only after their commit, and dies with the partition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.cells import add_cells
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
        # What was looked up last and where it is: of a batch the same is asked three times.
        self._found: tuple[Sequence[bytes], NDArray[np.int64]] = (), np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    def missing(self, names: Sequence[bytes]) -> list[bytes]:
        """Which of the cells have to be read and admitted first."""
        if len(self) > self.capacity:
            self._slots.clear()
        slots = list(map(self._slots.get, names))
        if None in slots:
            self._found = (), np.zeros(0, np.int64)
            return [name for name, slot in zip(names, slots, strict=True) if slot is None]
        self._found = names, np.array(slots, np.int64)
        return []

    def admit(self, names: Sequence[bytes], stored: Sequence[bytes | None]) -> None:
        """Take the missing cells, as they are stored. Raises `ValueError` for what is no cell."""
        cells, begin = [decode_cell(cell) for cell in stored], len(self)
        if begin + len(cells) > len(self._numbers):
            self._numbers = np.resize(self._numbers, (2 * (begin + len(cells)), NUMBERS))
        self._slots |= zip(names, range(begin, begin + len(cells)), strict=True)
        self.keep(names, np.array(cells, np.object_).reshape(-1, NUMBERS))

    def added(self, deltas: CellDeltas) -> NDArray[Any]:
        """What the cells of a batch will be (m, 11); all of them have been admitted."""
        slots, more = self._slots_of(deltas.names), deltas.deltas
        if self._numbers.dtype == more.dtype == np.int64:
            sums = more.copy()
            if add_cells(self._numbers, slots, sums):
                return sums
        return np.asarray(self._numbers[slots].astype(np.object_) + more)

    def keep(self, names: Sequence[bytes], numbers: NDArray[Any]) -> None:
        """Take the cells as they are now."""
        try:
            numbers = numbers.astype(self._numbers.dtype, copy=False)
        except OverflowError:
            self._numbers = self._numbers.astype(np.object_)
        self._numbers[self._slots_of(names)] = numbers

    def _slots_of(self, names: Sequence[bytes]) -> NDArray[np.int64]:
        if names is not self._found[0]:
            self._found = names, np.array([self._slots[name] for name in names], np.int64)
        return self._found[1]
