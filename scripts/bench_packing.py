"""Live records, written as Kafka has them (message format 2), by one compiled pass over all whose turn it is.

A turn of a Python loop for each was a sixth of a core at 20,000 records a second, beside a worker that is measured on
two. Numba keeps compiled code until the file of a function has changed, and does not look at what that calls: what is
compiled here calls nothing of another file.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., object])
Octets = NDArray[np.uint8]

#: Transactions of a newcomer; with the fifth a wallet is given its first segment. A second of event time lies between.
EVENTS_OF_A_NEWCOMER = 6
#: The most bytes for one partition at once: Kafka's own limit.
MOST_BYTES = 1 << 20
#: Bytes of a batch before its records, of those its checksum does not count, and of partition and size before it.
_HEAD, _UNCOUNTED, _BEFORE = 61, 21, 8
#: Of an event: what is neither its number, nor its wallet, nor its body. None of a record's numbers is longer.
_MOST_AROUND, _MOST_VARINTS = 128, 64

_BODY = np.dtype([(name, np.int64) for name in ("begin", "end", "lane", "wallet", "micros")])
#: Where a source is. `owed`: what newcomers have not been given of their share; `arrived`: records that they made.
_TURN = np.dtype(
    [(name, np.int64) for name in ("number", "body", "purchase", "arrived", "together")]
    + [(name, np.float64) for name in ("owed", "newcomers")]
)
_ROOM = np.dtype([(name, np.int64) for name in ("end", "records", "first_ms", "last_ms")])

_WALLET, _OCCURRED = np.frombuffer(b'","wallet_id":"', np.uint8), np.frombuffer(b'","occurred_at":', np.uint8)
_KNOWN, _NEW, _HYPHEN, _ZERO, _COMMA = b"wn-0,"
_MASK, _MIX = 0xFFFFFFFF, 0x5BD1E995


def _remainders() -> NDArray[np.uint32]:
    """What a byte adds to a CRC-32C when so many others follow it, (8, 256)."""
    found = np.arange(256)
    for _ in range(8):
        found = (found >> 1) ^ (0x82F63B78 * (found & 1))
    every = list(itertools.accumulate([found] * 8, lambda last, one: one[last & 255] ^ (last >> 8)))
    return np.array(every, np.uint32)


_CRC = _remainders()


#: No array is made, so nobody has to count who holds one: `_nrt` does, in half of the time.
_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy", "_nrt": False}


def _compiled(function: Function) -> Function:
    return cast("Function", numba.njit(**_OPTIONS)(function))


class Body(NamedTuple):
    """A record without who and when. `lane`: 0 transactions, 1 touches. `micros`: its fee or cost."""

    lane: int
    wallet: int
    rest: bytes
    micros: int


class _Source(NamedTuple):
    """What compiled code knows of a source. `opening`: what every event begins with; `sums`: number, micros by lane."""

    turn: NDArray[np.void]
    bodies: NDArray[np.void]
    text: Octets
    purchases: NDArray[np.int64]
    opening: Octets
    event: Octets
    sums: NDArray[np.int64]


class _Rooms(NamedTuple):
    """What compiled code knows of batches: a room a partition, the bytes of its records, (partitions, MOST_BYTES).

    `lanes` (3,): the first room of each lane, and of none. `out`: all batches, end to end.
    """

    rooms: NDArray[np.void]
    records: Octets
    lanes: NDArray[np.int64]
    out: Octets


class Source:
    """Records without end: the bodies again and again, under new ids.

    `newcomers`: share of the records from wallets never seen before. So many of them are there at any time as send one
    record a second each, and one in six is new every second: all at the same point of their lives would be announced
    within one second of six. `run`: no other source of the same records has it.
    """

    def __init__(self, pool: Sequence[Body], newcomers: float, rate: float, run: int) -> None:
        ends = list(itertools.accumulate(len(body.rest) for body in pool))
        rows = [
            (end - len(body.rest), end, body.lane, body.wallet, body.micros)
            for body, end in zip(pool, ends, strict=True)
        ]
        longest = max(len(body.rest) for body in pool)
        turn = np.zeros(1, _TURN)
        turn["newcomers"], turn["together"] = newcomers, max(1, round(newcomers * rate))
        self.arrays = _Source(
            turn,
            np.array(rows, _BODY),
            np.frombuffer(b"".join(body.rest for body in pool), np.uint8),
            np.array([number for number, body in enumerate(pool) if body.lane == 0], np.int64),
            np.frombuffer(b'{"event_id":"l%d-' % run, np.uint8),
            np.empty(_MOST_AROUND + longest, np.uint8),
            np.zeros((2, 2), np.int64),
        )

    @property
    def sums(self) -> list[list[int]]:
        """Transactions and touches so far: how many, and the micros of each."""
        return cast("list[list[int]]", self.arrays.sums.T.tolist())


class Batches:
    """A source's records that wait to be sent, a batch for each partition.

    `partitions`: how many the topics of the transactions and of the touches have.
    """

    def __init__(self, source: Source, partitions: tuple[int, int]) -> None:
        self._source, self._partitions = source, partitions
        many = sum(partitions)
        self._rooms = _Rooms(
            np.zeros(many, _ROOM),
            np.full((many, MOST_BYTES), 0, np.uint8),  # written to: pages that are first used later take milliseconds
            np.array([0, partitions[0], many]),
            np.empty(many * (_BEFORE + _HEAD + MOST_BYTES), np.uint8),
        )
        self._out = memoryview(cast("bytes", self._rooms.out))
        self._turns = array("q")
        #: records that have been taken and not been packed
        self.waiting = 0
        self.packed()  # compiles: the first record shall not wait for that

    def take(self, many: int, at_ms: int) -> None:
        """The next records of the source: this is their time."""
        self._turns.extend((many, at_ms))
        self.waiting += many

    def packed(self) -> list[tuple[int, memoryview]]:
        """What was taken, each record in the partition that its key has with every client (murmur2).

        For each topic: how many of its partitions have records, and for each of them its number, the size of its batch
        and that batch. The bytes are good until this is called again.
        """
        turns, self._turns = self._turns, array("q")
        packed, first, middle, second, end = pack(np.array(turns), self._source.arrays, self._rooms)
        if packed < self.waiting:
            raise SystemExit(f"more than {MOST_BYTES} bytes for one partition at once")
        self.waiting = 0
        return [(first, self._out[:middle]), (second, self._out[middle:end])]


@_compiled
def pack(turns: NDArray[np.int64], source: _Source, batches: _Rooms) -> tuple[int, int, int, int, int]:
    """Records into batches, end to end. `turns`: how many, at which time, how many, and so on.

    How many of them had room; of each lane, how many batches it has and where the last one ends.
    """
    packed = fill(turns, source, batches)
    first, middle = seal(batches, 0, 0)
    second, end = seal(batches, 1, middle)
    return packed, first, middle, second, end


@_compiled
def fill(turns: NDArray[np.int64], source: _Source, batches: _Rooms) -> int:
    """Records into rooms, which are emptied first; how many had room."""
    for room in batches.rooms:
        room["end"] = room["records"] = 0
    packed = 0
    for turn in range(0, len(turns), 2):
        for _ in range(turns[turn]):
            if not pack_one(turns[turn + 1], source, batches):
                return packed
            packed += 1
    return packed


@_compiled
def pack_one(at_ms: int, source: _Source, batches: _Rooms) -> bool:
    """The next record into its room; whether there was enough of it."""
    number, seat, generation = next_body(source)
    body = source.bodies[number]
    key, key_end, end = write_event(source, body, (seat, generation), at_ms)
    first = batches.lanes[body["lane"]]
    place = first + murmur2(source.event, key, key_end) % (batches.lanes[body["lane"] + 1] - first)
    if batches.rooms[place]["end"] + end + key_end - key > MOST_BYTES - _MOST_VARINTS:
        return False
    append(batches.rooms[place], batches.records[place], source.event, (key, key_end, end), at_ms)
    source.turn[0]["number"] += 1
    source.sums[body["lane"], 0] += 1
    source.sums[body["lane"], 1] += body["micros"]
    return True


@_compiled
def next_body(source: _Source) -> tuple[int, int, int]:
    """The body that is next, and the newcomer that has it: seat and generation. Seat -1: its own wallet has it."""
    turn = source.turn[0]
    known = turn["body"]
    turn["body"] = (known + 1) % len(source.bodies)
    turn["owed"] += turn["newcomers"]
    if turn["owed"] < 1:
        return known, -1, 0
    turn["owed"] -= 1
    bought = source.purchases[turn["purchase"]]
    turn["purchase"] = (turn["purchase"] + 1) % len(source.purchases)
    second, seat = divmod(turn["arrived"], turn["together"])
    turn["arrived"] += 1
    return bought, seat, (second + seat) // EVENTS_OF_A_NEWCOMER


@_compiled
def write_event(source: _Source, body: np.void, newcomer: tuple[int, int], at_ms: int) -> tuple[int, int, int]:
    """The event as JSON; where its wallet begins and ends, and where itself ends."""
    out, (seat, generation) = source.event, newcomer
    at = copy(source.opening, 0, len(source.opening), out, 0)
    at = decimal(out, at, source.turn[0]["number"])
    key = at = copy(_WALLET, 0, len(_WALLET), out, at)
    if seat < 0:
        out[at] = _KNOWN
        at = decimal(out, at + 1, body["wallet"])
    else:
        out[at] = _NEW
        at = decimal(out, at + 1, seat)
        out[at] = _HYPHEN
        at = decimal(out, at + 1, generation)
    key_end = at
    at = copy(_OCCURRED, 0, len(_OCCURRED), out, at)
    at = decimal(out, at, at_ms)
    out[at] = _COMMA
    return key, key_end, copy(source.text, body["begin"], body["end"], out, at + 1)


@_compiled
def append(room: np.void, out: Octets, event: Octets, ends: tuple[int, int, int], at_ms: int) -> None:
    """A record behind those of its partition. `ends`: where key begins and ends in the event, and where that ends."""
    key, key_end, end = ends
    if room["records"] == 0:
        room["first_ms"] = room["last_ms"] = at_ms
    room["last_ms"] = max(room["last_ms"], at_ms)
    since_ms, offset, key_size = at_ms - room["first_ms"], room["records"], key_end - key
    around = varint_size(since_ms) + varint_size(offset) + varint_size(key_size) + varint_size(end)
    at = varint(out, room["end"], 1 + around + key_size + end + 1)
    out[at] = 0  # attributes
    at = varint(out, varint(out, at + 1, since_ms), offset)
    at = copy(event, key, key_end, out, varint(out, at, key_size))
    at = copy(event, 0, end, out, varint(out, at, end))
    out[at] = 0  # headers
    room["end"] = at + 1
    room["records"] += 1


@_compiled
def seal(batches: _Rooms, lane: int, at: int) -> tuple[int, int]:
    """The batches of a lane, end to end from here on; how many there are, and where they end."""
    many, first = 0, batches.lanes[lane]
    for place in range(first, batches.lanes[lane + 1]):
        room = batches.rooms[place]
        if room["records"] > 0:
            at = big_endian(batches.out, at, place - first, 4)
            at = big_endian(batches.out, at, _HEAD + room["end"], 4)
            at = write_batch(room, batches.records[place], batches.out, at)
            many += 1
    return many, at


@_compiled
def write_batch(room: np.void, records: Octets, out: Octets, begin: int) -> int:
    """A batch; the place behind it."""
    counted = begin + _UNCOUNTED
    at = big_endian(out, counted, 0, 2)  # attributes
    at = big_endian(out, at, room["records"] - 1, 4)
    at = big_endian(out, at, room["first_ms"], 8)
    at = big_endian(out, at, room["last_ms"], 8)
    at = big_endian(out, at, -1, 8)  # no producer that wants each record once
    at = big_endian(out, at, -1, 2)
    at = big_endian(out, at, -1, 4)
    at = big_endian(out, at, room["records"], 4)
    end = copy(records, 0, room["end"], out, at)
    at = big_endian(out, begin, 0, 8)  # first offset
    at = big_endian(out, at, end - begin - 12, 4)
    at = big_endian(out, at, -1, 4)  # epoch of the leader
    out[at] = 2
    big_endian(out, at + 1, crc32c(out[counted:end]), 4)
    return end


@_compiled
def crc32c(text: Octets) -> int:
    """The checksum of some bytes, eight at a time."""
    crc, whole = np.int64(_MASK), len(text) // 8 * 8
    for at in range(0, whole, 8):
        crc ^= little_endian(text, at, at + 4)
        crc = np.int64(
            _CRC[7, crc & 255]
            ^ _CRC[6, (crc >> 8) & 255]
            ^ _CRC[5, (crc >> 16) & 255]
            ^ _CRC[4, (crc >> 24) & 255]
            ^ _CRC[3, text[at + 4]]
            ^ _CRC[2, text[at + 5]]
            ^ _CRC[1, text[at + 6]]
            ^ _CRC[0, text[at + 7]]
        )
    for at in range(whole, len(text)):
        crc = np.int64(_CRC[0, (crc ^ text[at]) & 255]) ^ (crc >> 8)
    return int(crc ^ _MASK)


@_compiled
def murmur2(text: Octets, begin: int, end: int) -> int:
    """Kafka's default partitioner: the positive 32-bit MurmurHash2 of a stretch of bytes."""
    hashed = 0x9747B28C ^ (end - begin)
    whole = end - (end - begin) % 4
    for at in range(begin, whole, 4):
        word = (little_endian(text, at, at + 4) * _MIX) & _MASK
        hashed = ((hashed * _MIX) ^ ((word ^ (word >> 24)) * _MIX)) & _MASK
    if whole < end:
        hashed = ((hashed ^ little_endian(text, whole, end)) * _MIX) & _MASK
    hashed = ((hashed ^ (hashed >> 13)) * _MIX) & _MASK
    return (hashed ^ (hashed >> 15)) & 0x7FFFFFFF


@_compiled
def little_endian(text: Octets, begin: int, end: int) -> int:
    """A number of at most four bytes."""
    number = 0
    for at in range(begin, end):
        number |= int(text[at]) << (8 * (at - begin))
    return number


@_compiled
def big_endian(out: Octets, at: int, number: int, size: int) -> int:
    """Write a number as so many bytes, the highest first; the place behind it."""
    for place in range(size):
        out[at + place] = (number >> (8 * (size - 1 - place))) & 255
    return at + size


@_compiled
def varint(out: Octets, at: int, number: int) -> int:
    """Write a number in zigzag form, seven bits to the byte, the lowest first; the place behind it."""
    rest = (number << 1) ^ (number >> 63)
    while rest >= 0x80:
        out[at] = rest & 0x7F | 0x80
        rest >>= 7
        at += 1
    out[at] = rest
    return at + 1


@_compiled
def varint_size(number: int) -> int:
    """How many bytes `varint` writes."""
    rest, size = ((number << 1) ^ (number >> 63)) >> 7, 1
    while rest:
        rest >>= 7
        size += 1
    return size


@_compiled
def decimal(out: Octets, at: int, number: int) -> int:
    """Write the digits of a number that is not negative; the place behind them."""
    end, rest = at + 1, number // 10
    while rest:
        end, rest = end + 1, rest // 10
    for place in range(end - 1, at - 1, -1):
        out[place] = _ZERO + number % 10
        number //= 10
    return end


@_compiled
def copy(text: Octets, begin: int, end: int, out: Octets, at: int) -> int:
    """Write a stretch of another text; the place behind it."""
    # Numbered from 0: where a number might be below, each byte is asked for that and goes by itself.
    source, target = text[begin:end], out[at : at + end - begin]
    for place in range(end - begin):
        target[place] = source[place]
    return at + end - begin
