"""What a worker has committed since its start, as plain numbers: metrics and the lines in the log read them.

Counted from a batch's effects after its commit: what is counted was committed. Nothing is done for each record.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from models.state import TOUCHES, TRANSACTIONS

if TYPE_CHECKING:
    from models.effects import Effects
    from models.state import Totals

#: What becomes of a record, exactly one of these: accepted in time, accepted late, a repeat, rejected.
ACCEPTED, LATE, DUPLICATE, REJECTED = OUTCOMES = ("accepted", "late", "duplicate", "rejected")
#: Upper bounds of the histograms: seconds of a commit, and records of a batch.
COMMIT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
RECORDS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
#: What a line in the log says of its second.
TOLD = ("records", "batches", "changes", "rejected", "missed_wallets", "waits")
PHASES = ("load_s", "step_s", "commit_s", "announce_s")


#: When each phase of a batch began, and when the last ended.
Times: TypeAlias = tuple[float, float, float, float, float]


def phases_of(times: Times) -> dict[str, float]:
    """How long each phase took, by its name."""
    return {name: end - begin for name, (begin, end) in zip(PHASES, pairwise(times), strict=True)}


class Spread:
    """How many values fell where. `counts[i]`: up to `bounds[i]` and above the one before; the last: above all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True)
class Tally:
    """What a worker's partitions have done since its start; times in seconds.

    `events`: (lane, outcome) -> records. `reasons`: of rejection. `moves`: (status, origin) -> changes.
    `found_wallets`, `missed_wallets`: wallets of batches that were in memory, or were not. `commits`, `sizes`: of
    batches.
    """

    records: int = 0
    batches: int = 0
    changes: int = 0
    rejected: int = 0
    found_wallets: int = 0
    missed_wallets: int = 0
    beyond_memory: int = 0
    waits: int = 0
    load_s: float = 0.0
    step_s: float = 0.0
    commit_s: float = 0.0
    announce_s: float = 0.0
    events: Counter[tuple[int, str]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    commits: Spread = field(default_factory=lambda: Spread(COMMIT_S))
    sizes: Spread = field(default_factory=lambda: Spread(RECORDS))

    def committed(self, lanes: bytes, totals: tuple[Totals, Totals], effects: Effects) -> None:
        """Count a batch. `lanes`: of its records; `totals`: of its partition, before and after."""
        before, after = totals
        self.records += len(lanes)
        self.batches += 1
        self.sizes.note(len(lanes))
        self.changes += len(effects.changes)
        self.rejected += len(effects.rejected)
        self.beyond_memory += after.beyond_memory - before.beyond_memory
        accepted = after.transactions - before.transactions, after.touches - before.touches
        for lane in (TRANSACTIONS, TOUCHES):
            late = effects.late[lane]
            self.events[lane, ACCEPTED] += accepted[lane] - late
            self.events[lane, LATE] += late
            self.events[lane, DUPLICATE] += lanes.count(lane) - accepted[lane]
        for refused in effects.rejected:
            self.events[refused.lane, DUPLICATE] -= 1
            self.events[refused.lane, REJECTED] += 1
            self.reasons[refused.reason] += 1
        self._count_moves(effects)

    def swept(self, effects: Effects) -> None:
        """Count a sweep: it has no records."""
        self.changes += len(effects.changes)
        self._count_moves(effects)

    def _count_moves(self, effects: Effects) -> None:
        for each in effects.changes:
            self.moves[each.status, each.origin] += 1

    def took(self, times: Times) -> None:
        """Add what the phases of a batch took."""
        began, loaded, stepped, committed, ended = times
        self.load_s += loaded - began
        self.step_s += stepped - loaded
        self.commit_s += committed - stepped
        self.announce_s += ended - committed

    def told(self) -> dict[str, float]:
        """The numbers a line in the log is about."""
        return {name: getattr(self, name) for name in TOLD + PHASES}
