"""The journal `j` of a wallet as it is stored: its touches, the path they make, fees a late touch may re-credit.

A path is stored with its weights, so a wallet read back from Redis is credited without decoding its touches. Loops
over events read and write journals in `models.memory`; the bytes are those of `models.layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.layout import CAMPAIGNS, FOREVER, HEAD, TOUCH, width
from models.rows import UnknownFormat, since_version_1

#: Version of the layout. Stored journals of all these are read.
JOURNAL_VERSION = 2
JOURNAL_VERSIONS = frozenset({1, JOURNAL_VERSION})
#: Time decay (half-life 7.5 d): T[h] = round(2^24 2^(-h/180)) for a touch h whole hours older than the newest.
DECAY = tuple(round(2**24 * 2 ** (-hours / 180)) for hours in range(366 * 24 + 1))


class Touched(NamedTuple):
    """A touch that can earn credit; compared as the contract orders touches. `code`: of campaign and channel."""

    occurred_at_ms: int
    event_id: bytes
    code: int


@dataclass(frozen=True, slots=True)
class Journal:
    """What a wallet remembers for its credit; immutable, so a step that is not committed has changed nothing.

    `stored`: in today's version.
    """

    stored: bytes

    @classmethod
    def unpack(cls, stored: bytes, codes: int = CAMPAIGNS) -> Journal:
        """A journal as stored, of any known version, that loops can trust; numbers of campaigns are below `codes`.

        Raises `UnknownFormat`.
        """
        return unpack_journals([stored], codes)[0]

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


def unpack_journals(stored: Sequence[bytes], codes: int = CAMPAIGNS) -> list[Journal]:
    """As `Journal.unpack`, many at a time: what the look at the bytes costs beside the look is paid once."""
    for each in stored:
        if not each or each[0] not in JOURNAL_VERSIONS:
            raise UnknownFormat(f"a wallet journal of version {each[0] if each else '?'}, {len(each)} bytes")
    ends = np.cumsum([len(each) for each in stored], dtype=np.int64)
    largest = _check()(np.frombuffer(b"".join(stored), np.uint8), ends)
    for wrong in np.flatnonzero((largest < 0) | (largest >= codes)).tolist():
        if largest[wrong] < 0:
            raise UnknownFormat(f"a damaged wallet journal of {len(stored[wrong])} bytes")
        raise UnknownFormat(f"a wallet journal with a touch of campaign {largest[wrong]}, of which nothing is known")
    return [Journal(each if each[0] == JOURNAL_VERSION else _since_version_1(each)) for each in stored]


@cache
def _check() -> Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.int64]]:
    """The look at the bytes. Numba takes half a second, and most read-outs need none."""
    from models.soundness import largest_codes

    return largest_codes


def _since_version_1(stored: bytes) -> bytes:
    _, size, *_ = HEAD.unpack_from(stored)
    fees = since_version_1(np.frombuffer(stored[size:], "<i8").reshape(-1, 2)).tobytes()
    return bytes([JOURNAL_VERSION]) + stored[1:size] + fees


EMPTY_JOURNAL = Journal(HEAD.pack(JOURNAL_VERSION, HEAD.size, 0, 0, -FOREVER, FOREVER))
