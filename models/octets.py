"""Bytes written one after the other, by compiled loops: every function returns the place behind what it has written."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.compiled import inlined, leaf


@inlined
def put(text: NDArray[np.uint8], place: int, value: int, size: int) -> int:
    """Write an integer as `size` bytes, little-endian."""
    first = np.uint64(place)
    for byte in range(size):
        text[first + np.uint64(byte)] = (value >> (8 * byte)) & 255
    return place + size


@leaf
def copy(text: NDArray[np.uint8], begin: int, size: int, out: NDArray[np.uint8], place: int) -> int:
    """Write `size` bytes of another text, from `begin` on."""
    first, there = np.uint64(place), np.uint64(begin)
    for byte in range(size):
        out[first + np.uint64(byte)] = text[there + np.uint64(byte)]
    return place + size
