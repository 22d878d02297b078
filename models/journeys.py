"""The journal of a wallet: its touches, and fees a late touch may re-credit. Stored as `j`, the newest fees as `f`.

A fee of a busy wallet would otherwise write all of its journal, kilobytes; so it writes its page, and every sixteenth
the journal. Loops over events read and write journals in `models.memory`; the bytes are those of `models.layout`.
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
#: Time decay (half-life 7.5 d): T[h] = round(2^24 2^(-h/180)) for a touch h whole hours older than the newest.
DECAY = tuple(round(2**24 * 2 ** (-hours / 180)) for hours in range(366 * 24 + 1))


class Touched(NamedTuple):
    """A touch that can earn credit; compared as the contract orders touches. `code`: of campaign and channel."""

    occurred_at_ms: int
    event_id: bytes
    code: int


#: What a wallet remembers for its credit, in today's version, the fees of its page last. Bytes: with a million wallets,
#: a class around them took a twentieth of all the time.
Journal: TypeAlias = bytes


def fees_of(journal: Journal) -> bytes:
    """Packed, in order of arrival, the oldest first."""
    _, size, _ = HEAD.unpack_from(journal)
    return journal[size:]


def page_of(journal: Journal | None, fees: int) -> bytes:
    """The last so many fees: the page as it is stored."""
    assert journal is not None, "who has fees has a journal"
    return journal[len(journal) - FEE_BYTES * fees :]


def without_page(journal: Journal | None, fees: int) -> bytes:
    """The journal as it is stored when so many of its fees are on the page."""
    assert journal is not None, "who has fees has a journal"
    return journal[: len(journal) - FEE_BYTES * fees]


def with_page(journal: Journal | None, page: bytes, fees: int) -> Journal:
    """A journal (None: none is stored) with its page. Raises `UnknownFormat` for a page that has not so many fees."""
    if len(page) != FEE_BYTES * fees:
        raise UnknownFormat(f"a wallet's page of {len(page)} bytes for {fees} fees")
    return (journal or EMPTY_JOURNAL) + page


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
