"""What of Faust and aiokafka is overridden or reached into: it must be there, with the signature we know."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import suppress
from typing import Any

import aiokafka
import faust
import pytest
import uvloop
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.consumer.subscription_state import SubscriptionState, TopicPartitionState
from aiokafka.producer.sender import Sender
from faust.app.base import App
from faust.serializers.schemas import Schema
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer, ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as stock
from faust.transport.utils import DefaultSchedulingStrategy
from mode.threads import ServiceThread, WorkerThread

from models.records import Record, Records, records_of
from streams.announce import GIVE_UP_S
from streams.transport import (
    NEVER_OLD,
    REQUEST_MS,
    TP,
    BatchApp,
    BatchConsumer,
    BatchConsumerThread,
    BatchProducer,
    BatchSchema,
    Delivery,
    Fetched,
    RecordBatch,
    Schedule,
    Tuning,
    batch_channel,
)
from streams.unpacking import PartitionColumns

OVERRIDDEN = [
    (BatchConsumer, Consumer, "on_buffer_drop", "(self, tp)"),
    (BatchConsumer, stock.Consumer, "_new_consumer_thread", "(self)"),
    (BatchConsumer, stock.Consumer, "_to_message", "(self, tp, record)"),
    (BatchConsumer, Consumer, "_wait_next_records", "(self, timeout)"),
    (BatchConsumer, Consumer, "_add_gap", "(self, tp, offset_from, offset_to)"),
    (BatchConsumer, Consumer, "_new_offset", "(self, tp)"),
    (BatchConsumer, Consumer, "perform_seek", "(self)"),
    (BatchConsumerThread, stock.AIOKafkaConsumerThread, "_create_worker_consumer", "(self, transport)"),
    (BatchConsumerThread, stock.AIOKafkaConsumerThread, "_seek_wait", "(self, consumer, partitions)"),
    (BatchConsumerThread, stock.AIOKafkaConsumerThread, "on_thread_stop", "(self)"),
    (
        BatchConsumerThread,
        stock.AIOKafkaConsumerThread,
        "_fetch_records",
        "(self, consumer, active_partitions, timeout=None, max_records=None)",
    ),
    (PartitionColumns, PartitionColumns.__mro__[1], "_consumer_record", "(self, tp, record)"),
    (BatchProducer, stock.Producer, "_settings_extra", "(self)"),
    (BatchProducer, stock.Producer, "_new_producer", "(self, transactional_id=None)"),
    (BatchApp, App, "_new_transport", "(self)"),
    (BatchApp, App, "_new_producer_transport", "(self)"),
    (BatchApp, App, "_create_directories", "(self)"),
    (Schedule, DefaultSchedulingStrategy, "iterate", "(self, records)"),
]


def plain(method: Any) -> str:
    """A signature without its types."""
    signature = inspect.signature(method)
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize(("ours", "theirs", "name", "signature"), OVERRIDDEN)
def test_an_overridden_method_exists_as_we_know_it(ours: Any, theirs: Any, name: str, signature: str) -> None:
    assert plain(getattr(theirs, name)) == signature
    assert plain(getattr(ours, name)) == signature
    assert inspect.iscoroutinefunction(getattr(ours, name)) == inspect.iscoroutinefunction(getattr(theirs, name))


def test_hooks_with_wrapped_signatures_are_still_there() -> None:
    assert inspect.unwrap(Consumer.on_partitions_revoked).__code__.co_varnames[:2] == ("self", "revoked")
    assert plain(Schema.compile).startswith("(self, app, *, on_key_decode_error")
    assert inspect.iscoroutinefunction(BatchSchema(key_type=bytes, value_type=bytes).compile(faust.App("x")))


def test_the_attributes_we_reach_into_exist() -> None:
    source = inspect.getsource(Consumer)
    for name in (
        "_acked_index",
        "_acked",
        "_gap",
        "_buffered_partitions",
        "_committed_offset",
        "scheduler",
        "callback",
    ):
        assert f"self.{name}" in source, name
    consumer = inspect.getsource(aiokafka.AIOKafkaConsumer.__init__)
    for name in ("_fetch_max_wait_ms", "_fetch_min_bytes", "_isolation_level", "_request_timeout_ms", "_client"):
        assert f"self.{name} =" in consumer, name
    state = inspect.getsource(TopicPartitionState)
    for name in ("_position", "lso", "highwater", "timestamp"):
        assert f"self.{name}" in state, name
    assert "assignment._tp_state" in inspect.getsource(BatchConsumerThread._poll)
    for method in (
        ThreadDelegateConsumer.seek_wait,
        ThreadDelegateConsumer.earliest_offsets,
        stock.Consumer.highwaters,
    ):
        assert inspect.iscoroutinefunction(method)


def test_options_are_read_where_we_rely_on_it() -> None:
    # fetch settings are set after the consumer is made: its fetcher must be made later, from these attributes
    assert "Fetcher(" not in inspect.getsource(aiokafka.AIOKafkaConsumer.__init__)
    start = inspect.getsource(aiokafka.AIOKafkaConsumer.start) + inspect.getsource(aiokafka.AIOKafkaConsumer)
    for name in ("_fetch_max_wait_ms", "_fetch_min_bytes", "_isolation_level"):
        assert f"=self.{name}" in start, name
    # a poll is not bounded by a number of records, which would count what is unpacked together as one
    assert faust.App("x").conf.broker_max_poll_records is None
    assert "max_records=_consumer._max_poll_records" in inspect.getsource(stock.AIOKafkaConsumerThread.getmany)
    # the seek hook may wait for Redis: Faust bounds it by this setting
    assert "timeout=self.app.conf.broker_request_timeout" in inspect.getsource(Recovery)


def test_the_app_keeps_our_parts_and_opens_no_port() -> None:
    async def nothing(_: set[TP]) -> dict[TP, int]:
        return {}

    app = BatchApp("group", Tuning(), nothing, broker="kafka://localhost:1", web_enabled=False, store="memory://")
    assert type(app.transport).Consumer is BatchConsumer
    assert type(app.producer) is BatchProducer
    assert app.producer._settings_extra() == {"acks": "all", "enable_idempotence": True}
    assert not app.conf.web_enabled


def test_requests_of_the_producer_end_soon_and_its_batches_outlive_our_patience() -> None:
    async def nothing(_: set[TP]) -> dict[TP, int]:
        return {}

    async def scenario() -> None:
        app = BatchApp("group", Tuning(), nothing, broker="kafka://localhost:1", web_enabled=False, store="memory://")
        # both are read with each request, so they may be set after the producer is made
        for owner in (AIOKafkaClient, Sender):
            assert "self._request_timeout_ms =" in inspect.getsource(owner.__init__)
        faust_producer: Any = app.producer
        producer = faust_producer._new_producer()
        assert producer.client._request_timeout_ms == producer._sender._request_timeout_ms == REQUEST_MS
        # without a leader a batch expires even if it is idempotent, and then nothing more can be sent
        assert producer._message_accumulator._batch_ttl > GIVE_UP_S + REQUEST_MS / 1000
        await producer.stop()

    asyncio.run(scenario())


def at(*offsets: int) -> Records:
    """Records with nothing but these offsets."""
    return records_of(Record(offset, 0, None, b"") for offset in offsets)


class Taker:
    """A consumer as `Schedule` sees it, in generation 7: what it was told, and the batches it makes."""

    tuning = Tuning(batch_records=2)

    class app:  # noqa: N801 - an attribute of the consumer
        consumer_generation_id = 7

    def __init__(self) -> None:
        self._next: dict[TP, int] = {}
        self.noted: list[object] = []

    def note_ends(self, records: object) -> None:
        self.noted.append(records)

    def agent_of(self, topic: str) -> object:
        return topic == "digests"

    def done(self, tp: TP, offset: int) -> None:
        """Acknowledged."""

    batches, is_current = BatchConsumer.batches, BatchConsumer.is_current


def fetched(generation: int | None, begins: dict[TP, int], **offsets: list[int]) -> Fetched:
    """A poll of topics with one partition each."""
    found = Fetched({TP(name, 0): [at(offset) for offset in its] for name, its in offsets.items()})
    found.generation, found.begins = generation, begins
    return found


def test_each_agent_gets_what_a_poll_brought_for_it_as_chained_batches_in_one_delivery() -> None:
    a, b, digests = TP("a", 0), TP("b", 0), TP("digests", 0)
    records = fetched(7, {a: 3, digests: 2, b: 5}, a=[3, 4, 9], digests=[2], b=[7])
    records.ends = {a: (10, 10, 120)}
    taker: Any = Taker()
    inputs, others = [delivery for _, delivery in Schedule(taker).iterate(records)]
    assert [
        (batch.tp, batch.first_offset, batch.next_offset, batch.prev_next, batch.polled_ms) for batch in inputs
    ] == [
        (a, 3, 5, 3, 120),
        (a, 9, 10, 5, 120),
        (b, 7, 8, 5, 0),
    ]
    assert ([batch.tp for batch in others], inputs.tp, others.tp) == ([digests], a, digests)
    assert {batch.generation for batch in (*inputs, *others)} == {7}
    assert taker.noted == [records]
    assert taker._next == {a: 10, b: 8, digests: 3}


def test_topics_of_one_channel_go_to_one_agent() -> None:
    app = BatchApp("x", Tuning(), lambda _: asyncio.sleep(0, {}))
    batch_channel(app, ["a", "b"])
    batch_channel(app, ["digests"])
    consumer: Any = app.consumer
    assert consumer.agent_of("a") == consumer.agent_of("b") != consumer.agent_of("digests")
    consumer._thread.thread_loop.close()


def test_what_faust_takes_for_old_is_delivered_and_only_batches_are_in_the_books() -> None:
    app = BatchApp("x", Tuning(), lambda _: asyncio.sleep(0, {}))
    consumer: Any = app.consumer
    a, b = TP("a", 0), TP("b", 3)
    batches = [RecordBatch(tp, at(last), 0, 7) for tp, last in ((a, 4), (b, 9))]
    for batch in batches:
        batch.done = consumer.done
    message = consumer._to_message(a, Delivery(batches))
    assert (message.tp, message.offset, message.generation_id) == (a, NEVER_OLD, 7)

    async def pass_on(_: object) -> None:
        return None

    consumer._pass_on = pass_on
    asyncio.run(consumer._deliver(message))
    asyncio.run(consumer._deliver(message))  # it comes again
    assert {tp: list(offsets) for tp, offsets in consumer._inflight.items()} == {a: [4], b: [9]}
    for batch in batches * 2:
        batch.ack()
    assert (consumer._new_offset(a), consumer._new_offset(b)) == (5, 10)
    consumer._committed_offset[a] = 10
    batches[0].ack()  # of a former assignment
    assert (consumer._acked[a], consumer._new_offset(a)) == ([], None)
    consumer._thread.thread_loop.close()


def test_a_seek_forgets_what_was_polled_ahead_of_what_may_have_been_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    a, polls = TP("a", 0), iter([[5, 6], [7], [5, 6]])

    async def scenario() -> None:
        async def poll(*_: object) -> dict[TP, list[Records]]:
            offsets = next(polls, [])
            return {a: [at(*offsets)]} if offsets else {}

        async def seek_wait(*_: object) -> None:
            """The client is sent."""

        monkeypatch.setattr(stock.AIOKafkaConsumerThread, "_fetch_records", poll)
        monkeypatch.setattr(stock.AIOKafkaConsumerThread, "_seek_wait", seek_wait)
        thread, client = its_thread(), Client()
        await thread._seek_wait(client, {a: 5})
        assert (await thread._fetch_records(client, {a}, 0.1)).begins == {a: 5}
        await asyncio.sleep(0.01)  # 7 has come
        await thread._rewind(client, {a: 5})  # the flow was stopped: nobody took 5 and 6
        assert (await thread._fetch_records(client, {a}, 0.1)).begins == {a: 5}
        thread._drop_ahead()

    asyncio.run(scenario())


def test_all_of_a_poll_is_delivered_whatever_is_held_back_since_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Faust drops what it takes for inactive, and records of a poll that waited ahead may be of a topic held then
    async def wait_next_records(_: object, timeout: float) -> Any:  # noqa: ASYNC109 -- Faust's signature
        return {"polled within": timeout}, {TP("a", 0)}

    monkeypatch.setattr(Consumer, "_wait_next_records", wait_next_records)
    app = BatchApp("x", Tuning(), lambda _: asyncio.sleep(0, {}))
    consumer: Any = app.consumer
    assert asyncio.run(consumer._wait_next_records(1.0)) == ({"polled within": 0.1}, None)
    consumer._thread.thread_loop.close()


def test_a_poll_waits_ahead_while_what_came_is_being_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    a, begun = TP("a", 0), []

    async def scenario() -> None:
        arriving: asyncio.Queue[dict[TP, list[Records]]] = asyncio.Queue()

        async def poll(_: object, __: object, active: object, ___: object, ____: object) -> dict[TP, list[Records]]:
            begun.append(active)
            return await arriving.get()

        async def stop(_: object) -> None:
            """No client to stop."""

        monkeypatch.setattr(stock.AIOKafkaConsumerThread, "_fetch_records", poll)
        monkeypatch.setattr(stock.AIOKafkaConsumerThread, "on_thread_stop", stop)
        thread, client = its_thread(), Client()
        for offset in range(2):
            arriving.put_nowait({a: [at(offset)]})
        first = await thread._fetch_records(client, {a}, 0.1)
        await asyncio.sleep(0)
        assert (first[a][0].offset, len(begun), arriving.qsize()) == (0, 2, 0)  # nobody has asked for the second yet
        second = await thread._fetch_records(client, {a}, 0.1)
        await asyncio.sleep(0)
        assert (second[a][0].offset, len(begun)) == (1, 3)
        arriving.put_nowait({})
        assert not await thread._fetch_records(client, {a}, 0.1)
        await asyncio.sleep(0)
        assert len(begun) == 3  # a calm topic: what is active is looked up with every poll
        arriving.put_nowait({a: [at(2)]})
        await thread._fetch_records(client, {a}, 0.1)
        ahead = thread._ahead
        assert ahead
        await thread.on_thread_stop()
        assert ahead.cancelled()
        await thread.on_thread_stop()  # nothing waits

    asyncio.run(scenario())


@pytest.mark.parametrize("generation", [None, 6])
def test_what_was_read_before_this_assignment_was_sought_is_left_out(generation: int | None) -> None:
    taker: Any = Taker()
    assert not list(Schedule(taker).iterate(fetched(generation, {TP("a", 0): 3}, a=[3, 4])))
    assert not taker.noted
    assert not taker._next


class Client:
    """aiokafka's consumer as far as its assignment goes."""

    class _subscription:  # noqa: N801 - aiokafka's name
        class subscription:  # noqa: N801 - aiokafka's name
            assignment: object = None

    class _fetcher:  # noqa: N801 - aiokafka's name
        _default_reset_strategy = OffsetResetStrategy.EARLIEST

    def assign(self) -> None:
        self._subscription.subscription.assignment = object()


def its_thread(*, embedded: bool = False) -> BatchConsumerThread:
    """A fetcher's thread that seeks for generation 7, not started."""
    thread = BatchConsumerThread.__new__(BatchConsumerThread)
    thread.consumer = type("Its", (), {"seeking": 7})()
    thread.app = type("Its", (), {"tuning": Tuning(embedded=embedded)})()
    return thread


@pytest.mark.parametrize(
    ("embedded", "then"), [(False, OffsetResetStrategy.NONE), (True, OffsetResetStrategy.EARLIEST)]
)
def test_from_the_very_seek_on_nothing_is_read_from_elsewhere_but_on_the_embedded_broker(
    embedded: bool, then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, found = Client(), []

    async def seek_wait(*_: object) -> None:
        found.append(client._fetcher._default_reset_strategy)

    monkeypatch.setattr(stock.AIOKafkaConsumerThread, "_seek_wait", seek_wait)
    monkeypatch.setattr(Client._fetcher, "_default_reset_strategy", OffsetResetStrategy.EARLIEST)
    asyncio.run(its_thread(embedded=embedded)._seek_wait(client, {TP("a", 0): 5}))
    assert found == [then]


def test_only_the_seek_of_a_take_over_forbids_to_read_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    async def seek_wait(*_: object) -> None:
        """The client is sent."""

    monkeypatch.setattr(stock.AIOKafkaConsumerThread, "_seek_wait", seek_wait)
    client, thread = Client(), its_thread()
    asyncio.run(thread._seek_wait(client, {TP("a", 0): 5}))
    client._fetcher._default_reset_strategy = OffsetResetStrategy.EARLIEST  # revoked meanwhile
    asyncio.run(thread._rewind(client, {TP("a", 0): 5}))
    assert client._fetcher._default_reset_strategy == OffsetResetStrategy.EARLIEST


def test_a_poll_that_is_cancelled_has_ended_for_who_watches_polls() -> None:
    async def scenario() -> None:
        state = SubscriptionState()
        with suppress(asyncio.CancelledError), state.fetch_context():
            assert state.fetcher_idle_time == 0
            raise asyncio.CancelledError
        assert state._fetch_count == 0
        assert state.fetcher_idle_time > 0

    asyncio.run(scenario())


def test_a_new_assignment_is_taken_over_though_its_generation_has_the_number_of_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def assigned(*_: object) -> None:
        """Faust's own part."""

    monkeypatch.setattr(Consumer, "on_partitions_assigned", assigned)
    consumer: Any = BatchApp("x", Tuning(), lambda _: asyncio.sleep(0, {})).consumer
    for generation, sought in (1, 1), (2, 2), (2, None):
        consumer._seek_generation = generation  # the drain loop was quicker, or the last take-over did it
        asyncio.run(consumer.on_partitions_assigned(set(), generation))
        assert consumer._seek_generation == sought
    consumer._thread.thread_loop.close()


def test_records_follow_the_seek_of_their_assignment_and_what_is_dropped_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sought: list[dict[TP, int]] = []

    async def seek_wait(_: object, __: object, partitions: dict[TP, int]) -> None:
        sought.append(partitions)

    monkeypatch.setattr(stock.AIOKafkaConsumerThread, "_seek_wait", seek_wait)
    a, client, thread = TP("a", 0), Client(), its_thread()

    def left(*offsets: int) -> Fetched:
        found = fetched(None, {}, a=list(offsets))
        thread._chain(client._subscription.subscription.assignment, found)
        return found

    client.assign()
    assert left(0, 1).generation is None  # nobody has said yet where to read
    asyncio.run(thread._seek_wait(client, {a: 5}))
    assert (left(7, 8).begins, left(9).begins, left().begins) == ({a: 5}, {a: 9}, {})
    assert left(12).generation == 7
    asyncio.run(thread._rewind(client, {a: 9}))
    assert left(9, 12).begins == {a: 9}
    client.assign()
    assert (left(0).generation, left(0).begins) == (None, {})
    asyncio.run(thread._rewind(client, {a: 9}))  # it will be sought anyway, from elsewhere
    assert sought == [{a: 5}, {a: 9}]


class Books:
    """Faust's books of one partition, enough for `BatchConsumer`'s own part of them."""

    _new_offset = BatchConsumer._new_offset
    note_ends = BatchConsumer.note_ends
    end = BatchConsumer.end

    def __init__(self, tp: TP, inflight: list[int], acked: list[int]) -> None:
        from collections import deque

        self._inflight = {tp: deque(inflight)}
        self._acked_index, self._acked = {tp: set(acked)}, {tp: list(acked)}
        self._ends: dict[TP, Any] = {}


@pytest.mark.parametrize(
    ("inflight", "acked", "commits", "left"),
    [
        ([9, 19, 29], [], None, [9, 19, 29]),
        ([9, 19, 29], [19], None, [9, 19, 29]),  # nothing passes a batch that is still in flight
        ([9, 19, 29], [9, 29], 10, [19, 29]),
        ([9, 19, 29], [29, 9, 19], 30, []),
        ([9], [9, 777], 10, []),  # 777: of a former generation
    ],
)
def test_offsets_are_committed_up_to_the_first_batch_in_flight(
    inflight: list[int], acked: list[int], commits: int | None, left: list[int]
) -> None:
    tp = TP("a", 0)
    books: Any = Books(tp, inflight, acked)
    assert books._new_offset(tp) == commits
    assert list(books._inflight[tp]) == left
    assert books._new_offset(tp) is None


def test_an_end_counts_with_what_has_left_the_fetcher() -> None:
    tp = TP("a", 0)
    books: Any = Books(tp, [], [])
    poll = Fetched({tp: [at(4)]})
    poll.ends = {tp: (5, 8, 100)}
    books.note_ends(poll)
    assert books.end(tp) == (5, 8, 100, 5)
    poll = Fetched({})
    poll.ends = {tp: (8, 8, 120)}  # records 5..7 are prefetched, none is taken
    books.note_ends(poll)
    assert books.end(tp) == (8, 8, 120, 5)
    assert books.end(TP("b", 0)) is None


def test_a_batch_knows_its_offsets() -> None:
    batch = RecordBatch(TP("a", 3), at(5, 8), 5)
    assert (batch.first_offset, batch.next_offset, len(batch), repr(batch)) == (5, 9, 2, "a[3] 5..8")
    batch.ack()  # without Faust's event there are no books to keep


def test_the_fetchers_thread_has_a_loop_of_uvloop_and_closes_it() -> None:
    async def scenario() -> None:
        app = BatchApp("x", Tuning(), lambda _: asyncio.sleep(0, {}))
        thread: Any = app.consumer._thread  # type: ignore[attr-defined]  # Faust's
        assert isinstance(thread, BatchConsumerThread)
        assert isinstance(thread.thread_loop, uvloop.Loop)
        assert thread._close_thread_loop_on_stop
        thread.thread_loop.close()

    assert "self._close_thread_loop_on_stop" in inspect.getsource(ServiceThread._start_thread)
    asyncio.run(scenario())


def test_the_signs_of_life_are_where_we_look_for_them() -> None:
    coordinator = inspect.getsource(aiokafka.consumer.group_coordinator)
    # done while the client has still to join its group again, a new one as soon as it has
    assert "self._rejoin_needed_fut.set_result(None)" in coordinator
    assert "_rejoin_needed_fut = create_future()" in coordinator
    assert "self._coordination_task = create_task(" in coordinator
    assert "self._fetch_task = create_task(" in inspect.getsource(aiokafka.consumer.fetcher)
    assert issubclass(stock.AIOKafkaConsumerThread, ServiceThread)
    assert issubclass(WorkerThread, threading.Thread)
    source = inspect.getsource(App)
    assert "self.rebalancing = True" in source
    assert "self.rebalancing_count += 1" in source
    assert "app.on_rebalance_start()" in inspect.getsource(stock)
