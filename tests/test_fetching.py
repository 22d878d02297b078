"""A topic is asked for by its id. kafka-python, which has code of its own, reads what we write, writes what we read."""

from __future__ import annotations

import asyncio
import inspect
import re
import struct
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4

import aiokafka
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer import fetcher
from aiokafka.errors import NotLeaderForPartitionError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.consumer.fetch import FetchRequest as TheirRequest
from kafka.protocol.consumer.fetch import FetchResponse as TheirResponse

from streams import fetching
from streams.fetching import Aim, Answer, FetchById

A, B = uuid4(), uuid4()
IDS = {"a": str(A), "b": str(B)}
SPEAKS_13, SPEAKS_12 = {1: (4, 18)}, {1: (4, 12)}
TopicAnswer = TheirResponse.FetchableTopicResponse
PartitionAnswer = TopicAnswer.PartitionData
Aborted = PartitionAnswer.AbortedTransaction

int32, int64 = st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1)
asked_partitions = st.lists(st.tuples(int32, int64, int32), min_size=1, max_size=150)
#: partition, error, high watermark, last stable offset, start of the log, aborted, preferred replica, records
answered = st.tuples(
    int32,
    st.sampled_from([0, 1, 3, 6]),
    int64,
    int64,
    int64,
    st.lists(st.tuples(int64, int64), max_size=3),
    st.just(-1),
    st.binary(max_size=300),
)


def asked(topics: list[tuple[str, list[tuple[int, int, int]]]], **more: Any) -> Any:
    return FetchRequest(20, 65536, 1 << 25, 1, topics, **more)


def written(topics: list[tuple[UUID, list[tuple[Any, ...]]]], *, null: bool = False) -> BytesIO:
    """An answer as a broker would send it. `null`: empty arrays and values as null, which is allowed too."""

    def partition(number: int, error: int, *rest: Any) -> Any:
        high, stable, start, aborted, replica, records = rest
        return PartitionAnswer(
            version=13,
            partition_index=number,
            error_code=error,
            high_watermark=high,
            last_stable_offset=stable,
            log_start_offset=start,
            aborted_transactions=[Aborted(version=13, producer_id=p, first_offset=o) for p, o in aborted]
            or (None if null else []),
            preferred_read_replica=replica,
            records=records or (None if null else b""),
        )

    answers = [TopicAnswer(version=13, topic_id=each, partitions=[partition(*p) for p in its]) for each, its in topics]
    answer = TheirResponse(version=13, throttle_time_ms=3, error_code=0, session_id=0, responses=answers)
    return BytesIO(bytes(answer.encode(version=13)))


@given(st.dictionaries(st.sampled_from(["a", "b"]), asked_partitions, min_size=1), st.sampled_from(["", "rack-1"]))
def test_a_request_says_by_id_what_was_asked_by_name(by_topic: Any, rack: str) -> None:
    request = FetchById(asked(list(by_topic.items()), rack_id=rack), {"a": A.bytes, "b": B.bytes}).prepare(SPEAKS_13)
    assert (request.API_KEY, request.API_VERSION) == (1, 13)
    read = TheirRequest[13].decode(request.encode())
    assert (read.max_wait_ms, read.min_bytes, read.max_bytes, read.isolation_level) == (20, 65536, 1 << 25, 1)
    assert (read.replica_id, read.session_id, read.session_epoch, read.rack_id) == (-1, 0, -1, rack)
    assert read.forgotten_topics_data == []
    names = {A: "a", B: "b"}
    assert {
        names[topic.topic_id]: [(p.partition, p.fetch_offset, p.partition_max_bytes) for p in topic.partitions]
        for topic in read.topics
    } == by_topic
    unknown = {
        (p.current_leader_epoch, p.last_fetched_epoch, p.log_start_offset) for t in read.topics for p in t.partitions
    }
    assert unknown == {(-1, -1, -1)}


@given(st.lists(st.tuples(st.uuids(), st.lists(answered, max_size=20)), max_size=3), st.booleans())
def test_an_answer_is_read_as_it_was_written(topics: list[tuple[UUID, list[tuple[Any, ...]]]], null: bool) -> None:
    answer = Answer.decode(written(topics, null=null))
    assert answer.topics == [(topic.bytes, its) for topic, its in topics]
    assert not answer.has_refusal


@pytest.mark.parametrize("code", [100, 103])
def test_an_id_that_is_not_there_is_a_refusal_and_to_the_fetcher_a_name_that_is_not_there(code: int) -> None:
    here: tuple[Any, ...] = (0, 0, 9, 9, 0, [], -1, b"x")
    gone: tuple[Any, ...] = (1, code, -1, -1, -1, [], -1, b"")
    answer = Answer.decode(written([(A, [here, gone])]))
    assert answer.has_refusal
    assert answer.topics == [(A.bytes, [here, (1, UnknownTopicOrPartitionError.errno, *gone[2:])])]


def test_optional_fields_are_passed_over() -> None:
    plain = written([(A, [(0, 0, 9, 9, 0, [], -1, b"x")])]).getvalue()
    assert plain.endswith(b"\x02x\x00\x00\x00")  # the record, and no optional field of partition, topic and answer
    tagged = plain[:-3] + bytes([2, 0, 3, 7, 7, 7, 1, 0]) + plain[-2:]
    assert Answer.decode(BytesIO(tagged)).topics == Answer.decode(BytesIO(plain)).topics


def test_a_broker_that_knows_no_ids_is_asked_by_name() -> None:
    request = FetchById(asked([("a", [(0, 5, 9)])]), {"a": A.bytes}).prepare(SPEAKS_12)
    assert request.API_VERSION == 11
    assert request.topics == [("a", [(0, -1, 5, -1, 9)])]


def test_topics_without_an_id_are_asked_for_by_name() -> None:
    aim = Aim()
    aim.at({"a": str(None), "b": str(A)})  # as kafka-python tells of a cluster whose format has none
    for named, version in ([("a", [(0, 5, 9)])], 11), ([("b", [(0, 5, 9)])], 13):
        assert version == FetchById(asked(named), aim._ids).prepare(SPEAKS_13).API_VERSION


def test_an_error_of_the_whole_request_is_raised() -> None:
    broken = bytearray(written([]).getvalue())
    broken[4:6] = struct.pack(">h", NotLeaderForPartitionError.errno)

    async def send(_: int, __: Any) -> Answer:
        return Answer.decode(BytesIO(bytes(broken)))

    async def scenario() -> None:
        aim = Aim()
        aim.at(IDS)
        await aim.through(send)(1, asked([("a", [(0, 5, 9)])]))

    with pytest.raises(NotLeaderForPartitionError):
        asyncio.run(scenario())


class Broker:
    """What aiokafka's client sends to: answers each fetch with one record of the topic that has this id."""

    def __init__(self, topic: UUID) -> None:
        self.topic, self.sent = topic, list[Any]()

    async def send(self, node_id: int, request: Any, *, group: str = "default") -> Any:
        self.sent.append(request)
        if not isinstance(request, FetchRequest):
            return node_id, group
        (wanted,) = TheirRequest[13].decode(request.prepare(SPEAKS_13).encode()).topics
        here = wanted.topic_id == self.topic
        found: tuple[Any, ...] = (0, 0, 9, 9, 0, [], -1, b"x") if here else (0, 100, -1, -1, -1, [], -1, b"")
        return Answer.decode(written([(wanted.topic_id, [found])]))


def test_nothing_is_read_before_the_ids_are_known_and_nothing_of_another_topic_of_that_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetching, "NOT_YET_S", 0.0)
    monkeypatch.setattr(fetching, "AGAIN_S", 0.0)

    async def scenario() -> None:
        broker, aim = Broker(A), Aim()
        send, fetch = aim.through(broker.send), asked([("a", [(0, 5, 9)])])
        assert (await send(1, fetch)).topics == []
        assert broker.sent == []
        aim.at(IDS)
        assert (await send(1, fetch)).topics == [("a", [(0, 0, 9, 9, 0, [], -1, b"x")])]
        assert aim.refused == 0
        broker.topic = B  # deleted and created again: another topic under this name
        ((name, ((_, error, *_),)),) = (await send(1, fetch)).topics
        assert (name, for_code(error), aim.refused) == ("a", UnknownTopicOrPartitionError, 1)
        assert await send(7, MetadataRequest([]), group="coordination") == (7, "coordination")

    asyncio.run(scenario())


def test_in_heavy_traffic_a_broker_is_asked_less_often_for_more() -> None:
    """After an answer of as much as was asked for; of each broker by itself, and no longer than it lasts."""
    sizes = {1: [10, 65535, 65536, 70_000, 65535, 10], 2: [10] * 6}
    waits = {1: [20, 20, 20, 30, 30, 20], 2: [20] * 6}
    fewest = {1: [65536, 65536, 65536, 1 << 20, 1 << 20, 65536], 2: [65536] * 6}

    async def send(node_id: int, request: Any) -> Answer:
        sent = TheirRequest[13].decode(request.prepare(SPEAKS_13).encode())
        assert (sent.max_wait_ms, sent.min_bytes) == (waits[node_id].pop(0), fewest[node_id].pop(0))
        size = sizes[node_id].pop(0)
        parts = size // 2, size - size // 2
        halves: list[tuple[Any, ...]] = [(0, 0, 9, 9, 0, [], -1, b"x" * part) for part in parts]
        return Answer.decode(written([(A, halves)]))

    async def scenario() -> None:
        aim = Aim()
        aim.at(IDS)
        for node_id in (1, 2) * 6:
            await aim.through(send)(node_id, asked([("a", [(0, 5, 9)])]))

    asyncio.run(scenario())
    assert not any(sizes.values())


def test_what_we_reach_into_is_there() -> None:
    source = inspect.getsource(FetchRequest)
    for name in ("_max_wait_ms", "_min_bytes", "_max_bytes", "_isolation_level", "_topics", "_rack_id"):
        assert f"self.{name} =" in source, name
    # all that aiokafka's fetcher does with an answer, and how the connection reads one
    proceed = inspect.getsource(fetcher.Fetcher._proc_fetch_request)
    assert "await self._client.send(node_id, request)" in proceed
    assert "for topic, partitions in response.topics:" in proceed
    assert "for partition, error_code, highwater, *part_data in partitions:" in proceed
    assert {line.strip() for line in proceed.splitlines() if "part_data[" in line and "=" in line} >= {
        "lso = part_data[0]",
        "aborted_transactions = part_data[2]",
    }
    assert "MemoryRecords(part_data[-1])" in proceed
    assert set(re.findall(r"response\.(\w+)", proceed)) == {"API_VERSION", "topics"}
    assert "request.prepare(self._versions)" in inspect.getsource(AIOKafkaConnection.send)
    assert "resp_type.decode(resp)" in inspect.getsource(AIOKafkaConnection._handle_frame)
    assert inspect.iscoroutinefunction(AIOKafkaClient.send)
    assert "self._client = " in inspect.getsource(aiokafka.AIOKafkaConsumer.__init__)
