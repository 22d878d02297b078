"""Chance that falls the same on every machine: one seeded source, and arithmetic that IEEE 754 fixes."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Generic, TypeVar

Item = TypeVar("Item")

#: (ln 2)^n / n!, highest first: 2^x on [0, 1] to five digits. libm's exp may differ in the last bit between machines.
POWERS = (
    1.525273380405984e-05, 1.540353039338161e-04, 1.333355814642844e-03, 9.618129107628477e-03, 5.550410866482158e-02,
    2.402265069591007e-01, 6.931471805599453e-01, 1.0,
)  # fmt: skip


class Table(Generic[Item]):
    """Items to draw from, each with a whole weight; at least one weight is above 0."""

    __slots__ = ("bounds", "items")

    def __init__(self, pairs: Sequence[tuple[Item, int]]) -> None:
        self.items = [item for item, _ in pairs]
        self.bounds = list(accumulate(weight for _, weight in pairs))

    @property
    def total(self) -> int:
        return self.bounds[-1]


class Dice:
    """A seeded source of chance. Only `random()` of Python's generator is used: its sequence is guaranteed to stay."""

    __slots__ = ("random",)

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def below(self, bound: int) -> int:
        """A whole number 0..bound-1."""
        return int(self.random() * bound)

    def chance(self, thousandths: int) -> bool:
        return self.random() * 1000 < thousandths

    def pick(self, table: Table[Item]) -> Item:
        """An item of the table, by weight."""
        return table.items[bisect_right(table.bounds, int(self.random() * table.total))]

    def normal(self) -> float:
        """Nearly a standard normal number, within -6..6: the sum of twelve even ones."""
        draw = self.random
        return math.fsum([draw() for _ in range(12)]) - 6.0  # sum() adds in another way since Python 3.12

    def lognormal(self, spread: int) -> float:
        """A factor with median 1; `spread`: standard deviation in hundredths of a doubling."""
        return power_of_two(self.normal() * spread / 100)


def power_of_two(exponent: float) -> float:
    """2^exponent, the same bits everywhere."""
    whole = math.floor(exponent)
    rest = exponent - whole
    result = 0.0
    for factor in POWERS:
        result = result * rest + factor
    return math.ldexp(result, whole)
