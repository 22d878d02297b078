"""An amount split over the touches of a path by largest remainders: whole numbers that add up to it, always."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.compiled import leaf
from models.memory import LINEAR, REMAINDERS, TOTALS


@leaf
def share_out(path: NDArray[np.int64], touches: int, amount: int, shares: int) -> None:
    """What the touches of a path get of an amount >= 0 by each of the five rules; fills five rows from `shares` on.

    Without a touch all of it stays in one piece.
    """
    for touch in range(touches):
        path[shares, touch] = path[shares + 1, touch] = 0
    path[shares, 0] = path[shares + 1, max(0, touches - 1)] = amount
    for rule in range(3):
        if touches > 1:
            split(path, touches, rule, amount, shares + 2 + rule)
        else:
            path[shares + 2 + rule, 0] = amount


@leaf
def split(path: NDArray[np.int64], touches: int, rule: int, amount: int, shares: int) -> None:
    """Split an amount >= 0 over the touches of a path by the weights of a rule; fills the path's row `shares`.

    Share = floor(amount x weight / total); the units left over go to the largest exact remainders, ties to the
    earlier. The amount's multiple of the total is taken out first, so products stay below total x weight, 2^58 at the
    most (1,024 touches of weight 2^24), whatever the amount.
    """
    total, weights = path[TOTALS, rule], LINEAR + rule
    whole, rest, one_part = amount // total, amount % total, 1.0 / total
    left = rest
    for touch in range(touches):
        weight = path[weights, touch]
        product = rest * weight
        # A division of integers costs four times this. A quotient is at most 2^24, so it is off by one at the most.
        floor = int(product * one_part)
        remainder = product - floor * total
        if remainder < 0:
            floor, remainder = floor - 1, remainder + total
        elif remainder >= total:
            floor, remainder = floor + 1, remainder - total
        path[shares, touch] = whole * weight + floor
        path[REMAINDERS, touch] = remainder
        left -= floor
    if left > 0:
        give(path, touches, left, shares)


@leaf
def give(path: NDArray[np.int64], touches: int, units: int, shares: int) -> None:
    """One unit more for each of the `units` largest remainders, ties to the earlier; 0 < units < n."""
    low = high = path[REMAINDERS, 0]
    for touch in range(touches):
        low, high = min(low, path[REMAINDERS, touch]), max(high, path[REMAINDERS, touch])
    high, above = high + 1, 0  # more than `units` remainders reach `low`; no more than that reach `high`: `above`
    while above < units and high - low > 1:
        middle, reach = (low + high) // 2, 0
        for touch in range(touches):
            reach += path[REMAINDERS, touch] >= middle
        if reach > units:
            low = middle
        else:
            high, above = middle, reach
    tied = units - above
    for touch in range(touches):
        if path[REMAINDERS, touch] >= high:
            path[shares, touch] += 1
        elif path[REMAINDERS, touch] == low and tied > 0:
            path[shares, touch] += 1
            tied -= 1
