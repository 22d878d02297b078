"""The journal `j` of a wallet as it is stored: its touches, the path they make, fees a late touch may re-credit.

A path is stored with its weights, so a wallet read back from Redis is credited without decoding its touches. Loops
over events read and write journals in `models.memory`.

Layout, little-endian: head (version, bytes up to the fees, touches, eligible touches, path valid from, path valid
before), the path's block of int64, each touch (occurred_at, campaign code, length of its event id, event id), then
the fees, each (occurred_at x 65536 + segment, fee), as int64; in version 1 (occurred_at, fee x 8192 + segment).

The block has four rows, each `width(touches)` long and padded with 0: codes; weights of linear, time decay, position.
Then the three sums of weights and the number of touches. Without an eligible touch there is none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.rows import UnknownFormat, since_version_1

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


def width(touches: int) -> int:
    """Places of a block's rows: a few sizes only, so that wallets of like sizes take the same memory."""
    return 0 if not touches else NARROW if touches <= NARROW else -(-touches // 64) * 64


@dataclass(frozen=True, slots=True)
class Journal:
    """What a wallet remembers for its credit; immutable, so a step that is not committed has changed nothing.

    `stored`: in today's version.
    """

    stored: bytes

    @classmethod
    def unpack(cls, stored: bytes) -> Journal:
        """A journal as stored, of any known version. Raises `UnknownFormat`."""
        if not stored or stored[0] not in JOURNAL_VERSIONS:
            raise UnknownFormat(f"a wallet journal of version {stored[0] if stored else '?'}, {len(stored)} bytes")
        version, size, *_ = HEAD.unpack_from(stored)
        if version == 1:
            stored = bytes([JOURNAL_VERSION]) + stored[1:size] + _since_version_1(stored[size:])
        return cls(stored)

    def pack(self) -> bytes:
        return self.stored

    @property
    def fees(self) -> bytes:
        """Packed, in order of arrival, the oldest first."""
        _, size, *_ = HEAD.unpack_from(self.stored)
        return self.stored[size:]

    @property
    def touches(self) -> tuple[Touched, ...]:
        """The touches, oldest first."""
        _, _, count, eligible, _, _ = HEAD.unpack_from(self.stored)
        found, place = [], HEAD.size + (8 * (4 * width(eligible) + 4) if eligible else 0)
        for _ in range(count):
            at_ms, code, size = TOUCH.unpack_from(self.stored, place)
            place += TOUCH.size + size
            found.append(Touched(at_ms, self.stored[place - size : place], code))
        return tuple(found)


def _since_version_1(fees: bytes) -> bytes:
    return since_version_1(np.frombuffer(fees, "<i8").reshape(-1, 2)).tobytes()


EMPTY_JOURNAL = Journal(HEAD.pack(JOURNAL_VERSION, HEAD.size, 0, 0, -FOREVER, FOREVER))
