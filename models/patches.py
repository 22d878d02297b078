"""What has changed of a wallet since its row was stored whole: patches, stored behind the row in the order they came.

An event changes a quarter of a row. A patch has a bit for each word of eight bytes that is another, the lowest bit of
the first byte for the first word, and then these words. Compiled loops, which also write rows and patches as Redis
reads them: they are most of what a commit writes, and one by one they would cost as much as the step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled, leaf
from models.eights import eight
from models.octets import copy, put

WORD = 8
#: Bytes around a word on its way to Redis: `$`, its length in at most 7 digits, and two line ends.
AROUND = 12


class Stored(NamedTuple):
    """Wallets as they are to be stored, each as words on their way to Redis.

    `whole`: key and row of `wholes` wallets, end to end. `parts`: of the others, `patched`, the key, where in its
    value, and a patch. `behind`: (k,) bytes behind the row of each once this is stored.
    """

    whole: NDArray[np.uint8]
    wholes: int
    parts: NDArray[np.uint8]
    patched: int
    behind: NDArray[np.int64]


def words_of(rows: NDArray[np.void]) -> NDArray[np.int64]:
    """The words (k, w) of rows: the same memory."""
    return rows.view(np.int64).reshape(len(rows), rows.dtype.itemsize // WORD)


# ------------------------------------------------------------------ writing


@compiled
def store(
    keys: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    behind: NDArray[np.int64],
) -> Stored:
    """How to store wallets: by a patch, or whole where what is behind the row would grow longer than the row.

    `keys`: what all begin with, the rest of each, end to end, and where each ends (k,). `before`, `after`: (k, w) the
    words of the rows. `behind`: (k,) bytes behind each row as it is stored; as many as a row has: none is stored.
    """
    prefix, names, ends = keys
    size = WORD * after.shape[1]
    most = len(names) + len(ends) * (len(prefix) + 3 * AROUND + size + size // 64 + WORD)
    whole, parts = np.empty(most, np.uint8), np.empty(most, np.uint8)
    left, at_whole, at_part, patched, begin = behind.copy(), 0, 0, 0, 0
    for wallet in range(len(ends)):
        name = names[begin : ends[wallet]]
        begin = ends[wallet]
        patch = patch_size(before[wallet], after[wallet])
        if behind[wallet] + patch > size:
            left[wallet] = 0
            at_whole = begin_word(whole, put_key(whole, at_whole, prefix, name), size)
            for word in range(after.shape[1]):
                at_whole = put(whole, at_whole, after[wallet, word], WORD)
            at_whole = end_line(whole, at_whole)
        else:
            left[wallet] += patch
            patched += 1
            at_part = put_key(parts, at_part, prefix, name)
            place = size + behind[wallet]
            at_part = end_line(parts, put_digits(parts, begin_word(parts, at_part, digits(place)), place))
            at_part = begin_word(parts, at_part, patch)
            at_part = end_line(parts, put_patch(parts, at_part, before[wallet], after[wallet]))
    return Stored(whole[:at_whole], len(ends) - patched, parts[:at_part], patched, left)


@leaf
def patch_size(before: NDArray[np.int64], after: NDArray[np.int64]) -> int:
    """Bytes of a patch."""
    size = (len(after) + 7) // 8
    for word in range(len(after)):
        size += WORD * (before[word] != after[word])
    return size


@leaf
def put_patch(out: NDArray[np.uint8], begin: int, before: NDArray[np.int64], after: NDArray[np.int64]) -> int:
    """Write a patch; the place behind it."""
    place = begin + (len(after) + 7) // 8
    for byte in range(begin, place):
        out[byte] = 0
    for word in range(len(after)):
        if before[word] != after[word]:
            out[begin + word // 8] |= 1 << (word % 8)
            place = put(out, place, after[word], WORD)
    return place


@leaf
def put_key(out: NDArray[np.uint8], place: int, prefix: NDArray[np.uint8], name: NDArray[np.uint8]) -> int:
    """Write a key, as a word; the place behind it."""
    place = begin_word(out, place, len(prefix) + len(name))
    for part in (prefix, name):
        place = copy(part, 0, len(part), out, place)
    return end_line(out, place)


@leaf
def begin_word(out: NDArray[np.uint8], place: int, size: int) -> int:
    """Write what goes before a word of so many bytes; the place behind it."""
    out[place] = 36  # $
    return end_line(out, put_digits(out, place + 1, size))


@leaf
def end_line(out: NDArray[np.uint8], place: int) -> int:
    """Write the end of a line; the place behind it."""
    out[place], out[place + 1] = 13, 10
    return place + 2


@leaf
def digits(number: int) -> int:
    """How many digits a number has that is not negative."""
    many = 1
    while number >= 10:
        number, many = number // 10, many + 1
    return many


@leaf
def put_digits(out: NDArray[np.uint8], place: int, number: int) -> int:
    """Write a number in decimal digits; the place behind them."""
    end = place + digits(number)
    for digit in range(end - 1, place - 1, -1):
        out[digit] = 48 + number % 10
        number //= 10
    return end


# ------------------------------------------------------------------ reading


@compiled
def apply(text: NDArray[np.uint8], ends: NDArray[np.int64], words: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Make of rows what patches say; which (n,) of the rows have patches that are none.

    `text`: the patches of all rows, end to end; `ends`: (n,) of each row's. `words`: (n, w) the rows, which change.
    """
    damaged, begin = np.zeros(len(ends), np.bool_), 0
    for row in range(len(ends)):
        while begin < ends[row] and not damaged[row]:
            begin = apply_one(text, begin, ends[row], words[row])
            damaged[row] = begin < 0
        begin = ends[row]
    return damaged


@leaf
def apply_one(text: NDArray[np.uint8], begin: int, end: int, words: NDArray[np.int64]) -> int:
    """The patch at `begin`, which belongs to the row with these words: where it ends, -1 if that is beyond `end`."""
    place = begin + (len(words) + 7) // 8
    if place > end:
        return -1
    for word in range(len(words)):
        if text[begin + word // 8] >> (word % 8) & 1:
            if place + WORD > end:
                return -1
            words[word] = np.int64(eight(text, place))
            place += WORD
    return place
