"""Wallets by segment: what a partition's totals say of its wallets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from models.rows import WHALE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.state import Totals

#: Instead of a segment, of a wallet that had no event before.
NEVER_SEEN = -1


@dataclass(frozen=True, slots=True)
class Tally:
    """How many wallets, and how many whales, each segment number has of some wallets."""

    wallets: dict[int, int]
    whales: dict[int, int]

    @classmethod
    def of(cls, wallets: Iterable[tuple[int, int]]) -> Tally:
        """Of wallets by segment and flags."""
        found = list(wallets)
        return cls(Counter(number for number, _ in found), Counter(number for number, flags in found if flags & WHALE))

    @classmethod
    def of_rows(cls, rows: NDArray[np.void]) -> Tally:
        """Of stored rows (n,)."""
        return cls.of(zip(rows["segment"].tolist(), rows["flags"].tolist(), strict=True))


def moved(totals: dict[int, int], left: dict[int, int], entered: dict[int, int]) -> dict[int, int]:
    """Totals with wallets taken out of where they `left` and put into what they `entered`; no zeros."""
    out = {n: totals.get(n, 0) - left.get(n, 0) + entered.get(n, 0) for n in {*totals, *left, *entered}}
    return _in_order(out)


def shifted(totals: Totals, shifts: Sequence[Sequence[int]]) -> Totals:
    """Totals after wallets are counted elsewhere; `shifts` as `recounted` has them."""
    wallets, whales = recounted(totals, shifts)
    return replace(totals, wallets_by_segment=wallets, whales_by_segment=whales)


def recounted(totals: Totals, shifts: Sequence[Sequence[int]]) -> tuple[dict[int, int], dict[int, int]]:
    """Wallets and whales by segment after wallets are counted elsewhere; no zeros.

    A shift: the segment and whale flag before, and those after.
    """
    if not shifts:
        return totals.wallets_by_segment, totals.whales_by_segment
    wallets, whales = dict(totals.wallets_by_segment), dict(totals.whales_by_segment)
    for left, was_whale, entered, is_whale in shifts:
        if left != NEVER_SEEN:
            wallets[left] = wallets.get(left, 0) - 1
            whales[left] = whales.get(left, 0) - was_whale
        wallets[entered] = wallets.get(entered, 0) + 1
        whales[entered] = whales.get(entered, 0) + is_whale
    return _in_order(wallets), _in_order(whales)


def _in_order(counts: dict[int, int]) -> dict[int, int]:
    return {number: count for number, count in sorted(counts.items()) if count}
