"""When a wallet changes its segment: evidence is gathered until it outweighs what speaks for staying.

The evidence G for another segment is a leaky, capped CUSUM of its log-likelihood lead over the wallet's own
(Page 1954; leak and cap as in docs/decisions.md): G = max(0, G exp(-dt / 10 d) + clip(lead - 0.5, +-6) dt), with dt
the days since the wallet's previous transaction, at most 5. G above `switch_at` moves the wallet.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled
from models.placing import Terms, best, place
from models.rows import FEATURES, SEGMENTS, SLOTS, WHALE
from models.rules import DAY_MS

if TYPE_CHECKING:
    from models.rules import Rules
    from models.segments import Catalogue

LEAK_DAYS, MARGIN, CAP, LONGEST_DAYS = 10.0, 0.5, 6.0, 5.0
#: A whale stays one until it falls below this part of the threshold, so the flag does not flicker.
WHALE_STAYS = 0.8
SIZE = FEATURES.index("wallet_size")
#: Why a wallet changes its segment: it changed, or the model did.
LIVE, RECALIBRATION = 0, 1
ORIGINS = ("live", "recalibration")
#: No column: the wallet stays where it is, or a segment is not in the catalogue.
NONE = -1


#: The catalogue and the rules as the loop reads them; segments are columns 0 .. k-1 of the catalogue, k = `segments`.
#: `numbers`, `slots`: of each segment. `column_in`: the segment of a slot, -1 none; `since`: the catalogue that gave it
#: to this one. `column_of`: by number, -1 not in the catalogue; `heir_of`: the column that took over from a number, -1
#: none. `whale_at`, `whale_until`: log1p USD.
STANDING = np.dtype(
    [
        ("segments", "i8"),
        ("version", "i8"),
        ("evidence", "i8"),
        ("whale_at", "f8"),
        ("whale_until", "f8"),
        ("switch_at", "f4"),
        ("numbers", "i8", (SLOTS,)),
        ("slots", "i8", (SLOTS,)),
        ("column_in", "i8", (SLOTS,)),
        ("since", "i8", (SLOTS,)),
        ("column_of", "i1", (SEGMENTS,)),
        ("heir_of", "i1", (SEGMENTS,)),
    ]
)


@lru_cache(maxsize=4)
def standing(catalogue: Catalogue, rules: Rules) -> NDArray[np.void]:
    """What decisions rest on, as a record of `STANDING` in an array (1,); made once for each catalogue."""
    found, count = np.zeros(1, STANDING), len(catalogue.segments)
    numbers, slots = found["numbers"][0], found["slots"][0]
    numbers[:count] = [segment.number for segment in catalogue.segments]
    slots[:count] = [segment.slot for segment in catalogue.segments]
    for name in ("column_in", "column_of", "heir_of"):
        found[name] = NONE
    found["column_in"][0, slots[:count]] = found["column_of"][0, numbers[:count]] = np.arange(count)
    for number in catalogue.retired:
        found["heir_of"][0, number] = catalogue.column_of(catalogue.successor(number))
    found["segments"], found["version"], found["since"] = count, catalogue.version, catalogue.slot_since
    found["switch_at"], found["evidence"] = rules.switch_at, rules.evidence
    found["whale_at"] = catalogue.whale_at
    found["whale_until"] = np.log1p(WHALE_STAYS * np.expm1(catalogue.whale_at))
    return found


@compiled
def mark_whale(row: np.void, size: float, found: np.void) -> None:
    """On at `whale_at`, off below 0.8 of it in USD, unchanged between. `size`: of the wallet, log1p USD."""
    if size >= found["whale_at"]:
        row["flags"] |= WHALE
    elif size < found["whale_until"]:
        row["flags"] &= ~WHALE


@compiled
def days_between(before_ms: int, now_ms: int) -> np.float32:
    """The days, 0 to 5, that a transaction's evidence weighs. `before_ms`: of the transaction before, 0 none."""
    if before_ms <= 0:
        return np.float32(0)
    return np.float32(min(max((now_ms - before_ms) / DAY_MS, 0.0), LONGEST_DAYS))


@compiled
def decide(
    row: np.void, days: np.float32, scores: NDArray[np.float64], found: np.void, terms: Terms
) -> tuple[int, int]:
    """Gather the evidence of a transaction into its wallet's row: the column it moves to, -1 stays, and the origin.

    `scores`: float64 (k,), k >= 1, of the wallet as it is now. `found`: of `standing`; `terms`: of its catalogue.
    """
    own = found["column_of"][row["segment"]]
    gather(row, own, days, scores, found)
    joined = most_convincing(row, found) if own >= 0 else homeless(row, scores, found)
    origin = origin_of(row, joined, found, terms) if joined >= 0 else LIVE
    row["catalogue"] = found["version"]
    return joined, origin


@compiled
def enter(row: np.void, number: int, at_ms: int, features: NDArray[np.float64]) -> None:
    """The wallet changes its segment to `number`; evidence begins anew. `features`: float64 (16,), as it is now."""
    row["segment"] = number
    row["sequence"] += 1
    row["changed_s"] = at_ms // 1000
    for slot in range(SLOTS):
        row["cusum"][slot] = np.float32(0)
    for feature in range(len(FEATURES)):
        row["before"][feature] = features[feature]


@compiled
def gather(row: np.void, own: int, days: np.float32, scores: NDArray[np.float64], found: np.void) -> None:
    """What a transaction adds to the evidence for each segment, against the wallet's own in column `own`, -1 none."""
    kept = np.float32(math.exp(-np.float64(days) / LEAK_DAYS))
    for slot in range(SLOTS):
        column, before, gain = found["column_in"][slot], row["cusum"][slot], np.float32(0)
        if column < 0 or row["catalogue"] < found["since"][slot]:
            before = np.float32(0)  # it spoke for another segment
        if column >= 0 and own >= 0:
            lead = scores[column] - scores[own] - MARGIN
            gain = np.float32(min(max(lead, -CAP), CAP) * days)
        row["cusum"][slot] = max(before * kept + gain, np.float32(0))


@compiled
def most_convincing(row: np.void, found: np.void) -> int:
    """The column of the segment with most evidence, the first of equals; -1 if that is not enough to move."""
    joined = 0
    for column in range(1, found["segments"]):
        if row["cusum"][found["slots"][column]] > row["cusum"][found["slots"][joined]]:
            joined = column
    return joined if row["cusum"][found["slots"][joined]] > found["switch_at"] else NONE


@compiled
def homeless(row: np.void, scores: NDArray[np.float64], found: np.void) -> int:
    """The column for a wallet without a segment in this catalogue; -1: too few transactions yet."""
    number = row["segment"]
    if number:
        heir = found["heir_of"][number]
        return heir if heir >= 0 else best(scores)
    return best(scores) if row["transactions"] >= found["evidence"] else NONE


@compiled
def origin_of(row: np.void, joined: int, found: np.void, terms: Terms) -> int:
    """`RECALIBRATION` where the model moved and not the wallet, else `LIVE`.

    The model moved if the segment is gone, or if the wallet's row at its last change, placed by today's catalogue,
    already lies in the new segment; a row that today's catalogue has already seen lies where it was left.
    """
    if row["segment"] == 0:
        return LIVE
    if found["column_of"][row["segment"]] < 0:
        return RECALIBRATION
    if row["catalogue"] == found["version"]:
        return LIVE
    then, scores = np.empty(len(FEATURES)), np.empty(len(terms.constants))
    for feature in range(len(FEATURES)):
        then[feature] = row["before"][feature]
    place(then, terms, scores)
    return RECALIBRATION if best(scores) == joined else LIVE
