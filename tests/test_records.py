"""Records as columns are the same records."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.records import (
    NO_RECORDS,
    RECORD,
    Record,
    Records,
    distinct_keys,
    extent,
    records_of,
    together,
)
from models.wire import headers_of, packed_headers, unpack
from tests.answers import Written, headers, short, some_records

HEADER = 61
anything = st.builds(Record, st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-1, 1 << 60), short, short, headers)
logs = st.lists(anything, max_size=8)
written = st.builds(Written, some_records())


@given(logs)
def test_records_come_out_as_they_went_in(log: list[Record]) -> None:
    columns = records_of(log)
    assert list(columns) == log
    assert [columns[place] for place in range(-len(log), len(log))] == log + log
    assert (len(columns), repr(columns)) == (len(log), f"Records({log})")
    if log:
        assert (columns.first_offset, columns.next_offset - 1) == (log[0].offset, log[-1].offset)


@given(st.lists(logs, max_size=4), st.data())
def test_columns_are_cut_and_put_together_as_lists_are(parts: list[list[Record]], data: st.DataObject) -> None:
    log = [record for part in parts for record in part]
    columns = together([records_of(part) for part in parts])
    assert list(columns) == log
    begin, end = data.draw(st.integers(-9, 9)), data.draw(st.integers(-9, 9))
    assert list(columns[begin:end]) == log[begin:end]
    places = data.draw(st.lists(st.integers(0, len(log) - 1), max_size=9) if log else st.just([]))
    assert list(together([columns[begin:], columns[:end]])) == log[begin:] + log[:end]
    keyed = [place for place in places if log[place].key is not None]
    assert columns.keys(np.array(keyed, np.int64)) == [log[place].key for place in keyed]


@given(logs, logs)
def test_of_two_texts_only_what_is_needed_is_kept_and_one_text_is_not_copied(
    one: list[Record], two: list[Record]
) -> None:
    first, second = records_of(one), records_of(two)
    halves = together([first[:2], second[1:]])
    assert list(halves) == one[:2] + two[1:]
    if halves.text not in (first.text, second.text):
        assert len(halves.text) == sum(end - begin for begin, end in (extent(first.rows[:2]), extent(second.rows[1:])))
    again = together([first[1:], first[:1]])
    assert list(again) == one[1:] + one[:1]
    assert not one or again.text is first.text


@given(some_records(), st.integers(-1, 20))
def test_what_does_not_come_before_an_offset_is_the_rest_of_a_log(log: list[Record], offset: int) -> None:
    assert list(records_of(log).from_offset(offset)) == [record for record in log if record.offset >= offset]


def test_nothing_is_no_records() -> None:
    assert list(together([])) == list(together([NO_RECORDS, NO_RECORDS])) == list(records_of([])) == []


# ------------------------------------------------------------------ keys

few = st.none() | st.sampled_from((b"", b"\0", b"\0\0", b"a", b"ab", b"x" * 8, b"x" * 9)) | st.binary(max_size=20)


@given(st.lists(few, max_size=40), st.integers(0, 20))
def test_distinct_keys_are_those_of_a_dict(keys: list[bytes | None], longest: int) -> None:
    columns = records_of(Record(0, 0, key, b"") for key in keys)
    found = distinct_keys(columns, longest)
    expected = {
        key: number for number, key in enumerate(dict.fromkeys(k for k in keys if k is not None and len(k) <= longest))
    }
    assert found.keys == list(expected)
    assert found.which.tolist() == [-1 if key is None else expected.get(key, -1) for key in keys]


def test_many_keys_are_told_apart() -> None:
    keys = [b"%d" % (number * number % 7919) for number in range(20_000)]
    found = distinct_keys(records_of(Record(0, 0, key, None) for key in keys), 512)
    assert [found.keys[which] for which in found.which.tolist()] == keys


# ------------------------------------------------------------------ Kafka's own form


def read(raw: bytes, begin: int, end: int, many: int, base: tuple[int, int, int, int]) -> tuple[int, NDArray[Any]]:
    rows = np.zeros(many, RECORD)
    return unpack(np.frombuffer(raw, np.uint8), begin, end, base, rows), rows


def base_of(part: Written, append_at_ms: int = -1) -> tuple[int, int, int, int]:
    return 40, part.records[-1].offset, part.records[0].timestamp, append_at_ms


@given(written, st.binary(max_size=20), st.binary(max_size=20), st.sampled_from((-1, 0, 77)))
def test_a_batch_is_read_as_aiokafka_reads_it_wherever_it_lies(
    part: Written, before: bytes, after: bytes, append_at_ms: int
) -> None:
    raw, _ = part.packed(40)
    text = before + raw[HEADER:] + after
    begin, end = len(before), len(before) + len(raw) - HEADER
    many, rows = read(text, begin, end, len(part.records), base_of(part, append_at_ms))
    assert many == len(part.records)
    expected = [
        Record(
            each.offset,
            append_at_ms if append_at_ms >= 0 else each.timestamp,
            each.key,
            each.value,
            tuple(each.headers),
        )
        for each in DefaultRecordBatch(raw)
    ]
    assert list(Records(text, rows)) == expected
    assert (
        read(text, begin, end, many - 1, base_of(part))[0] == read(text, begin, end, many + 1, base_of(part))[0] == -1
    )


@given(written)
def test_every_truncation_is_refused_whatever_follows(part: Written) -> None:
    raw, _ = part.packed(40)
    for end in range(HEADER, len(raw)):
        tried = [read(raw[:end] + after, HEADER, end, len(part.records), base_of(part)) for after in (b"", raw[end:])]
        assert {many for many, _ in tried} == {-1}
        assert len({rows.tobytes() for _, rows in tried}) == 1  # nothing beyond the end was looked at


@given(
    written,
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=6),
    st.binary(max_size=3),
)
def test_garbled_bytes_are_refused_or_read_within_their_bounds(
    part: Written, flips: list[tuple[int, int]], tail: bytes
) -> None:
    raw, _ = part.packed(40)
    garbled = bytearray(raw)
    for at, byte in flips:
        garbled[HEADER + at % (len(raw) - HEADER)] = byte
    outcomes = []
    for after in (b"", tail + b"\xff" * 12, bytes(12)):
        many, rows = read(bytes(garbled) + after, HEADER, len(raw), len(part.records), base_of(part))
        outcomes.append((many, rows.tobytes()))
        if many >= 0:
            assert HEADER <= extent(rows)[0] <= extent(rows)[1] <= len(raw)
            assert len(list(Records(bytes(garbled), rows))) == many
    assert len(set(outcomes)) == 1  # nothing beyond the end was looked at


HUGE = [
    b"\xfe" + b"\xff" * 8 + b"\x01",
    b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xff" * 9 + b"\x01",
    b"\xff" * 30,
]


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("at", [0, 4, 6, 8, 9, 11])
def test_a_length_that_overflows_is_refused_and_one_below_nothing_is_null(number: bytes, at: int) -> None:
    """The record's own, then those of key, value, headers, a header's name and value."""
    plain = b"\0\0\0\0\x02k\x02v\x02\x02n\x02h"
    body = plain[1:at] + number + plain[at + 1 :] if at else plain[1:]
    text = (bytes([2 * len(body)]) if at else number) + body
    many, _ = read(text, 0, len(text), 1, (0, 0, 0, -1))
    is_null = number == HUGE[2] and at in (4, 6, 11)
    assert many == -1 or is_null


@given(headers)
def test_headers_come_out_as_they_went_in(sent: tuple[tuple[str, bytes], ...]) -> None:
    assert headers_of(packed_headers(sent)) == sent


def test_what_is_wrong_in_a_headers_name_is_replaced() -> None:
    assert headers_of(b"\x02\x04\xffa\x02b") == (("\ufffda", b"b"),)
