"""What a broker answers to a fetch, byte by byte: record batches of every kind, from aiokafka's own builders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack_into
from typing import Self

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import strategies as st

from models.records import Record

#: Where in a batch of format 2 its sum is, and what it is the sum of begins.
SUM_AT, SUMMED_AT = 17, 21
#: Bits of its attributes.
LOG_TIME, TRANSACTIONAL, CONTROL = 0x08, 0x10, 0x20
#: Of compressed batches: gzip, snappy, lz4, zstd.
CODECS = (1, 2, 3, 4)
ABORT, COMMIT = b"\0\0\0\0", b"\0\0\0\1"

short = st.none() | st.binary(max_size=9) | st.integers(100, 300).map(bytes)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=5)), max_size=3).map(tuple)


class Bytes(str):
    """A header's name as these bytes, UTF-8 or not, past a client that knows only text."""

    __slots__ = ("octets",)
    octets: bytes

    def __new__(cls, octets: bytes) -> Self:
        found = super().__new__(cls, "name")
        found.octets = octets
        return found

    def encode(self, *_: object) -> bytes:
        return self.octets


@dataclass(frozen=True)
class Written:
    """A record batch. `records`: with offsets from 0; `holes`: offsets its last records had before a compaction."""

    records: Sequence[Record]
    magic: int = 2
    compression: int = 0
    attributes: int = 0
    producer: int = -1
    holes: int = 0
    newest_ms: int | None = None

    def packed(self, offset: int) -> tuple[bytes, int]:
        """Its bytes with this as its first offset, and the next offset."""
        many = self.records[-1].offset + 1 if self.records else 0
        if self.magic < 2:
            return self._old(offset), offset + many
        builder = DefaultRecordBatchBuilder(2, self.compression, 0, self.producer, 0, 0, 1 << 20)
        for place, timestamp, key, value, sent in self.records:
            builder.append(place, timestamp, key, value, list(sent))
        packed = bytearray(builder.build())
        last = max(many + self.holes - 1, 0)
        attributes = self.compression | self.attributes
        pack_into(">q", packed, 0, offset)
        pack_into(">hi", packed, SUMMED_AT, attributes, last)
        if self.newest_ms is not None:
            pack_into(">q", packed, 35, self.newest_ms)
        return summed(packed), offset + last + 1

    def _old(self, offset: int) -> bytes:
        builder = LegacyRecordBatchBuilder(self.magic, self.compression, 1 << 20)
        for place, timestamp, key, value, _ in self.records:
            builder.append(offset + place if not self.compression else place, timestamp, key, value)
        packed = bytearray(builder.build())
        if self.compression and self.records:  # the wrapper has the offset of the last record
            pack_into(">q", packed, 0, offset + self.records[-1].offset)
        return bytes(packed)


def summed(packed: bytearray) -> bytes:
    """The batch with the sum that its bytes have."""
    pack_into(">I", packed, SUM_AT, calc_crc32c(bytes(packed[SUMMED_AT:])))
    return bytes(packed)


def marker(producer: int, kind: bytes) -> Written:
    """The end of a transaction."""
    return Written([Record(0, 5, kind, b"\0\0\0\0\0\0")], attributes=CONTROL | TRANSACTIONAL, producer=producer)


@st.composite
def some_records(draw: st.DrawFn, *, sent: st.SearchStrategy[tuple[tuple[str, bytes], ...]] = headers) -> list[Record]:  # type: ignore[assignment]  # Kafka knows headers without value
    """Records with offsets from 0 and holes between them, as a compaction leaves them; the first may be gone too."""
    offset, out = draw(st.integers(0, 2)), []
    for _ in range(draw(st.integers(1, 5))):
        at_ms = draw(st.integers(0, 1 << 45))
        out.append(Record(offset, at_ms, draw(short), draw(short), draw(sent)))
        offset += draw(st.integers(1, 3))
    return out


batches = st.one_of(
    st.builds(
        Written,
        some_records(),
        compression=st.sampled_from((0, *CODECS)),
        attributes=st.sampled_from((0, LOG_TIME, TRANSACTIONAL, TRANSACTIONAL)),
        producer=st.sampled_from((-1, 7, 8)),
        holes=st.integers(0, 2),
        newest_ms=st.none() | st.just(1 << 44),
    ),
    st.builds(Written, st.just([]), holes=st.integers(1, 3), producer=st.sampled_from((-1, 7))),
    *(
        st.builds(
            Written, some_records(sent=st.just(())), magic=st.just(magic), compression=st.sampled_from((0, *codecs))
        )
        for magic, codecs in ((0, CODECS[:2]), (1, CODECS[:3]))  # what each format has
    ),
    st.builds(marker, st.sampled_from((7, 8)), st.sampled_from((ABORT, COMMIT))),
)


def answer(parts: Sequence[Written], offset: int = 0) -> tuple[bytes, list[int]]:
    """Batches one after the other from this offset on; where each of them begins, in offsets, and where they end."""
    out, begins = [], [offset]
    for part in parts:
        packed, offset = part.packed(offset)
        out.append(packed)
        begins.append(offset)
    return b"".join(out), begins
