"""The journal of a wallet: its touches, and fees a late touch may re-credit. Stored as `j` and `f`: touches, fees.

So a touch writes no fees, and a fee neither touches nor the fees before it: it is put behind them. Loops over events
read and write journals in `models.memory`; the bytes are those of `models.layout`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.layout import CAMPAIGNS, FEE_BYTES, HEAD, TOUCH
from models.rows import UnknownFormat, since_version_1

#: Version of the layout. Stored journals of all these are read.
JOURNAL_VERSION = 3
JOURNAL_VERSIONS = frozenset({1, 2, JOURNAL_VERSION})
#: The head of versions 1 and 2: version, bytes up to the fees, touches, eligible touches, and from when to when the
#: path was valid that they stored behind it: four rows of int64 for 8, 64, 128, ... touches, and four sums.
_HEAD_BEFORE_3 = struct.Struct("<BIHHqq")
#: No fee that spilled begins like this: its time is later than 1970.
_NO_FEE = bytes(8)
#: Time decay (half-life 7.5 d): T[h] = round(2^24 2^(-h/180)) for a touch h whole hours older than the newest.
DECAY = tuple(round(2**24 * 2 ** (-hours / 180)) for hours in range(366 * 24 + 1))


class Touched(NamedTuple):
    """A touch that can earn credit; compared as the contract orders touches. `code`: of campaign and channel."""

    occurred_at_ms: int
    event_id: bytes
    code: int


#: What a wallet remembers for its credit, in today's version: `j`, then `f`. Bytes: with a million wallets, a class
#: around them took a twentieth of all the time.
Journal: TypeAlias = bytes


def without_fees(journal: Journal | None) -> bytes:
    """The journal as it is stored in `j`; None is one of nothing."""
    journal = journal or EMPTY_JOURNAL
    return journal[: _up_to_fees(journal)]


def fees_of(journal: Journal | None) -> bytes:
    """All its fees as they are stored in `f`: packed, in order of arrival, the oldest first."""
    return journal[_up_to_fees(journal) :] if journal else b""


def newest_fees(journal: Journal | None, fees: int) -> tuple[int, bytes]:
    """The last so many of its fees: where in `f` they begin, and as they are stored there."""
    if not journal:
        return 0, b""
    begin = len(journal) - FEE_BYTES * fees
    return begin - _up_to_fees(journal), journal[begin:]


def has_fees(journal: Journal) -> bool:
    """Whether there are fees behind the touches."""
    return _up_to_fees(journal) < len(journal)


def with_fees(journal: Journal | None, packed: bytes) -> Journal:
    """A journal (None: none is stored) with more fees. Raises `UnknownFormat` for what no fees are.

    Zeros in front are what Redis puts there when fees are written behind others that it has lost.
    """
    if len(packed) % FEE_BYTES or packed.startswith(_NO_FEE):
        raise UnknownFormat(f"damaged fees of a wallet, {len(packed)} bytes")
    return (journal or EMPTY_JOURNAL) + packed


def _up_to_fees(journal: Journal) -> int:
    _, size, _ = HEAD.unpack_from(journal)
    return int(size)


def touches_of(journal: Journal) -> tuple[Touched, ...]:
    """The touches, oldest first."""
    _, _, count = HEAD.unpack_from(journal)
    found, place = [], HEAD.size
    for _ in range(count):
        at_ms, code, size = TOUCH.unpack_from(journal, place)
        place += TOUCH.size + size
        found.append(Touched(at_ms, journal[place - size : place], code))
    return tuple(found)


def unpack_journal(stored: bytes, codes: int = CAMPAIGNS) -> Journal:
    """As `unpack_journals`, a single one."""
    (found,) = unpack_journals([stored], codes)
    return found


def unpack_journals(stored: Sequence[bytes], codes: int = CAMPAIGNS) -> list[Journal]:
    """Journals as stored, of any known version, that loops can trust; numbers of campaigns are below `codes`.

    Raises `UnknownFormat`. Many at a time: what the look at the bytes costs beside the look is paid once.
    """
    for each in stored:
        if not each or each[0] not in JOURNAL_VERSIONS:
            raise UnknownFormat(f"a wallet journal of version {each[0] if each else '?'}, {len(each)} bytes")
    today = [each if each[0] == JOURNAL_VERSION else _since_before_3(each) for each in stored]
    ends = np.cumsum([len(each) for each in today], dtype=np.int64)
    largest = _check()(np.frombuffer(b"".join(today), np.uint8), ends)
    for wrong in np.flatnonzero((largest < 0) | (largest >= codes)).tolist():
        if largest[wrong] < 0:
            raise _damaged(stored[wrong])
        raise UnknownFormat(f"a wallet journal with a touch of campaign {largest[wrong]}, of which nothing is known")
    return today


def _damaged(stored: bytes) -> UnknownFormat:
    return UnknownFormat(f"a damaged wallet journal of {len(stored)} bytes")


@cache
def _check() -> Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.int64]]:
    """The look at the bytes. Numba takes half a second, and most read-outs need none."""
    from models.soundness import largest_codes

    return largest_codes


def _since_before_3(stored: bytes) -> bytes:
    """A journal of version 1 or 2 in today's: without the path, which its touches tell, and with today's fees."""
    if len(stored) < _HEAD_BEFORE_3.size:
        raise _damaged(stored)
    version, size, count, eligible, *_ = _HEAD_BEFORE_3.unpack_from(stored)
    wide = 8 if eligible <= 8 else -(-eligible // 64) * 64
    begin = _HEAD_BEFORE_3.size + (8 * (4 * wide + 4) if eligible else 0)
    if not begin <= size <= len(stored) or (len(stored) - size) % FEE_BYTES:
        raise _damaged(stored)
    touches, fees = stored[begin:size], stored[size:]
    if version == 1:
        fees = since_version_1(np.frombuffer(fees, "<i8").reshape(-1, 2)).tobytes()
    return HEAD.pack(JOURNAL_VERSION, HEAD.size + len(touches), count) + touches + fees


EMPTY_JOURNAL: Journal = HEAD.pack(JOURNAL_VERSION, HEAD.size, 0)
