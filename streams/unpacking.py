"""Records out of a broker's answer as columns, no object for each of them.

aiokafka's fetcher decides as ever what of an answer is handed on: it checks sums, leaves out aborted transactions,
control batches and what lies below the offset asked for, and says where to fetch on. All it sees of a record batch is
the offset of its last record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.memory_records import MemoryRecords

from models.records import RECORD, Records, record_of, records_of
from models.wire import unpack
from streams.errors import Refused

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What each batch begins with in every format: its first offset, and the bytes that follow. The format stands after it.
_OVERHEAD, _MAGIC_AT, _FORMAT = Struct(">qi"), 16, 2
#: Format 2: first offset, bytes, leader epoch, magic, sum, attributes, last offset, first and newest timestamp,
#: producer, its epoch, its sequence, records. The shortest record has seven bytes.
_HEADER, _SHORTEST = Struct(">qiibIhiqqqhii"), 7
#: Attributes: how records are compressed, whether the time of the log counts (it is the newest), who has written them.
_COMPRESSED, _LOG_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20

_CODECS: dict[int, Callable[[bytes], bytes]] = {
    number: decode
    for number, (known, decode) in enumerate(
        (
            (codec.has_gzip, codec.gzip_decode),
            (codec.has_snappy, codec.snappy_decode),
            (codec.has_lz4, codec.lz4_decode),
            (codec.has_zstd, codec.zstd_decode),
        ),
        1,
    )
    if known()
}


#: What says that bytes are no records; the last is how aiokafka's reader of old formats fails.
_UNREADABLE = (CorruptRecordException, UnsupportedCodecError, SystemError)


class Batches:
    """The record batches of a partition's part of an answer; aiokafka's `MemoryRecords` hides where their bytes are."""

    def __init__(self, text: bytes) -> None:
        self._text, self._octets, self._at = text, np.frombuffer(text, np.uint8), 0
        self._theirs = MemoryRecords(text)
        self.has_next, self.size_in_bytes = self._theirs.has_next, self._theirs.size_in_bytes

    def next_batch(self) -> Columns | Old:
        begin, theirs, text = self._at, self._theirs.next_batch(), self._text
        self._at = begin + _OVERHEAD.size + _OVERHEAD.unpack_from(text, begin)[1]
        return (
            Columns(theirs, text, self._octets, (begin, self._at))
            if text[begin + _MAGIC_AT] >= _FORMAT
            else Old(theirs)
        )


class Whole(ABC):
    """A record batch as the fetcher sees one, its records as one record. `records`: all of them, once asked for."""

    __slots__ = ("_theirs", "records")

    def __init__(self, theirs: Any) -> None:
        """`theirs`: aiokafka's own of the same bytes."""
        self._theirs = theirs

    def __iter__(self) -> Iterator[Self]:
        self.records = self._unpacked()
        return iter((self,) if len(self.records) else ())

    @property
    def offset(self) -> int:
        """That of the last record."""
        return self.records.next_offset - 1

    @abstractmethod
    def _unpacked(self) -> Records: ...


class Columns(Whole):
    """One of today's format."""

    __slots__ = (
        "_octets", "_place", "_text", "_told", "base_offset", "is_control_batch", "is_transactional", "next_offset",
        "producer_id", "validate_crc",
    )  # fmt: skip

    def __init__(self, theirs: Any, text: bytes, octets: NDArray[np.uint8], place: tuple[int, int]) -> None:
        """`theirs`: aiokafka's own of the bytes at this place in the text."""
        super().__init__(theirs)
        self._text, self._octets, self._place = text, octets, place
        offset, _, _, _, _, attributes, last, first_ms, newest_ms, self.producer_id, _, _, many = _HEADER.unpack_from(
            text, place[0]
        )
        self._told = (
            attributes & _COMPRESSED,
            (offset, last, first_ms, newest_ms if attributes & _LOG_TIME else -1),
            many,
        )
        self.base_offset, self.next_offset = offset, offset + last + 1
        self.is_transactional, self.is_control_batch = attributes & _TRANSACTIONAL, attributes & _CONTROL
        self.validate_crc = theirs.validate_crc

    def __next__(self) -> Any:
        return next(self._theirs)  # of a control batch, its marker

    def _unpacked(self) -> Records:
        (compressed, base, many), text, octets, (begin, end) = self._told, self._text, self._octets, self._place
        begin += _HEADER.size
        if compressed:
            if (decode := _CODECS.get(compressed)) is None:
                return records_of(map(record_of, self._theirs))  # says what there is no library for
            text = _decoded(decode, text[begin:end])
            octets, begin, end = np.frombuffer(text, np.uint8), 0, len(text)
        if 0 <= many <= (end - begin) // _SHORTEST:
            rows = np.empty(many, RECORD)
            if unpack(octets, begin, end, base, rows) == many:
                return Records(text, rows)
        raise CorruptRecordException(f"the bytes of a batch, at offset {base[0]}, are not its {many} records")


class Old(Whole):
    """One of an older format, read by aiokafka."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)

    def _unpacked(self) -> Records:
        return records_of(map(record_of, self._theirs))


def _decoded(decode: Callable[[bytes], bytes], packed: bytes) -> bytes:
    """What was compressed; every library has errors of its own for what is not."""
    try:
        return decode(packed)
    except Exception as problem:
        raise CorruptRecordException(f"its compressed part cannot be read: {problem!r}") from problem


class PartitionColumns(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """What the fetcher takes of a partition's answer: `Records`, those of one batch after those of the other."""

    def _unpack_records(self) -> Iterator[Records]:
        try:
            yield from super()._unpack_records()
        except _UNREADABLE as problem:  # it ends the worker: records of other partitions may have left the fetcher
            raise Refused(
                f"{self._tp.topic}[{self._tp.partition}] cannot be read from offset {self.next_fetch_offset} on "
                f"({problem!r}): start again; if it stays, the log is damaged there: restore it from a replica, or "
                "copy the topic without those records and replay it into an empty Redis database"
            ) from problem

    def _consumer_record(self, tp: Any, record: Columns | Old) -> Records:  # noqa: ARG002 -- aiokafka's signature
        return record.records.from_offset(self.next_fetch_offset)  # a batch may begin before what was asked for
