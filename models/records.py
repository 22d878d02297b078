"""Kafka records as columns: all their bytes end to end, and where the parts of each one lie.

Nothing is made for each record: what the loops of a step read is read where it is. `Record` is one of them, for those
who want to look at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled, leaf
from models.eights import hash_of
from models.wire import NULL, headers_of, packed_headers

__all__ = ["NO_RECORDS", "NULL", "RECORD", "Keyed", "Record", "Records", "distinct_keys", "extent"]
__all__ += ["records_of", "same", "shift", "together"]


class Record(NamedTuple):
    """One Kafka record. `timestamp`: epoch milliseconds, set by the producer, -1 none."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


#: One record. `timestamp`: epoch ms, -1 none. The others are places in the text: where key, value and headers begin and
#: end. A key or value that is null ends at -1. Headers are as Kafka writes them, their number first; none: no bytes.
RECORD = np.dtype(
    [
        ("offset", "i8"),
        ("timestamp", "i8"),
        ("key", "i8"),
        ("key_end", "i8"),
        ("value", "i8"),
        ("value_end", "i8"),
        ("headers", "i8"),
        ("headers_end", "i8"),
    ]
)


class Records(Sequence[Record]):
    """Records in order. `text`: their bytes; `rows`: of `RECORD`, (n,). Neither is changed by anyone."""

    __slots__ = ("rows", "text")

    def __init__(self, text: bytes, rows: NDArray[np.void]) -> None:
        self.text, self.rows = text, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Records({list(self)})"

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> Records: ...
    def __getitem__(self, place: int | slice) -> Record | Records:
        if isinstance(place, slice):
            return Records(self.text, self.rows[place])
        return self._record(self.rows[place].item())

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, self.rows.tolist())

    @property
    def first_offset(self) -> int:
        """Offset of the first; there is one."""
        return int(self.rows["offset"][0])

    @property
    def next_offset(self) -> int:
        """The offset after the last; there is one."""
        return int(self.rows["offset"][-1]) + 1

    def from_offset(self, offset: int) -> Records:
        """Those of one log, in its order, that do not come before this offset."""
        offsets = self.rows["offset"]
        return self if not len(offsets) or offsets[0] >= offset else self[int(offsets.searchsorted(offset)) :]

    def keys(self, places: NDArray[np.int64]) -> list[bytes]:
        """The keys of the records at these places, which have one."""
        text, rows = self.text, self.rows
        begins, ends = rows["key"][places].tolist(), rows["key_end"][places].tolist()
        return [text[begin:end] for begin, end in zip(begins, ends, strict=True)]

    def _record(self, row: tuple[int, ...]) -> Record:
        offset, timestamp, key, key_end, value, value_end, headers, headers_end = row
        text = self.text
        return Record(
            offset,
            timestamp,
            None if key_end == NULL else text[key:key_end],
            None if value_end == NULL else text[value:value_end],
            headers_of(text[headers:headers_end]) if headers < headers_end else (),
        )


NO_RECORDS = Records(b"", np.zeros(0, RECORD))


def record_of(found: Any) -> Record:
    """A record as Kafka's clients for Python have one; that of a log of the oldest format has no timestamp."""
    at_ms = -1 if found.timestamp is None else found.timestamp
    return Record(found.offset, at_ms, found.key, found.value, tuple(found.headers))


def records_of(records: Iterable[Record]) -> Records:
    """Records one by one -> columns."""
    parts: list[bytes] = []
    rows: list[tuple[int, ...]] = []
    at = 0
    for offset, timestamp, key, value, headers in records:
        told = packed_headers(headers) if headers else b""
        key_end, value_at = (NULL, at) if key is None else (at + len(key),) * 2
        value_end, told_at = (NULL, value_at) if value is None else (value_at + len(value),) * 2
        rows.append((offset, timestamp, at, key_end, value_at, value_end, told_at, told_at + len(told)))
        parts += (key or b"", value or b"", told)
        at = told_at + len(told)
    return Records(b"".join(parts), np.array(rows, RECORD) if rows else NO_RECORDS.rows)


def together(parts: Sequence[Records]) -> Records:
    """Records one after the other; of texts that are not one and the same, none of the bytes that are not theirs."""
    if len(parts) == 1:
        return parts[0]
    if not (packed := bytearray().join([part.rows.tobytes() for part in parts])):
        return NO_RECORDS
    rows, text = np.frombuffer(packed, RECORD), parts[0].text
    if all(part.text is text for part in parts):
        return Records(text, rows)
    extents = np.empty((len(parts), 2), np.int64)
    lay_end_to_end(rows, np.array([len(part.rows) for part in parts]), extents)
    pieces = [memoryview(part.text)[begin:end] for part, (begin, end) in zip(parts, extents.tolist(), strict=True)]
    return Records(b"".join(pieces), rows)


@compiled
def lay_end_to_end(rows: NDArray[np.void], sizes: NDArray[np.int64], extents: NDArray[np.int64]) -> None:
    """Move the places of parts (k,) of so many records each to one text; `extents` (k, 2): theirs, as they were."""
    first = at = 0
    for part in range(len(sizes)):
        last = first + sizes[part]
        begin, end = extent(rows[first:last])
        shift(rows, first, last, at - begin)
        extents[part, 0], extents[part, 1] = begin, end
        first, at = last, at + end - begin


@compiled
def extent(rows: NDArray[np.void]) -> tuple[int, int]:
    """Where the bytes of records (n,) begin and end; they may lie in any order."""
    if len(rows) == 0:
        return 0, 0
    begin, end = rows[0]["key"], rows[0]["headers_end"]
    for place in range(len(rows)):
        begin, end = min(begin, rows[place]["key"]), max(end, rows[place]["headers_end"])
    return begin, end


@compiled
def shift(rows: NDArray[np.void], first: int, last: int, by: int) -> None:
    """Move what the records from `first` up to `last` say of their places."""
    for place in range(first, last):
        row = rows[place]
        row["key"] += by
        row["value"] += by
        row["headers"] += by
        row["headers_end"] += by
        if row["key_end"] != NULL:
            row["key_end"] += by
        if row["value_end"] != NULL:
            row["value_end"] += by


# ------------------------------------------------------------------ their keys


class Keyed(NamedTuple):
    """The distinct keys of records (n,), in order of their first records. `which`: the key of each record, -1 none."""

    keys: list[bytes]
    which: NDArray[np.int64]


def distinct_keys(records: Records, longest: int) -> Keyed:
    """The distinct keys; one of more than `longest` bytes counts as none."""
    which, spans, text = np.empty(len(records), np.int64), np.empty((2, len(records)), np.int64), records.text
    many = sort_keys(np.frombuffer(text, np.uint8), records.rows, longest, which, spans)
    begins, ends = spans[:, :many].tolist()
    return Keyed([text[begin:end] for begin, end in zip(begins, ends, strict=True)], which)


@compiled
def sort_keys(
    text: NDArray[np.uint8], rows: NDArray[np.void], longest: int, which: NDArray[np.int64], spans: NDArray[np.int64]
) -> int:
    """Fill `which` of `Keyed`, and where each key begins and ends in the text; how many keys there are."""
    room = 16
    while room < 2 * len(rows):
        room *= 2
    slots, many = np.full(room, -1), 0
    for place in range(len(rows)):
        begin, end = rows[place]["key"], rows[place]["key_end"]
        if end == NULL or end - begin > longest:
            which[place] = -1
            continue
        slot = np.int64(hash_of(text, begin, end, False) & np.uint64(room - 1))
        while slots[slot] >= 0 and not same(text, begin, end, spans[0, slots[slot]], spans[1, slots[slot]]):
            slot = (slot + 1) & (room - 1)
        if slots[slot] < 0:
            slots[slot], spans[0, many], spans[1, many], many = many, begin, end, many + 1
        which[place] = slots[slot]
    return many


@leaf
def same(text: NDArray[np.uint8], begin: int, end: int, other: int, other_end: int) -> bool:
    """Whether two stretches of a text have the same bytes."""
    if end - begin != other_end - other:
        return False
    for place in range(end - begin):  # noqa: SIM110 -- compiled: a loop is all it needs
        if text[begin + place] != text[other + place]:
            return False
    return True
