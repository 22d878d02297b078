"""A sweep: the wallets of one partition that are due at the same time, looked at without an event of their own.

It is a step of its own, pure and repeatable as the other one is. A wallet that has been active is queued again; an idle
one is learned and placed as it is by now; one whose silence is a surprise leaves its segment.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models import turns
from models.changes import Change, announce, announcement
from models.compiled import compiled
from models.counters import CellDeltas
from models.decisions import LIVE, LONGEST_DAYS, SIZE, SWEEP, decide, enter, is_held, mark_whale, notice_model, standing
from models.effects import Announcement, Effects
from models.features import describe, describe_at
from models.lifecycle import AWAKE, SILENT, dormant_for_sure, look, queue_again
from models.placing import Terms, place
from models.regime import NO_FLOW
from models.rows import FEATURES, WHALE
from models.rules import DAY_MS
from models.state import State, Wallets
from models.tallies import shifted
from models.turns import Told, room_for

if TYPE_CHECKING:
    from models.records import Record
    from models.rules import Rules
    from models.segments import Catalogue

#: The number under which no segment is: where the dormant are.
NOWHERE = 0


def sweep(
    state: State, at_ms: int, cause: tuple[int, Record], rules: Rules, catalogue: Catalogue
) -> tuple[State, Effects]:
    """Look at the wallets of `state`, all due at `at_ms`, in their order: what they become, and what has to happen.

    `cause`: lane and record that is about to move the clock to `at_ms` or beyond. The clock stays as it is.
    """
    rows, told = state.wallets.rows.copy(), room_for(len(state.wallets.keys), 1, len(catalogue.segments))
    sweep_each(rows, at_ms, standing(catalogue, rules), catalogue.terms, told)
    wallets = Wallets(state.wallets.keys, rows, state.wallets.journals)
    totals = shifted(state.totals, told.shifts[: told.filled[turns.SHIFTS]].tolist())
    moves = int(told.filled[turns.MOVES])
    after = replace(state, totals=replace(totals, segment_changes=totals.segment_changes + moves), wallets=wallets)
    changes = announce_each(told, state, changes_of(state, at_ms, cause, told), (rules, catalogue))
    due = dict(zip(wallets.keys, rows["due_s"].tolist(), strict=True))
    none = CellDeltas([], np.zeros((0, 11), np.int64))
    learning = told.learning[: told.filled[turns.LESSONS]]
    return after, Effects(wallets.keys, rows, {}, {}, none, changes, [], learning, (0, 0), NO_FLOW, due)


@compiled
def sweep_each(rows: NDArray[np.void], at_ms: int, catalogue: NDArray[np.void], terms: Terms, told: Told) -> None:
    """Every wallet in turn; changes `rows` (k,) and fills `told`. `at_ms`: epoch; `catalogue`: of `standing`."""
    found = catalogue[0]
    held = is_held(found, at_ms)
    features, scores = np.empty(len(FEATURES)), np.zeros(found["segments"])
    as_it_was = np.empty(len(FEATURES))
    for at in range(len(rows)):
        row = rows[at]
        was, was_whale = turns.counted_as(row)
        seen = look(row, at_ms)
        queue_again(row, at_ms, seen)
        if seen == AWAKE:
            continue
        describe_at(row, at_ms, features)
        joined, origin, moves = NOWHERE, SWEEP, seen == SILENT and row["segment"] != NOWHERE
        if seen != SILENT:
            turns.tell_lesson(features, 0, told)
            mark_whale(row, features[SIZE], found)
            if len(scores) > 0 and not held:
                if row["catalogue"] != found["version"]:
                    describe(row, as_it_was)
                    place(as_it_was, terms, scores)
                    notice_model(row, scores, found)
                place(features, terms, scores)
                column, origin = decide(row, np.float32(LONGEST_DAYS), scores, found)
                moves = column >= 0
                joined = found["numbers"][column] if moves else NOWHERE
        if moves:
            turns.tell_before(row, features, scores, told)
            enter(row, joined, at_ms, features)
            turns.tell_after(row, at, 0, SWEEP if origin == LIVE else origin, told)
        if seen == SILENT:
            row["flags"] &= ~WHALE  # nobody looks at it any more; a transaction, should one come, decides it anew
        if (was, was_whale) != turns.counted_as(row):
            turns.tell_shift(row, (0, was, was_whale), told)


def changes_of(state: State, at_ms: int, cause: tuple[int, Record], told: Told) -> list[Change]:
    """Every change of segment, in the order of the wallets."""
    keys, places = state.wallets.keys, told.moves[: told.filled[turns.MOVES], turns.AT].tolist()
    return [
        turns.change_of(told, number, turns.Occasion(keys[at].decode(), at_ms, state.partition, *cause))
        for number, at in enumerate(places)
    ]


def announce_each(told: Told, state: State, changes: list[Change], by: tuple[Rules, Catalogue]) -> list[Announcement]:
    """Changes as messages, in their order: those into a segment, and those out of all."""
    rules, catalogue = by
    moved = iter(announce([each for each in changes if each.move.joined], catalogue, rules))
    rows = state.wallets.rows[told.moves[: len(changes), turns.AT]]
    return [
        next(moved) if each.move.joined else announcement(each, catalogue, rules, silence(row, each))
        for each, row in zip(changes, rows, strict=True)
    ]


def silence(row: np.void, change: Change) -> tuple[float, str]:
    """The confidence and the reason, as JSON, of a wallet that leaves: its idle days, and those at its last change.

    `row`: as it was before the sweep.
    """
    last_ms = int(row["last_at_ms"])
    before = max(int(row["changed_s"]) * 1000 - last_ms, 0) / DAY_MS
    after = (change.occurred_at_ms - last_ms) / DAY_MS
    why = f'[{{"feature":"idle_days","before":{round(before, 2)},"after":{round(after, 2)},"weight":1.0}}]'
    return dormant_for_sure(after), why
