"""What a simulated season must come to: totals and ROI, from what the simulator knows it made."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

RULES = ("first", "last", "linear", "time_decay", "position")
MILLION = 1_000_000
HOUR_MS = 3_600_000
LOOK_BACK_MS = 30 * 24 * HOUR_MS
#: round(2^24 x 2^(-h/180)) for whole hours of a look-back.
DECAY = tuple(round(2**24 * 2.0 ** (-hours / 180)) for hours in range(721))

Campaign = tuple[str, str]


class Seen(NamedTuple):
    """A touch that can earn credit: when, its id, campaign and channel. Sorts by (when, UTF-8 bytes of the id)."""

    at_ms: int
    event_id: bytes
    campaign: Campaign


@dataclass(slots=True)
class Truth:
    """The books of a season, kept line by line."""

    counts: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    costs: Counter[Campaign] = field(default_factory=Counter)
    touches: defaultdict[str, list[Seen]] = field(default_factory=lambda: defaultdict(list))
    fees: defaultdict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    wallets: set[str] = field(default_factory=set)

    def transaction(self, wallet: str, at_ms: int, fee_micros: int) -> None:
        self.wallets.add(wallet)
        self.counts["transactions"] += 1
        self.counts["revenue_micros"] += fee_micros
        if fee_micros:
            self.fees[wallet].append((at_ms, fee_micros))

    def touch(self, wallet: str, seen: Seen, cost_micros: int, *, sent: bool) -> None:
        self.wallets.add(wallet)
        self.counts["touches"] += 1
        self.counts["cost_micros"] += cost_micros
        self.costs[seen.campaign] += cost_micros
        if not sent:
            self.touches[wallet].append(seen)

    def totals(self) -> dict[str, Any]:
        """The keys of `totals --json` that are certain offline.

        Nothing is late beyond the allowed hour and no wallet outgrows its memory: the simulator sees to both.
        """
        names = ("transactions", "touches", "duplicates", "revenue_micros", "cost_micros")
        totals: dict[str, Any] = {name: self.counts[name] for name in names}
        refused = dict(sorted(self.rejected.items()))
        return {**totals, "late": 0, "beyond_memory": 0, "rejected": refused, "wallets": len(self.wallets)}

    def roi(self) -> list[dict[str, Any]]:
        """The rows of `roi --json` summed over segments, by campaign, channel and rule; rows of zeros left out."""
        earned: Counter[tuple[Campaign | None, str]] = Counter()
        converted: Counter[tuple[Campaign | None, str]] = Counter()
        for wallet, fees in self.fees.items():
            journey = Journey(sorted(self.touches.get(wallet, ())))
            for at_ms, fee_micros in fees:
                for campaign, rule, revenue, conversions in credit(journey.path(at_ms), fee_micros):
                    earned[campaign, rule] += revenue
                    converted[campaign, rule] += conversions
        campaigns: list[Campaign | None] = [None, *sorted({*self.costs, *(c for c, _ in earned if c)})]
        rows = [
            {
                "campaign_id": campaign and campaign[0],
                "channel": campaign and campaign[1],
                "rule": rule,
                "revenue_micros": earned[campaign, rule],
                "cost_micros": self.costs[campaign] if campaign else 0,
                "conversions_micros": converted[campaign, rule],
            }
            for campaign in campaigns
            for rule in RULES
        ]
        return [row for row in rows if row["revenue_micros"] or row["cost_micros"] or row["conversions_micros"]]


class Path(NamedTuple):
    """The touches that share a fee, in order, and for each rule their weights and their part of a whole conversion."""

    touches: list[Seen]
    rules: list[tuple[str, list[int], list[int]]]


class Journey:
    """A wallet's touches in order. Most of its fees share a path, so paths are kept."""

    def __init__(self, touches: list[Seen]) -> None:
        self.touches = touches
        self.times = [touch.at_ms for touch in touches]
        self.paths: dict[tuple[int, int], Path] = {}

    def path(self, at_ms: int) -> Path:
        """The newest 64 touches of the look-back before a moment, itself included."""
        end = bisect_right(self.times, at_ms)
        begin = max(bisect_left(self.times, at_ms - LOOK_BACK_MS), end - 64)
        if (begin, end) not in self.paths:
            touches = self.touches[begin:end]
            weights = [(rule, weigh(rule, touches)) for rule in RULES] if touches else []
            self.paths[begin, end] = Path(touches, [(rule, parts, split(MILLION, parts)) for rule, parts in weights])
        return self.paths[begin, end]


def credit(path: Path, fee_micros: int) -> Iterator[tuple[Campaign | None, str, int, int]]:
    """(campaign, rule, revenue, conversions) of one fee; a rebate takes back and is no conversion."""
    earns = fee_micros > 0
    if not path.touches:
        yield from ((None, rule, fee_micros, MILLION * earns) for rule in RULES)
    for rule, weights, converted in path.rules:
        shares = split(abs(fee_micros), weights)
        for touch, share, part in zip(path.touches, shares, converted, strict=True):
            if share or part:
                yield touch.campaign, rule, share if earns else -share, part * earns


def weigh(rule: str, path: list[Seen]) -> list[int]:
    """Whole weights of the touches that share a fee, in order; at least one touch."""
    count, newest = len(path), path[-1].at_ms
    if rule == "first":
        return [1, *[0] * (count - 1)]
    if rule == "last":
        return [*[0] * (count - 1), 1]
    if rule == "time_decay":
        return [DECAY[(newest - touch.at_ms) // HOUR_MS] for touch in path]
    if rule == "position" and count > 2:
        return [2 * (count - 2), *[1] * (count - 2), 2 * (count - 2)]
    return [1] * count


def split(amount: int, weights: list[int]) -> list[int]:
    """Shares of a whole amount: rounded down, then one unit more for the largest remainders, the earlier first."""
    total = sum(weights)
    shares, remainders = zip(*(divmod(amount * weight, total) for weight in weights), strict=True)
    first = sorted(range(len(weights)), key=remainders.__getitem__, reverse=True)[: amount - sum(shares)]
    lucky = set(first)
    return [share + (place in lucky) for place, share in enumerate(shares)]
