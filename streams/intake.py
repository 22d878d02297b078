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
from typing import TYPE_CHECKING, NamedTuple, Protocol

from models.state import TOUCHES, TRANSACTIONS
from streams.errors import Refused

if TYPE_CHECKING:
    from models.state import RecordLike

#: The most a batch holds, in bytes of record values; one record may go beyond.
BATCH_BYTES = 4 << 20
#: A head older than this is history: the other topic is then given more time to bring something still older.
CATCHING_UP_MS = 60_000
PATIENCE_HISTORY_S, PATIENCE_LIVE_S = 0.5, 0.005
#: Before asking again where a log ends: while more is on its way, and while that end is older news than the head.
MORE_COMING_S, OLD_NEWS_S = 0.02, 0.005
NOTHING_HERE_S = 60.0


class Place(NamedTuple):
    """A topic-partition, as Kafka's client names it."""

    topic: str
    partition: int


class Arrived(Protocol):
    """Consecutive records of one topic-partition as they come from Kafka; see `streams.transport.RecordBatch`."""

    records: Sequence[RecordLike]
    prev_next: int | None
    polled_ms: int
    arrived: float

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

    records: list[RecordLike]
    lanes: bytes
    wait_s: float


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
        self._at = 0  # first record of batches[0] not yet taken

    def put(self, batch: Arrived, now: Now) -> None:
        """Raises `Refused` when records are missing in between, or offsets go back."""
        if batch.prev_next != self.received or batch.first_offset < self.received:
            raise Refused(
                f"{batch!r} came where offset {self.received} was expected: records are missing or the topic was "
                "recreated; start the worker again"
            )
        batch.arrived = now.monotonic_s
        self.batches.append(batch)
        self.size += len(batch)
        self.received = batch.next_offset

    @property
    def head_at(self) -> int:
        """Timestamp of the next record."""
        return self.batches[0].records[self._at].timestamp

    def take_before(self, timestamp: float, room: Room, now: Now) -> list[RecordLike]:
        """The next records with timestamps below `timestamp`, as far as the room goes, all of one arrival."""
        records, start = self.batches[0].records, self._at
        stop, end = start, min(len(records), start + room.records)
        while stop < end and room.size > 0 and records[stop].timestamp < timestamp:
            room.size -= size_of(records[stop])
            stop += 1
        room.records -= stop - start
        self._at, self.size = stop, self.size - (stop - start)
        if stop == len(records):
            self.batches.popleft()
            self._at = 0
            if not self.batches:
                self.empty_since = now.monotonic_s
        return list(records[start:stop])


def size_of(record: RecordLike) -> int:
    """Bytes of a record: key, value and headers."""
    size = len(record.value or b"") + len(record.key or b"")
    return size + sum(len(name) + len(value or b"") for name, value in record.headers) if record.headers else size


class Room:
    """What a batch can still take: records, and bytes of them."""

    __slots__ = ("records", "size")

    def __init__(self, records: int, size: int = BATCH_BYTES) -> None:
        self.records, self.size = records, size

    def __bool__(self) -> bool:
        return self.records > 0 and self.size > 0


class Alone:
    """One lane: its order is the log's."""

    def __init__(self, lane: Lane) -> None:
        self.lanes = (lane,)

    def take(self, limit: int, now: Now, span_ms: float = math.inf) -> Taken:  # noqa: ARG002 - as Merge has it
        (lane,), room = self.lanes, Room(limit)
        records: list[RecordLike] = []
        while room and lane.batches:
            records += lane.take_before(float("inf"), room, now)
        return Taken(records, bytes([lane.number]) * len(records), NOTHING_HERE_S)


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
        records: list[RecordLike] = []
        lanes, room, wait, until = bytearray(), Room(limit), 0.0, math.inf
        while room:
            if touches.batches and transactions.batches:
                if touches.head_at <= transactions.head_at:
                    lane, before = touches, float(transactions.head_at + 1)
                else:
                    lane, before = transactions, float(touches.head_at)
            elif not touches.batches and not transactions.batches:
                wait = NOTHING_HERE_S
                break
            else:
                lane, empty = (touches, transactions) if touches.batches else (transactions, touches)
                before = math.inf
                wait = self._patience(lane, empty, now)
                if wait > 0:
                    break
            if not records and lane.head_at < now.wall_ms - CATCHING_UP_MS:
                until = lane.head_at + span_ms
            if lane.head_at >= until:
                break
            taken = lane.take_before(min(before, until), room, now)
            records += taken
            lanes += bytes([lane.number]) * len(taken)
        return Taken(records, bytes(lanes), wait)

    def _patience(self, full: Lane, empty: Lane, now: Now) -> float:
        """Seconds the empty lane may still use to bring something that belongs before the head of the full one."""
        end, batch = self._end_of(empty.number), full.batches[0]
        if end is None or end.position < end.stable or empty.received < end.taken:
            return MORE_COMING_S
        if end.polled_ms < batch.polled_ms:
            return OLD_NEWS_S
        if full.head_at < now.wall_ms - CATCHING_UP_MS:
            return empty.empty_since + PATIENCE_HISTORY_S - now.monotonic_s
        return max(batch.arrived, empty.empty_since) + PATIENCE_LIVE_S - now.monotonic_s


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
        self._unacked: deque[tuple[int, Arrived]] = deque()
        self._news = asyncio.Event()

    def put(self, number: int, batch: Arrived) -> None:
        lane = self._lanes[number]
        lane.put(batch, clock())
        self._unacked.append((number, batch))
        self._news.set()
        if lane.size > self._buffer:
            self._held.add(number)
            self._flow.hold(number)

    def close(self) -> None:
        """No more batches: the partition is being handed over."""
        self.closing = True
        self._news.set()

    async def gather(self, limit: int, span_ms: float = math.inf) -> Taken | None:
        """The next batch, at most `limit` records and `span_ms` of history; None when the partition is handed over."""
        while not self.closing:
            self._news.clear()
            taken = self._order.take(limit, clock(), span_ms)
            self._release()
            if taken.records:
                return taken
            await self._arrival(taken.wait_s)
        return None

    def ack(self, offsets: Mapping[int, int]) -> None:
        """Acknowledge every arrival that lies before its lane's next offset."""
        waiting: deque[tuple[int, Arrived]] = deque()
        for number, batch in self._unacked:
            if batch.next_offset <= offsets[number]:
                batch.ack()
            else:
                waiting.append((number, batch))
        self._unacked = waiting

    async def _arrival(self, wait_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), wait_s)

    def _release(self) -> None:
        for number in list(self._held):
            if self._lanes[number].size < self._buffer // 2:
                self._held.discard(number)
                self._flow.release(number)


def next_offsets(offsets: Sequence[int], taken: Taken) -> tuple[int, ...]:
    """The next offset of each lane after `taken`."""
    moved = list(offsets)
    for lane, record in zip(taken.lanes, taken.records, strict=True):
        moved[lane] = record.offset + 1
    return tuple(moved)


def lanes_of(offsets: Sequence[int]) -> tuple[Lane, Lane]:
    """The two lanes of a partition, to be read on from the offsets of its mark."""
    now = clock()
    return Lane(TRANSACTIONS, offsets[TRANSACTIONS], now), Lane(TOUCHES, offsets[TOUCHES], now)
