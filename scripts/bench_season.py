"""The simulator's tax season as records: steadier wallets and fewer changes of segment than the peers' traffic."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from scripts.bench_traffic import TOUCHES, TRANSACTIONS, Sent
from streams.lines import read_line
from streams.simulate import SimulationPlan, default_start, simulate

#: As dense as the peers' traffic: a batch of history spans a day at most, so sparse days would make small batches.
EVENTS_A_DAY, FEWEST_DAYS = 100_000, 3
TOPICS = {TRANSACTIONS: TRANSACTIONS, TOUCHES: TOUCHES}


def season(count: int, wallets: int) -> Iterator[Sent]:
    """`count` records of a season without late, repeated or bad ones."""
    days = max(FEWEST_DAYS, count // EVENTS_A_DAY)
    start = default_start(datetime.now(UTC).date(), days)
    for number, line in enumerate(simulate(SimulationPlan(1, wallets, days, start, events=count)), 1):
        read = read_line(line, number, TOPICS)
        yield Sent(read.topic, read.key or b"", read.value or b"", read.at_ms or 0)
