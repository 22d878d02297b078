"""When a wallet changes its segment: evidence is gathered until it outweighs what speaks for staying.

The evidence G for another segment is a leaky, capped CUSUM of its log-likelihood lead over the wallet's own
(Page 1954; leak and cap as in docs/decisions.md): G = max(0, G exp(-dt / 10 d) + clip(lead - 0.5, +-6) dt), with dt
the days since the wallet's previous transaction, at most 5. A wallet moves only into the segment that fits it best
now, and only if G for it is above `switch_at`; above four times that if it was not the wallet that changed.

A wallet leans to a segment that fits it better than its own. It leans by the model if a new catalogue alone took it
there: if its row as it was at its last decision, placed by that catalogue, already lies there, and did not before.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled
from models.placing import best
from models.rows import BY_MODEL, FEATURES, LEANS, SEGMENTS, SLOTS, WHALE
from models.rules import DAY_MS

if TYPE_CHECKING:
    from models.rules import Rules
    from models.segments import Catalogue

LEAK_DAYS, MARGIN, CAP, LONGEST_DAYS = 10.0, 0.5, 6.0, 5.0
#: A whale stays one until it falls below this part of the threshold, so the flag does not flicker.
WHALE_STAYS = 0.8
SIZE = FEATURES.index("wallet_size")
#: Why a wallet changes its segment: it changed, or the model did.
LIVE, RECALIBRATION, SWEEP = range(3)
ORIGINS = ("live", "recalibration", "sweep")
#: What a move that the model has caused needs, in units of `switch_at`: a lead of 4.5 nats for two weeks. Whom a refit
#: only pushed over a boundary stays where he is for ever, so a refit is not followed by a burst of changes.
BY_MODEL_NEEDS = 4.0
#: Of a row's flags, the slot that the wallet leans to: its bits, and how far from the right they are.
LEAN_SLOT, LEAN_SHIFT = 0xF00, 8
#: The two time scales of a wallet disagree above so many nats: then the slow one begins anew, and the transaction that
#: showed it weighs so many days, for it is no single one that speaks.
RENEW_AT, HEAD_START_DAYS = 3.0, 2.0
#: No column: the wallet stays where it is, or a segment is not in the catalogue.
NONE = -1


#: The catalogue and the rules as the loop reads them; segments are columns 0 .. k-1 of the catalogue, k = `segments`.
#: `numbers`, `slots`: of each segment. `column_in`: the segment of a slot, -1 none; `since`: the catalogue that gave it
#: to this one. `column_of`: by number, -1 not in the catalogue; `heir_of`: the column that took over from a number, -1
#: none. `whale_at`, `whale_until`: log1p USD. `switch_at`, `by_model_at`: evidence that a move needs. `renew_at`,
#: `head_start`: `RENEW_AT`, `HEAD_START_DAYS`. `held_from_ms`, `held_until_ms`: the newest crash, by the catalogue.
STANDING = np.dtype(
    [
        ("segments", "i8"),
        ("version", "i8"),
        ("evidence", "i8"),
        ("whale_at", "f8"),
        ("whale_until", "f8"),
        ("switch_at", "f4"),
        ("by_model_at", "f4"),
        ("renew_at", "f8"),
        ("head_start", "f4"),
        ("held_from_ms", "i8"),
        ("held_until_ms", "i8"),
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
    found["switch_at"], found["by_model_at"] = rules.switch_at, BY_MODEL_NEEDS * rules.switch_at
    found["evidence"], found["renew_at"], found["head_start"] = rules.evidence, RENEW_AT, HEAD_START_DAYS
    found["held_from_ms"], found["held_until_ms"] = catalogue.held_from_ms, catalogue.held_until_ms
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
def is_held(found: np.void, at_ms: int) -> bool:
    """Whether a time lies in a crash of the market: nobody moves, and nothing done then is evidence. `at_ms`: epoch."""
    held: bool = found["held_from_ms"] <= at_ms < found["held_until_ms"]
    return held


@compiled
def decide(row: np.void, days: np.float32, scores: NDArray[np.float64], found: np.void) -> tuple[int, int]:
    """Gather the evidence of a transaction into its wallet's row: the column it moves to, -1 stays, and the origin.

    `scores`: float64 (k,), k >= 1, of the wallet as it is now. `found`: of `standing`. If its catalogue is not that
    of the wallet's last decision, `notice_model` comes before the transaction is folded.
    """
    own, top = found["column_of"][row["segment"]], best(scores)
    gather(row, own, days, scores, found)
    joined, origin = NONE, LIVE
    if own < 0:
        joined, origin = homeless(row, top, found), RECALIBRATION if row["segment"] else LIVE
    elif top == own:
        lean(row, NONE, 0)
    else:
        slot = found["slots"][top]
        if not leans_to(row, slot):
            lean(row, slot, 0)
        by_model = row["flags"] & BY_MODEL
        if row["cusum"][slot] > (found["by_model_at"] if by_model else found["switch_at"]):
            joined, origin = top, RECALIBRATION if by_model else LIVE
    row["catalogue"] = found["version"]
    return joined, origin


@compiled
def notice_model(row: np.void, scores: NDArray[np.float64], found: np.void) -> None:
    """Note whether a catalogue that is new to a wallet takes it elsewhere, before anything it does is folded.

    `scores`: float64 (k,), k >= 1, by that catalogue, of the wallet as it was at its last decision.
    """
    own, top = found["column_of"][row["segment"]], best(scores)
    slot = found["slots"][top]
    if own < 0:
        return
    if top == own:
        lean(row, NONE, 0)
    elif not leans_to(row, slot) or row["catalogue"] < found["since"][slot]:
        lean(row, slot, BY_MODEL)


@compiled
def lean(row: np.void, slot: int, by_model: int) -> None:
    """A wallet leans to the segment in a slot from now on, -1: to none. `by_model`: 0 or the flag."""
    flags = row["flags"] & ~(LEANS | BY_MODEL | LEAN_SLOT)
    if slot >= 0:
        flags |= LEANS | by_model | slot << LEAN_SHIFT
    row["flags"] = flags


@compiled
def leans_to(row: np.void, slot: int) -> bool:
    """Whether a wallet leans to the segment in a slot."""
    return bool(row["flags"] & LEANS) and (row["flags"] & LEAN_SLOT) >> LEAN_SHIFT == slot


@compiled
def enter(row: np.void, number: int, at_ms: int, features: NDArray[np.float64]) -> None:
    """The wallet changes its segment to `number`; evidence begins anew. `features`: float64 (16,), as it is now."""
    row["segment"] = number
    row["sequence"] += 1
    row["changed_s"] = at_ms // 1000
    lean(row, NONE, 0)
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
def homeless(row: np.void, top: int, found: np.void) -> int:
    """The column for a wallet without a segment in this catalogue; -1: too few transactions yet. `top`: fits best."""
    number = row["segment"]
    if number:
        heir: int = found["heir_of"][number]
        return heir if heir >= 0 else top
    return top if row["transactions"] >= found["evidence"] else NONE
