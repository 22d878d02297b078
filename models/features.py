"""What a wallet is like: decayed sums on two time scales, and the feature row they give after every event.

Sums are kept in forward-decay form (Cormode et al., "Forward decay", ICDE 2009): S' = sum of v 2^((t-L)/H) for
half-life H and a landmark L in multiples of 32 H. A late event is then an ordinary addition, and moving the
landmark multiplies by an exact power of two, so neither order nor the cut of a batch changes a bit.

| feature | unit | half-life |
| --- | --- | --- |
| frequency, frequency_fast | ln(1 + decayed number of transactions) | 45 d, 3 d |
| ticket, ticket_fast | mean ln(1 + USD) of a transaction with a value | 45 d, 3 d |
| ticket_spread | standard deviation of the same | 45 d |
| wallet_size | ln(1 + decayed USD moved) | 45 d |
| leverage, leverage_fast | mean ln(leverage), 0 for 1x | 45 d, 3 d |
| spot, derivatives, staking, lending, wallet | square root of the product's share of transactions, 0 to 1 | 45 d |
| stable, sell | share of transactions in stable assets, and of sales, 0 to 1 | 45 d |
| diversity | 1 / effective number of assets (exp of the entropy of their shares over 8 buckets), 1/8 to 1 | 45 d |
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.hashing import bucket
from models.rounds import Rounds, lay_out, scan
from models.rows import ALL_SUMS, ASSET_BUCKETS, ASSET_SUMS, FAST_SUMS, FEATURES, SLOW_SCALE, SLOW_SUMS, SUMS
from models.rules import DAY_MS

if TYPE_CHECKING:
    from models.columns import Events

SLOW_MS, FAST_MS = 45 * DAY_MS, 3 * DAY_MS
#: Half-lives between two landmarks: a sum grows by at most 2^32 before it is rebased.
LANDMARK = 32
#: Landmarks (of 96 days) between two transactions of a wallet in one batch, beyond which a double is not wide enough.
LEAP = 16
STABLE_ASSETS = frozenset(
    {"USDC", "USDT", "DAI", "TUSD", "FDUSD", "USDE", "USDS", "PYUSD", "BUSD", "USDP", "GUSD", "LUSD", "FRAX", "USDD"}
    | {"UST", "USTC", "EURC", "EURS"}
)
COUNT, PRICED, LOG_USD, LOG_USD_SQUARED, LOG_LEVERAGE, SELLS, STABLE = range(7)
FIRST_PRODUCT, USD = 7, 12


@dataclass(frozen=True, slots=True)
class Folded:
    """A batch folded into its wallets; (n, …) in round order.

    `rows`: the wallets' rows (k,) after the batch. `features`: float64 (n, 16) after each event. `newest_at_ms`:
    the wallet's newest transaction after each event, `previous_at_ms` before it, 0 none. `transactions`: their
    number after each event. `learning`: float32 (m, 16), the row before the first event of a later day; `learners`: the
    wallets they are of.
    """

    rows: NDArray[np.void]
    is_transaction: NDArray[np.bool_]
    features: NDArray[np.float64]
    newest_at_ms: NDArray[np.int64]
    previous_at_ms: NDArray[np.int64]
    transactions: NDArray[np.float64]
    learning: NDArray[np.float32]
    learners: NDArray[np.int64]


def fold(rows: NDArray[np.void], events: Events, rounds: Rounds) -> Folded:
    """Fold events into `rows`, which are changed: copies (k,) in the rounds' order."""
    if not leaps(rows, events, rounds):
        return fold_near(rows, events, rounds)
    parts = []
    for start, stop in rounds.slices:  # years lie between: one event of each wallet at a time, which is the same
        alone = lay_out(np.arange(stop - start), stop - start)
        parts.append(fold_near(rows[: stop - start], events.pick(rounds.order[start:stop]), alone))
    columns = (np.concatenate(column) for column in zip(*map(per_event, parts), strict=True))
    return Folded(rows, *columns)


def per_event(folded: Folded) -> tuple[NDArray[Any], ...]:
    """Everything but the rows."""
    return tuple(getattr(folded, each.name) for each in fields(folded)[1:])


def leaps(rows: NDArray[np.void], events: Events, rounds: Rounds) -> bool:
    """Whether a wallet's transactions, or its last one and these, are too far apart to share a landmark."""
    landmark = times_of(events, rounds) // (LANDMARK * FAST_MS)
    is_transaction, known = landmark > 0, rows["transactions"] > 0
    before = rows["fast_landmark"].astype(np.int64)
    near = np.concatenate([before[known], landmark[is_transaction]])
    if not len(near) or near.max() - near.min() <= LEAP:  # nearly always, and soon told
        return False
    oldest, newest = np.where(known, before, np.iinfo(np.int64).max), np.where(known, before, 0)
    np.minimum.at(oldest, rounds.wallet[is_transaction], landmark[is_transaction])
    np.maximum.at(newest, rounds.wallet, landmark)
    return bool((newest - np.minimum(oldest, newest) > LEAP).any())


def times_of(events: Events, rounds: Rounds) -> NDArray[np.int64]:
    """When transactions happened (n,), in round order; 0 for touches, which move no landmark."""
    return np.where(events.is_touch, 0, events.occurred_at_ms)[rounds.order]


def fold_near(rows: NDArray[np.void], events: Events, rounds: Rounds) -> Folded:
    """`fold` for events whose weights relative to each other a double can hold."""
    times = times_of(events, rounds)
    is_transaction = times > 0
    newest = scan(np.maximum, rows["last_at_ms"], times, rounds)
    previous = np.where(rounds.before < 0, rows["last_at_ms"][rounds.wallet], newest[rounds.before])
    next_days = np.flatnonzero(is_transaction & (previous > 0) & (newest // DAY_MS > previous // DAY_MS))
    yesterdays = row_features(rows[rounds.wallet[next_days]])  # as far as it was not in this batch
    first = with_landmarks(rows, times, rounds)
    after = scan(np.add, first, steps(events, rounds, times, is_transaction, rows), rounds)
    landmarks = rows["slow_landmark"][rounds.wallet], rows["fast_landmark"][rounds.wallet]
    # before its first transaction a wallet's sums are zeros at any time, if only it is near their landmark
    read_at = np.where(newest > 0, newest, landmarks[1].astype(np.int64) * (LANDMARK * FAST_MS))
    features = feature_rows(after[:, :ALL_SUMS], read_at, *landmarks)

    before = rounds.before[next_days]
    yesterdays[before >= 0] = features[before[before >= 0]]
    rows["sums"] = after[rounds.last, :ALL_SUMS]
    rows["transactions"] = after[rounds.last, ALL_SUMS]
    rows["last_at_ms"] = newest[rounds.last]
    usd = np.where(is_transaction & ~np.isnan(events.usd[rounds.order]), events.usd[rounds.order], 0.0)
    np.maximum.at(rows["largest_usd"], rounds.wallet, usd.astype(np.float32))
    learning, learners = yesterdays.astype(np.float32), rounds.wallet[next_days]
    return Folded(rows, is_transaction, features, newest, previous, after[:, ALL_SUMS], learning, learners)


def with_landmarks(rows: NDArray[np.void], at_ms: NDArray[np.int64], rounds: Rounds) -> NDArray[np.float64]:
    """Move each wallet's landmarks up to its newest event; the sums so rebased, by exact powers of two.

    Returns sums and number of transactions, (k, 34).
    """
    sums = np.empty((len(rows), ALL_SUMS + 1))
    sums[:, :ALL_SUMS], sums[:, ALL_SUMS] = rows["sums"], rows["transactions"]
    for field, half_life_ms, scale in (
        ("slow_landmark", SLOW_MS, SLOW_SCALE),
        ("fast_landmark", FAST_MS, FAST_SUMS),
    ):
        landmark = rows[field].astype(np.int64)
        np.maximum.at(landmark, rounds.wallet, at_ms // (LANDMARK * half_life_ms))
        moved = LANDMARK * (rows[field] - landmark)
        if moved.any():
            sums[:, scale] = np.ldexp(sums[:, scale], moved[:, None])
            rows[field] = landmark
    return sums


def steps(
    events: Events,
    rounds: Rounds,
    at_ms: NDArray[np.int64],
    is_transaction: NDArray[np.bool_],
    rows: NDArray[np.void],
) -> NDArray[np.float64]:
    """What each event adds to each sum and to the transactions (n, 34), in round order; a touch adds nothing."""
    order = rounds.order
    usd = events.usd[order]
    priced = ~np.isnan(usd)
    usd = np.where(priced, usd, 0.0)
    log_usd = np.log1p(usd)
    assets = np.fromiter(map(asset_of, events.assets), np.int64, len(order))[order]
    values = np.zeros((len(order), len(SUMS) + 1))
    values[:, COUNT] = 1
    values[:, PRICED] = priced
    values[:, LOG_USD] = log_usd
    values[:, LOG_USD_SQUARED] = log_usd * log_usd
    values[:, LOG_LEVERAGE] = np.log(events.leverage[order])
    values[:, SELLS] = events.is_sell[order]
    values[:, STABLE] = assets >= ASSET_BUCKETS
    values[:, FIRST_PRODUCT:USD] = events.product[order, None] == np.arange(USD - FIRST_PRODUCT)
    values[:, USD] = usd
    values *= is_transaction[:, None]

    slow = growth(at_ms, rows["slow_landmark"][rounds.wallet], SLOW_MS)
    fast = growth(at_ms, rows["fast_landmark"][rounds.wallet], FAST_MS)
    out = np.zeros((len(order), ALL_SUMS + 1))
    out[:, ALL_SUMS] = is_transaction
    out[:, SLOW_SUMS] = values * slow[:, None]
    out[:, FAST_SUMS] = values[:, : len(SUMS)] * fast[:, None]
    out[np.arange(len(order)), ASSET_SUMS.start + assets % ASSET_BUCKETS] = slow * is_transaction
    return out


@lru_cache(maxsize=50_000)
def asset_of(asset: str) -> int:
    """The bucket of an asset, plus their number if it is a stable one."""
    return bucket(asset, ASSET_BUCKETS) + ASSET_BUCKETS * (asset in STABLE_ASSETS)


def growth(at_ms: NDArray[np.int64], landmark: NDArray[np.int64], half_life_ms: int) -> NDArray[np.float64]:
    """2^((t - L) / H), (n,): the weight of an event at t."""
    whole, rest = np.divmod(at_ms, LANDMARK * half_life_ms)
    return np.ldexp(np.exp2(rest / half_life_ms), LANDMARK * (whole - landmark))


def decay(at_ms: NDArray[np.int64], landmark: NDArray[np.int64], half_life_ms: int) -> NDArray[np.float64]:
    """2^((L - t) / H), (n,): what a sum is multiplied by to be read at t."""
    whole, rest = np.divmod(at_ms, LANDMARK * half_life_ms)
    return np.ldexp(np.exp2(-(rest / half_life_ms)), LANDMARK * (landmark - whole))


def feature_rows(
    sums: NDArray[np.float64],
    at_ms: NDArray[np.int64],
    slow_landmark: NDArray[np.int64],
    fast_landmark: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Sums (n, 33) -> features (n, 16) at `at_ms`. A wallet without a transaction has zeros, and diversity 1."""
    # every sum a row of its own: what follows goes along rows
    slow = np.multiply(sums[:, SLOW_SCALE].T, decay(at_ms, slow_landmark.astype(np.int64), SLOW_MS), order="C")
    fast = np.multiply(sums[:, FAST_SUMS].T, decay(at_ms, fast_landmark.astype(np.int64), FAST_MS), order="C")
    count, fast_count = np.maximum(slow[COUNT], 1e-9), np.maximum(fast[COUNT], 1e-9)
    priced = np.maximum(slow[PRICED], 1e-9)
    ticket = slow[LOG_USD] / priced
    shares = slow[ASSET_SUMS] / count
    surprise = shares * np.log(np.maximum(shares, 1e-12))
    entropy = -surprise[0]
    for place in range(1, ASSET_BUCKETS):  # one by one: a sum over an axis may be reordered
        entropy = entropy - surprise[place]
    features = [
        np.log1p(slow[COUNT]),
        np.log1p(fast[COUNT]),
        ticket,
        fast[LOG_USD] / np.maximum(fast[PRICED], 1e-9),
        np.sqrt(np.maximum(slow[LOG_USD_SQUARED] / priced - ticket * ticket, 0)),
        np.log1p(slow[USD]),
        slow[LOG_LEVERAGE] / count,
        fast[LOG_LEVERAGE] / fast_count,
        *np.sqrt(slow[FIRST_PRODUCT:USD] / count),
        slow[STABLE] / count,
        slow[SELLS] / count,
        np.exp(-entropy),
    ]
    return np.ascontiguousarray(np.array(features).T)


def row_features(rows: NDArray[np.void]) -> NDArray[np.float64]:
    """Features (n, 16) of rows as of each wallet's newest transaction."""
    if not len(rows):
        return np.zeros((0, len(FEATURES)))
    at_ms = np.maximum(rows["last_at_ms"], 0)
    return feature_rows(rows["sums"], at_ms, rows["slow_landmark"], rows["fast_landmark"])
