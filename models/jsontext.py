"""JSON in a text of bytes: read over what nobody asks for, exactly as strict as Python's own parser. Compiled.

Every function takes the place to read at and the place where the text ends, and gives the place behind what it read,
-1 if that is not there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.compiled import inlined, leaf
from models.decimals import number
from models.eights import SIZE, eight, ordinary, packed

QUOTE, BACKSLASH, COMMA, COLON, SPACE = (ord(each) for each in '"\\,: ')
OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY = (ord(each) for each in "{}[]")
LETTER_U, FIRST_WIDE, CONTINUED, BITS_CONTINUED = ord("u"), 0x80, 0x80, 0xC0
#: Objects and arrays within each other that are read over.
LEVELS = 8


def which(characters: str) -> NDArray[np.bool_]:
    """Of each byte, whether it is one of these characters."""
    return np.isin(np.arange(256), [ord(each) for each in characters])


IS_SPACE = which(" \t\n\r")
#: What stands in a string for itself and is one byte.
IS_ORDINARY = which("".join(map(chr, range(0x20, FIRST_WIDE)))) & ~which('"\\')
IS_ESCAPE, IS_HEX = which('"\\/bfnrtu'), which("0123456789abcdefABCDEF")
#: The words of JSON as `models.eights.packed` gives them.
TRUE, FALSE, NULL = (np.uint64(int.from_bytes(word, "little")) for word in (b"true", b"false", b"null"))
#: Of the first byte of a UTF-8 character: how many bytes it has, 0 none; the bounds of its second byte.
SIZES, LOWEST, HIGHEST = (np.full(256, fill, np.uint8) for fill in (0, 0x80, 0xBF))
SIZES[0xC2:0xE0], SIZES[0xE0:0xF0], SIZES[0xF0:0xF5] = 2, 3, 4
#: No character in more bytes than it needs, no halves of a pair, nothing above U+10FFFF.
LOWEST[0xE0], HIGHEST[0xED], LOWEST[0xF0], HIGHEST[0xF4] = 0xA0, 0x9F, 0x90, 0x8F


@inlined
def skip_space(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Behind the whitespace, if there is any."""
    while at < end and IS_SPACE[text[at]]:
        at += 1
    return at


@inlined
def is_at(text: NDArray[np.uint8], at: int, end: int, byte: int) -> bool:
    """Whether a byte is the next one."""
    return bool(at < end and text[at] == byte)


@inlined
def is_null_at(text: NDArray[np.uint8], at: int, end: int) -> bool:
    """Whether null comes next."""
    return bool(at + 4 <= end and packed(text, at, at + 4) == NULL)


# ------------------------------------------------------------------ strings


@inlined
def run(text: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Where the characters that stand for themselves end, and how many bytes they have more than characters."""
    extra = 0
    while at < end:
        many = ordinary(eight(text, at)) if at + SIZE <= len(text) else int(IS_ORDINARY[text[at]])
        if many > 0:
            at = min(at + many, end)
            continue
        size = wide(text, at, end)
        if size == 0:
            break
        at, extra = at + size, extra + size - 1
    return at, extra


@inlined
def wide(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Bytes of the character of several bytes at a place, 0 if there is none."""
    first = text[at]
    size = np.int64(SIZES[first])
    if size == 0 or at + size > end or text[at + 1] < LOWEST[first] or text[at + 1] > HIGHEST[first]:
        return 0
    for place in range(2, size):
        if text[at + place] & BITS_CONTINUED != CONTINUED:
            return 0
    return int(size)


@leaf
def skip_string(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Behind a string; `at` is behind its opening quote."""
    while True:
        at, _ = run(text, at, end)
        if at >= end:
            return -1
        if text[at] == QUOTE:
            return at + 1
        at = skip_escape(text, at, end)
        if at < 0:
            return -1


@leaf
def skip_escape(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Behind a backslash and what it stands before."""
    if at + 1 >= end or text[at] != BACKSLASH or not IS_ESCAPE[text[at + 1]]:
        return -1
    if text[at + 1] != LETTER_U:
        return at + 2
    if at + 6 > end:
        return -1
    for place in range(at + 2, at + 6):
        if not IS_HEX[text[place]]:
            return -1
    return at + 6


# ------------------------------------------------------------------ any value


@leaf
def skip_value(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Behind any value that is nested no deeper than LEVELS."""
    level, objects = 0, 0  # of each open level a bit, the innermost lowest: whether it is an object
    while True:
        if is_at(text, at, end, OPEN_OBJECT) or is_at(text, at, end, OPEN_ARRAY):
            is_object = text[at] == OPEN_OBJECT
            if level == LEVELS:
                return -1
            level, objects = level + 1, 2 * objects + is_object
            at = skip_space(text, at + 1, end)
            if not is_at(text, at, end, CLOSE_OBJECT if is_object else CLOSE_ARRAY):
                at = skip_name(text, at, end) if is_object else at
                if at < 0:
                    return -1
                continue
        else:
            at = skip_scalar(text, at, end)
            if at < 0:
                return -1
        at, level, objects = skip_closing(text, at, end, (level, objects))
        if at < 0 or level == 0:
            return at


@leaf
def skip_closing(text: NDArray[np.uint8], at: int, end: int, state: tuple[int, int]) -> tuple[int, int, int]:
    """Behind all that closes after a value, and on to the next one; the levels that are open then."""
    level, objects = state
    while level > 0:
        at = skip_space(text, at, end)
        if is_at(text, at, end, COMMA):
            at = skip_space(text, at + 1, end)
            return (skip_name(text, at, end) if objects & 1 else at), level, objects
        if not is_at(text, at, end, CLOSE_OBJECT if objects & 1 else CLOSE_ARRAY):
            return -1, level, objects
        at, level, objects = at + 1, level - 1, objects >> 1
    return at, level, objects


@leaf
def skip_name(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Behind a name, its colon and the whitespace around that."""
    if not is_at(text, at, end, QUOTE):
        return -1
    at = skip_string(text, at + 1, end)
    return skip_colon(text, at, end) if at >= 0 else -1


@inlined
def skip_colon(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Behind a colon and the whitespace around it."""
    at = skip_space(text, at, end)
    return skip_space(text, at + 1, end) if is_at(text, at, end, COLON) else -1


@leaf
def skip_scalar(text: NDArray[np.uint8], at: int, end: int) -> int:
    """Behind a string, a number, true, false or null."""
    if is_at(text, at, end, QUOTE):
        return skip_string(text, at + 1, end)
    if is_null_at(text, at, end) or (at + 4 <= end and packed(text, at, at + 4) == TRUE):
        return at + 4
    if at + 5 <= end and packed(text, at, at + 5) == FALSE:
        return at + 5
    return number(text, at, end, False).end
