"""Records as they arrive become batches in one order, a partition at a time.

Offset order within a topic is never changed. Two topics are merged by the record timestamps of their two heads, touches
before transactions: a pure function of the two logs, as long as no patience runs out. So a backlog replays in the order
in which it happened.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.merging import weave, woven
from models.records import NO_RECORDS, Records
from models.state import TOUCHES, TRANSACTIONS
from streams.errors import Refused

#: The most a batch holds, in bytes of keys, values and headers; one record may go beyond.
BATCH_BYTES = 4 << 20
#: A head older than this is history: the other topic is then given time to bring something still older.
CATCHING_UP_MS = 60_000
PATIENCE_HISTORY_S = 0.5
#: Before asking again where a log ends: while more is on its way, and while that end is older news than the head.
MORE_COMING_S, OLD_NEWS_S = 0.02, 0.005
NOTHING_HERE_S = 60.0


class Place(NamedTuple):
    """A topic-partition, as Kafka's client names it."""

    topic: str
    partition: int


class Arrived(Protocol):
    """Consecutive records of one topic-partition as they come from Kafka; see `streams.transport.RecordBatch`."""

    records: Records
    prev_next: int
    polled_ms: int

    def __len__(self) -> int: ...
    @property
    def first_offset(self) -> int: ...
    @property
    def next_offset(self) -> int: ...
    def ack(self) -> None: ...


class KnownEnd(Protocol):
    """Where a log ended at the last poll; see `streams.transport.End`."""

    @property
    def position(self) -> int: ...
    @property
    def stable(self) -> int: ...
    @property
    def polled_ms(self) -> int: ...
    @property
    def taken(self) -> int: ...


class Now(NamedTuple):
    """`monotonic_s` for how long something has lasted, `wall_ms` (epoch) to compare with record timestamps."""

    monotonic_s: float
    wall_ms: int


def clock() -> Now:
    """The time, for those who have none of their own."""
    return Now(time.monotonic(), time.time_ns() // 1_000_000)


class Taken(NamedTuple):
    """Records in their order and the lane of each; `wait_s`: when to ask again if no more arrives."""

    records: Records
    lanes: bytes
    wait_s: float

    @property
    def newest_ms(self) -> int:
        """Timestamp of the last record; there is one."""
        return int(self.records.rows["timestamp"][-1])

    def part(self, start: int, stop: int) -> Taken:
        """Some of it."""
        return Taken(self.records[start:stop], self.lanes[start:stop], self.wait_s)


class Lane:
    """Records of one topic of a partition, received and not yet taken.

    `number`: the lane. `received`: the offset after the last record received, at first where the mark says to read on.
    `size`: records here. `empty_since`: monotonic seconds.
    """

    def __init__(self, number: int, next_offset: int, now: Now) -> None:
        self.number = number
        self.received = next_offset
        self.batches: deque[Arrived] = deque()
        self.size = 0
        self.empty_since = now.monotonic_s
        self._at = self._left = 0  # of batches[0]: its first record not yet taken, not yet told by `dropped`
        self._parts: list[Records] = []  # of arrivals before that, not yet told

    def put(self, batch: Arrived) -> None:
        """Those received already are left out. Raises `Refused` when records are missing, or offsets go back."""
        if batch.prev_next > self.received or batch.first_offset < batch.prev_next:
            raise Refused(
                f"{batch!r} came where offset {self.received} was expected: records are missing or the topic was "
                "recreated; start the worker again"
            )
        if batch.next_offset <= self.received:
            return
        batch.records = batch.records.from_offset(self.received)  # the client is sent back when it has dropped some
        self.batches.append(batch)
        self.size += len(batch)
        self.received = batch.next_offset

    @property
    def head_at(self) -> int:
        """Timestamp of the next record."""
        return int(self.batches[0].records.rows["timestamp"][self._at])

    @property
    def window(self) -> NDArray[np.void]:
        """The next records, all of one arrival, as rows of `RECORD`; none if none is here."""
        if not self.batches:
            return NO_RECORDS.rows
        rows = self.batches[0].records.rows
        return rows[self._at :] if self._at else rows

    def drop(self, records: int, now: Now) -> None:
        """So many of the window have been taken."""
        self._at += records
        self.size -= records
        if self._at == len(self.batches[0].records):
            self._leave()
            self.batches.popleft()
            self._at = self._left = 0
            if not self.batches:
                self.empty_since = now.monotonic_s

    def dropped(self) -> list[Records]:
        """What has been taken since the last call, in parts: one of each arrival, all of it if that may be."""
        if self._at > self._left:
            self._leave()
        parts, self._parts = self._parts, []
        return parts

    def _leave(self) -> None:
        """What has been taken of the first arrival becomes a part."""
        records, begin = self.batches[0].records, self._left
        self._parts.append(records[begin : self._at] if begin or self._at < len(records) else records)
        self._left = self._at


class Draft:
    """A batch of two lanes on its way: what it has, and what it can still take, records and bytes of them."""

    def __init__(self, first: Lane, second: Lane, records: int, size: int = BATCH_BYTES) -> None:
        """The lanes are in the order in which equal timestamps go."""
        self._first, self._second = first, second
        self._most, self._size, self._taken = records, size, 0
        self._order = np.empty(records, np.uint8)

    def __len__(self) -> int:
        return self._taken

    @property
    def has_room(self) -> bool:
        return self._taken < self._most and self._size > 0

    def fill(self, until: float, now: Now) -> int:
        """Take the records of the windows as far as their order is settled and before `until` (epoch ms); how many.

        It is settled until one window is used up; a lane without records does not count.
        """
        first, second, room = self._first, self._second, (self._most - self._taken, self._size)
        of_first, of_second, size = weave(first.window, second.window, float(until), room, self._order[self._taken :])
        if of_first:
            first.drop(of_first, now)
        if of_second:
            second.drop(of_second, now)
        self._taken += of_first + of_second
        self._size -= size
        return of_first + of_second

    def taken(self, wait_s: float) -> Taken:
        """All of it; `wait_s` as `Taken` has it."""
        if not self._taken:
            return Taken(NO_RECORDS, b"", wait_s)
        first, second, order = self._first, self._second, self._order[: self._taken]
        numbers = bytes((first.number, second.number)).ljust(256)
        return Taken(woven(first.dropped(), second.dropped(), order), order.tobytes().translate(numbers), wait_s)


class Alone:
    """One lane: its order is the log's."""

    def __init__(self, lane: Lane) -> None:
        self.lanes = (lane,)
        self._nothing = Lane(lane.number, 0, clock())

    def take(self, limit: int, now: Now, span_ms: float = math.inf) -> Taken:  # noqa: ARG002 - as Merge has it
        (lane,) = self.lanes
        draft = Draft(lane, self._nothing, limit)
        while draft.has_room and lane.batches:
            draft.fill(math.inf, now)
        return draft.taken(NOTHING_HERE_S)


class Merge:
    """Both input topics of a partition in one order: by record timestamp, touches before transactions.

    `end_of`: lane number -> where that lane's log ended at the last poll, None while unknown.
    """

    def __init__(self, transactions: Lane, touches: Lane, end_of: Callable[[int], KnownEnd | None]) -> None:
        self.lanes = (transactions, touches)
        self._end_of = end_of

    def take(self, limit: int, now: Now, span_ms: float = math.inf) -> Taken:
        """At most `limit` records whose order is settled; of history, at most `span_ms` of record time."""
        transactions, touches = self.lanes
        draft, wait, until = Draft(touches, transactions, limit), 0.0, math.inf
        while draft.has_room:
            if not (transactions.batches and touches.batches):
                wait = self._wait(now)
                if wait > 0:
                    break
            if not draft:
                until = self._until(now, span_ms)
            if not draft.fill(until, now):
                break
        return draft.taken(wait)

    def _until(self, now: Now, span_ms: float) -> float:
        """Where a batch that begins with what is here has to end: that of live traffic nowhere."""
        head_at = min([lane.head_at for lane in self.lanes if lane.batches])
        return head_at + span_ms if head_at < now.wall_ms - CATCHING_UP_MS else math.inf

    def _wait(self, now: Now) -> float:
        """Seconds to wait, 0 or less for none, where one lane at least is empty."""
        transactions, touches = self.lanes
        if transactions.batches:
            return self._patience(transactions, touches, now)
        return self._patience(touches, transactions, now) if touches.batches else NOTHING_HERE_S

    def _patience(self, full: Lane, empty: Lane, now: Now) -> float:
        """Seconds the empty lane may still use to bring something that belongs before the head of the full one."""
        end, batch = self._end_of(empty.number), full.batches[0]
        if end is None or end.position < end.stable or empty.received < end.taken:
            return MORE_COMING_S
        if end.polled_ms < batch.polled_ms:
            return OLD_NEWS_S
        if full.head_at < now.wall_ms - CATCHING_UP_MS:
            if end.polled_ms < now.wall_ms - 1000 * PATIENCE_HISTORY_S:
                return OLD_NEWS_S  # this process stood still: what came meanwhile has had no chance to be heard of
            return empty.empty_since + PATIENCE_HISTORY_S - now.monotonic_s
        return 0.0  # live, arrival decides: a touch that comes later is credited as a late one


class Flow(Protocol):
    """Holds a lane of Kafka back, and lets it go on; see `streams.transport.BatchConsumer`."""

    def hold(self, lane: int) -> None: ...
    def release(self, lane: int) -> None: ...


class Inbox:
    """Where the agent leaves a partition's arrivals and the partition's task takes its batches.

    `buffer_records`: more than this in a lane and its topic is held back until half of it is taken.
    """

    def __init__(self, order: Merge | Alone, flow: Flow, buffer_records: int) -> None:
        self.closing = False
        self._order, self._flow, self._buffer = order, flow, buffer_records
        self._lanes: Mapping[int, Lane] = {lane.number: lane for lane in order.lanes}
        self._held: set[int] = set()
        self._unacked: dict[int, deque[Arrived]] = {number: deque() for number in self._lanes}
        self._news, self._closed = asyncio.Event(), asyncio.Event()
        self._gathering = False

    def put(self, number: int, batch: Arrived) -> None:
        lane = self._lanes[number]
        lane.put(batch)
        self._unacked[number].append(batch)
        self._news.set()
        if lane.size > self._buffer:
            self._held.add(number)
            self._flow.hold(number)

    def close(self) -> None:
        """No more batches: the partition is being handed over."""
        self.closing = True
        self._news.set()
        self._closed.set()

    async def gather(self, limit: int, span_ms: float = math.inf, idle_s: float = math.inf) -> Taken | None:
        """The next batch, at most `limit` records and `span_ms` of history; None when the partition is handed over.

        It is empty when for `idle_s` seconds there was none.
        """
        self._gathering, until_s = True, time.monotonic() + idle_s
        try:
            while not self.closing:
                self._news.clear()
                taken = self._order.take(limit, clock(), span_ms)
                self._release()
                left_s = until_s - time.monotonic()
                if taken.records or left_s <= 0:
                    return taken
                await self._arrival(min(taken.wait_s, left_s))
            return None
        finally:
            self._gathering = False

    @property
    def has_records(self) -> bool:
        """Whether there are records that have not been taken."""
        return any(lane.size for lane in self._lanes.values())

    @property
    def filling(self) -> bool:
        """Whether a batch is being gathered and there are records for it."""
        return self._gathering and self.has_records

    async def rest(self, seconds: float) -> None:
        """Let more arrive; a hand-over ends it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    def ack(self, offsets: Mapping[int, int]) -> None:
        """Acknowledge every arrival that lies before its lane's next offset."""
        for number, waiting in self._unacked.items():
            while waiting and waiting[0].next_offset <= offsets[number]:
                waiting.popleft().ack()

    async def _arrival(self, wait_s: float) -> None:
        """Wait for news, or for so long. Not `asyncio.timeout`, which costs as much as all else here."""
        alarm = asyncio.get_running_loop().call_later(wait_s, self._news.set)
        try:
            await self._news.wait()
        finally:
            alarm.cancel()

    def _release(self) -> None:
        for number in list(self._held):
            if self._lanes[number].size < self._buffer // 2:
                self._held.discard(number)
                self._flow.release(number)


def next_offsets(offsets: Sequence[int], taken: Taken) -> tuple[int, ...]:
    """The next offset of each lane after `taken`."""
    moved = list(offsets)
    for lane in range(len(moved)):
        last = taken.lanes.rfind(lane)
        if last >= 0:
            moved[lane] = int(taken.records.rows["offset"][last]) + 1
    return tuple(moved)


def lanes_of(offsets: Sequence[int]) -> tuple[Lane, Lane]:
    """The two lanes of a partition, to be read on from the offsets of its mark."""
    now = clock()
    return Lane(TRANSACTIONS, offsets[TRANSACTIONS], now), Lane(TOUCHES, offsets[TOUCHES], now)
