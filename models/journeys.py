"""The journal `j` of a wallet: its touches, the path they make, and fees that a late touch may still re-credit.

A path is stored with its weights, so a wallet read back from Redis is credited without decoding its touches.

Layout, little-endian: head (version, bytes up to the fees, touches, eligible touches, path valid from, path valid
before), the path's block of int64, each touch (occurred_at, campaign code, length of its event id, event id), then
the fees, each (occurred_at, fee x 8192 + segment), as int64.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from models.rows import UnknownFormat
from models.rules import HOUR_MS, Rules

JOURNAL_VERSION = 1
#: Time decay (half-life 7.5 d): T[h] = round(2^24 2^(-h/180)) for a touch h whole hours older than the newest.
DECAY = tuple(round(2**24 * 2 ** (-hours / 180)) for hours in range(366 * 24 + 1))
HEAD = struct.Struct("<BIHHqq")
TOUCH = struct.Struct("<qIH")
FEE = struct.Struct("<qq")
FOREVER = 1 << 62
WHEN = itemgetter(0)
#: Paths of up to this many touches are stored in narrow blocks.
NARROW = 8


class Touched(NamedTuple):
    """A touch that can earn credit; compared as the contract orders touches. `code`: of campaign and channel."""

    occurred_at_ms: int
    event_id: bytes
    code: int


def width(touches: int) -> int:
    """Places of a block's rows: a few sizes only, so that blocks of many wallets stack."""
    return 0 if not touches else NARROW if touches <= NARROW else -(-touches // 64) * 64


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


@dataclass(frozen=True, slots=True)
class Path:
    """The eligible touches of every transaction at lo <= t < hi, and their weights, as one block of int64.

    Rows of the block, each `width(touches)` long and padded with 0: codes; weights of linear, time decay,
    position. Then the three sums of weights and the number of touches.
    """

    lo: int
    hi: int
    touches: int
    block: bytes

    @classmethod
    def at(cls, touches: Sequence[Touched], t: int, rules: Rules) -> Path:
        """The path of a transaction at `t`, from a wallet's touches in order."""
        lo, hi = -FOREVER, FOREVER
        stop = bisect_right(touches, t, key=WHEN)
        if stop < len(touches):
            hi = touches[stop].occurred_at_ms
        start = bisect_left(touches, t - rules.look_back_ms, hi=stop, key=WHEN)
        if start:
            lo = touches[start - 1].occurred_at_ms + rules.look_back_ms + 1
        if start == stop:
            return cls(lo if not stop else max(lo, touches[stop - 1].occurred_at_ms), hi, 0, b"")
        lo = max(lo, touches[stop - 1].occurred_at_ms)
        hi = min(hi, touches[start].occurred_at_ms + rules.look_back_ms + 1)
        eligible = touches[max(start, stop - rules.eligible_touches) : stop]
        return cls(lo, hi, len(eligible), weigh(eligible))


def weigh(eligible: Sequence[Touched]) -> bytes:
    """The block of a path of at least one touch."""
    count, newest = len(eligible), eligible[-1].occurred_at_ms
    padding = [0] * (width(count) - count)
    decayed = [DECAY[(newest - touch.occurred_at_ms) // HOUR_MS] for touch in eligible]
    positions = position_weights(count)
    codes = [touch.code for touch in eligible]
    numbers = [*codes, *padding, *[1] * count, *padding, *decayed, *padding, *positions, *padding]
    numbers += [count, sum(decayed), sum(positions), count]
    return packer(len(numbers)).pack(*numbers)


NO_PATH = Path(-FOREVER, FOREVER, 0, b"")


class Journal:
    """What a wallet remembers for its credit; immutable, so a step that is not committed has changed nothing.

    `path`: for a transaction after everything known. `fees`: packed, in order of arrival, the oldest first.
    """

    __slots__ = ("_known", "fees", "head", "path")

    def __init__(self, head: bytes, fees: bytes, path: Path, known: tuple[Touched, ...] | None) -> None:
        self.head, self.fees, self.path, self._known = head, fees, path, known

    @classmethod
    def of(cls, touches: tuple[Touched, ...], fees: bytes, rules: Rules) -> Journal:
        """A journal of touches, in their order, and packed fees."""
        path = Path.at(touches, touches[-1].occurred_at_ms, rules) if touches else NO_PATH
        entries = [TOUCH.pack(at_ms, code, len(event_id)) + event_id for at_ms, event_id, code in touches]
        body = b"".join([path.block, *entries])
        head = HEAD.pack(JOURNAL_VERSION, HEAD.size + len(body), len(touches), path.touches, path.lo, path.hi)
        return cls(head + body, fees, path, touches)

    @classmethod
    def unpack(cls, stored: bytes) -> Journal:
        """A journal as stored. Raises `UnknownFormat`."""
        if stored[0] != JOURNAL_VERSION:
            raise UnknownFormat(f"a wallet journal of version {stored[0]}")
        _, size, _, eligible, lo, hi = HEAD.unpack_from(stored)
        block = stored[HEAD.size : HEAD.size + block_bytes(eligible)]
        return cls(stored[:size], stored[size:], Path(lo, hi, eligible, block), None)

    def pack(self) -> bytes:
        return self.head + self.fees

    @property
    def touches(self) -> tuple[Touched, ...]:
        if self._known is None:
            self._known = tuple(self._decode())
        return self._known

    def forget(self) -> None:
        """Let go of the decoded touches: packed ones take a tenth of the memory, and few are asked for again."""
        self._known = None

    def _decode(self) -> Iterator[Touched]:
        _, _, count, eligible, _, _ = HEAD.unpack_from(self.head)
        at = HEAD.size + block_bytes(eligible)
        for _ in range(count):
            at_ms, code, size = TOUCH.unpack_from(self.head, at)
            at += TOUCH.size
            yield Touched(at_ms, self.head[at : at + size], code)
            at += size

    def path_at(self, t: int, rules: Rules) -> Path:
        """The path of a transaction at `t`."""
        return self.path if self.path.lo <= t < self.path.hi else Path.at(self.touches, t, rules)

    def with_touch(self, touch: Touched, clock_ms: int, rules: Rules) -> tuple[Journal, int]:
        """The journal after one more touch, and how many touches its bounds dropped.

        Touches older than the look-back and the lateness are of no more use and are not counted as dropped.
        """
        oldest = clock_ms - rules.look_back_ms - rules.lateness_ms
        kept = sorted(known for known in (*self.touches, touch) if known.occurred_at_ms >= oldest)
        dropped = max(0, len(kept) - rules.touches_kept)
        return Journal.of(tuple(kept[dropped:]), self.fees, rules), dropped

    def with_fees(self, fees: Sequence[bytes], oldest_ms: Sequence[int], most: int) -> tuple[Journal, int]:
        """The journal after more packed fees, one by one, and how many its bounds dropped.

        With each fee comes the time before which fees are too old to matter: those leave at the front, uncounted.
        """
        if (len(self.fees) // FEE.size) + len(fees) <= most:  # none can be too many: all at once is the same
            return self._with_fee_bytes(without_old(self.fees + b"".join(fees), oldest_ms[-1])), 0
        kept, lost = self.fees, 0
        for fee, oldest in zip(fees, oldest_ms, strict=True):
            kept = without_old(kept + fee, oldest)
            if len(kept) > most * FEE.size:
                kept, lost = kept[FEE.size :], lost + 1
        return self._with_fee_bytes(kept), lost

    def _with_fee_bytes(self, fees: bytes) -> Journal:
        return Journal(self.head, fees, self.path, self._known)


def without_old(fees: bytes, oldest_ms: int) -> bytes:
    """Packed fees without those at the front that are older than `oldest_ms`."""
    start = 0
    while start < len(fees) and FEE.unpack_from(fees, start)[0] < oldest_ms:
        start += FEE.size
    return fees[start:]


EMPTY_JOURNAL = Journal.of((), b"", Rules())
