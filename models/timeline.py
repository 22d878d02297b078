"""What announced segment changes amount to over time: who was where when, what went back, what held.

Nothing here knows how a change came about: a season that was replayed and one that was lived are judged alike.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol, TypeVar

from models.rules import DAY_MS

#: A wallet-month is this long.
MONTH_MS = 30 * DAY_MS
#: A change that is taken back within this time was noise, and has cost trust.
FLAP_MS = 14 * DAY_MS


class Change(Protocol):
    """One announced change: wallet, when it was decided, numbers of the segments it left and joined, 0 for outside."""

    @property
    def wallet(self) -> str: ...
    @property
    def decided_at_ms(self) -> int: ...
    @property
    def left(self) -> int: ...
    @property
    def joined(self) -> int: ...


C = TypeVar("C", bound=Change)


def histories(changes: Iterable[C]) -> dict[str, list[C]]:
    """The changes of each wallet; those of one wallet must come in their order."""
    by_wallet: dict[str, list[C]] = defaultdict(list)
    for change in changes:
        by_wallet[change.wallet].append(change)
    return dict(by_wallet)


def segments_at(told: Mapping[str, Sequence[Change]], at_ms: int) -> dict[str, int]:
    """The segment of every wallet that had one at a moment."""
    found = {wallet: segment_at(changes, at_ms) for wallet, changes in told.items()}
    return {wallet: segment for wallet, segment in found.items() if segment}


def segment_at(changes: Sequence[Change], at_ms: int) -> int:
    """The segment of one wallet at a moment, changes of that very moment included; 0 for none."""
    place = bisect_right(changes, at_ms, key=lambda change: change.decided_at_ms)
    return changes[place - 1].joined if place else 0


def flaps(told: Mapping[str, Sequence[C]], within_ms: int = FLAP_MS) -> list[C]:
    """The changes that took a wallet back to a segment from which it had moved at most `within_ms` before.

    Who was silent, left, and comes back to where it was has not wavered: see `returns`.
    """
    return [
        change
        for changes in told.values()
        for place, change in enumerate(changes)
        if change.joined
        and any(
            before.joined and before.left == change.joined and change.decided_at_ms - before.decided_at_ms <= within_ms
            for before in changes[:place]
        )
    ]


def returns(told: Mapping[str, Sequence[C]], within_ms: int = FLAP_MS) -> list[C]:
    """The first segments of wallets that had left, for their silence, at most `within_ms` before."""
    return [
        change
        for changes in told.values()
        for before, change in pairwise(changes)
        if not before.joined and change.joined and change.decided_at_ms - before.decided_at_ms <= within_ms
    ]


def wallet_months(told: Mapping[str, Sequence[Change]], begin_ms: int, end_ms: int) -> float:
    """How long wallets had a segment between two moments, all together, in months of 30 days."""
    total = 0
    for changes in told.values():
        ends = [*(change.decided_at_ms for change in changes[1:]), end_ms]
        for change, until_ms in zip(changes, ends, strict=True):
            if change.joined:
                total += max(0, min(until_ms, end_ms) - max(change.decided_at_ms, begin_ms))
    return total / MONTH_MS


def moves(told: Mapping[str, Sequence[C]], begin_ms: int, end_ms: int) -> list[C]:
    """The changes from one segment to another within [begin, end)."""
    return [
        change
        for changes in told.values()
        for change in changes
        if change.left and change.joined and begin_ms <= change.decided_at_ms < end_ms
    ]


def departures(told: Mapping[str, Sequence[C]], begin_ms: int, end_ms: int) -> list[C]:
    """The changes out of all segments, for silence, within [begin, end)."""
    return [
        change
        for changes in told.values()
        for change in changes
        if change.left and not change.joined and begin_ms <= change.decided_at_ms < end_ms
    ]


def stayed_away(told: Mapping[str, Sequence[Change]], change: Change, for_ms: int) -> bool:
    """Whether a wallet that left was given no segment again for so long after; one that came and left again was.

    It may come back in the very moment: its own return moves the clock by which it is found to have left.
    """
    changes = told[change.wallet]
    after = changes[changes.index(change) + 1 :]
    return not after or after[0].decided_at_ms > change.decided_at_ms + for_ms


def held(told: Mapping[str, Sequence[Change]], change: Change, for_ms: int) -> bool:
    """Whether the wallet was still, or again, in the segment it joined so long after the change."""
    return segment_at(told[change.wallet], change.decided_at_ms + for_ms) == change.joined


class Reliability(NamedTuple):
    """Changes told with about the same confidence. `told`: its mean, `right`: the share that held."""

    told: float
    right: float
    changes: int


def reliability(outcomes: Sequence[tuple[float, bool]], bins: int = 10) -> list[Reliability]:
    """Pairs (confidence, held) by equal steps of confidence; empty bins are left out."""
    found: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for confidence, right in outcomes:
        found[min(int(confidence * bins), bins - 1)].append((confidence, right))
    return [
        Reliability(
            sum(confidence for confidence, _ in one) / len(one), sum(right for _, right in one) / len(one), len(one)
        )
        for _, one in sorted(found.items())
    ]


def miscalibration(found: Sequence[Reliability]) -> float | None:
    """How far confidence was from the truth on average, 0..1 (expected calibration error); None without changes."""
    total = sum(one.changes for one in found)
    return sum(one.changes * abs(one.told - one.right) for one in found) / total if total else None
