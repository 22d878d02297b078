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
from itertools import accumulate, chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from models.state import TOUCHES, TRANSACTIONS
from streams.errors import Refused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.state import Record

#: The most a batch holds, in bytes of record values; one record may go beyond.
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

    records: Sequence[Record]
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

    records: list[Record]
    lanes: bytes
    wait_s: float

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
        self._at = 0  # first record of batches[0] not yet taken
        self._times_of: Sequence[Record] | None = None  # the arrival that `_times` belongs to
        self._times = np.zeros(0, np.int64)

    def put(self, batch: Arrived) -> None:
        """Those received already are left out. Raises `Refused` when records are missing, or offsets go back."""
        if batch.prev_next > self.received or batch.first_offset < batch.prev_next:
            raise Refused(
                f"{batch!r} came where offset {self.received} was expected: records are missing or the topic was "
                "recreated; start the worker again"
            )
        if batch.next_offset <= self.received:
            return
        if batch.first_offset < self.received:  # the client was sent back, as it is when it has dropped some
            batch.records = [record for record in batch.records if record.offset >= self.received]
        self.batches.append(batch)
        self.size += len(batch)
        self.received = batch.next_offset

    @property
    def head_at(self) -> int:
        """Timestamp of the next record."""
        return self.batches[0].records[self._at].timestamp

    def window(self, records: int) -> Window:
        """At most so many of the next records, all of one arrival."""
        arrival = self.batches[0].records
        if self._times_of is not arrival:
            self._times_of, self._times = arrival, np.array([record.timestamp for record in arrival], np.int64)
        stop = self._at + records
        return Window(self.number, arrival[self._at : stop], self._times[self._at : stop])

    def drop(self, records: int, now: Now) -> None:
        """So many of the window have been taken."""
        self._at += records
        self.size -= records
        if self._at == len(self.batches[0].records):
            self.batches.popleft()
            self._at, self._times_of = 0, None
            if not self.batches:
                self.empty_since = now.monotonic_s


class Window(NamedTuple):
    """The next records of a lane with their timestamps (n,)."""

    lane: int
    records: Sequence[Record]
    times: NDArray[np.int64]


class Room:
    """What a batch can still take: records, and bytes of them."""

    __slots__ = ("records", "size")

    def __init__(self, records: int, size: int = BATCH_BYTES) -> None:
        self.records, self.size = records, size

    def __bool__(self) -> bool:
        return self.records > 0 and self.size > 0

    def fill(self, records: list[Record]) -> list[Record]:
        """As many of these as there is room for; the last one may go beyond in bytes."""
        sizes = [
            len(key or b"") + len(value or b"") + (size_of(headers) if headers else 0)
            for _, _, key, value, headers in records
        ]
        if sum(sizes) >= self.size:
            before = accumulate(sizes, initial=0)
            records = [record for record, taken in zip(records, before, strict=False) if taken < self.size]
        self.records -= len(records)
        self.size -= sum(sizes[: len(records)])
        return records


def size_of(headers: Sequence[tuple[str, bytes]]) -> int:
    """Bytes of a record's headers."""
    return sum(len(name) + len(value or b"") for name, value in headers)


def interleave(windows: Sequence[Window], until: float, room: Room) -> tuple[list[Record], bytes]:
    """The records of the windows in their order, as far as it is settled, and the lane of each.

    Always the head with the smaller timestamp goes next, the earlier window's if they are equal. It is settled until
    one window is used up. Only records before `until`, and as many as there is room for.
    """
    first, *others = windows
    places = in_order(first, others[0]) if others else np.arange(len(first.records))
    if until < math.inf:
        late = np.concatenate([each.times for each in windows])[places] >= until
        places = places[: np.argmax(late)] if late.any() else places
    together = list(chain.from_iterable(each.records for each in windows))
    taken = room.fill([together[place] for place in places[: room.records].tolist()])
    if not others:
        return taken, bytes([first.lane]) * len(taken)
    lanes = np.where(places[: len(taken)] < len(first.records), first.lane, others[0].lane)
    return taken, lanes.astype(np.uint8).tobytes()


def in_order(first: Window, second: Window) -> NDArray[np.int64]:
    """Places in `first` followed by `second`, in the order in which the records go, until one window is used up.

    That is the order of the largest timestamp up to each record: one that goes back in time follows the record before
    it at once, whatever the other window holds.
    """
    latest = np.concatenate([np.maximum.accumulate(first.times), np.maximum.accumulate(second.times)])
    places = latest.argsort(kind="stable")
    ends = (places == len(first.records) - 1) | (places == len(latest) - 1)
    return places[: ends.argmax() + 1]


class Alone:
    """One lane: its order is the log's."""

    def __init__(self, lane: Lane) -> None:
        self.lanes = (lane,)

    def take(self, limit: int, now: Now, span_ms: float = math.inf) -> Taken:  # noqa: ARG002 - as Merge has it
        (lane,), room = self.lanes, Room(limit)
        records: list[Record] = []
        while room and lane.batches:
            taken = room.fill(list(lane.window(room.records).records))
            lane.drop(len(taken), now)
            records += taken
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
        records: list[Record] = []
        lanes, room, wait, until = b"", Room(limit), 0.0, math.inf
        while room:
            full = [lane for lane in (touches, transactions) if lane.batches]
            if not full:
                wait = NOTHING_HERE_S
                break
            if len(full) == 1:
                wait = self._patience(full[0], transactions if full[0] is touches else touches, now)
                if wait > 0:
                    break
            head_at = min(lane.head_at for lane in full)
            if not records and head_at < now.wall_ms - CATCHING_UP_MS:
                until = head_at + span_ms
            if head_at >= until:
                break
            taken, numbers = interleave([lane.window(room.records) for lane in full], until, room)
            for lane in full:
                lane.drop(numbers.count(lane.number), now)
            records += taken
            lanes += numbers
        return Taken(records, lanes, wait)

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
        self._unacked: deque[tuple[int, Arrived]] = deque()
        self._news, self._closed = asyncio.Event(), asyncio.Event()
        self._gathering = False

    def put(self, number: int, batch: Arrived) -> None:
        lane = self._lanes[number]
        lane.put(batch)
        self._unacked.append((number, batch))
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
    def filling(self) -> bool:
        """Whether a batch is being gathered and there are records for it."""
        return self._gathering and any(lane.size for lane in self._lanes.values())

    async def rest(self, seconds: float) -> None:
        """Let more arrive; a hand-over ends it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

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
            moved[lane] = taken.records[last].offset + 1
    return tuple(moved)


def lanes_of(offsets: Sequence[int]) -> tuple[Lane, Lane]:
    """The two lanes of a partition, to be read on from the offsets of its mark."""
    now = clock()
    return Lane(TRANSACTIONS, offsets[TRANSACTIONS], now), Lane(TOUCHES, offsets[TOUCHES], now)
