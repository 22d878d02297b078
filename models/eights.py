"""A text eight bytes at a time: as one number, the first byte lowest. Compiled.

A loop over bytes ends where the processor did not expect it; that costs more than the bytes. Places are made unsigned
before they are used: then no one looks whether they count from the end, and the eight bytes are read at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.compiled import inlined

SIZE = 8
ONES, HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
SPACES, QUOTES, BACKSLASHES = (np.uint64(byte * 0x0101010101010101) for byte in b' "\\')
ZEROS, LOWS, NOT_DIGITS = (np.uint64(byte * 0x0101010101010101) for byte in (0x30, 0x7F, 0x76))
#: What brings a letter from "a" on to the highest bit, and what is behind "z".
FROM_A, BEHIND_Z = (np.uint64(byte * 0x0101010101010101) for byte in (0x80 - ord("a"), 0x80 - ord("z") - 1))
NONE, TOP = np.uint64(0), np.uint64(56)
#: Pairs of digits, fours, eights: each step adds neighbours, the one before times 10, 100, 10,000.
DIGITS, PAIRS, FOURS = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
BY_10, BY_100, BY_10000 = np.uint64(10 << 8 | 1), np.uint64(100 << 16 | 1), np.uint64(10_000 << 32 | 1)


@inlined
def eight(text: NDArray[np.uint8], at: int) -> np.uint64:
    """The eight bytes from a place on, which the text has."""
    number, first = NONE, np.uint64(at)
    for place in range(SIZE):
        number |= np.uint64(text[first + np.uint64(place)]) << np.uint64(8 * place)
    return number


@inlined
def packed(text: NDArray[np.uint8], at: int, end: int) -> np.uint64:
    """At most eight bytes, filled up with zeros."""
    size = end - at
    if size <= 0:
        return NONE
    if at + SIZE <= len(text):
        return eight(text, at) & (~NONE >> np.uint64(8 * max(SIZE - size, 0)))
    number = NONE
    for place in range(size):
        number |= np.uint64(text[at + place]) << np.uint64(8 * place)
    return number


@inlined
def first(marks: np.uint64) -> int:
    """Which byte has the first mark, its highest bit; 8 if none has."""
    if marks == NONE:
        return SIZE
    below = (marks & (NONE - marks)) - np.uint64(1)
    return int(np.int64((below & ONES) * ONES >> TOP) - 1)


@inlined
def ordinary(bytes_: np.uint64) -> int:
    """How many of the first bytes stand for themselves in a JSON string and are ASCII.

    Behind the first byte that does not, the marks may be wrong.
    """
    quotes, backslashes = bytes_ ^ QUOTES, bytes_ ^ BACKSLASHES
    low = (bytes_ - SPACES) & ~bytes_
    return first(((quotes - ONES) & ~quotes | (backslashes - ONES) & ~backslashes | low | bytes_) & HIGHS)


@inlined
def digits_in(bytes_: np.uint64) -> int:
    """How many of the first bytes are digits."""
    values = bytes_ ^ ZEROS
    return first((((values & LOWS) + NOT_DIGITS) | values) & HIGHS)


@inlined
def number_of(bytes_: np.uint64, many: int) -> int:
    """The number that the first 1 to 8 bytes write, all of them digits."""
    digits = (bytes_ ^ ZEROS) << np.uint64(8 * (SIZE - many))
    pairs = (digits & DIGITS) * BY_10 >> np.uint64(8)
    fours = (pairs & PAIRS) * BY_100 >> np.uint64(16)
    return int(np.int64((fours & FOURS) * BY_10000 >> np.uint64(32)))


@inlined
def upper(bytes_: np.uint64) -> np.uint64:
    """Eight bytes of ASCII with their letters in upper case."""
    letters = (bytes_ + FROM_A) & ~(bytes_ + BEHIND_Z) & HIGHS
    return bytes_ - (letters >> np.uint64(2))


@inlined
def hash_of(text: NDArray[np.uint8], begin: int, end: int, is_upper: bool) -> np.uint64:  # noqa: FBT001 -- compiled code
    """What `models.hashing.hash64` gives for a stretch of a text. `is_upper`: for ASCII, with letters in upper case."""
    hashed = (np.uint64(end - begin) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for at in range(begin, end, SIZE):
        bytes_ = packed(text, at, end)
        mixed = (hashed ^ (upper(bytes_) if is_upper else bytes_)) * np.uint64(0xFF51AFD7ED558CCD)
        hashed = mixed ^ (mixed >> np.uint64(29))
    hashed = (hashed ^ (hashed >> np.uint64(32))) * np.uint64(0xC4CEB9FE1A85EC53)
    hashed ^= hashed >> np.uint64(29)
    return hashed if hashed != NONE else np.uint64(1)
