"""The ROI cells that a batch adds to: a table by partition, campaign and segment, for loops over events; their text.

Sums are exact at any size: what no longer fits into one integer is carried into a second.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled, leaf
from models.counters import NUMBERS, encode_cell
from models.layout import CAMPAIGNS
from models.rows import SEGMENTS

#: What is carried of a sum is a multiple of this; nothing larger is added at once.
CARRY = 1 << 60
#: Columns of a row: its numbers, what each has carried, its key. That is one int64: partition of the batch, number of
#: the campaign (32 bits), segment.
CARRIES, KEY, COLUMNS = NUMBERS, 2 * NUMBERS, 2 * NUMBERS + 1
#: Places of the smallest table, a power of two; half of them may be taken.
SMALLEST = 512
#: The most bytes of an int64 in decimal, with what is before it.
WIDTH = 21
TEN, ZERO, MINUS, BLANK, BREAK = np.uint64(10), ord("0"), ord("-"), ord(" "), ord("\n")
HUNDRED, DIGITS = np.uint64(100), np.array([tuple(b"%02d" % number) for number in range(100)], np.uint8)


class Cells(NamedTuple):
    """An open table. `slots`: row of the key that hashes there, 0 free; a power of two, at least half are free.

    `rows`: (r, 23), in order of appearance; a cell's number is carry x 2^60 + sum. Row 0 is none: it has the number of
    the last row as its key, and as its first number more than any sum has grown to.
    """

    slots: NDArray[np.int64]
    rows: NDArray[np.int64]


@compiled
def empty_cells(slots: int) -> Cells:
    """A table without cells."""
    cells = Cells(np.zeros(slots, np.int64), np.empty((slots // 2, COLUMNS), np.int64))
    cells.rows[0, 0] = cells.rows[0, KEY] = 0
    return cells


@leaf
def find_rows(slots: NDArray[np.int64], rows: NDArray[np.int64], wanted: NDArray[np.int64], many: int) -> None:
    """The rows of cells, new ones for those that have none yet. `wanted`: (2, m), keys; below each its row is put.

    A cell that was asked for is one of the batch even if what is added adds up to nothing.
    """
    last = len(slots) - 1
    for place in range(many):
        key = wanted[0, place]
        slot = ((key ^ (key >> 31)) * 0x9E3779B97F4A7C1 >> 20) & last
        while slots[slot] and rows[slots[slot], KEY] != key:
            slot = (slot + 1) & last
        if slots[slot] == 0:
            rows[0, KEY] += 1
            slots[slot] = rows[0, KEY]
            for number in range(KEY):
                rows[slots[slot], number] = 0
            rows[slots[slot], KEY] = key
        wanted[1, place] = slots[slot]


@leaf
def expect(rows: NDArray[np.int64], amount: int) -> None:
    """Make sure that an amount can be added to any number: put all sums away before one of them could overflow."""
    rows[0, 0] += amount
    if rows[0, 0] >= 2 * CARRY:
        for row in range(1, rows[0, KEY] + 1):
            for number in range(NUMBERS):
                rows[row, CARRIES + number] += rows[row, number] // CARRY
                rows[row, number] %= CARRY
        rows[0, 0] = CARRY


@compiled
def with_room(cells: Cells, more: int) -> Cells:
    """The same cells in a table that takes so many more."""
    taken, slots = cells.rows[0, KEY] + 1, len(cells.slots)
    if 2 * (taken + more) <= slots:
        return cells
    while 2 * (taken + more) > slots:
        slots *= 2
    wider, wanted = empty_cells(slots), np.empty((2, taken), np.int64)
    for row in range(1, taken):
        wanted[0, row - 1] = cells.rows[row, KEY]
    find_rows(wider.slots, wider.rows, wanted, taken - 1)  # in the same order, so each has the row it had
    for row in range(taken):
        for number in range(COLUMNS):
            wider.rows[row, number] = cells.rows[row, number]
    return wider


def in_order(cells: Cells) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Partition, campaign, segment (r,) and numbers (r, 11) of every cell, sorted by all three."""
    rows = cells.rows[1 : cells.rows[0, KEY] + 1]
    rows = rows[np.argsort(rows[:, KEY])]
    campaigns, segment = np.divmod(rows[:, KEY], SEGMENTS)
    part, code = np.divmod(campaigns, CAMPAIGNS)
    sums, carries = rows[:, :CARRIES], rows[:, CARRIES:KEY]
    return part, code, segment, sums + carries.astype(object) * CARRY if carries.any() else sums


@leaf
def add_cells(known: NDArray[np.int64], places: NDArray[np.int64], sums: NDArray[np.int64]) -> bool:
    """Add to `sums` (m, 11) the cells at these places (m,) of what is known; whether all of them fit into an int64."""
    wrapped = 0
    for row in range(len(places)):
        for number in range(NUMBERS):
            before, more = known[places[row], number], sums[row, number]
            after = before + more
            # It has wrapped around, and only then, if its sign is that of neither of its parts.
            wrapped |= (before ^ after) & (more ^ after)
            sums[row, number] = after
    return wrapped >= 0


# ------------------------------------------------------------------ as text


def encode_cells(cells: NDArray[Any]) -> list[bytes]:
    """Cells (m, 11), one at least, as `encode_cell` writes each; a table that is not of int64 is one of Python's."""
    if cells.dtype != np.int64:
        return [encode_cell(tuple(cell)) for cell in cells.tolist()]
    text = np.empty(WIDTH * cells.size, np.uint8)
    return text[write_cells(cells.ravel(), text) :].tobytes().split(b"\n")


@leaf
def write_cells(numbers: NDArray[np.int64], text: NDArray[np.uint8]) -> int:
    """Write cells, number by number from the last on, to the end of a text, a line each; where the first begins."""
    at = len(text)
    for place in range(len(numbers) - 1, -1, -1):
        number = numbers[place]
        rest = np.uint64(-number if number < 0 else number)
        while rest >= HUNDRED:
            at -= 2
            text[at], text[at + 1] = DIGITS[rest % HUNDRED]
            rest //= HUNDRED
        if rest >= TEN:
            at -= 1
            text[at] = ZERO + np.uint8(rest % TEN)
            rest //= TEN
        at -= 1
        text[at] = ZERO + np.uint8(rest)
        if number < 0:
            at -= 1
            text[at] = MINUS
        at -= 1
        text[at] = BLANK if place % NUMBERS else BREAK
    return at + 1
