"""What is known of every wallet and shown, but no part of what it is placed by (docs/features.md has the reasons).

| what | unit | of |
| --- | --- | --- |
| age_days | days from the wallet's first transaction to now | all its life |
| recency_days | days from its newest transaction to now, None without one | all its life |
| transactions | transactions accepted | all its life |
| products | how many of the five products it has used | 8 years at least |
| experience | beginner, regular, experienced or expert: `LEVELS` | all its life |
| sell_fast | share of sales lately, 0 to 1, drawn to the share on the slow scale | 3 d |

All of it is in the row already, so it costs no wallet a byte. Now is the newest event time of the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from models.features import COUNT, FAST, FAST_MS, FIRST_PRODUCT, PRODUCTS, SELLS, decay
from models.rules import DAY_MS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: The share of sales on the fast scale is drawn to the slow one as if by so many transactions.
DRAWN_BY = 3.0


class Level(NamedTuple):
    """A level of experience and the least it takes: transactions, days from first to newest one, products."""

    name: str
    transactions: int
    days: int
    products: int


#: From the least to the most; a wallet has the last one of which it has everything.
LEVELS = (
    Level("beginner", 0, 0, 0),
    Level("regular", 10, 14, 0),
    Level("experienced", 100, 60, 1),
    Level("expert", 500, 120, 2),
)


class Known(NamedTuple):
    """The table above, in its order."""

    age_days: float
    recency_days: float | None
    transactions: int
    products: int
    experience: str
    sell_fast: float


def known(row: np.void, now_ms: int) -> Known:
    """What is known of the wallet of a row at an event time, epoch ms; a row that is newer counts as of now."""
    first_ms, last_ms, transactions = int(row["first_s"]) * 1000, int(row["last_at_ms"]), int(row["transactions"])
    products = products_used(row["sums"])
    return Known(
        age_days=days(first_ms, now_ms) if first_ms else 0.0,
        recency_days=days(last_ms, now_ms) if last_ms else None,
        transactions=transactions,
        products=products,
        experience=experience(transactions, max(last_ms - first_ms, 0) / DAY_MS, products),
        sell_fast=sell_fast(row),
    )


def days(since_ms: int, now_ms: int) -> float:
    """Days to two digits, 0 for what is yet to come."""
    return round(max(now_ms - since_ms, 0) / DAY_MS, 2)


def experience(transactions: int, active_days: float, products: int) -> str:
    """A level of `LEVELS`. `active_days`: from its first transaction to its newest; nobody learns by waiting."""
    has = (transactions, active_days, products)
    return [level.name for level in LEVELS if all(its >= least for its, least in zip(has, level[1:], strict=True))][-1]


def products_used(sums: NDArray[np.float64]) -> int:
    """How many of the five products a wallet has used: a decayed sum is 0 before the first, or 1,000 half-lives later.

    The slow scale takes over the sums of the fast one when it begins anew, and those last 8 years.
    """
    return int((sums[FIRST_PRODUCT : FIRST_PRODUCT + PRODUCTS] > 0).sum())


def sell_fast(row: np.void) -> float:
    """The share of sales on the fast scale as of the newest transaction, 0 to 1; without many, that of the slow one."""
    sums = row["sums"]
    if not sums[COUNT] > 0:
        return 0.0
    fast = decay(int(row["last_at_ms"]), int(row["fast_landmark"]), FAST_MS)
    sales, count = float(sums[FAST + SELLS]) * fast, float(sums[FAST + COUNT]) * fast
    share = (sales + DRAWN_BY * float(sums[SELLS] / sums[COUNT])) / (count + DRAWN_BY)
    return round(share, 4)
