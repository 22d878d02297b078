"""What is left in the logs, counted as a worker counts it, but by a command and up to where the logs end now.

The partition's own loop works (`streams.partition`), with the same order of records and the same commits: killed in the
middle, the next one goes on from the mark.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models.records import NULL, record_of, records_of
from streams.errors import Unavailable
from streams.intake import Inbox, Merge, Place, lanes_of
from streams.ledger import Mark
from streams.owner import Claim, fitting
from streams.partition import Partition
from streams.tenure import Tenure, nonce
from streams.topics import reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.records import Records
    from streams.announce import Outbox
    from streams.partition import Surroundings
    from streams.settings import Settings
    from streams.topics import TopicFacts

POLL_MS, POLL_RECORDS = 200, 1000
#: Records that are there have to come within this.
SILENCE_S = 120.0
#: Before looking again whether the partition has taken what was read for it.
LOOK_AGAIN_S = 0.005


class Ended(NamedTuple):
    """The end of a log of which everything has been read."""

    position: int
    stable: int
    polled_ms: int = 1 << 62
    taken: int = 0


class Arrival:
    """Consecutive records of one topic-partition; see `streams.intake.Arrived`."""

    def __init__(self, place: Place, records: Records, prev_next: int) -> None:
        self.place, self.records = place, records
        self.prev_next = prev_next
        self.polled_ms = 0
        self.first_offset, self.next_offset = records.first_offset, records.next_offset

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"{self.place.topic}[{self.place.partition}] {self.first_offset}..{self.next_offset - 1}"

    def ack(self) -> None:
        """Nobody in Kafka waits for it: there is no group."""


class Log:
    """One topic-partition from an offset to its last stable offset; blocking."""

    def __init__(self, consumer: Any, place: Place) -> None:
        """`consumer`: one of the topic, assigned to all its partitions."""
        self.place = place
        (self._tp,) = (tp for tp in consumer.assignment() if tp.partition == place.partition)
        self.first = consumer.beginning_offsets([self._tp])[self._tp]
        self.end = consumer.end_offsets([self._tp])[self._tp]
        self._consumer = consumer

    def read_from(self, offset: int) -> None:
        self._consumer.pause(*self._consumer.assignment())
        self._consumer.seek(self._tp, offset)
        self._consumer.resume(self._tp)

    def read(self) -> tuple[Records, bool]:
        """The next records, none if they take a while, and whether these were the last."""
        found = self._consumer.poll(timeout_ms=POLL_MS, max_records=POLL_RECORDS).get(self._tp, [])
        records = records_of(record_of(each) for each in found if each.offset < self.end)
        return records, len(records) < len(found) or self._consumer.position(self._tp) >= self.end


@contextmanager
def both_logs(settings: Settings) -> Iterator[Callable[[int], list[Log]]]:
    """What opens both logs of a partition, in the order of the lanes."""
    transactions, touches = settings.inputs
    with reading(settings, transactions) as first, reading(settings, touches) as second:
        yield lambda partition: [
            Log(consumer, Place(topic, partition)) for consumer, topic in ((first, transactions), (second, touches))
        ]


@dataclass(frozen=True, slots=True)
class Drained:
    """A partition after its logs were read to their end. `mark`: ours; `records`: read now."""

    mark: Mark
    records: int


class Drain:
    """Counts partitions to the end of their logs, one after the other.

    `seen` is told the keys of all records of a partition as they are read.
    """

    def __init__(
        self, around: Surroundings, outbox: Outbox, facts: TopicFacts, seen: Callable[[int, Iterable[bytes]], None]
    ) -> None:
        source = f"{around.rules.source}/{facts.ids[around.settings.topic_transactions]}"
        self._around = replace(around, rules=replace(around.rules, source=source))
        self._outbox, self._facts, self._seen = outbox, facts, seen

    async def partition(self, number: int, partitions: int, logs: Sequence[Log]) -> Drained:
        """Take partition `number` of `partitions` over and count it to the end; nothing is pending after it."""
        claim = await self._claim(number, partitions, logs)
        tenure = Tenure(number, self._around.ledger, self._outbox, claim.mark, claim.held)
        await tenure.inherit(claim.pending)
        for log, offset in zip(logs, claim.mark.offsets, strict=True):
            await asyncio.to_thread(log.read_from, offset)
        feeder = Feeder(logs, claim.mark.offsets, lambda keys: self._seen(number, keys))
        inbox = Inbox(feeder.order, feeder, self._around.settings.buffer_records)
        work = Partition(number, tenure, inbox, self._around, self._around.settings.cache_wallets)
        await together(work.run(), feeder.feed(inbox))
        return Drained(tenure.mark, feeder.records)

    async def _claim(self, number: int, partitions: int, logs: Sequence[Log]) -> Claim:
        ids = tuple(self._facts.ids[log.place.topic] for log in logs)
        empty = Mark(0, tuple(log.first for log in logs), ids, partitions, nonce())
        mark, pending = await self._around.ledger.claim(number, empty)
        places = tuple(log.place for log in logs)
        bounds = {log.place: (log.first, log.end) for log in logs}
        return fitting(Claim(number, places, mark, mark, pending), self._facts, bounds)


class Feeder:
    """Reads both logs into an inbox and closes it when everything has been taken."""

    def __init__(self, logs: Sequence[Log], offsets: tuple[int, ...], seen: Callable[[Iterable[bytes]], None]) -> None:
        self.records = 0
        self.lanes = lanes_of(offsets)
        self.order = Merge(*self.lanes, self._end_of)
        self._logs, self._seen = logs, seen
        self._ended: set[int] = {lane for lane, log in enumerate(logs) if offsets[lane] >= log.end}
        self._held: set[int] = set()
        self._news_s = time.monotonic()

    def hold(self, lane: int) -> None:
        self._held.add(lane)

    def release(self, lane: int) -> None:
        self._held.discard(lane)

    async def feed(self, inbox: Inbox) -> None:
        while len(self._ended) < len(self._logs) or any(lane.size for lane in self.lanes):
            wanted = [lane for lane in range(len(self._logs)) if lane not in self._ended | self._held]
            for lane in wanted:
                await self._read(lane, inbox)
            if not wanted:
                await asyncio.sleep(LOOK_AGAIN_S)
        inbox.close()

    async def _read(self, lane: int, inbox: Inbox) -> None:
        records, last = await asyncio.to_thread(self._logs[lane].read)
        if records or last:
            self._news_s = time.monotonic()
        elif time.monotonic() - self._news_s > SILENCE_S:
            raise Unavailable(f"Kafka brings no more of {self._logs[lane].place.topic}: is it up?")
        if records:
            self.records += len(records)
            self._seen(records.keys(np.flatnonzero(records.rows["key_end"] != NULL)))
            inbox.put(lane, Arrival(self._logs[lane].place, records, self.lanes[lane].received))
        if last:  # said only now: what is read and not yet here would be overtaken by the other topic
            self._ended.add(lane)

    def _end_of(self, lane: int) -> Ended | None:
        return Ended(self._logs[lane].end, self._logs[lane].end) if lane in self._ended else None


async def together(*works: Any) -> None:
    """Run all to their end; the first problem ends the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end
