"""What of Faust and aiokafka is overridden or reached into: it must be there, with the signature we know."""

from __future__ import annotations

import inspect
from typing import Any

import aiokafka
import faust
import pytest
from aiokafka.consumer.subscription_state import TopicPartitionState
from faust.app.base import App
from faust.serializers.schemas import Schema
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer, ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as stock
from faust.transport.utils import DefaultSchedulingStrategy

from models.state import Record
from streams.transport import (
    TP,
    BatchApp,
    BatchConsumer,
    BatchConsumerThread,
    BatchProducer,
    BatchSchema,
    Fetched,
    RecordBatch,
    Schedule,
    Tuning,
)

OVERRIDDEN = [
    (BatchConsumer, Consumer, "on_buffer_drop", "(self, tp)"),
    (BatchConsumer, stock.Consumer, "_new_consumer_thread", "(self)"),
    (BatchConsumer, stock.Consumer, "_to_message", "(self, tp, record)"),
    (BatchConsumer, Consumer, "_wait_next_records", "(self, timeout)"),
    (BatchConsumer, Consumer, "_add_gap", "(self, tp, offset_from, offset_to)"),
    (BatchConsumer, Consumer, "_new_offset", "(self, tp)"),
    (BatchConsumer, Consumer, "perform_seek", "(self)"),
    (BatchConsumerThread, stock.AIOKafkaConsumerThread, "_create_worker_consumer", "(self, transport)"),
    (
        BatchConsumerThread,
        stock.AIOKafkaConsumerThread,
        "_fetch_records",
        "(self, consumer, active_partitions, timeout=None, max_records=None)",
    ),
    (BatchProducer, stock.Producer, "_settings_extra", "(self)"),
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
    assert "assignment._tp_state" in inspect.getsource(BatchConsumerThread._fetch_records)
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


class Taker:
    """A consumer as `Schedule` sees it: what it was told, and batches chained as they leave the fetcher."""

    tuning = Tuning(batch_records=2)

    def __init__(self) -> None:
        self._next: dict[TP, int] = {}
        self.noted: list[object] = []

    def note_ends(self, records: object) -> None:
        self.noted.append(records)

    chain = BatchConsumer.chain


def test_a_poll_becomes_chained_batches_turn_by_turn() -> None:
    a, b = TP("a", 0), TP("b", 0)
    records = {tp: [Record(offset, 0, None, b"") for offset in offsets] for tp, offsets in ((a, [3, 4, 9]), (b, [7]))}
    taker: Any = Taker()
    batches = list(Schedule(taker).iterate(records))
    assert [(tp, batch.first_offset, batch.next_offset, batch.prev_next) for tp, batch in batches] == [
        (a, 3, 5, None),
        (b, 7, 8, None),
        (a, 9, 10, 5),
    ]
    assert taker.noted == [records]


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
    fetched = Fetched({tp: [Record(4, 0, None, b"")]})
    fetched.ends = {tp: (5, 8, 100)}
    books.note_ends(fetched)
    assert books.end(tp) == (5, 8, 100, 5)
    fetched = Fetched()
    fetched.ends = {tp: (8, 8, 120)}  # records 5..7 are prefetched, none is taken
    books.note_ends(fetched)
    assert books.end(tp) == (8, 8, 120, 5)
    assert books.end(TP("b", 0)) is None


def test_a_batch_knows_its_offsets() -> None:
    batch = RecordBatch(TP("a", 3), [Record(5, 0, None, b""), Record(8, 0, None, b"")])
    assert (batch.first_offset, batch.next_offset, len(batch), repr(batch)) == (5, 9, 2, "a[3] 5..8")
    batch.ack()  # without Faust's event there are no books to keep
