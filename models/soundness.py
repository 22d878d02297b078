"""Whether a stored journal is what its head says: loops over events trust every count in it and check none.

One pass of compiled code over the bytes of many, a fraction of what it takes to read them from Redis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled, inlined, leaf
from models.layout import (
    FEE_BYTES,
    FOREVER,
    H_SIZE,
    H_TOUCHES,
    HEAD_BYTES,
    TOUCH_BYTES,
)

#: Instead of the largest code: the journal is damaged.
DAMAGED = -1


@inlined
def number_at(text: NDArray[np.uint8], place: int, size: int) -> int:
    """The integer of `size` bytes at a place; signed if they are eight."""
    value, first = np.int64(0), np.uint64(place)
    for byte in range(size):
        value |= np.int64(text[first + np.uint64(byte)]) << (8 * byte)
    return value  # type: ignore[return-value]  # the compiler knows one kind of integer


@compiled
def largest_codes(text: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each stored journal (n,) what `largest_code` says; `text`: all of them, end to end; `ends`: (n,)."""
    largest, begin = np.empty(len(ends), np.int64), 0
    for journal, end in enumerate(ends):
        largest[journal] = largest_code(text[begin:end])
        begin = end
    return largest


@leaf
def largest_code(text: NDArray[np.uint8]) -> int:
    """The largest number of a campaign in a stored journal, 0 without a touch; -1 where loops could go astray in it.

    Its parts fill it exactly, and times are in order.
    """
    if len(text) < HEAD_BYTES:
        return DAMAGED
    size = number_at(text, H_SIZE, 4)
    if not HEAD_BYTES <= size <= len(text) or (len(text) - size) % FEE_BYTES:
        return DAMAGED
    return largest_in_touches(text, HEAD_BYTES, size)


@leaf
def largest_in_touches(text: NDArray[np.uint8], place: int, end: int) -> int:
    """The largest code of the touches from `place` on; -1: they do not end where they should, or a time is none."""
    largest, at_ms = 0, 0
    for _ in range(number_at(text, H_TOUCHES, 2)):
        if place + TOUCH_BYTES > end:
            return DAMAGED
        before_ms, at_ms, code = at_ms, number_at(text, place, 8), number_at(text, place + 8, 4)
        if not before_ms <= at_ms < FOREVER or code < 1:
            return DAMAGED
        largest, place = max(largest, code), place + TOUCH_BYTES + number_at(text, place + 12, 2)
    return largest if place == end else DAMAGED
