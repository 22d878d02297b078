"""Fetches that ask for a topic by its id, so that no record of another topic of the same name is ever read.

aiokafka asks by name (Fetch 11 at most). A topic that is deleted, created again and refilled goes on under its name.
Where its offsets reach beyond the position nothing in an answer tells the two apart: leader epochs are 0 in both, the
end of the log is further on, and between the deletion and the next fetch there may be no error at all. Since Kafka 3.1
(Fetch 13) a request can name the id instead, and the broker itself refuses what is not there by that id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from io import BytesIO
from struct import Struct
from typing import Any, Self
from uuid import UUID

from aiokafka.errors import UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.api import RequestStruct
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.types import CompactString, Schema, TaggedFields, UnsignedVarInt32

#: Before the ids are known nothing is asked for; so long until the fetcher may try again.
NOT_YET_S = 0.05
#: After an answer as large as a fetch asks for, traffic is heavy: the next fetch asks for so many times as much and
#: waits so much longer. Fuller batches are worth more than the milliseconds they wait for: fewer of them cost less, and
#: what costs less is done sooner.
FULLER, LONGER = 16, 1.5
#: After an answer that a topic is not there; such answers come at once.
AGAIN_S = 0.1

_FETCH, _BY_ID = 1, 13
#: Kafka's errors for an id nobody knows, and for one that is not that of the partition at hand.
_NO_SUCH_ID = {100, 103}

_SEND_HEAD = Struct(">iiiibii")  # replica, longest wait, fewest bytes, most bytes, isolation, session, its epoch
_SEND_PARTITION = Struct(">iiqiqi")  # partition, leader epoch, offset, epoch of the last record, log start, most bytes
_HEAD = Struct(">ihi")  # throttled for, error, session
_PARTITION = Struct(">ihqqq")  # partition, error, high watermark, last stable offset, start of the log
_ABORTED = Struct(">qq")  # producer, first offset
_REPLICA = Struct(">i")
_ID_BYTES = 16
#: Where in a partition of an answer its records are.
_RECORDS = 7
_NO_TAGS = TaggedFields.encode({})

#: kafka-python's `None` as text: the id of a topic that has none (a cluster of a format before ids).
_NO_ID = "None"

Send = Callable[..., Awaitable[Any]]


class Aim:
    """Which topics are meant. `refused`: how many answers said that one of them is not there (any more) by its id."""

    def __init__(self) -> None:
        self.refused = 0
        self._ids: Mapping[str, bytes] = {}
        self._heavy: dict[Any, bool] = {}  # by broker: its last answer was as large as the fetch asked for

    def at(self, ids: Mapping[str, str]) -> None:
        """From now on read these topics, ids as text by name, and no others."""
        self._ids = {name: b"" if text == _NO_ID else UUID(text).bytes for name, text in ids.items()}

    def through(self, send: Send) -> Send:
        """`send` of aiokafka's client, its fetches by id."""

        async def aimed(node_id: Any, request: Any, **options: Any) -> Any:
            if not isinstance(request, FetchRequest):
                return await send(node_id, request, **options)
            ids = self._ids
            if any(name not in ids for name, _ in request.topics):  # the app has not said yet what it takes over
                await asyncio.sleep(NOT_YET_S)
                return Answer([])
            heavy = self._heavy.get(node_id, False)
            answer = await send(node_id, FetchById(request, ids, heavy=heavy), **options)
            if isinstance(answer, Answer):
                self._heavy[node_id] = answer.size >= request._min_bytes
                if answer.error:  # the fetcher logs it and takes its time
                    raise for_code(answer.error)
                names = {ids[name]: name for name, _ in request.topics}
                answer.topics = [(names[topic], partitions) for topic, partitions in answer.topics]
                if answer.has_refusal:
                    self.refused += 1
                    await asyncio.sleep(AGAIN_S)
            return answer

        return aimed


class FetchById(FetchRequest):  # type: ignore[misc]  # aiokafka has no types
    """A fetch of aiokafka's, by topic id where broker and topics can, else (brokers before 3.1) by name.

    `heavy`: for heavy traffic, see `FULLER`.
    """

    def __init__(self, asked: Any, ids: Mapping[str, bytes], *, heavy: bool = False) -> None:
        super().__init__(
            round(asked._max_wait_ms * LONGER) if heavy else asked._max_wait_ms,
            asked._min_bytes * FULLER if heavy else asked._min_bytes,
            asked._max_bytes,
            asked._isolation_level,
            asked.topics,
            rack_id=asked._rack_id,
        )
        self._ids = ids

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> Any:
        oldest, newest = versions.get(_FETCH, (0, 0))
        by_id = oldest <= _BY_ID <= newest and all(self._ids[name] for name, _ in self.topics)
        return FetchById13(self._packed()) if by_id else super().prepare(versions)

    def _packed(self) -> bytes:
        # Without a session (its epoch -1), and leader epochs unknown (-1), as aiokafka asks too.
        parts = [_SEND_HEAD.pack(-1, self._max_wait_ms, self._min_bytes, self._max_bytes, self._isolation_level, 0, -1)]
        parts.append(_count(len(self.topics)))
        for name, partitions in self.topics:
            parts += self._ids[name], _count(len(partitions))
            parts += [
                _SEND_PARTITION.pack(number, -1, offset, -1, -1, size) + _NO_TAGS for number, offset, size in partitions
            ]
            parts.append(_NO_TAGS)
        return b"".join((*parts, _count(0), CompactString().encode(self._rack_id), _NO_TAGS))


class Answer:
    """Fetch 13 as aiokafka's fetcher knows Fetch 11: it reads nothing else of it.

    `topics`: id, later name, of each with its partitions: number, error, high watermark, last stable offset, start of
    the log, aborted transactions (producer, first offset), preferred replica, records. `has_refusal`: one of them is
    not there by its id; its error is that of a topic not there by its name, for which the fetcher asks for metadata.
    `error`: Kafka's, of the whole request; 0 none.
    """

    API_VERSION = 11

    def __init__(
        self, topics: list[tuple[Any, list[tuple[Any, ...]]]], *, has_refusal: bool = False, error: int = 0
    ) -> None:
        self.topics, self.has_refusal, self.error = topics, has_refusal, error

    @property
    def size(self) -> int:
        """Bytes of all records."""
        return sum(len(partition[_RECORDS]) for _, partitions in self.topics for partition in partitions)

    @classmethod
    def decode(cls, data: BytesIO) -> Self:
        """Read by hand: field by field, as aiokafka reads, costs the fetcher's thread more than all else it does."""
        view, topics, errors = memoryview(data.getvalue()), [], set[int]()  # `getbuffer` would copy all of it
        _, error, _ = _HEAD.unpack_from(view, data.tell())
        topics_here, at = _counted(view, data.tell() + _HEAD.size)
        for _ in range(topics_here):
            topic = bytes(view[at : at + _ID_BYTES])
            partitions_here, at = _counted(view, at + _ID_BYTES)
            partitions = []
            for _ in range(partitions_here):
                partition, at = _partition(view, at)
                errors.add(partition[1])
                partitions.append(partition)
            at = _past_tags(view, at)
            topics.append((topic, partitions))
        if not errors & _NO_SUCH_ID:
            return cls(topics, error=error)
        named = [(topic, [_by_name(each) for each in its]) for topic, its in topics]
        return cls(named, has_refusal=True, error=error)


class FetchById13(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    """The request as it goes over the wire; its SCHEMA is for aiokafka's debug log."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = _FETCH, _BY_ID, True
    RESPONSE_TYPE, SCHEMA = Answer, Schema()

    def __init__(self, packed: bytes) -> None:
        super().__init__()
        self._packed = packed

    def encode(self) -> bytes:
        return self._packed


def _partition(view: memoryview, at: int) -> tuple[tuple[Any, ...], int]:
    """One partition of an answer, and where it ends."""
    number, error, high, stable, start = _PARTITION.unpack_from(view, at)
    aborted_here, at = _counted(view, at + _PARTITION.size)
    aborted = []
    for _ in range(aborted_here):
        aborted.append(_ABORTED.unpack_from(view, at))
        at = _past_tags(view, at + _ABORTED.size)
    (replica,) = _REPLICA.unpack_from(view, at)
    size, at = _counted(view, at + _REPLICA.size)
    records = bytes(view[at : at + size])
    return (number, error, high, stable, start, aborted, replica, records), _past_tags(view, at + size)


def _by_name(partition: tuple[Any, ...]) -> tuple[Any, ...]:
    number, error, *rest = partition
    return (number, UnknownTopicOrPartitionError.errno if error in _NO_SUCH_ID else error, *rest)


def _count(items: int) -> bytes:
    """How many items a compact array has."""
    return bytes(UnsignedVarInt32.encode(items + 1))


def _counted(view: memoryview, at: int) -> tuple[int, int]:
    """Items of a compact array or bytes of a compact value, none where it is null; and where they begin."""
    number, at = _varint(view, at)
    return max(0, number - 1), at


def _past_tags(view: memoryview, at: int) -> int:
    """Where optional fields end: none of them matters here."""
    tags, at = _varint(view, at)
    for _ in range(tags):
        _, at = _varint(view, at)
        size, at = _varint(view, at)
        at += size
    return at


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number written with seven bits to the byte, the lowest first; and where it ends."""
    number, shift = 0, 0
    while (byte := view[at]) & 0x80:
        number |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return number | byte << shift, at + 1
