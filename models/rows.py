"""The row `w` of a wallet: fixed, versioned, at most 768 bytes, in the precision in which it is computed.

It is stored with what has changed since behind it, which is never longer than the row: `models.patches`.

A number kept in a coarser precision than it is computed in would make results depend on where a batch is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Version of the layout below, in every row's first byte; 0 is a wallet never seen. Stored rows of all these are read.
ROW_VERSION = 5
ROW_VERSIONS = frozenset({1, 2, 3, 4, ROW_VERSION})

#: Numbers of segments are below this. The time of a fee and the segment it was credited to share one int64,
#: time x 65,536 + segment; in version 1 it was fee x 8,192 + segment. Up to version 2, `rebased_s` held something else;
#: in version 4, SINCE_LOOK said how many fees were in `f`, all others were in `j`; up to version 3, all were.
SEGMENTS, SEGMENTS_1 = 1 << 16, 1 << 13

#: Accepted event ids a wallet remembers, cusum slots, fees in the row.
IDS, SLOTS, FEES = 32, 16, 4

#: What a wallet is placed by, in this order everywhere. Units and formulas: `models.features`.
FEATURES = (
    "frequency",
    "frequency_fast",
    "ticket",
    "ticket_fast",
    "ticket_spread",
    "wallet_size",
    "leverage",
    "leverage_fast",
    "spot",
    "derivatives",
    "staking",
    "lending",
    "wallet",
    "stable",
    "sell",
    "diversity",
)

#: Decayed sums kept on both time scales, in this order; the slow scale has one more, `usd`.
SUMS = (
    "count",
    "priced",
    "log_usd",
    "log_usd_squared",
    "log_leverage",
    "sells",
    "stable",
    "spot",
    "derivatives",
    "staking",
    "lending",
    "wallet",
)
#: Buckets of the sketch of asset shares (slow scale only).
ASSET_BUCKETS = 8
SLOW_SUMS = slice(0, len(SUMS) + 1)
ASSET_SUMS = slice(SLOW_SUMS.stop, SLOW_SUMS.stop + ASSET_BUCKETS)
FAST_SUMS = slice(ASSET_SUMS.stop, ASSET_SUMS.stop + len(SUMS))
#: Everything that decays with the slow half-life.
SLOW_SCALE = slice(0, ASSET_SUMS.stop)
ALL_SUMS = FAST_SUMS.stop

#: How alive a wallet is (`models.lifecycle`); the codes are stored.
LIFECYCLE = ("active", "new", "slowing", "dormant", "returned")
ACTIVE, NEW, SLOWING, DORMANT, RETURNED = range(5)

#: Bits of `flags`. HAS_JOURNAL: a touch was remembered once, so there is a `j`. HAS_FEES: a fee has spilled once, so
#: there is an `f`. From bit 4 on how many fees have spilled since the wallet's oldest were looked at (`models.memory`),
#: from bit 8 on the slot that a wallet which LEANS leans to (`models.decisions`).
WHALE, HAS_JOURNAL, LEANS, BY_MODEL, HAS_FEES = 1, 2, 4, 8, 1 << 12
SINCE_LOOK, SINCE_LOOK_SHIFT = 240, 4
#: With so many more spilled fees the oldest are looked at, and those of no more use forgotten.
LOOK_EVERY = 16

ROW = np.dtype(
    [
        ("version", "u1"),
        ("lifecycle", "u1"),  # index in LIFECYCLE
        ("flags", "u2"),
        ("segment", "u2"),  # number of the segment, 0 unassigned
        ("slow_landmark", "i2"),  # landmarks of the decayed sums, in units of 32 half-lives
        ("fast_landmark", "i2"),
        ("jurisdiction", "u2"),  # its two letters as one number, 0 never stated
        ("sequence", "u4"),  # segment changes announced
        ("ids", "u4"),  # events accepted
        ("transactions", "u4"),
        ("fees", "u4"),  # transactions with a fee
        ("catalogue", "u4"),  # version of the catalogue at the last decision
        ("first_s", "u4"),  # first transaction accepted, first touch while there is none, epoch seconds
        ("due_s", "u4"),  # when the wallet is looked at by a sweep, epoch seconds, 0 never; as in the due index
        ("last_at_ms", "i8"),  # newest transaction, 0 none
        ("changed_s", "u4"),  # occurred_at of the last change of segment, epoch seconds, 0 none
        ("rebased_s", "u4"),  # since when the slow scale holds only what the fast one did, epoch seconds, 0 ever
        ("ring", "u8", (IDS,)),  # hashes of the newest accepted ids, at ids % 32
        ("sums", "f8", (ALL_SUMS,)),
        ("cusum", "f4", (SLOTS,)),
        ("before", "f4", (len(FEATURES),)),  # features at the last change of segment
        ("recent_fees", "i8", (FEES, 2)),  # (occurred_at x 65536 + segment, fee), at fees % 4
    ]
)

if ROW.itemsize > 768:  # the layout is a contract: a longer row would cost every wallet
    raise AssertionError(ROW.itemsize)


class UnknownFormat(ValueError):
    """A stored value has a version that this program does not know."""


def blank_rows(count: int) -> NDArray[np.void]:
    """Rows of wallets never seen."""
    return np.zeros(count, ROW)


def since_look(rows: NDArray[np.void]) -> NDArray[np.int64]:
    """How many fees of the wallets (k,) have spilled since their oldest were looked at."""
    found: NDArray[np.int64] = (rows["flags"].astype(np.int64) & SINCE_LOOK) >> SINCE_LOOK_SHIFT
    return found


def with_since_look(rows: NDArray[np.void], fees: NDArray[np.int64]) -> NDArray[np.int64]:
    """The wallets' flags (k,) when so many fees have spilled since their oldest were looked at."""
    found: NDArray[np.int64] = rows["flags"].astype(np.int64) & ~SINCE_LOOK | fees << SINCE_LOOK_SHIFT
    return found


def are_older(stored: Sequence[bytes | None]) -> NDArray[np.bool_]:
    """Which of the stored rows (n,) have an older version: journals and fees of these wallets lie as it had them."""
    return np.array([row is not None and row[0] != ROW_VERSION for row in stored], np.bool_)


def unpack_rows(stored: list[bytes | None]) -> NDArray[np.void]:
    """Stored rows of any known version -> structured (n,) of today's; blank where None. Raises `UnknownFormat`.

    Behind a row of today's version may be patches (`models.patches`).
    """
    blank, size = bytes(ROW.itemsize), ROW.itemsize
    for row in stored:
        if row is None or (len(row) == size and row[0] in ROW_VERSIONS) or (len(row) > size and row[0] == ROW_VERSION):
            continue
        raise UnknownFormat(f"a wallet row of version {row[0] if row else '?'}, {len(row)} bytes")
    behind = [row[size:] if row else b"" for row in stored]
    rows = np.frombuffer(b"".join([row[:size] if row else blank for row in stored]), ROW).copy()
    if any(behind):
        _patch(rows, behind)
    first = rows["version"] == 1
    if first.any():
        rows["recent_fees"][first] = since_version_1(rows["recent_fees"][first])
    rows["rebased_s"][rows["version"] < 3] = 0
    rows["flags"][(rows["version"] < 5) & (since_look(rows) > 0)] |= HAS_FEES
    rows["version"][rows["version"] > 0] = ROW_VERSION
    return rows


def _patch(rows: NDArray[np.void], behind: list[bytes]) -> None:
    """Make of rows what the patches behind each say."""
    from models.patches import apply, words_of  # Numba takes half a second, and most read-outs need none

    ends = np.cumsum([len(each) for each in behind], dtype=np.int64)
    damaged = apply(np.frombuffer(b"".join(behind), np.uint8), ends, words_of(rows))
    for row in np.flatnonzero(damaged | (rows["version"] > ROW_VERSION)).tolist():
        raise UnknownFormat(f"a wallet row with damaged patches, {ROW.itemsize + len(behind[row])} bytes")


def since_version_1(fees: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fees (…, 2) of version 1, (occurred_at, fee x 8192 + segment), as they are kept today."""
    at_ms, packed = fees[..., 0], fees[..., 1]
    return np.stack([at_ms * SEGMENTS + packed % SEGMENTS_1, packed // SEGMENTS_1], axis=-1)
