"""The batch at work: every event in turn, in order of arrival, changes the row of its wallet.

One loop over the events, so where a batch is cut cannot matter: nothing but rows and clocks goes on to the next event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.arrivals import JURISDICTION
from models.changes import Change, Move
from models.clocks import tick
from models.compiled import compiled
from models.decisions import ORIGINS, SIZE, days_between, decide, enter, is_held, mark_whale, notice_model
from models.features import begin_anew, describe, fold, renew
from models.lifecycle import queue, wake
from models.placing import Terms, place
from models.rows import DORMANT, FEATURES, LIFECYCLE, ROW_VERSION, WHALE
from models.rules import DAY_MS
from models.tallies import NEVER_SEEN

if TYPE_CHECKING:
    from models.records import Record

#: What a partition counts: columns of `Told.counted`. NEW is wallets; LEARNED, MOVED and SHIFTED count rows told.
TRANSACTIONS, TOUCHES, LATE_TRANSACTIONS, LATE_TOUCHES, REVENUE, COST, NEW, LEARNED, MOVED, SHIFTED = range(10)
COUNTS = 10
#: Columns of `Told.moves` and of `Told.shifts`.
AT, LEFT, JOINED, ORIGIN, SEQUENCE, STATED, STAGE = range(7)
WAS, WAS_WHALE, IS, IS_WHALE = range(4)
#: Places of `Told.filled`.
LESSONS, MOVES, SHIFTS = range(3)


class Pace(NamedTuple):
    """Bounds of the clock, ms of event time: what one event moves it by at most, and how far behind it is late."""

    clock_step_ms: int
    lateness_ms: int


class Told(NamedTuple):
    """What the loop fills, for n events of p partitions; learned rows, moves and shifts come by partition.

    `segment`, `clock_ms`, `previous_at_ms`: int64 (n,) with each event its wallet's segment, its partition's clock, and
    the wallet's newest transaction before it, 0 none. `counted`: int64 (p, 10). `learning`: float32 (n, 16), states
    before the first transaction of a later day. `moves`: int64 (n, 7); with each `features` (n, 16), `before` (n, 16)
    as they were at the move before, `scores` (n, k) and `is_whale` (n,). `shifts`: int64 (n, 4), the segment and whale
    flag by which a wallet was counted, -1 for a new one, and by which it is now. `filled`: int64 (3,) how many rows of
    `learning`, `moves` and `shifts` there are.
    """

    segment: NDArray[np.int64]
    clock_ms: NDArray[np.int64]
    previous_at_ms: NDArray[np.int64]
    counted: NDArray[np.int64]
    learning: NDArray[np.float32]
    moves: NDArray[np.int64]
    features: NDArray[np.float64]
    before: NDArray[np.float32]
    scores: NDArray[np.float64]
    is_whale: NDArray[np.bool_]
    shifts: NDArray[np.int64]
    filled: NDArray[np.int64]


def room_for(events: int, partitions: int, segments: int) -> Told:
    """Room for all that a batch may tell."""
    features = len(FEATURES)
    return Told(
        segment=np.empty(events, np.int64),
        clock_ms=np.empty(events, np.int64),
        previous_at_ms=np.empty(events, np.int64),
        counted=np.zeros((partitions, COUNTS), np.int64),
        learning=np.empty((events, features), np.float32),
        moves=np.empty((events, 7), np.int64),
        features=np.empty((events, features)),
        before=np.empty((events, features), np.float32),
        scores=np.empty((events, segments)),
        is_whale=np.empty(events, np.bool_),
        shifts=np.empty((events, 4), np.int64),
        filled=np.zeros(3, np.int64),
    )


@compiled
def take_turns(
    rows: NDArray[np.void],
    arrivals: NDArray[np.void],
    clocks: NDArray[np.int64],
    pace: Pace,
    catalogue: tuple[NDArray[np.void], Terms],
    told: Told,
) -> None:
    """Every event in turn. Changes `rows` (k,) and `clocks` (p,), ms, 0 before the first event; fills `told`.

    `arrivals`: records of `EVENT` (n,). `catalogue`: what `standing` made of it, and its terms.
    """
    found, terms = catalogue[0][0], catalogue[1]
    features, scores = np.empty(len(FEATURES)), np.empty(found["segments"])
    for at in range(len(arrivals)):
        event = arrivals[at]
        row, part = rows[event["wallet"]], event["part"]
        clocks[part] = tick(clocks[part], event["at_ms"], pace.clock_step_ms)
        told.clock_ms[at], told.previous_at_ms[at] = clocks[part], row["last_at_ms"]
        count(told.counted[part], event, clocks[part] - pace.lateness_ms)
        was, was_whale = counted_as(row)
        note(row, event)
        if not event["is_touch"]:
            if opens_a_day(row, event["at_ms"]):
                describe(row, features)
                tell_lesson(features, part, told)
            held = is_held(found, event["at_ms"])
            decides = len(scores) > 0 and not held
            if decides and row["catalogue"] != found["version"]:
                describe(row, features)
                place(features, terms, scores)
                notice_model(row, scores, found)
            days = days_between(row["last_at_ms"], event["at_ms"])
            fold(row, event)
            returns = wake(row, event["at_ms"], found["evidence"])
            if returns and not held:
                begin_anew(row, event["at_ms"])  # what was known of its pace was of another life
            elif not held and renew(row, event["at_ms"], found["renew_at"]):
                days = max(days, found["head_start"])
            queue(row, clocks[part])
            describe(row, features)
            mark_whale(row, features[SIZE], found)
            if decides and row["lifecycle"] != DORMANT:
                place(features, terms, scores)
                joined, origin = decide(row, days, scores, found)
                if joined >= 0:
                    tell_before(row, features, scores, told)
                    enter(row, found["numbers"][joined], event["at_ms"], features)
                    tell_after(row, at, part, origin, told)
        told.segment[at] = row["segment"]
        if (was, was_whale) != counted_as(row):
            tell_shift(row, (part, was, was_whale), told)


@compiled
def count(counted: NDArray[np.int64], event: np.void, late_before_ms: int) -> None:
    """Count an event for its partition. Money adds up exactly: amounts are below 10^15, so 9,000 of them fit."""
    is_touch = event["is_touch"]
    counted[TOUCHES if is_touch else TRANSACTIONS] += 1
    if event["at_ms"] < late_before_ms:
        counted[LATE_TOUCHES if is_touch else LATE_TRANSACTIONS] += 1
    counted[REVENUE] += event["fee_micros"]
    counted[COST] += event["cost_micros"]


@compiled
def counted_as(row: np.void) -> tuple[int, int]:
    """The segment and whale flag by which a wallet is counted; -1 for a wallet never seen."""
    if row["version"] == 0:
        return NEVER_SEEN, 0
    return int(row["segment"]), int(row["flags"] & WHALE)


@compiled
def note(row: np.void, event: np.void) -> None:
    """What a row says of any event: its version, the wallet's first event, where it says it is."""
    row["version"] = ROW_VERSION
    at_s = event["at_ms"] // 1000
    if row["first_s"] == 0 or (row["transactions"] == 0 and not event["is_touch"]):
        row["first_s"] = at_s  # touches say when a wallet was first heard of only until it does something itself
    elif row["transactions"] == 0 or not event["is_touch"]:
        row["first_s"] = min(row["first_s"], at_s)
    if event["jurisdiction"]:
        row["jurisdiction"] = event["jurisdiction"]


@compiled
def opens_a_day(row: np.void, at_ms: int) -> bool:
    """Whether a transaction is the first of a later day than the wallet's newest; its first of all opens none."""
    newest_ms: int = row["last_at_ms"]
    return newest_ms > 0 and newest_ms // DAY_MS < at_ms // DAY_MS


@compiled
def tell_lesson(features: NDArray[np.float64], part: int, told: Told) -> None:
    """How a wallet was until the day before."""
    told.learning[told.filled[LESSONS]] = features
    told.filled[LESSONS] += 1
    told.counted[part, LEARNED] += 1


@compiled
def tell_before(row: np.void, features: NDArray[np.float64], scores: NDArray[np.float64], told: Told) -> None:
    """A wallet that is about to change its segment, beside how it was at the change before."""
    move = told.filled[MOVES]
    told.features[move], told.scores[move], told.before[move] = features, scores, row["before"]
    told.is_whale[move] = row["flags"] & WHALE
    told.moves[move, LEFT], told.moves[move, STATED] = row["segment"], row["jurisdiction"]
    told.moves[move, STAGE] = row["lifecycle"]


@compiled
def tell_after(row: np.void, at: int, part: int, origin: int, told: Told) -> None:
    """The same when it has changed, with event `at`."""
    move = told.filled[MOVES]
    told.moves[move, AT], told.moves[move, ORIGIN] = at, origin
    told.moves[move, JOINED], told.moves[move, SEQUENCE] = row["segment"], row["sequence"]
    told.filled[MOVES] += 1
    told.counted[part, MOVED] += 1


@compiled
def tell_shift(row: np.void, was: tuple[int, int, int], told: Told) -> None:
    """Where a wallet is counted from now on. `was`: partition, segment, whale flag."""
    part, segment, whale = was
    shift = told.shifts[told.filled[SHIFTS]]
    shift[WAS], shift[WAS_WHALE] = segment, whale
    shift[IS], shift[IS_WHALE] = row["segment"], row["flags"] & WHALE
    told.filled[SHIFTS] += 1
    told.counted[part, SHIFTED] += 1
    if segment == NEVER_SEEN:
        told.counted[part, NEW] += 1


class Occasion(NamedTuple):
    """What a wallet moved with: an event of its own, or the record that is the cause of a sweep. `at_ms`: epoch."""

    wallet_id: str
    at_ms: int
    partition: int
    lane: int
    record: Record


def change_of(told: Told, number: int, occasion: Occasion) -> Change:
    """A move as it was told, and the facts around it."""
    _, left, joined, origin, sequence, stated, stage = told.moves[number].tolist()
    return Change(
        move=Move(left, joined, ORIGINS[origin]),
        wallet_id=occasion.wallet_id,
        sequence=sequence,
        occurred_at_ms=occasion.at_ms,
        features=told.features[number],
        before=told.before[number] if sequence > 1 else None,
        scores=told.scores[number],
        is_whale=bool(told.is_whale[number]),
        jurisdiction=JURISDICTION[stated],
        partition=occasion.partition,
        lane=occasion.lane,
        record=occasion.record,
        lifecycle=LIFECYCLE[stage],
    )
