"""Times of RFC 3339 in a text, as epoch milliseconds. Compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.compiled import inlined
from models.decimals import MINUS, PLUS, POINT, ZERO

#: No such time.
NO_MOMENT = -1
COLON, LETTER_T, LETTER_Z, TO_LOWER = ord(":"), ord("t"), ord("z"), 0x20
#: Bytes of the shortest time, up to its seconds, and of an offset.
SHORTEST, MOMENT_BYTES, OFFSET_BYTES = 20, 19, 6
#: Days of the months of a common year, from 1 on.
MONTHS = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
FEBRUARY, EPOCH_DAY = 2, 719_468
EARLIEST_YEAR = 1970


@inlined
def moment(text: NDArray[np.uint8], at: int, end: int) -> int:
    """The time that is exactly this stretch, NO_MOMENT if it is none after 1970; below milliseconds is cut off.

    As strict as `models.events`, and stricter: no second 60, no hour 24.
    """
    if end - at < SHORTEST or text[at + 10] | TO_LOWER != LETTER_T:
        return NO_MOMENT
    if text[at + 4] != MINUS or text[at + 7] != MINUS or text[at + 13] != COLON or text[at + 16] != COLON:
        return NO_MOMENT
    century, year, month, day = pair(text, at), pair(text, at + 2), pair(text, at + 5), pair(text, at + 8)
    hour, minute, second = pair(text, at + 11), pair(text, at + 14), pair(text, at + 17)
    if min(century, year, hour, minute, second) < 0 or hour > 23 or minute > 59 or second > 59:
        return NO_MOMENT
    year += 100 * century
    if year < EARLIEST_YEAR or not is_day(year, month, day):
        return NO_MOMENT
    at, ms = fraction(text, at + MOMENT_BYTES, end)
    offset, is_right = offset_minutes(text, at, end)
    if at < 0 or not is_right:
        return NO_MOMENT
    minutes = (days(year, month, day) * 24 + hour) * 60 + minute - offset
    return max((minutes * 60 + second) * 1000 + ms, NO_MOMENT)


@inlined
def pair(text: NDArray[np.uint8], at: int) -> int:
    """A number of two digits, below 0 if they are none."""
    tens, ones = text[at] - ZERO, text[at + 1] - ZERO
    return int(10 * tens + ones) if 0 <= tens <= 9 and 0 <= ones <= 9 else -1


@inlined
def is_day(year: int, month: int, day: int) -> bool:
    """Whether the calendar has this day."""
    if month < 1 or month > 12:
        return False
    leap = month == FEBRUARY and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return bool(1 <= day <= MONTHS[month] + leap)


@inlined
def days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01. Years are counted from March on, so that the leap day is the last."""
    shifted = year - 1 if month <= FEBRUARY else year
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + of_year - EPOCH_DAY


@inlined
def fraction(text: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Behind the fraction of a second, -1 if it is wrong; its milliseconds."""
    if at >= end or text[at] != POINT:
        return at, 0
    begin, ms, unit = at + 1, 0, 100
    at = begin
    while at < end:
        digit = text[at] - ZERO
        if digit < 0 or digit > 9:
            break
        ms, unit, at = ms + digit * unit, unit // 10, at + 1
    return (at if at > begin else -1), ms


@inlined
def offset_minutes(text: NDArray[np.uint8], at: int, end: int) -> tuple[int, bool]:
    """The offset that is the rest of a time, in minutes; whether it is one."""
    if at < 0 or at >= end:
        return 0, False
    if text[at] | TO_LOWER == LETTER_Z:
        return 0, at + 1 == end
    if at + OFFSET_BYTES != end or text[at + 3] != COLON or (text[at] != PLUS and text[at] != MINUS):
        return 0, False
    hour, minute = pair(text, at + 1), pair(text, at + 4)
    minutes = 60 * hour + minute
    return (minutes if text[at] == PLUS else -minutes), 0 <= hour <= 23 and 0 <= minute <= 59
