"""What Tidemark must count when records come later than is allowed: by the order in which a run took them.

`tests/oracle.py` knows only the logs. Where a touch comes later than the allowed lateness that is not enough: who has
the credit follows arrival. This knows the arrival too, and shares no code with the product either. It is true of
wallets that stay inside their memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.oracle import DAY_MS, LOOK_BACK_MS, RULES, Event, Rows, Sent, eligible, give, judge, table

HOUR_MS = 3_600_000


class Arrived(NamedTuple):
    """A record as it was taken. `clock_ms`: its partition's clock before it, where a batch begins; else None."""

    partition: int
    offset: int
    sent: Sent
    clock_ms: int | None


class TooLate(NamedTuple):
    """A touch that came too late for a fee it should have shared in."""

    at: Arrived
    touch: Event
    fee_event_id: str
    fee_at_ms: int
    clock_ms: int


@dataclass(slots=True)
class Wallet:
    """What was told of it so far. `touches`: in their order; `fees`: in order of arrival."""

    ids: deque[str] = field(default_factory=lambda: deque(maxlen=32))
    touches: list[Event] = field(default_factory=list)
    fees: list[Event] = field(default_factory=list)


class Arrivals:
    """Counts records in the order in which they are given. `rows`: as in `tests.oracle`; `counts`: totals by name."""

    def __init__(self, lateness_ms: int = HOUR_MS) -> None:
        self.rows: Rows = defaultdict(lambda: [0, 0, 0])
        self.counts: Counter[str] = Counter()
        self.too_late: list[TooLate] = []
        self.clock_of: dict[int, int] = {}
        self.jumps: list[str] = []
        self.wallets: dict[str, Wallet] = defaultdict(Wallet)
        self._lateness_ms = lateness_ms

    def take(self, arrived: Arrived) -> None:
        """One record."""
        before = self.clock_of.get(arrived.partition)
        if arrived.clock_ms is not None:
            if before is not None and before != arrived.clock_ms:
                self.jumps.append(f"clock of {arrived.partition}: {arrived.clock_ms}, by the arrivals {before}")
            self.clock_of[arrived.partition] = arrived.clock_ms
        event = judge(arrived.sent)
        if isinstance(event, str):
            self.counts["rejected"] += 1
            return
        wallet = self.wallets[event.wallet_id]
        if event.event_id in wallet.ids:
            self.counts["duplicates"] += 1
            return
        wallet.ids.append(event.event_id)
        clock_ms = self._tick(arrived.partition, event.at_ms)
        self.counts["late"] += event.at_ms < clock_ms - self._lateness_ms
        self.counts["touches" if event.campaign else "transactions"] += 1
        for rule in RULES:
            self.rows[event.campaign, rule][1] += event.cost_micros
        if event.campaign and event.touch != "sent":
            self._take_touch(wallet, event, arrived, clock_ms)
        elif event.fee_micros:
            give(self.rows, eligible(wallet.touches, event.at_ms), event, 1)
            wallet.fees.append(event)

    def _tick(self, partition: int, at_ms: int) -> int:
        """The newest event moves the clock, by a day at most."""
        clock_ms = self.clock_of.get(partition, 0)
        self.clock_of[partition] = min(max(clock_ms, at_ms), clock_ms + DAY_MS) if clock_ms else at_ms
        return self.clock_of[partition]

    def _take_touch(self, wallet: Wallet, touch: Event, arrived: Arrived, clock_ms: int) -> None:
        shared = [fee for fee in wallet.fees if touch.at_ms <= fee.at_ms <= touch.at_ms + LOOK_BACK_MS]
        again = [fee for fee in shared if fee.at_ms >= clock_ms - self._lateness_ms]
        for fee in shared:
            if fee.at_ms < clock_ms - self._lateness_ms:
                self.too_late.append(TooLate(arrived, touch, fee.event_id, fee.at_ms, clock_ms))
        for fee in again:
            give(self.rows, eligible(wallet.touches, fee.at_ms), fee, -1)
        place = bisect_left(wallet.touches, order_of(touch), key=order_of)
        wallet.touches.insert(place, touch)
        forgotten_ms = clock_ms - LOOK_BACK_MS - self._lateness_ms
        wallet.touches[:] = [each for each in wallet.touches if each.at_ms >= forgotten_ms]
        for fee in again:
            give(self.rows, eligible(wallet.touches, fee.at_ms), fee, 1)

    def roi(self) -> list[dict[str, Any]]:
        """As the oracle's `roi`."""
        return table(self.rows)


def order_of(touch: Event) -> tuple[int, bytes]:
    """By what touches of a wallet are ordered."""
    return touch.at_ms, touch.event_id.encode()


def count_arrivals(arrivals: Iterable[Arrived], lateness_ms: int) -> Arrivals:
    """All of them."""
    counted = Arrivals(lateness_ms)
    for arrived in arrivals:
        counted.take(arrived)
    return counted
