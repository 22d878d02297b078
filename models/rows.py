"""The row `w` of a wallet: fixed, versioned, at most 768 bytes, in the precision in which it is computed.

A number kept in a coarser precision than it is computed in would make results depend on where a batch is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Version of the layout below, in every row's first byte; 0 is a wallet never seen. Stored rows of all these are read.
ROW_VERSION = 4
ROW_VERSIONS = frozenset({1, 2, 3, ROW_VERSION})

#: Numbers of segments are below this. The time of a fee and the segment it was credited to share one int64,
#: time x 65,536 + segment; in version 1 it was fee x 8,192 + segment. Up to version 2, `rebased_s` held something else;
#: up to version 3, no fees were on a page.
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

#: Bits of `flags`; then how many fees are on the wallet's page (`models.journeys`), and from bit 8 on the slot that a
#: wallet which LEANS leans to (`models.decisions`).
WHALE, HAS_JOURNAL, LEANS, BY_MODEL = 1, 2, 4, 8
ON_PAGE, ON_PAGE_SHIFT = 240, 4
#: Fees that a page has no room for: with so many it is full, and they go to the journal.
PAGE = 16

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


def on_page(rows: NDArray[np.void]) -> NDArray[np.int64]:
    """How many of the wallets' fees (k,) are on their pages."""
    found: NDArray[np.int64] = (rows["flags"].astype(np.int64) & ON_PAGE) >> ON_PAGE_SHIFT
    return found


def with_on_page(rows: NDArray[np.void], fees: NDArray[np.int64]) -> NDArray[np.int64]:
    """The wallets' flags (k,) with so many fees on their pages."""
    found: NDArray[np.int64] = rows["flags"].astype(np.int64) & ~ON_PAGE | fees << ON_PAGE_SHIFT
    return found


def as_stored(rows: NDArray[np.void]) -> list[bytes]:
    """Rows (k,) as they are stored."""
    found: list[bytes] = rows.view(np.dtype((np.void, ROW.itemsize))).tolist()
    return found


def unpack_rows(stored: list[bytes | None]) -> NDArray[np.void]:
    """Stored rows of any known version -> structured (n,) of today's; blank where None. Raises `UnknownFormat`."""
    blank = bytes(ROW.itemsize)
    for row in stored:
        if row is not None and (len(row) != ROW.itemsize or row[0] not in ROW_VERSIONS):
            raise UnknownFormat(f"a wallet row of version {row[0] if row else '?'}, {len(row)} bytes")
    rows = np.frombuffer(b"".join([row or blank for row in stored]), ROW).copy()
    first = rows["version"] == 1
    if first.any():
        rows["recent_fees"][first] = since_version_1(rows["recent_fees"][first])
    rows["rebased_s"][rows["version"] < 3] = 0
    rows["version"][rows["version"] > 0] = ROW_VERSION
    return rows


def since_version_1(fees: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fees (…, 2) of version 1, (occurred_at, fee x 8192 + segment), as they are kept today."""
    at_ms, packed = fees[..., 0], fees[..., 1]
    return np.stack([at_ms * SEGMENTS + packed % SEGMENTS_1, packed // SEGMENTS_1], axis=-1)
