"""How alive a wallet is: new, active, slowing, dormant, returned; a second axis beside its segment.

A wallet that goes quiet changes without an event of its own, so it is looked at when it is due, which is a time of
event time on a coarse grid. It is dormant when its silence is a surprise: with a Gamma-Poisson model of its
transactions (Gamma prior of shape a and rate b; c transactions, decayed, in T days, decayed alike) a gap of g days or
longer has the probability ((T + b) / (T + b + g))^(c + a).
"""

from __future__ import annotations

import math

import numpy as np

from models.compiled import compiled
from models.features import COUNT, SLOW_DAYS, SLOW_MS, decay, since_ms, weight_days
from models.rows import ACTIVE, DORMANT, NEW, RETURNED, SLOWING
from models.rules import DAY_MS, HOUR_MS

#: Due times are multiples of this, so that many wallets are due at the same time and few batches are cut.
GRID_MS = 12 * HOUR_MS
#: An idle wallet is looked at so often.
IDLE_MS = 5 * DAY_MS
#: A wallet that is seen for the first time, or again, is looked at after this.
FIRST_LOOK_MS = 2 * DAY_MS
#: No silence is a surprise before this, whatever a wallet's rate.
SHORTEST_MS = 54 * HOUR_MS
#: A silence less likely than this makes a wallet dormant; than that, slowing.
DORMANT_BELOW, SLOWING_BELOW = 1e-3, 0.05
#: The prior: a transactions in b days.
PRIOR_COUNT, PRIOR_DAYS = 0.5, 4.0
#: How sure it is that a wallet found dormant has gone quiet, by how many days it has been silent: less than these, and
#: beyond. Measured on tuning seasons of the simulator: a short silence can be the change to a slower life.
SURE_BY_DAYS, SURE_BEYOND = ((8.0, 0.66), (20.0, 0.82)), 0.95
#: For so long a wallet is new after its first transaction, and returned after it came back.
NEW_MS, RETURNED_MS = 14 * DAY_MS, 14 * DAY_MS
#: What a look at a wallet finds: it has been active since it was queued, it is idle, its silence is a surprise.
AWAKE, IDLE, SILENT = range(3)
#: No time at all: nobody is due.
NEVER_MS = 1 << 62


def horizon(clock_ms: int, next_due_ms: int) -> int:
    """The event time, epoch ms, that a batch must not move the clock of its partition to, from `clock_ms`, 0 none.

    `next_due_ms`: when the first wallet is due, `NEVER_MS` if none is. Whom the batch itself queues is not due before
    what is returned, so after it the shell knows all who are due by then. The first event of all sets the clock and
    ends its batch.
    """
    return min(next_due_ms, first_due(clock_ms)) if clock_ms else 0


@compiled
def first_due(clock_ms: int) -> int:
    """When a wallet that an event queues at this clock is due, epoch ms."""
    return on_grid(clock_ms + FIRST_LOOK_MS)


@compiled
def on_grid(at_ms: int) -> int:
    """The first time of the grid that is not before this."""
    return -(-at_ms // GRID_MS) * GRID_MS


@compiled
def wake(row: np.void, at_ms: int, evidence: int) -> bool:
    """What a transaction, already folded, says of its wallet; whether it ends a silence.

    One older than the silence of a dormant wallet says nothing. `evidence`: transactions a wallet needs before it is
    given a segment.
    """
    stage = row["lifecycle"]
    if stage == DORMANT:
        if at_ms == row["last_at_ms"]:
            row["lifecycle"] = RETURNED
            return True
    elif stage == RETURNED and at_ms < np.int64(row["changed_s"]) * 1000 + RETURNED_MS:
        return False
    elif row["transactions"] < evidence or at_ms < np.int64(row["first_s"]) * 1000 + NEW_MS:
        row["lifecycle"] = NEW
    else:
        row["lifecycle"] = ACTIVE
    return False


@compiled
def queue(row: np.void, clock_ms: int) -> None:
    """Queue a wallet that is not queued: seen for the first time, or no longer dormant. `clock_ms`: with the event."""
    if row["due_s"] == 0 and row["lifecycle"] != DORMANT:
        row["due_s"] = first_due(clock_ms) // 1000


@compiled
def look(row: np.void, at_ms: int) -> int:
    """What is found of a wallet with transactions when it is due: `AWAKE`, `IDLE` or `SILENT`. Sets its lifecycle."""
    silent_ms = at_ms - row["last_at_ms"]
    if silent_ms >= surprise_ms(row, DORMANT_BELOW):
        row["lifecycle"] = DORMANT
        return SILENT
    if silent_ms >= surprise_ms(row, SLOWING_BELOW):
        row["lifecycle"] = SLOWING
    return IDLE if silent_ms >= IDLE_MS else AWAKE


def dormant_for_sure(silent_days: float) -> float:
    """The confidence, 0 to 1, in the dormancy of a wallet that has been silent for so many days."""
    return next((sure for days, sure in SURE_BY_DAYS if silent_days < days), SURE_BEYOND)


@compiled
def queue_again(row: np.void, at_ms: int, found: int) -> None:
    """When a wallet that was due at `at_ms` is due again; a dormant one is not."""
    if found == SILENT:
        row["due_s"] = 0
        return
    since_ms = at_ms if found == IDLE else row["last_at_ms"]
    due_ms = min(since_ms + IDLE_MS, row["last_at_ms"] + surprise_ms(row, DORMANT_BELOW))
    row["due_s"] = max(on_grid(due_ms), at_ms + GRID_MS) // 1000


@compiled
def surprise_ms(row: np.void, below: float) -> int:
    """How long a wallet has to be silent until that is less likely than `below`; at most some years.

    Transactions and days are those since the slow scale began: what little is known of a new pace counts as little.
    """
    count = row["sums"][COUNT] * decay(row["last_at_ms"], row["slow_landmark"], SLOW_MS)
    seen_days = weight_days(row["last_at_ms"] - since_ms(row), SLOW_DAYS)
    days = (seen_days + PRIOR_DAYS) * math.expm1(-math.log(below) / (count + PRIOR_COUNT))
    return max(int(min(days, 10_000.0) * DAY_MS), SHORTEST_MS)
