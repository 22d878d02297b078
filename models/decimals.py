"""Decimal numbers in a text, read without loss: as the nearest double, or as whole micro-USD. Compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.compiled import inlined
from models.eights import SIZE, digits_in, eight, number_of

#: A mantissa takes on digits while it is below this, so it stays below 10^18; and the digits that an exponent may have.
FULL, EXPONENT_DIGITS = 10**17, 3
#: It takes on eight at once while it is below this.
AT_ONCE = 10**9
#: Powers of ten: those an int64 holds, and those a double holds exactly.
TENS = np.array([10**power for power in range(19)], np.int64)
POWERS = np.array([10.0**power for power in range(23)], np.float64)
#: Whole numbers below this are doubles, each of them.
EXACT = 1 << 53
ZERO, POINT, PLUS, MINUS, LOWER_E, UPPER_E = ord("0"), ord("."), ord("+"), ord("-"), ord("e"), ord("E")


class Number(NamedTuple):
    """± mantissa x 10^exponent. `end`: the place behind it, -1 if there is none. `mantissa`: 0 to 10^18.

    `is_cut`: it has more digits that are not 0; the magnitude lies above the mantissa, and below the next one.
    `is_whole`: written without point and exponent.
    """

    end: int
    mantissa: int
    exponent: int
    is_negative: bool
    is_cut: bool
    is_whole: bool


NO_NUMBER = Number(-1, 0, 0, False, False, False)


class Digits(NamedTuple):
    """A run of digits. `end`: the place behind it. `kept`: how many of them the mantissa took on."""

    end: int
    mantissa: int
    kept: int
    is_cut: bool


@inlined
def digits(text: NDArray[np.uint8], at: int, end: int, mantissa: int) -> Digits:
    """Append the digits from `at` on to a mantissa."""
    kept, is_cut = 0, False
    while mantissa < AT_ONCE and at + SIZE <= len(text):
        bytes_ = eight(text, at)
        many = min(digits_in(bytes_), end - at)
        if many > 0:
            mantissa, kept, at = mantissa * TENS[many] + number_of(bytes_, many), kept + many, at + many
        if many < SIZE:
            return Digits(at, mantissa, kept, False)
    while at < end:
        digit = text[at] - ZERO
        if digit < 0 or digit > 9:
            break
        if mantissa < FULL:
            mantissa, kept = mantissa * 10 + digit, kept + 1
        else:
            is_cut |= digit != 0
        at += 1
    return Digits(at, mantissa, kept, is_cut)


@inlined
def number(text: NDArray[np.uint8], at: int, end: int, is_loose: bool) -> Number:  # noqa: FBT001 -- compiled code takes no keywords
    """The number at a place, as JSON writes it. `is_loose`: as the contract's texts do, "+01." and ".5" as well."""
    is_negative = at < end and text[at] == MINUS
    at += 1 if is_negative or (is_loose and at < end and text[at] == PLUS) else 0
    whole = digits(text, at, end, 0)
    many, after, exponent = whole.end - at, whole.end, whole.end - at - whole.kept
    if not is_loose and (many == 0 or (many > 1 and text[at] == ZERO)):
        return NO_NUMBER
    part, is_whole = Digits(after, whole.mantissa, 0, False), True
    if after < end and text[after] == POINT:
        part, is_whole = digits(text, after + 1, end, whole.mantissa), False
        exponent -= part.kept
        many += part.end - after - 1
        if part.end == after + 1 and not is_loose:
            return NO_NUMBER
    after = part.end
    if many == 0:
        return NO_NUMBER
    if after < end and (text[after] == LOWER_E or text[after] == UPPER_E):
        after, power = exponent_at(text, after + 1, end)
        exponent, is_whole = exponent + power, False
    return Number(after, part.mantissa, exponent, is_negative, whole.is_cut or part.is_cut, is_whole)


@inlined
def exponent_at(text: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """The place behind an exponent, -1 if there is none or it has too many digits; the exponent."""
    sign = -1 if at < end and text[at] == MINUS else 1
    at += 1 if at < end and (text[at] == MINUS or text[at] == PLUS) else 0
    power = digits(text, at, end, 0)
    return (power.end, sign * power.mantissa) if 0 < power.end - at <= EXPONENT_DIGITS else (-1, 0)


@inlined
def is_below(read: Number, power: int) -> bool:
    """Whether the magnitude is certainly less than 10^power."""
    spare = power - read.exponent
    return bool(read.mantissa == 0 or spare >= len(TENS) or (spare >= 0 and read.mantissa < TENS[spare]))


@inlined
def is_exact(read: Number) -> bool:
    """Whether `double` gives the nearest double: both its factors are exact, so only one rounding is left."""
    return bool(not read.is_cut and read.mantissa < EXACT and abs(read.exponent) < len(POWERS))


@inlined
def double(read: Number) -> float:
    """The magnitude of a number that `is_exact`."""
    if read.exponent < 0:
        return float(read.mantissa / POWERS[-read.exponent])
    return float(read.mantissa * POWERS[read.exponent])


@inlined
def shortened(read: Number) -> Number:
    """The same number without zeros at the end of a mantissa that is too large for a double."""
    mantissa, exponent = read.mantissa, read.exponent
    while mantissa >= EXACT and mantissa % 10 == 0:
        mantissa, exponent = mantissa // 10, exponent + 1
    return Number(read.end, mantissa, exponent, read.is_negative, read.is_cut, read.is_whole)


@inlined
def micros(read: Number) -> int:
    """Millionths of a number below 10^9, half to even. Exact, cut or not: what was cut off decides only at a half."""
    power = read.exponent + 6
    if read.mantissa == 0 or power <= -len(TENS):
        return 0
    if power >= 0:  # below 10^15, so there are digits to spare and nothing was cut off
        magnitude = read.mantissa * TENS[power]
    else:
        unit = TENS[-power]
        magnitude, rest = read.mantissa // unit, read.mantissa % unit
        is_odd = magnitude % 2 == 1
        if 2 * rest > unit or (2 * rest == unit and (read.is_cut or is_odd)):
            magnitude += 1
    return int(-magnitude if read.is_negative else magnitude)
