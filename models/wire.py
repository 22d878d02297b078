"""Records and their headers as Kafka writes them: message format 2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled, leaf

#: Where a stretch of bytes ends that is null.
NULL = -1
#: Bits of a byte that count, in a number written as Kafka does; the most bytes of one.
_LOW, _LONGEST = 7, 10


@compiled
def unpack(text: NDArray[np.uint8], at: int, end: int, base: tuple[int, int, int, int], rows: NDArray[np.void]) -> int:
    """The records of one record batch (message format 2) into `rows` (n,); how many, -1 if the bytes are no n records.

    Nor are they if their offsets do not rise, or go beyond the batch's last. `at`, `end`: where they lie, uncompressed.
    `base`: first offset, how far the last is from it, first timestamp, and the time of the log for all of them, -1
    where each has its own.
    """
    base_offset, last, base_at_ms, append_at_ms = base
    before = -1
    for place in range(len(rows)):
        row = rows[place]
        size, at = varint(text, at, end)
        if at < 0 or size < 1 or size > end - at:
            return -1
        stop = at + size
        delta_ms, at = varint(text, at + 1, stop)
        delta, at = varint(text, at, stop)
        if not before < delta <= last:
            return -1
        row["offset"], before = base_offset + delta, delta
        row["timestamp"] = append_at_ms if append_at_ms >= 0 else base_at_ms + delta_ms
        row["key"], row["key_end"], at = stretch(text, at, stop)
        row["value"], row["value_end"], at = stretch(text, at, stop)
        if at < 0 or not headers_fill(text, at, stop):
            return -1
        row["headers"], row["headers_end"] = at, stop if text[at] != 0 else at
        at = stop
    return len(rows) if at == end else -1


@leaf
def headers_fill(text: NDArray[np.uint8], at: int, end: int) -> bool:
    """Whether headers, their number first, take all the bytes from here to there."""
    many, at = varint(text, at, end)
    if at < 0 or many < 0:
        return False
    for _ in range(many):
        _, name_end, at = stretch(text, at, end)
        if name_end == NULL:
            return False
        _, _, at = stretch(text, at, end)
        if at < 0:
            return False
    return at == end


@leaf
def stretch(text: NDArray[np.uint8], at: int, end: int) -> tuple[int, int, int]:
    """Bytes after their length: where they begin, where they end (null: -1), and where to read on, -1 if too short."""
    size, at = varint(text, at, end)
    if at < 0 or size < 0:
        return max(at, 0), NULL, at
    return (at, at + size, at + size) if size <= end - at else (0, NULL, -1)


@leaf
def varint(text: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """A number in zigzag form, seven bits to the byte, the lowest first; where to read on, -1 if there is none."""
    number, shift_by = np.uint64(0), np.uint64(0)
    for place in range(max(at, 0), min(end, at + _LONGEST) if at >= 0 else 0):
        number |= np.uint64(text[place] & 0x7F) << shift_by
        if text[place] < 0x80:
            return int(np.int64(number >> np.uint64(1)) ^ -np.int64(number & np.uint64(1))), place + 1
        shift_by += np.uint64(_LOW)
    return 0, -1


def headers_of(packed: bytes) -> tuple[tuple[str, bytes], ...]:
    """Headers that Kafka wrote; a name that is no UTF-8 has what is wrong in it replaced."""
    text = np.frombuffer(packed, np.uint8)
    many, at = varint(text, 0, len(text))
    out: list[tuple[str, bytes]] = []
    for _ in range(many):
        name, name_end, at = stretch(text, at, len(text))
        value, value_end, at = stretch(text, at, len(text))
        told = None if value_end == NULL else packed[value:value_end]
        out.append((packed[name:name_end].decode(errors="replace"), told))  # type: ignore[arg-type]  # Kafka knows headers without value
    return tuple(out)


def packed_headers(headers: Sequence[tuple[str, bytes]]) -> bytes:
    """Headers as Kafka writes them."""
    return _packed_number(len(headers)) + b"".join(
        chain.from_iterable((_packed(name.encode()), _packed(value)) for name, value in headers)
    )


def _packed(content: bytes | None) -> bytes:
    return _packed_number(-1) if content is None else _packed_number(len(content)) + content


def _packed_number(number: int) -> bytes:
    rest, out = (number << 1) ^ (number >> 63), bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= _LOW
    out.append(rest)
    return bytes(out)
