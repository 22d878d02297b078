"""What leaves the fetcher as columns is what aiokafka's own reader would have given out record by record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from models.records import Record, together
from streams.errors import Refused
from streams.transport import TP
from streams.unpacking import Batches, PartitionColumns
from tests.answers import (
    ABORT,
    CODECS,
    LOG_TIME,
    SUMMED_AT,
    TRANSACTIONAL,
    Written,
    answer,
    batches,
    marker,
    some_records,
    summed,
)

THEIRS = PartitionColumns.__mro__[1]
COMMITTED = 1
#: Records that were given out, where to fetch on, and whether the rest could not be read.
Outcome = tuple[list[Record], int, bool]


def ours(text: bytes, aborted: Sequence[tuple[int, int]], asked: int, isolation: int = COMMITTED) -> Outcome:
    columns = PartitionColumns(TP("a", 0), Batches(text), list(aborted), asked, None, None, True, isolation)
    return given_out(columns)


def theirs(text: bytes, aborted: Sequence[tuple[int, int]], asked: int, isolation: int = COMMITTED) -> Outcome:
    return given_out(THEIRS(TP("a", 0), MemoryRecords(text), list(aborted), asked, None, None, True, isolation))


def given_out(partition: Any) -> Outcome:
    """Everything there is, record by record."""
    out: list[Record] = []
    # The last of theirs: its reader of old formats.
    with suppress(Refused, CorruptRecordException, UnsupportedCodecError, SystemError):
        for found in partition:
            if isinstance(partition, PartitionColumns):
                assert len(found)
                out += found
                assert partition.next_fetch_offset == found.next_offset
            else:
                at_ms = -1 if found.timestamp is None else found.timestamp
                out.append(Record(found.offset, at_ms, found.key, found.value, found.headers))
        return out, partition.next_fetch_offset, False
    return out, partition.next_fetch_offset, True


def test_the_fetcher_reads_answers_with_our_classes() -> None:
    assert (fetcher.MemoryRecords, fetcher.PartitionRecords) == (Batches, PartitionColumns)
    assert THEIRS.__module__ == fetcher.__name__


@given(
    st.lists(batches, max_size=6), st.integers(0, 3), st.integers(0, 12),
    st.sets(st.integers(0, 5), max_size=3), st.sampled_from((0, COMMITTED)),
)  # fmt: skip
def test_any_answer_gives_what_aiokafka_would_have_given_out(
    parts: list[Written], first: int, asked: int, ended: set[int], isolation: int
) -> None:
    text, begins = answer(parts, first)
    aborted = [
        (part.producer, begin) for place, (part, begin) in enumerate(zip(parts, begins, strict=False)) if place in ended
    ]
    assert ours(text, aborted, asked, isolation) == theirs(text, aborted, asked, isolation)
    cut = text[: len(text) * 2 // 3]  # the broker cuts an answer where it is full
    assert ours(cut, aborted, asked, isolation) == theirs(cut, aborted, asked, isolation)


@given(st.lists(batches, min_size=1, max_size=3), st.data())
def test_a_byte_that_is_another_on_the_way_is_seen_or_does_not_matter(
    parts: list[Written], data: st.DataObject
) -> None:
    text, _ = answer(parts)
    at = data.draw(st.integers(0, len(text) - 1))
    garbled = text[:at] + bytes([text[at] ^ data.draw(st.integers(1, 255))]) + text[at + 1 :]
    found, expected = [], []
    with suppress(Exception):
        expected.append(theirs(garbled, (), 0))
    with suppress(Exception):
        found.append(ours(garbled, (), 0))
    assert [each[0] for each in found] == [each[0] for each in expected]


@given(st.builds(Written, some_records()), st.data())
def test_a_batch_that_was_garbled_before_its_sum_was_taken_is_read_as_aiokafka_reads_it(
    part: Written, data: st.DataObject
) -> None:
    text, _ = answer([part])
    at = data.draw(st.integers(61, len(text) - 1))
    garbled = summed(bytearray(text[:at] + bytes([data.draw(st.integers(0, 127))]) + text[at + 1 :]))
    with suppress(UnicodeDecodeError, CorruptRecordException):
        found, offsets = ours(garbled, (), 0), [each.offset for each in MemoryRecords(garbled).next_batch()]
        in_order = all(one < other for one, other in pairwise([-1, *offsets, part.records[-1].offset + 1]))
        assert found == (theirs(garbled, (), 0) if in_order else ([], 0, True))
        return
    with suppress(UnicodeDecodeError):
        assert theirs(garbled, (), 0)[2]
        assert ours(garbled, (), 0) == ([], 0, True)


def one(**more: Any) -> Written:
    return Written([Record(0, 7, b"w1", b"{}", (("trace", b"1"),)), Record(2, 9, None, None)], **more)


def test_a_header_whose_name_is_no_utf_8_stops_nobody() -> None:
    text, _ = answer([one()])
    records, next_offset, is_bad = ours(summed(bytearray(text.replace(b"trace", b"tr\xffce"))), (), 0)
    assert (records[0].headers, next_offset, is_bad) == ((("tr\ufffdce", b"1"),), 3, False)


def test_records_of_an_aborted_transaction_are_left_out_and_those_after_its_marker_are_not() -> None:
    lost = one(attributes=TRANSACTIONAL, producer=7)
    text, begins = answer([one(), lost, marker(7, ABORT), lost])
    found, next_offset, _ = ours(text, [(7, begins[1])], 0)
    assert [record.offset for record in found] == [0, 2, begins[3], begins[3] + 2]
    assert next_offset == begins[4]


def test_a_fetch_may_begin_in_the_middle_of_a_batch() -> None:
    text, _ = answer([one(), one()])
    assert [record.offset for record in ours(text, (), 1)[0]] == [2, 3, 5]
    assert ours(answer([one()])[0], (), 3) == ([], 3, False)


def test_the_time_of_the_log_counts_for_all_records_of_a_batch() -> None:
    text, _ = answer([one(attributes=LOG_TIME, newest_ms=99)])
    assert [record.timestamp for record in ours(text, (), 0)[0]] == [99, 99]


def test_a_sum_that_does_not_fit_ends_it() -> None:
    text, begins = answer([one(), one()])
    garbled = text[:-1] + bytes([text[-1] ^ 1])
    assert ours(garbled, (), 0) == ([*ours(text, (), 0)[0][:2]], begins[1], True)


def refusal(text: bytes) -> str:
    """What is said of an answer that cannot be read."""
    columns = PartitionColumns(TP("in", 3), Batches(text), [], 0, None, None, True, COMMITTED)
    with pytest.raises(Refused) as refused:
        list(columns)
    return str(refused.value)


@pytest.mark.parametrize("compression", [0, *CODECS])
def test_what_cannot_be_read_is_refused_with_its_place(compression: int) -> None:
    first, second = (part.packed(offset)[0] for part, offset in ((one(), 0), (one(compression=compression), 3)))
    damaged = summed(bytearray(second[:-9] + b"\xff" * 9))
    assert refusal(first + damaged).startswith("in[3] cannot be read from offset 3 on (CorruptRecord")


def test_an_offset_beyond_the_last_of_its_batch_is_refused() -> None:
    text = bytearray(answer([one()])[0])
    text[23:27] = (1).to_bytes(4, "big")  # the last record says 2
    assert ours(summed(text), (), 0) == ([], 0, True)


@pytest.mark.parametrize("many", [-1, 1, 3, 1 << 30])
def test_a_batch_of_more_or_fewer_records_than_it_says_is_refused(many: int) -> None:
    text = bytearray(answer([one()])[0])
    text[57:61] = many.to_bytes(4, "big", signed=True)
    assert ours(summed(text), (), 0) == ([], 0, True)


@pytest.mark.parametrize("compression", CODECS)
def test_a_batch_of_each_codec_is_unpacked(compression: int) -> None:
    text, _ = answer([one(compression=compression), one()])
    assert ours(text, (), 0) == theirs(text, (), 0) == (ours(answer([one(), one()])[0], (), 0))


@pytest.mark.parametrize("compression", [5, 7])
def test_a_codec_that_nobody_knows_is_said_by_aiokafka(compression: int) -> None:
    text = bytearray(answer([one()])[0])
    text[SUMMED_AT + 1] = compression
    assert ours(summed(text), (), 0) == theirs(summed(text), (), 0) == ([], 0, True)


def test_records_of_a_format_without_timestamps_have_minus_one() -> None:
    found, _, _ = ours(answer([Written([Record(0, 5, b"w1", b"{}")], magic=0)], 7)[0], (), 0)
    assert found == [Record(7, -1, b"w1", b"{}")]


def test_uncompressed_batches_of_an_answer_share_its_bytes() -> None:
    text, _ = answer([one(), one()])
    parts = list(PartitionColumns(None, Batches(text), [], 0, None, None, True, COMMITTED))
    assert together(parts).text is text
    assert len(parts) == 2
