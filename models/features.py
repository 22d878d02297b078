"""What a wallet is like: decayed sums on two time scales, and the feature row they give after every event.

Sums are kept in forward-decay form (Cormode et al., "Forward decay", ICDE 2009): S' = sum of v 2^((t-L)/H) for
half-life H and a landmark L in multiples of 32 H. A late event is then an ordinary addition, and moving the
landmark multiplies by an exact power of two.

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

import math

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled
from models.rows import ALL_SUMS, ASSET_BUCKETS, ASSET_SUMS, FAST_SUMS, FEATURES, SLOW_SCALE, SUMS
from models.rules import DAY_MS

SLOW_MS, FAST_MS = 45 * DAY_MS, 3 * DAY_MS
#: Half-lives between two landmarks: a sum grows by at most 2^32 before it is rebased.
LANDMARK = 32
COUNT, PRICED, LOG_USD, LOG_USD_SQUARED, LOG_LEVERAGE, SELLS, STABLE = range(7)
FIRST_PRODUCT, PRODUCTS, USD = 7, 5, len(SUMS)
#: Where the sums of asset shares and of the fast scale begin.
ASSETS, FAST = ASSET_SUMS.start, FAST_SUMS.start
SLOW_END = SLOW_SCALE.stop
SLOW_DAYS, FAST_DAYS = SLOW_MS / DAY_MS, FAST_MS / DAY_MS
#: The test whether the scales disagree: transactions it needs on the fast one, what it is divided by because people
#: are more uneven than the models, the most transactions a mix is known by, what is added to its counts and taken off
#: for its freedom, and the least variance of a ticket, ln(USD) squared.
LEAST_FAST, OVER_DISPERSION, MIX_COUNT, MIX_PRIOR, MIX_FREEDOM, LEAST_VARIANCE = 3.0, 1.5, 40.0, 0.2, 2.5, 0.6
#: Less than any share or count there is.
TINY, LEAST_SHARE = 1e-9, 1e-12


@compiled
def fold(row: np.void, event: np.void) -> None:
    """Add a transaction, a record of `models.arrivals.EVENT`, to the sums of its wallet's row."""
    at_ms = event["at_ms"]
    rebase(row, at_ms)
    slow = growth(at_ms, row["slow_landmark"], SLOW_MS)
    fast = growth(at_ms, row["fast_landmark"], FAST_MS)
    add(row["sums"], 0, slow, event)
    add(row["sums"], FAST, fast, event)
    usd = event["usd"]
    if not math.isnan(usd):
        row["sums"][USD] += usd * slow
    row["sums"][ASSETS + event["asset"] % ASSET_BUCKETS] += slow
    row["transactions"] += 1
    row["last_at_ms"] = max(row["last_at_ms"], at_ms)


@compiled
def add(sums: NDArray[np.float64], first: int, weight: float, event: np.void) -> None:
    """Add a transaction to the sums of one time scale, which begin at `first`."""
    usd = event["usd"]
    sums[first + COUNT] += weight
    if not math.isnan(usd):
        log_usd = math.log1p(usd)
        sums[first + PRICED] += weight
        sums[first + LOG_USD] += log_usd * weight
        sums[first + LOG_USD_SQUARED] += log_usd * log_usd * weight
    sums[first + LOG_LEVERAGE] += math.log(event["leverage"]) * weight
    if event["is_sell"]:
        sums[first + SELLS] += weight
    if event["asset"] >= ASSET_BUCKETS:
        sums[first + STABLE] += weight
    product = event["product"]
    if product < PRODUCTS:  # the others are in no feature
        sums[first + FIRST_PRODUCT + product] += weight


@compiled
def rebase(row: np.void, at_ms: int) -> None:
    """Move a row's landmarks up to a transaction's, and its sums with them, by exact powers of two."""
    slow, fast = at_ms // (LANDMARK * SLOW_MS), at_ms // (LANDMARK * FAST_MS)
    if slow > row["slow_landmark"]:
        scale(row["sums"], 0, SLOW_END, LANDMARK * (row["slow_landmark"] - slow))
        row["slow_landmark"] = slow
    if fast > row["fast_landmark"]:
        scale(row["sums"], FAST, ALL_SUMS, LANDMARK * (row["fast_landmark"] - fast))
        row["fast_landmark"] = fast


@compiled
def renew(row: np.void, at_ms: int, threshold: float) -> bool:
    """Begin the slow scale anew, from the fast one, if they disagree by more than `threshold` nats; whether they did.

    `at_ms`: of the transaction just folded; one that is not the newest proves nothing.
    """
    sums = row["sums"]
    if at_ms != row["last_at_ms"]:
        return False
    slow, fast = growth(at_ms, row["slow_landmark"], SLOW_MS), growth(at_ms, row["fast_landmark"], FAST_MS)
    if sums[FAST + COUNT] < LEAST_FAST * fast or disagreement(row, at_ms, slow, fast) <= threshold * OVER_DISPERSION:
        return False
    fast_days = weight_days(at_ms - since_ms(row), FAST_DAYS)
    ratio = slow / fast
    by_count = sums[FAST + COUNT] * ratio / sums[COUNT]
    dearer = mean_ticket(sums, FAST) - mean_ticket(sums, 0)
    sums[USD] *= by_count * math.exp(dearer)  # the fast scale has neither the amounts nor the assets
    for bucket in range(ASSET_BUCKETS):
        sums[ASSETS + bucket] *= by_count
    for place in range(len(SUMS)):
        sums[place] = sums[FAST + place] * ratio
    age_days = -SLOW_DAYS * math.log2(1.0 - fast_days * math.log(2.0) / SLOW_DAYS)
    row["rebased_s"] = at_ms // 1000 - np.int64(age_days * DAY_MS) // 1000
    return True


@compiled
def disagreement(row: np.void, at_ms: int, slow: float, fast: float) -> float:
    """How clearly pace, mix of products or ticket differ between the scales: the largest log-likelihood ratio, nats.

    `slow`, `fast`: the weight of a transaction at `at_ms`.
    """
    sums, age_ms = row["sums"], at_ms - since_ms(row)
    count, fast_count = sums[COUNT] / slow, sums[FAST + COUNT] / fast
    expected = count * weight_days(age_ms, FAST_DAYS) / weight_days(age_ms, SLOW_DAYS)
    pace = fast_count * math.log(fast_count / expected) - (fast_count - expected)
    priced, fast_priced = sums[PRICED] / slow, sums[FAST + PRICED] / fast
    ticket = 0.0
    if fast_priced > LEAST_FAST:
        mean, dearer = mean_ticket(sums, 0), mean_ticket(sums, FAST) - mean_ticket(sums, 0)
        variance = max(sums[LOG_USD_SQUARED] / sums[PRICED] - mean * mean, LEAST_VARIANCE)
        ticket = dearer * dearer / (2 * variance * (1 / fast_priced + 1 / priced))
    clearest: float = max(pace, ticket, mix(sums, slow, fast))
    return clearest


@compiled
def mix(sums: NDArray[np.float64], slow: float, fast: float) -> float:
    """The log-likelihood ratio of the products of the fast scale against those of the slow one, nats."""
    total, fast_total, found = 0.0, 0.0, 0.0
    for product in range(FIRST_PRODUCT, FIRST_PRODUCT + PRODUCTS):
        total += sums[product] / slow + MIX_PRIOR
        fast_total += sums[FAST + product] / fast
    for product in range(FIRST_PRODUCT, FIRST_PRODUCT + PRODUCTS):
        share = (sums[product] / slow + MIX_PRIOR) / total
        fast_share = (sums[FAST + product] / fast + share / 2) / (fast_total + 0.5)
        found += fast_share * math.log(fast_share / share)
    return min(fast_total, MIX_COUNT) * found - MIX_FREEDOM


@compiled
def mean_ticket(sums: NDArray[np.float64], first: int) -> float:
    """Mean ln(1 + USD) on the scale whose sums begin at `first`; 0 without amounts."""
    priced: float = sums[first + PRICED]
    mean: float = sums[first + LOG_USD] / priced if priced > 0 else 0.0
    return mean


@compiled
def since_ms(row: np.void) -> int:
    """Since when the slow scale has been adding up, epoch ms."""
    since_s: int = row["rebased_s"] or row["first_s"]
    return since_s * 1000


@compiled
def weight_days(age_ms: int, half_life_days: float) -> float:
    """What a transaction a day would have added up to by now, days; at least a second's worth."""
    age_days = max(age_ms, 1000) / DAY_MS
    return half_life_days / math.log(2.0) * (1.0 - float(np.exp2(-age_days / half_life_days)))


@compiled
def made_up(row: np.void, at_ms: int) -> float:
    """What a sum since the slow scale began anew is multiplied by to stand for one since the wallet was first seen."""
    if row["rebased_s"] == 0:
        return 1.0
    first_s: int = row["first_s"]
    return max(weight_days(at_ms - first_s * 1000, SLOW_DAYS) / weight_days(at_ms - since_ms(row), SLOW_DAYS), 1.0)


@compiled
def scale(sums: NDArray[np.float64], start: int, stop: int, exponent: int) -> None:
    """Multiply some sums by 2^exponent."""
    for place in range(start, stop):
        sums[place] = math.ldexp(sums[place], exponent)


@compiled
def growth(at_ms: int, landmark: int, half_life_ms: int) -> float:
    """2^((t - L) / H): the weight of an event at t."""
    whole = at_ms // (LANDMARK * half_life_ms)
    rest = at_ms - whole * (LANDMARK * half_life_ms)
    return math.ldexp(np.exp2(rest / half_life_ms), LANDMARK * (whole - landmark))


@compiled
def decay(at_ms: int, landmark: int, half_life_ms: int) -> float:
    """2^((L - t) / H): what a sum is multiplied by to be read at t."""
    whole = at_ms // (LANDMARK * half_life_ms)
    rest = at_ms - whole * (LANDMARK * half_life_ms)
    return math.ldexp(np.exp2(-(rest / half_life_ms)), LANDMARK * (landmark - whole))


@compiled
def describe(row: np.void, features: NDArray[np.float64]) -> None:
    """Fill `features` (16,) as of the wallet's newest transaction. Without one they are zeros, and diversity 1."""
    describe_at(row, row["last_at_ms"], features)


@compiled
def describe_at(row: np.void, at_ms: int, features: NDArray[np.float64]) -> None:
    """The same as of a time, epoch ms, that is not before the wallet's newest transaction."""
    sums = row["sums"]
    slow = decay(at_ms, row["slow_landmark"], SLOW_MS)
    fast = decay(at_ms, row["fast_landmark"], FAST_MS)
    count, fast_count = max(sums[COUNT] * slow, TINY), max(sums[FAST + COUNT] * fast, TINY)
    priced, fast_priced = max(sums[PRICED] * slow, TINY), max(sums[FAST + PRICED] * fast, TINY)
    ticket = sums[LOG_USD] * slow / priced
    grown = made_up(row, at_ms)
    features[0] = math.log1p(sums[COUNT] * slow * grown)
    features[1] = math.log1p(sums[FAST + COUNT] * fast)
    features[2] = ticket
    features[3] = sums[FAST + LOG_USD] * fast / fast_priced
    features[4] = math.sqrt(max(sums[LOG_USD_SQUARED] * slow / priced - ticket * ticket, 0.0))
    features[5] = math.log1p(sums[USD] * slow * grown)
    features[6] = sums[LOG_LEVERAGE] * slow / count
    features[7] = sums[FAST + LOG_LEVERAGE] * fast / fast_count
    for product in range(PRODUCTS):
        features[8 + product] = math.sqrt(sums[FIRST_PRODUCT + product] * slow / count)
    features[13] = sums[STABLE] * slow / count
    features[14] = sums[SELLS] * slow / count
    features[15] = diversity(sums, slow, count)


@compiled
def diversity(sums: NDArray[np.float64], slow: float, count: float) -> float:
    """One over the effective number of assets: exp of minus the entropy of their shares."""
    entropy = 0.0
    for bucket in range(ASSET_BUCKETS):
        share = sums[ASSETS + bucket] * slow / count
        entropy -= share * math.log(max(share, LEAST_SHARE))
    return math.exp(-entropy)


def row_features(rows: NDArray[np.void]) -> NDArray[np.float64]:
    """Features (n, 16) of rows as of each wallet's newest transaction."""
    features = np.zeros((len(rows), len(FEATURES)))
    describe_each(rows, features)
    return features


@compiled
def describe_each(rows: NDArray[np.void], features: NDArray[np.float64]) -> None:
    """Fill `features` (n, 16) of rows (n,)."""
    for place in range(len(rows)):
        describe(rows[place], features[place])
