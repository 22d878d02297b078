"""The journal `j` of a wallet: its touches, the path they make, and fees that a late touch may still re-credit.

A path is stored with its weights, so a wallet read back from Redis is credited without decoding its touches.

Layout, little-endian: head (version, bytes up to the fees, touches, eligible touches, path valid from, path valid
before), the path's block of int64, each touch (occurred_at, campaign code, length of its event id, event id), then
the fees, each (occurred_at x 65536 + segment, fee), as int64; in version 1 (occurred_at, fee x 8192 + segment).
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.rows import SEGMENTS, UnknownFormat, since_version_1
from models.rules import HOUR_MS, Rules

#: Version of the layout above. Stored journals of all these are read.
JOURNAL_VERSION = 2
JOURNAL_VERSIONS = frozenset({1, JOURNAL_VERSION})
#: Time decay (half-life 7.5 d): T[h] = round(2^24 2^(-h/180)) for a touch h whole hours older than the newest.
DECAY = tuple(round(2**24 * 2 ** (-hours / 180)) for hours in range(366 * 24 + 1))
HEAD = struct.Struct("<BIHHqq")
TOUCH = struct.Struct("<qIH")
FEE = struct.Struct("<qq")
FOREVER = 1 << 62
#: Paths of up to this many touches are stored in narrow blocks.
NARROW = 8


class Touched(NamedTuple):
    """A touch that can earn credit; compared as the contract orders touches. `code`: of campaign and channel."""

    occurred_at_ms: int
    event_id: bytes
    code: int

    def pack(self) -> bytes:
        return TOUCH.pack(self.occurred_at_ms, self.code, len(self.event_id)) + self.event_id


class Known(NamedTuple):
    """A wallet's touches in their order, by column. `ends`: where in `entries`, packed touches, the entry of each ends.

    Their ids stay packed: they are asked for only where two touches happened at the same time.
    """

    times: list[int]
    codes: list[int]
    ends: list[int]
    entries: bytes

    @classmethod
    def of(cls, entries: bytes) -> Known:
        times, codes, ends, end = [], [], [], 0
        while end < len(entries):
            at_ms, code, size = TOUCH.unpack_from(entries, end)
            end += TOUCH.size + size
            times.append(at_ms)
            codes.append(code)
            ends.append(end)
        return cls(times, codes, ends, entries)

    def touch(self, place: int) -> Touched:
        begin = self.ends[place - 1] if place else 0
        event_id = self.entries[begin + TOUCH.size : self.ends[place]]
        return Touched(self.times[place], event_id, self.codes[place])

    def with_touch(self, touch: Touched) -> Known:
        """One more, in its place."""
        place = bisect_right(self.times, touch.occurred_at_ms)
        while place and self.times[place - 1] == touch.occurred_at_ms and touch < self.touch(place - 1):
            place -= 1
        begin, entry = self.ends[place - 1] if place else 0, touch.pack()
        return Known(
            [*self.times[:place], touch.occurred_at_ms, *self.times[place:]],
            [*self.codes[:place], touch.code, *self.codes[place:]],
            [*self.ends[:place], begin + len(entry), *[end + len(entry) for end in self.ends[place:]]],
            self.entries[:begin] + entry + self.entries[begin:],
        )

    def without_first(self, many: int) -> Known:
        """All but the oldest so many."""
        if not many:
            return self
        begin = self.ends[many - 1]
        ends = [end - begin for end in self.ends[many:]]
        return Known(self.times[many:], self.codes[many:], ends, self.entries[begin:])


def width(touches: int) -> int:
    """Places of a block's rows: a few sizes only, so that blocks of many wallets stack."""
    return 0 if not touches else NARROW if touches <= NARROW else -(-touches // 64) * 64


def widths(touches: NDArray[np.int64]) -> NDArray[np.int64]:
    """`width` of paths (m,) of at least one touch."""
    return np.where(touches <= NARROW, NARROW, -(-touches // 64) * 64)


def block_bytes(touches: int) -> int:
    """Bytes of the block of a path of so many touches."""
    return 8 * (4 * width(touches) + 4) if touches else 0


@lru_cache(maxsize=4096)
def position_weights(touches: int) -> tuple[int, ...]:
    """Position rule, 40/20/40 in whole numbers: 1; 1, 1; 2(n-2), 1 ... 1, 2(n-2)."""
    if touches < 3:
        return (1,) * touches
    ends = 2 * (touches - 2)
    return (ends, *[1] * (touches - 2), ends)


@lru_cache(maxsize=4096)
def packer(places: int) -> struct.Struct:
    """Packs so many int64."""
    return struct.Struct(f"<{places}q")


@lru_cache(maxsize=4096)
def even_rows(touches: int) -> tuple[bytes, bytes, bytes]:
    """What depends on the number of touches alone: padding of a row, weights of linear and of position, padded."""
    padding = bytes(8 * (width(touches) - touches))
    linear, position = (1,) * touches, position_weights(touches)
    return padding, packer(touches).pack(*linear) + padding, packer(touches).pack(*position) + padding


class Path(NamedTuple):
    """The eligible touches of every transaction at lo <= t < hi, and their weights, as one block of int64.

    Rows of the block, each `width(touches)` long and padded with 0: codes; weights of linear, time decay,
    position. Then the three sums of weights and the number of touches.
    """

    lo: int
    hi: int
    touches: int
    block: bytes

    @classmethod
    def at(cls, known: Known, t: int, rules: Rules) -> Path:
        """The path of a transaction at `t`, from all a wallet's touches."""
        times, lo, hi = known.times, -FOREVER, FOREVER
        stop = bisect_right(times, t)
        if stop < len(times):
            hi = times[stop]
        start = bisect_left(times, t - rules.look_back_ms, hi=stop)
        if start:
            lo = times[start - 1] + rules.look_back_ms + 1
        if stop:
            lo = max(lo, times[stop - 1])
        if start == stop:
            return cls(lo, hi, 0, b"")
        hi = min(hi, times[start] + rules.look_back_ms + 1)
        start = max(start, stop - rules.eligible_touches)
        return cls(lo, hi, stop - start, weigh(times[start:stop], known.codes[start:stop]))


def weigh(times: Sequence[int], codes: Sequence[int]) -> bytes:
    """The block of a path of at least one touch: when they were, oldest first, and their campaigns."""
    count, newest = len(codes), times[-1]
    decayed = [DECAY[(newest - at_ms) // HOUR_MS] for at_ms in times]
    padding, linear, position = even_rows(count)
    rows = packer(count)
    sums = packer(4).pack(count, sum(decayed), sum(position_weights(count)), count)
    return b"".join((rows.pack(*codes), padding, linear, rows.pack(*decayed), padding, position, sums))


NO_PATH = Path(-FOREVER, FOREVER, 0, b"")


class Journal:
    """What a wallet remembers for its credit; immutable, so a step that is not committed has changed nothing.

    `path`: for a transaction after everything known. `fees`: packed, in order of arrival, the oldest first.
    """

    __slots__ = ("_known", "fees", "head", "path")

    def __init__(self, head: bytes, fees: bytes, path: Path, known: Known | None) -> None:
        self.head, self.fees, self.path, self._known = head, fees, path, known

    @classmethod
    def of(cls, touches: Sequence[Touched], fees: bytes, rules: Rules) -> Journal:
        """A journal of touches, in their order, and packed fees."""
        return cls.of_known(Known.of(b"".join([touch.pack() for touch in touches])), fees, rules)

    @classmethod
    def of_known(cls, known: Known, fees: bytes, rules: Rules) -> Journal:
        count = len(known.times)
        path = Path.at(known, known.times[-1], rules) if count else NO_PATH
        size = HEAD.size + len(path.block) + len(known.entries)
        head = HEAD.pack(JOURNAL_VERSION, size, count, path.touches, path.lo, path.hi)
        return cls(b"".join((head, path.block, known.entries)), fees, path, known)

    @classmethod
    def unpack(cls, stored: bytes) -> Journal:
        """A journal as stored, of any known version. Raises `UnknownFormat`."""
        if not stored or stored[0] not in JOURNAL_VERSIONS:
            raise UnknownFormat(f"a wallet journal of version {stored[0] if stored else '?'}, {len(stored)} bytes")
        version, size, _, eligible, lo, hi = HEAD.unpack_from(stored)
        if version == 1:
            stored = bytes([JOURNAL_VERSION]) + stored[1:size] + _since_version_1(stored[size:])
        block = stored[HEAD.size : HEAD.size + block_bytes(eligible)]
        return cls(stored[:size], stored[size:], Path(lo, hi, eligible, block), None)

    def pack(self) -> bytes:
        return self.head + self.fees

    @property
    def known(self) -> Known:
        if self._known is None:
            self._known = Known.of(self.head[HEAD.size + len(self.path.block) :])
        return self._known

    @property
    def touches(self) -> tuple[Touched, ...]:
        """The touches, oldest first."""
        return tuple(map(self.known.touch, range(len(self.known.times))))

    def forget(self) -> None:
        """Let go of the decoded touches: packed ones take a tenth of the memory, and few are asked for again."""
        self._known = None

    def path_at(self, t: int, rules: Rules) -> Path:
        """The path of a transaction at `t`."""
        return self.path if self.path.lo <= t < self.path.hi else Path.at(self.known, t, rules)

    def with_touch(self, touch: Touched, clock_ms: int, rules: Rules) -> tuple[Journal, int]:
        """The journal after one more touch, and how many touches its bounds dropped.

        Touches older than the look-back and the lateness are of no more use and are not counted as dropped.
        """
        known = self.known.with_touch(touch)
        useless = bisect_left(known.times, clock_ms - rules.look_back_ms - rules.lateness_ms)
        dropped = max(0, len(known.times) - useless - rules.touches_kept)
        return Journal.of_known(known.without_first(useless + dropped), self.fees, rules), dropped

    def with_fees(self, fees: bytes, oldest_ms: Sequence[int], most: int) -> tuple[Journal, int]:
        """The journal after more packed fees, one by one, and how many its bounds dropped.

        With each fee comes the time before which fees are too old to matter: those leave at the front, uncounted.
        """
        if len(self.fees) + len(fees) <= most * FEE.size:  # none can be too many: all at once is the same
            return self._with_fee_bytes(without_old(self.fees + fees, oldest_ms[-1])), 0
        kept, lost = self.fees, 0
        for place, oldest in enumerate(oldest_ms):
            kept = without_old(kept + fees[place * FEE.size : (place + 1) * FEE.size], oldest)
            if len(kept) > most * FEE.size:
                kept, lost = kept[FEE.size :], lost + 1
        return self._with_fee_bytes(kept), lost

    def _with_fee_bytes(self, fees: bytes) -> Journal:
        return Journal(self.head, fees, self.path, self._known)


def without_old(fees: bytes, oldest_ms: int) -> bytes:
    """Packed fees without those at the front that are older than `oldest_ms`."""
    start = 0
    while start < len(fees) and FEE.unpack_from(fees, start)[0] < oldest_ms * SEGMENTS:
        start += FEE.size
    return fees[start:]


def _since_version_1(fees: bytes) -> bytes:
    return since_version_1(np.frombuffer(fees, "<i8").reshape(-1, 2)).tobytes()


EMPTY_JOURNAL = Journal.of((), b"", Rules())
