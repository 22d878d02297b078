"""The wallet side: one batch of one partition folded into its wallets, pure and exact wherever the batch is cut.

Records become columns of events; then every event in turn, in order of arrival, changes the row of its wallet
(`models.turns`); then money is credited to the segment that each wallet had with each event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import turns
from models.admission import check, without_repeats
from models.attribution import Books, credit
from models.changes import announce
from models.columns import Events, read
from models.counters import CellDeltas
from models.decisions import standing
from models.effects import Announcement, Effects, Quarantined
from models.events import Rejected
from models.joined import Joined, join
from models.journeys import fees_of, newest_fees, without_fees
from models.regime import NO_FLOW, count_hours
from models.rows import FEATURES, HAS_FEES, HAS_JOURNAL, blank_rows
from models.state import Batch, State, Totals, Wallets
from models.tallies import recounted

if TYPE_CHECKING:
    from models.rules import Rules
    from models.segments import Catalogue


def step(state: State, batch: Batch, rules: Rules, catalogue: Catalogue) -> tuple[State, Effects]:
    """Fold a batch of one partition: what its wallets become, and everything that has to happen for it.

    Nothing has happened when it returns, and `state` is as it was.
    """
    (result,) = step_together([(state, batch)], rules, catalogue)
    return result


def step_together(
    batches: Sequence[tuple[State, Batch]], rules: Rules, catalogue: Catalogue
) -> list[tuple[State, Effects]]:
    """A batch of each of several partitions: byte for byte what `step` makes of each alone, and far cheaper."""
    joined = join(batches)
    events, refused = read(joined.records, joined.lanes)
    events = check(joined, events, refused, rules)
    new, repeated, ends = without_repeats(joined, events, rules)
    taken = taken_of(joined, events, ends)
    rejected = quarantine(joined, refused, taken)
    duplicates = np.bincount(events.rows["part"][repeated], minlength=len(batches))
    totals = [count(*each) for each in zip(joined.states, rejected, duplicates.tolist(), strict=True)]
    if len(new) < len(events):
        events = events.pick(new)
    if not len(events):
        return [unmoved(*each) for each in zip(joined.states, totals, rejected, taken, strict=True)]
    work = work_through(joined, events, rules, catalogue)
    changes = announce_changes(work, catalogue)
    books, cells = settle(work)
    shares = shares_of(work)
    return [
        finish(
            work,
            books,
            share,
            (cells[share.part], changes[share.moves], rejected[share.part], totals[share.part], taken[share.part]),
        )
        for share in shares
    ]


def taken_of(joined: Joined, events: Events, ends: NDArray[np.int64]) -> list[int]:
    """How many records of each partition are taken: all, or those before the event that has to wait for a sweep."""
    sizes = np.bincount(joined.record_part, minlength=len(joined.states))
    first = np.cumsum(sizes) - sizes
    return [
        int(events.rows["place"][end] - start) if end >= 0 else int(size)
        for end, start, size in zip(ends.tolist(), first.tolist(), sizes.tolist(), strict=True)
    ]


def quarantine(joined: Joined, refused: dict[int, Rejected], taken: Sequence[int]) -> list[list[Quarantined]]:
    """The records that are no events, by partition, in order of arrival; of those that are taken."""
    out: list[list[Quarantined]] = [[] for _ in joined.states]
    if not refused:
        return out
    first = np.searchsorted(joined.record_part, np.arange(len(joined.states))).tolist()
    for place, why in sorted(refused.items()):
        part = int(joined.record_part[place])
        if place - first[part] < taken[part]:
            out[part].append(Quarantined(joined.lanes[place], joined.records[place], why.reason, why.detail))
    return out


def count(state: State, rejected: list[Quarantined], duplicates: int) -> Totals:
    """Totals with the records that are no events, or none again."""
    if not rejected and not duplicates:
        return state.totals
    totals = state.totals
    reasons = Counter(totals.rejected) + Counter(each.reason for each in rejected)
    return replace(totals, rejected=dict(reasons), duplicates=totals.duplicates + duplicates)


def unmoved(state: State, counted: Totals, rejected: list[Quarantined], taken: int) -> tuple[State, Effects]:
    """What is left of a batch without an accepted event."""
    none = CellDeltas([], np.zeros((0, 11), np.int64))
    learning = np.zeros((0, len(FEATURES)), np.float32)
    effects = Effects([], blank_rows(0), {}, {}, none, [], rejected, learning, (0, 0), NO_FLOW, taken=taken)
    return replace(state, totals=counted), effects


# ------------------------------------------------------------------ the batch at work


@dataclass(frozen=True, slots=True)
class Work:
    """A batch after its turns. `clocks`: (p,) after the batch. `flows`: by partition, what was done in each hour."""

    joined: Joined
    rules: Rules
    events: Events
    clocks: NDArray[np.int64]
    told: turns.Told
    flows: list[NDArray[np.float64]]


def work_through(joined: Joined, events: Events, rules: Rules, catalogue: Catalogue) -> Work:
    """Every event in turn; changes the joined rows."""
    told = turns.room_for(len(events), len(joined.states), len(catalogue.segments))
    clocks = np.array([state.clock_ms for state in joined.states], np.int64)
    pace = turns.Pace(rules.clock_step_ms, rules.lateness_ms)
    turns.take_turns(joined.rows, events.rows, clocks, pace, (standing(catalogue, rules), catalogue.terms), told)
    return Work(joined, rules, events, clocks, told, flows_of(events, told))


def flows_of(events: Events, told: turns.Told) -> list[NDArray[np.float64]]:
    """What was done in each hour (h, 4), by partition; columns of `models.regime.CELL`."""
    rows = events.rows
    its = np.flatnonzero(~rows["is_touch"])
    sizes = told.counted[:, turns.TRANSACTIONS].tolist()
    return count_hours(rows["at_ms"][its], told.previous_at_ms[its], rows["usd"][its], sizes)


def announce_changes(work: Work, catalogue: Catalogue) -> list[Announcement]:
    """Every change of segment, in order of arrival."""
    places = work.told.moves[: work.told.filled[turns.MOVES], turns.AT].tolist()
    changes = [turns.change_of(work.told, number, occasion_of(work, event)) for number, event in enumerate(places)]
    return announce(changes, catalogue, work.rules)


def occasion_of(work: Work, event: int) -> turns.Occasion:
    """The event with which a wallet moved."""
    joined, row = work.joined, work.events.rows[event]
    place = int(row["place"])
    return turns.Occasion(
        wallet_id=joined.keys[row["wallet"]].decode(),
        at_ms=int(row["at_ms"]),
        partition=joined.states[joined.record_part[place]].partition,
        lane=joined.lanes[place],
        record=joined.records[place],
    )


def settle(work: Work) -> tuple[Books, list[CellDeltas]]:
    """Credit the money to the segment each wallet has with each event; the additions by partition."""
    joined, told = work.joined, work.told
    books = Books(
        events=work.events,
        segment=told.segment,
        clock_ms=told.clock_ms,
        previous_at_ms=told.previous_at_ms,
        rows=joined.rows,
        journals=joined.journals,
        codes=[state.codes for state in joined.states],
        beyond_memory=[0 for _ in joined.states],
        rules=work.rules,
    )
    return books, credit(books)


# ------------------------------------------------------------------ the result, by partition


class Share(NamedTuple):
    """What of the work is one partition's: its wallets, events, learned rows, moves and shifts, and what it counted."""

    part: int
    counted: list[int]
    wallets: slice
    events: slice
    learned: slice
    moves: slice
    shifts: slice


def shares_of(work: Work) -> list[Share]:
    """The shares, in the order of the joined states; each begins where the one before ends."""
    out, ends = [], [0] * 5
    for part, counted in enumerate(work.told.counted.tolist()):
        sizes = (
            len(work.joined.states[part].wallets.keys),
            counted[turns.TRANSACTIONS] + counted[turns.TOUCHES],
            counted[turns.LEARNED],
            counted[turns.MOVED],
            counted[turns.SHIFTED],
        )
        slices = [slice(end, end + size) for end, size in zip(ends, sizes, strict=True)]
        ends = [each.stop for each in slices]
        out.append(Share(part, counted, *slices))
    return out


def finish(
    work: Work,
    books: Books,
    share: Share,
    asked: tuple[CellDeltas, list[Announcement], list[Quarantined], Totals, int],
) -> tuple[State, Effects]:
    """The state of one partition after its batch, and everything the batch asks for."""
    (cells, changes, rejected, totals, taken), state = asked, work.joined.states[share.part]
    if share.events.start == share.events.stop:
        return unmoved(state, totals, rejected, taken)
    wallets = wallets_after(work, books, share)
    after = State(
        partition=state.partition,
        partitions=state.partitions,
        clock_ms=int(work.clocks[share.part]),
        totals=totals_after(totals, work, share, books.beyond_memory[share.part]),
        codes=books.codes[share.part],
        wallets=wallets,
        until_ms=state.until_ms,
    )
    keys, rows = saved(work, share, wallets)
    journals, fees, spilled = stored_journals(books, share, wallets)
    new_codes = {name: after.codes.numbers[name] for name in after.codes.names[len(state.codes.names) :]}
    late = share.counted[turns.LATE_TRANSACTIONS], share.counted[turns.LATE_TOUCHES]
    learning = work.told.learning[share.learned]
    flow = work.flows[share.part]
    due = newly_due(state.wallets, wallets)
    return after, Effects(
        keys, rows, journals, new_codes, cells, changes, rejected, learning, late, flow, due, taken, fees, spilled
    )


def newly_due(before: Wallets, after: Wallets) -> dict[bytes, int]:
    """The wallets that are due at another time than before, and when."""
    changed = np.flatnonzero(before.rows["due_s"] != after.rows["due_s"]).tolist()
    return {after.keys[place]: int(after.rows["due_s"][place]) for place in changed}


def wallets_after(work: Work, books: Books, share: Share) -> Wallets:
    """The wallets of the state as they are now; one without an accepted event is as it was."""
    rows = work.joined.rows[share.wallets]
    rows["flags"][books.touched[share.wallets]] |= HAS_JOURNAL
    rows["flags"][books.spilled[share.wallets] > 0] |= HAS_FEES
    return Wallets(work.joined.states[share.part].wallets.keys, rows, books.journals[share.wallets])


def stored_journals(
    books: Books, share: Share, wallets: Wallets
) -> tuple[dict[bytes, bytes], dict[bytes, bytes], dict[bytes, tuple[int, bytes]]]:
    """Of the journals what is to be stored: touches that changed, all fees where some were cut off, else new fees."""
    touched, cut, spilled = (which[share.wallets] for which in (books.touched, books.cut, books.spilled))
    grown = np.flatnonzero((spilled > 0) & ~cut)
    keys, journals = wallets.keys, wallets.journals
    return (
        {keys[place]: without_fees(journals[place]) for place in np.flatnonzero(touched).tolist()},
        {keys[place]: fees_of(journals[place]) for place in np.flatnonzero(cut).tolist()},
        {
            keys[place]: newest_fees(journals[place], many)
            for place, many in zip(grown.tolist(), spilled[grown].tolist(), strict=True)
        },
    )


def saved(work: Work, share: Share, wallets: Wallets) -> tuple[list[bytes], NDArray[np.void]]:
    """The wallets with an accepted event: keys and rows."""
    touched = np.zeros(len(wallets.keys), np.bool_)
    touched[work.events.rows["wallet"][share.events] - share.wallets.start] = True
    if touched.all():
        return wallets.keys, wallets.rows
    return list(compress(wallets.keys, touched.tolist())), wallets.rows[touched]


def totals_after(totals: Totals, work: Work, share: Share, beyond_memory: int) -> Totals:
    """What the partition has counted, with these events."""
    counted = share.counted
    wallets, whales = recounted(totals, work.told.shifts[share.shifts].tolist() if counted[turns.SHIFTED] else ())
    return Totals(
        transactions=totals.transactions + counted[turns.TRANSACTIONS],
        touches=totals.touches + counted[turns.TOUCHES],
        duplicates=totals.duplicates,
        late=totals.late + counted[turns.LATE_TRANSACTIONS] + counted[turns.LATE_TOUCHES],
        beyond_memory=totals.beyond_memory + beyond_memory,
        revenue_micros=totals.revenue_micros + counted[turns.REVENUE],
        cost_micros=totals.cost_micros + counted[turns.COST],
        segment_changes=totals.segment_changes + counted[turns.MOVED],
        wallets=totals.wallets + counted[turns.NEW],
        rejected=totals.rejected,
        wallets_by_segment=wallets,
        whales_by_segment=whales,
    )
