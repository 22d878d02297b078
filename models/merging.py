"""Two logs in one order: by the timestamps of their heads. Compiled, as live traffic brings a few records at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled
from models.records import RECORD, Records, extent, shift, together


@compiled
def weave(
    first: NDArray[np.void], second: NDArray[np.void], until_ms: float, room: tuple[int, int], order: NDArray[np.uint8]
) -> tuple[int, int, int]:
    """Which log each next record is of, into `order` (n,): 0 the first, 1 the second, until one of them is used up.

    Always the head with the smaller timestamp goes next, the first log's if they are equal; so one that goes back in
    time follows the record before it at once, whatever the other log holds. A log without records is none at all. Only
    records before `until_ms`, and as many as there is room for: records, and bytes of them, beyond which the last one
    may go. Returns the records of the first, of the second, and their bytes.
    """
    most, size = room
    of_first, of_second, taken = 0, 0, 0
    while of_first + of_second < most and taken < size:
        if of_first < len(first):
            if of_second < len(second):
                log = int(second[of_second]["timestamp"] < first[of_first]["timestamp"])
            elif len(second) == 0:
                log = 0
            else:
                break
        elif len(first) == 0 and of_second < len(second):
            log = 1
        else:
            break
        row = second[of_second] if log else first[of_first]
        if row["timestamp"] >= until_ms:
            break
        order[of_first + of_second] = log
        of_first, of_second = of_first + 1 - log, of_second + log
        taken += max(row["key_end"] - row["key"], 0) + max(row["value_end"] - row["value"], 0)
        taken += row["headers_end"] - row["headers"]
    return of_first, of_second, taken


def woven(first: Sequence[Records], second: Sequence[Records], order: NDArray[np.uint8]) -> Records:
    """The records of both logs, each given in parts, in the order (n,) that `weave` found."""
    one, other = together(first), together(second)
    if not len(one) or not len(other):
        return one if len(one) else other
    rows = np.empty(len(order), RECORD)
    begin, end, other_begin, other_end = deal(one.rows, other.rows, order, rows)
    return Records(b"".join((memoryview(one.text)[begin:end], memoryview(other.text)[other_begin:other_end])), rows)


@compiled
def deal(
    first: NDArray[np.void], second: NDArray[np.void], order: NDArray[np.uint8], rows: NDArray[np.void]
) -> tuple[int, int, int, int]:
    """The rows of two texts as those of one, the first before the second, into `rows`; what is needed of each text."""
    begin, end = extent(first)
    other_begin, other_end = extent(second)
    of_first = 0
    for place in range(len(order)):
        if order[place] == 0:
            rows[place] = first[of_first]
            shift(rows, place, place + 1, -begin)
            of_first += 1
        else:
            rows[place] = second[place - of_first]
            shift(rows, place, place + 1, end - begin - other_begin)
    return begin, end, other_begin, other_end
