"""Whole batches of records out of Faust: with app.py, fetching.py and unpacking.py all that knows Faust and aiokafka.

Stock Faust spends about 90 us on each record before any work is done; here it spends them on each batch.

1. What one poll brought for an agent travels through Faust as one message, undecoded: a `Delivery` of `RecordBatch`es.
2. The books of what is acknowledged are exact: by batch, in the order of delivery.
3. Faust never decides where to read on: after every assignment `BatchApp.take_over` does.
4. A topic is held back by `hold` and `release`. Never by `pause_partitions`: that drops records already taken.

tests/test_transport.py holds the contract of every private method that is overridden here.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import faust
import uvloop
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from faust.serializers.schemas import Schema
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as stock
from faust.transport.utils import DefaultSchedulingStrategy
from faust.types import TP, ConsumerMessage

from models.records import Records, together
from streams.errors import CutLog, Unavailable
from streams.fetching import Aim
from streams.unpacking import Batches, PartitionColumns

__all__ = ["TP", "BatchApp", "BatchConsumer", "End", "RecordBatch", "TakeOver", "Tuning", "arrivals", "batch_channel"]

#: Longest poll: while a partition is held back, and otherwise (an empty fetch does not end a poll).
PRESSED_POLL_S, IDLE_POLL_S = 0.02, 0.1
#: After a broker's restart a rebalance may come before its metadata: so long are offsets asked for again.
OFFSETS_S = 20.0
REQUEST_MS = 40_000
#: The offset of a delivery for Faust, which drops what it takes for old. Whether records came before is seen by lanes.
NEVER_OLD = sys.maxsize

TakeOver = Callable[[set[TP]], Awaitable[Mapping[TP, int]]]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How records are fetched and sent.

    `fetch_min_bytes`: Kafka answers a fetch when it has so much, or after `fetch_wait_ms`. `batch_records`: records in
    one `RecordBatch` at most. `embedded`: the demo's broker, which knows no idempotent producer and whose offsets of a
    log's start and end are wrong.
    """

    batch_records: int = 1000
    fetch_wait_ms: int = 20
    fetch_min_bytes: int = 1
    embedded: bool = False


class RecordBatch:
    """Consecutive records of one topic-partition: offsets strictly increasing, with holes where the log has some.

    `prev_next`: where the records before it ended as they left the fetcher, or where the log was to be read on from:
    whatever was lost on the way from there is seen by it. `generation`: of the assignment they were read in.
    `polled_ms`: when the poll that brought it was answered. `done`: what keeps the books of its topic-partition.
    """

    __slots__ = ("done", "generation", "next_offset", "polled_ms", "prev_next", "records", "tp")

    def __init__(self, tp: TP, records: Records, prev_next: int, generation: Any = None) -> None:
        self.tp = tp
        self.records = records
        self.prev_next = prev_next
        self.next_offset = records.next_offset
        self.generation = generation
        self.polled_ms = 0
        self.done: Callable[[TP, int], None] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"{self.tp.topic}[{self.tp.partition}] {self.first_offset}..{self.next_offset - 1}"

    @property
    def first_offset(self) -> int:
        return self.records.first_offset

    def ack(self) -> None:
        """Tell Kafka's books that these are done; a courtesy to its lag tools, the truth is in Redis."""
        if self.done is not None:
            self.done(self.tp, self.next_offset - 1)


class Delivery(list[RecordBatch]):
    """What one poll brought for one agent. Faust takes it for a message of `tp`, its first topic-partition."""

    @property
    def tp(self) -> TP:
        return self[0].tp


class End(NamedTuple):
    """What the last poll knew of a topic-partition's end.

    `position`: next offset to fetch. `stable`: the last stable offset. Records before `taken` have left the fetcher.
    """

    position: int
    stable: int
    polled_ms: int
    taken: int


class BatchSchema(Schema[Any, Any]):
    """Marks a topic as delivered in batches, and lets them pass undecoded."""

    def compile(self, app: Any, **options: Any) -> Any:
        create_event = app.create_event
        each_record = super().compile(app, **options)

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            if type(message.value) is Delivery:
                return create_event(None, message.value, None, message)
            return await each_record(message, propagate=propagate)

        return decode


class Schedule(DefaultSchedulingStrategy):
    """How the records of one poll are delivered: together, to each agent what is its own."""

    def __init__(self, consumer: BatchConsumer) -> None:
        self.consumer = consumer

    def iterate(self, records: Mapping[TP, Any]) -> Iterator[tuple[TP, Delivery]]:
        if not isinstance(records, Fetched) or not self.consumer.is_current(records.generation):
            return  # read from where nobody has sent the client, or before a rebalance: they come again
        self.consumer.note_ends(records)
        of_agents: dict[object, list[TP]] = defaultdict(list)
        for tp in records.begins:
            of_agents[self.consumer.agent_of(tp.topic)].append(tp)
        for tps in of_agents.values():
            delivery = Delivery(batch for tp in tps for batch in self.consumer.batches(tp, records))
            yield delivery.tp, delivery


fetcher.MemoryRecords, fetcher.PartitionRecords = Batches, PartitionColumns  # the fetcher has no other place to say it


@contextmanager
def _fetch_context(self: Any) -> Iterator[None]:
    """A poll, for who watches polls; aiokafka's own never ends when it is cancelled, and is taken to last for ever."""
    self._fetch_count += 1
    try:
        yield
    finally:
        self._fetch_count -= 1
        if not self._fetch_count:
            self._last_fetch_ended = time.monotonic()


SubscriptionState.fetch_context = _fetch_context


class Fetched(dict[TP, Records]):
    """The records of one poll, and what was known when they left the fetcher.

    `ends`: for every partition position, last stable offset and time of the poll in ms. `begins`: where the records
    before these ended. `generation`: that of the last seek; None before the assignment has been sought.
    """

    def __init__(self, records: Mapping[TP, Sequence[Records]]) -> None:
        super().__init__({ensure_TP(tp): together(of_tp) for tp, of_tp in records.items()})
        self.ends: Mapping[TP, tuple[int, int, int]] = {}
        self.begins: dict[TP, int] = {}
        self.generation: Any = None


class Sought(NamedTuple):
    """A seek of all partitions: of which assignment and generation, and where the next records of each begin."""

    assignment: object
    generation: Any
    next: dict[TP, int]


class BatchConsumerThread(stock.AIOKafkaConsumerThread):
    """The fetcher's thread. It alone moves positions, so it alone knows whether records follow those before them."""

    _sought = Sought(None, None, {})
    _ahead: asyncio.Task[Fetched] | None = None

    @property
    def _tuning(self) -> Tuning:
        return cast("BatchApp", self.app).tuning

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust fixes the wait at 1500 ms, and reads what aborted transactions wrote unless it is transactional itself.
        consumer._fetch_max_wait_ms = self._tuning.fetch_wait_ms
        consumer._fetch_min_bytes = self._tuning.fetch_min_bytes
        consumer._isolation_level = "read_committed"
        if not self._tuning.embedded:
            consumer._client.send = cast("BatchConsumer", self.consumer).aim.through(consumer._client.send)
        # A claim may wait for Redis for ten minutes, and Faust gives a seek only its request timeout; so that one is
        # long, and Kafka's own requests get their usual time here.
        consumer._request_timeout_ms = consumer._client._request_timeout_ms = REQUEST_MS
        return consumer

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 -- Faust's signature
        max_records: int | None = None,
    ) -> Any:
        # aiokafka asks a broker for no more before all it has of it is taken, or is .1 s old. So while what came is on
        # its way to the agents, in the other thread, the next poll waits here already; at most one of them.
        poll = partial(self._poll, consumer, active_partitions, timeout, max_records)
        ahead, self._ahead = self._ahead, None
        fetched = await (ahead or poll())
        if fetched:
            self._ahead = asyncio.create_task(poll())
        return fetched

    async def on_thread_stop(self) -> None:
        await super().on_thread_stop()
        if dropped := self._drop_ahead():
            await asyncio.wait([dropped])

    def _drop_ahead(self) -> asyncio.Task[Fetched] | None:
        """Forget the poll that waits ahead: what it has brought is read again."""
        ahead, self._ahead = self._ahead, None
        if ahead:
            ahead.add_done_callback(lambda task: task.cancelled() or task.exception())  # a problem will come again
            ahead.cancel()
        return ahead

    async def _poll(
        self, consumer: Any, active_partitions: set[TP], wait_s: float | None, max_records: int | None
    ) -> Fetched:
        # Positions are read here, in the thread that moves them: between a fetch and this line nothing moves, so
        # "position == last stable offset" is never believed while records are on their way to the agent.
        try:
            fetched = Fetched(await super()._fetch_records(consumer, active_partitions, wait_s, max_records))
        except OffsetOutOfRangeError as problem:
            raise CutLog(
                f"the log no longer holds the record to be read next ({problem}): it was cut by retention or has lost "
                "records; restore it (retention.ms must be -1), or replay into an empty Redis database"
            ) from problem
        assignment = _assignment(consumer)
        states = assignment._tp_state.items() if assignment else ()
        self._chain(assignment, fetched)
        fetched.ends = {
            ensure_TP(tp): (state._position, self._stable(state), state.timestamp)
            for tp, state in states
            if state._position is not None and state.lso is not None
        }
        return fetched

    def _chain(self, assignment: object, fetched: Fetched) -> None:
        """Say of records where those before them ended. What is dropped from here on will be missed."""
        sought = self._sought
        if assignment is not sought.assignment:
            return  # aiokafka has begun to read by itself, somewhere
        fetched.generation = sought.generation
        for tp, records in fetched.items():
            if records and tp in sought.next:
                fetched.begins[tp] = sought.next[tp]
                sought.next[tp] = records.next_offset

    async def _seek_wait(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        if not self._tuning.embedded:
            # From here on a position outside the log is no reason to read on elsewhere, in silence.
            consumer._fetcher._default_reset_strategy = OffsetResetStrategy.NONE
        await self._go_on(consumer, partitions)

    async def _go_on(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        self._drop_ahead()  # it goes on from where this seek may lead back from
        generation = cast("BatchConsumer", self.consumer).seeking
        self._sought = Sought(_assignment(consumer), generation, dict(partitions))
        await super()._seek_wait(consumer, partitions)

    async def rewind(self, partitions: Mapping[TP, int]) -> None:
        """Read on from here, unless another assignment has begun: that is sought anyway."""
        await self.call_thread(self._rewind, self._ensure_consumer(), partitions)

    async def _rewind(self, consumer: Any, partitions: Mapping[TP, int]) -> None:
        if _assignment(consumer) is self._sought.assignment:
            await self._go_on(consumer, partitions)

    def _stable(self, state: Any) -> int:
        end: int = state.highwater if self._tuning.embedded else state.lso
        return end


def _assignment(consumer: Any) -> Any:
    """The client's assignment of this moment, None without one; each rebalance brings a new one."""
    subscription = consumer._subscription.subscription
    return subscription and subscription.assignment


class BatchConsumer(stock.Consumer):
    """Faust's consumer, its books kept by batch."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tuning = cast("BatchApp", self.app).tuning
        self.scheduler = Schedule(self)
        self.aim = Aim()
        self._inflight: dict[TP, deque[int]] = defaultdict(deque)  # last offsets, in the order of delivery
        self._passed: dict[TP, int] = {}  # the largest of them so far
        self._next: dict[TP, int] = {}  # where to read on if records that have left the fetcher are dropped
        self.seeking: Any = None  # the generation for which it seeks
        self._held: set[TP] = set()
        self._ends: dict[TP, End] = {}
        self._seek_lock = asyncio.Lock()
        self._seek_generation: object = None
        self._assigned_generation: object = None
        self._pass_on = self.callback
        self.callback = self._deliver

    # -- what the intake needs: hold back the topic that runs ahead, know where a log ends

    def hold(self, tp: TP) -> None:
        """Fetch no more of `tp` for now; what has been fetched is still delivered."""
        self._held.add(tp)
        self.on_buffer_full(tp)

    def release(self, tp: TP) -> None:
        if tp in self._held:
            self._held.discard(tp)
            self.on_buffer_drop(tp)

    def on_buffer_drop(self, tp: TP) -> None:
        if tp not in self._held:  # Faust's own queue has emptied, the intake's has not
            super().on_buffer_drop(tp)

    def end(self, tp: TP) -> End | None:
        """Where `tp` stood at the last poll; None while unknown."""
        return self._ends.get(tp)

    async def log_bounds(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        """Offset of the first record there is and of the next one to come. Raises `Unavailable` after 20 s."""
        wanted, deadline = tuple(tps), time.monotonic() + OFFSETS_S
        while True:
            try:
                first, end = await self.earliest_offsets(*wanted), await self.highwaters(*wanted)
                return {tp: (first.get(tp) or 0, end.get(tp) or 0) for tp in wanted}
            except KafkaError as problem:
                if time.monotonic() > deadline:
                    raise Unavailable(f"Kafka does not say where the logs begin and end: {problem!r}") from problem
            await asyncio.sleep(0.5)

    # -- signs of life

    @property
    def rejoining(self) -> bool:
        """Whether the client has been told to join its group again and has not done so."""
        coordinator = self._coordinator
        return coordinator is not None and coordinator._rejoin_needed_fut.done()

    @property
    def ended(self) -> list[str]:
        """Those of the client's threads and tasks that have ended; all of them run as long as the app does."""
        coordinator, thread = self._coordinator, cast("Any", self._thread)
        if coordinator is None:
            return []
        fetcher = thread._consumer._fetcher
        return [
            name
            for name, has_ended in (
                ("the thread", not thread._thread.is_alive()),
                ("the task that keeps the group", coordinator._coordination_task.done()),
                ("the task that fetches", fetcher is not None and fetcher._fetch_task.done()),
            )
            if has_ended
        ]

    @property
    def group_problem(self) -> KafkaError | None:
        """Why the group does not take us. aiokafka says it to whoever polls: nobody, before there are partitions."""
        coordinator = self._coordinator
        return coordinator and cast("KafkaError | None", coordinator._pending_exception)

    @property
    def _coordinator(self) -> Any:
        """The part of aiokafka that keeps the group; None before it is started."""
        consumer = getattr(self._thread, "_consumer", None)
        return consumer and consumer._coordinator

    # -- delivery

    def agent_of(self, topic: str) -> object:
        """What all topics of one agent have in common."""
        return cast("BatchApp", self.app).same_agent.get(topic)

    def is_current(self, generation: object) -> bool:
        """Whether records were read in this assignment, from where the app wants it read on."""
        return generation is not None and generation == self.app.consumer_generation_id

    def batches(self, tp: TP, fetched: Fetched) -> Iterator[RecordBatch]:
        """The records of one partition in batches, in order."""
        records, begin = fetched[tp], fetched.begins[tp]
        for at in range(0, len(records), self.tuning.batch_records):
            batch = RecordBatch(tp, records[at : at + self.tuning.batch_records], begin, fetched.generation)
            batch.polled_ms, batch.done = fetched.ends[tp][2] if tp in fetched.ends else 0, self.done
            begin = self._next[tp] = batch.next_offset
            yield batch

    def note_ends(self, records: Fetched) -> None:
        for tp, (position, stable, polled_ms) in records.ends.items():
            known = self._ends.get(tp)
            taken = records[tp].next_offset if records.get(tp) else known.taken if known else 0
            self._ends[tp] = End(position, stable, polled_ms, taken)

    def _new_consumer_thread(self) -> BatchConsumerThread:
        thread = BatchConsumerThread(self, loop=self.loop, thread_loop=uvloop.new_event_loop(), beacon=self.beacon)
        thread._close_thread_loop_on_stop = True  # as mode does with a loop that it has made itself
        return thread

    def _to_message(self, tp: TP, record: Delivery) -> Any:
        at_s = int(record[0].records.rows["timestamp"][-1]) / 1000.0
        return ConsumerMessage(
            tp.topic, tp.partition, NEVER_OLD, at_s, 0,
            None, None, cast("Any", record), None, 0, 0, tp, generation_id=record[0].generation,
        )  # fmt: skip

    async def _deliver(self, message: Any) -> None:
        for batch in message.value:
            last = batch.next_offset - 1
            if last > self._passed.get(batch.tp, -1):  # what comes again is in the books already
                self._passed[batch.tp] = last
                self._inflight[batch.tp].append(last)
        await self._pass_on(message)

    async def _wait_next_records(self, timeout: float) -> Any:  # noqa: ASYNC109 -- Faust's signature
        if self._buffered_partitions:
            if not self._get_active_partitions() and self.flow_active:
                await self.sleep(PRESSED_POLL_S)  # stock Faust sleeps for a second here
                return {}, None
            timeout = min(timeout, PRESSED_POLL_S)
        fetched, _ = await super()._wait_next_records(min(timeout, IDLE_POLL_S))
        return fetched, None  # all of it is delivered, whatever has been held back since it was asked for

    # -- the books

    def done(self, tp: TP, offset: int) -> None:
        """A batch that ends with this offset has been acknowledged."""
        committed = self._committed_offset[tp]
        if (committed is None or offset >= committed) and offset not in self._acked_index[tp]:
            self._acked_index[tp].add(offset)
            self._acked[tp].append(offset)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Holes between batches need no book-keeping here."""

    def _new_offset(self, tp: TP) -> int | None:
        """What may be committed to Kafka: everything before the first batch that is not acknowledged."""
        acked, inflight, last = self._acked_index[tp], self._inflight[tp], None
        while inflight and inflight[0] in acked:
            last = inflight.popleft()
            acked.discard(last)
        if last is None:
            return None
        if not inflight:
            acked.clear()  # left over from a former generation
        self._acked[tp][:] = acked
        return last + 1

    # -- rebalancing

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # Stock Faust forgets what was acknowledged before it commits; so commit first.
        try:
            await self.commit()
        except Exception as problem:  # noqa: BLE001 -- a courtesy to Kafka must not block a rebalance
            self.log.warning("offsets not committed before a rebalance: %r", problem)
        await super().on_partitions_revoked(revoked)
        self._begin_anywhere()
        self._forget(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        # A group that was forgotten counts from 1 again, and a static member may get the same number again: a new
        # assignment all the same.
        if generation_id == self._assigned_generation:
            self._seek_generation = None
        self._assigned_generation = generation_id
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Let the app take its partitions over, and read on where it says.

        Faust calls this after an assignment, but also from the fetcher when a poll ends while the flow is stopped, and
        drops what that has brought: in the middle of a revocation, or after this assignment was sought already if it
        was so quick. Taking over changes marks: it happens once per generation.
        """
        async with self._seek_lock:
            self.seeking = generation = self.app.consumer_generation_id
            if self._seek_generation == generation:
                await cast("BatchConsumerThread", self._thread).rewind(dict(self._next))
                return
            self._forget(set(self._inflight) | set(self._next) | set(self._ends))
            self._held.clear()
            self._buffered_partitions.clear()
            self._begin_anywhere()
            positions = dict(await cast("BatchApp", self.app).take_over(self.assignment()))
            if positions:
                await self.seek_wait(positions)
                self._ends.clear()
                self._committed_offset.update(positions)
                self._next.update(positions)
            self._seek_generation = generation

    def _begin_anywhere(self) -> None:
        """Until a take-over seeks, which forbids it: new partitions have no position before they are sought."""
        thread = cast("Any", self._thread)
        if thread is not None and thread._consumer is not None:
            thread._consumer._fetcher._default_reset_strategy = OffsetResetStrategy.EARLIEST

    def _forget(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            for book in (
                self._inflight,
                self._passed,
                self._next,
                self._acked,
                self._acked_index,
                self._gap,
                self._ends,
            ):
                book.pop(tp, None)


class BatchProducer(stock.Producer):
    """Faust's producer; idempotent, so that a repeat inside the client does not double or reorder messages."""

    def _settings_extra(self) -> Mapping[str, Any]:
        idempotent = not cast("BatchApp", self.app).tuning.embedded
        return {**super()._settings_extra(), "acks": "all", "enable_idempotence": idempotent}

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        # Faust's timeout, twenty minutes, is for requests and batches alike. A request gets its usual time: a broker
        # that has gone silent must not be waited for so long. A batch needs all of it: while its partition has no
        # leader it expires after that, idempotent or not, and the producer's place in the sequence is lost for good.
        producer: Any = super()._new_producer(transactional_id)
        producer.client._request_timeout_ms = producer._sender._request_timeout_ms = REQUEST_MS
        return producer


class BatchTransport(stock.Transport):
    """Faust's way to Kafka with the parts above."""

    Consumer: ClassVar[Any] = BatchConsumer
    Producer: ClassVar[Any] = BatchProducer


class BatchApp(faust.App):
    """A Faust app whose records come in batches. `take_over`: topic-partitions assigned -> offsets to read on from."""

    def __init__(self, group: str, tuning: Tuning, take_over: TakeOver, **options: Any) -> None:
        self.tuning, self.take_over = tuning, take_over
        #: topic -> what all topics of its agent have in common
        self.same_agent: dict[str, object] = {}
        super().__init__(group, **options)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_producer, self)

    def _create_directories(self) -> None:
        """No tables, so no folders."""


def batch_channel(app: BatchApp, topics: Iterable[str]) -> Any:
    """A channel over `topics`. Faust ignores `maxsize` in `app.topic`, so the topic is made by hand."""
    schema = BatchSchema(key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    names = list(topics)
    app.same_agent.update(dict.fromkeys(names, tuple(names)))
    return faust.Topic(app, topics=names, schema=schema, maxsize=8)


async def arrivals(stream: Any) -> AsyncIterator[Delivery]:
    """Batches as they arrive. Faust acknowledges none of them, as it would in a plain agent even by an exception."""
    async for event in stream.noack().events():
        yield event.value
