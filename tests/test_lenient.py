"""A command reads of a batch what a worker reads of it, whatever the names of its headers are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from models.records import record_of
from streams.topics import describe  # noqa: F401 -- who imports it reads leniently from then on
from streams.unpacking import Batches, PartitionColumns
from tests.answers import CODECS, Bytes, short

names = st.binary(max_size=5).map(Bytes)
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=5)), max_size=3)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 45), short, short, headers), min_size=1, max_size=6),
    st.sampled_from((0, *CODECS)),
)
def test_a_command_reads_what_a_worker_reads(
    records: list[tuple[int, bytes | None, bytes | None, list[tuple[Bytes, bytes]]]], codec: int
) -> None:
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 20)
    for offset, (at_ms, key, value, sent) in enumerate(records):
        builder.append(offset, at_ms, key, value, sent)
    text = bytes(builder.build())
    by_command = [record_of(each) for batch in MemoryRecords(text) for each in batch]
    by_worker = [each for part in PartitionColumns(None, Batches(text), [], 0, None, None, True, 0) for each in part]
    assert by_command == by_worker
    assert [[name for name, _ in each.headers] for each in by_command] == [
        [name.octets.decode(errors="replace") for name, _ in sent] for *_, sent in records
    ]
