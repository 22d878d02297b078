"""The wallet side: one batch of one partition folded into its wallets, pure and exact wherever the batch is cut.

Three passes over the events: fold (features, every event in turn for its wallet), place (all rows at once, against
a frozen catalogue), decide and credit (they need only the segment with each event). Features never depend on the
segment, so the passes are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.admission import check, without_repeats
from models.attribution import Books, credit
from models.changes import Change, announce
from models.columns import Events, read
from models.counters import CellDeltas
from models.decisions import Decided, decide
from models.effects import Announcement, Effects, Quarantined
from models.events import Rejected
from models.features import Folded, fold
from models.rounds import Rounds, lay_out
from models.rows import FEATURES, HAS_JOURNAL, IDS, ROW_VERSION, WHALE, blank_rows
from models.state import Batch, State, Totals, Wallets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.journeys import Journal
    from models.rules import Rules
    from models.segments import Catalogue


def step(state: State, batch: Batch, rules: Rules, catalogue: Catalogue) -> tuple[State, Effects]:
    """Fold a batch of one partition: what its wallets become, and everything that has to happen for it.

    Nothing has happened when it returns, and `state` is as it was.
    """
    events, refused = read(batch.records, batch.lanes)
    events, wallet = check(state, batch, events, refused, rules)
    events, wallet, duplicates = without_repeats(state, events, wallet)
    rejected = [
        Quarantined(batch.lanes[place], batch.records[place], why.reason, why.detail)
        for place, why in sorted(refused.items())
    ]
    counted = count(state.totals, refused, duplicates)
    if not len(events):
        return replace(state, totals=counted), nothing(rejected)
    work = Work(state, batch, events, wallet, rules)
    folded = fold(work.rows, events, work.rounds)
    decided = decide(folded, work.rounds, catalogue, rules)
    changes = announce_changes(work, folded, decided, catalogue)
    books, cells = settle(work, folded, decided)
    return finish(work, folded, books, counted, (cells, changes, rejected))


# ------------------------------------------------------------------ the batch at work


class Work:
    """The events of a batch laid out in rounds, with copies of the rows they change; wallets in the rounds' order."""

    def __init__(self, state: State, batch: Batch, events: Events, wallet: NDArray[np.int64], rules: Rules) -> None:
        self.state, self.batch, self.events, self.rules = state, batch, events, rules
        here, wallet = np.unique(wallet, return_inverse=True)
        self.rounds: Rounds = lay_out(wallet, len(here))
        #: index in the state of each wallet of the rounds
        self.places = here[self.rounds.busiest]
        self.keys = [state.wallets.keys[place] for place in self.places.tolist()]
        self.journals: list[Journal | None] = [state.wallets.journals[place] for place in self.places.tolist()]
        self.rows = state.wallets.rows[self.places]
        self.was = {name: self.rows[name].copy() for name in ("version", "segment", "flags")}
        #: wallet of each event, in order of arrival
        self.wallet = np.empty(len(events), np.int64)
        self.wallet[self.rounds.order] = self.rounds.wallet
        self.clock_ms = clock(state.clock_ms, events.occurred_at_ms, rules.clock_step_ms)
        self._remember()

    def _remember(self) -> None:
        """Ids, first event, jurisdiction: what depends on nothing else."""
        rows, rounds, events = self.rows, self.rounds, self.events
        hashes = events.id_hashes[rounds.order]
        rows["version"] = ROW_VERSION
        keeps = rounds.rank >= rounds.count[rounds.wallet] - IDS  # older ones would be overwritten in this batch
        slot = (rows["ids"][rounds.wallet] + rounds.rank) % IDS
        rows["ring"][rounds.wallet[keeps], slot[keeps]] = hashes[keeps]
        rows["ids"] += rounds.count.astype(np.uint32)
        first = np.where(rows["first_s"] == 0, np.iinfo(np.uint32).max, rows["first_s"])
        np.minimum.at(first, self.wallet, (events.occurred_at_ms // 1000).astype(first.dtype))
        rows["first_s"] = first
        stated = [(w, j) for w, j in zip(self.wallet.tolist(), events.jurisdictions, strict=True) if j is not None]
        for wallet, jurisdiction in dict(stated).items():
            rows["jurisdiction"][wallet] = jurisdiction

    def by_arrival(self, column: NDArray[np.int64]) -> NDArray[np.int64]:
        """A column in round order, in order of arrival."""
        out = np.empty_like(column)
        out[self.rounds.order] = column
        return out


def clock(before_ms: int, occurred_at_ms: NDArray[np.int64], step_ms: int) -> NDArray[np.int64]:
    """The clock of the partition with each event (n,): the newest event, raised by at most `step_ms` at a time."""
    start = before_ms or int(occurred_at_ms[0])
    newest = np.maximum.accumulate(np.maximum(occurred_at_ms, start))
    if not (np.diff(newest, prepend=start) > step_ms).any():
        return newest
    now, out = start, np.empty_like(occurred_at_ms)
    for place, at_ms in enumerate(occurred_at_ms.tolist()):
        now = out[place] = min(max(now, at_ms), now + step_ms)
    return out


# ------------------------------------------------------------------ changes and money


def announce_changes(work: Work, folded: Folded, decided: Decided, catalogue: Catalogue) -> list[Announcement]:
    """Every change of segment in order of arrival; numbers it in the wallet's sequence."""
    rounds, rows, events = work.rounds, work.rows, work.events
    stated = jurisdictions(work, {move.wallet for move in decided.moves})
    out = []
    for move in sorted(decided.moves, key=lambda move: int(rounds.order[move.place])):
        event, row = int(rounds.order[move.place]), rows[move.wallet]
        place = int(events.at[event])
        before = None if row["sequence"] == 0 else row["before"].copy()
        row["sequence"] += 1
        change = Change(
            move=move,
            wallet_id=events.wallet_ids[event],
            sequence=int(row["sequence"]),
            occurred_at_ms=int(events.occurred_at_ms[event]),
            features=folded.features[move.place],
            before=before,
            scores=decided.scores[move.place],
            is_whale=bool(decided.is_whale[move.place]),
            jurisdiction=stated[event],
            lane=work.batch.lanes[place],
            record=work.batch.records[place],
        )
        row["before"] = folded.features[move.place]
        row["changed_s"] = change.occurred_at_ms // 1000
        out.append(announce(change, work.state.partition, catalogue, work.rules))
    return out


def jurisdictions(work: Work, wallets: set[int]) -> dict[int, str | None]:
    """Event -> the jurisdiction that its wallet had stated by then, for the events of these wallets."""
    before = work.state.wallets.rows["jurisdiction"][work.places]
    known = {wallet: bytes(before[wallet]).decode() or None for wallet in wallets}
    out = {}
    for event in np.flatnonzero(np.isin(work.wallet, list(wallets))).tolist():
        wallet = int(work.wallet[event])
        known[wallet] = out[event] = work.events.jurisdictions[event] or known[wallet]
    return out


def settle(work: Work, folded: Folded, decided: Decided) -> tuple[Books, CellDeltas]:
    """Credit the batch's money to the segment each wallet has with each event."""
    books = Books(
        events=work.events,
        wallet=work.wallet,
        segment=work.by_arrival(decided.segment),
        clock_ms=work.clock_ms,
        previous_at_ms=work.by_arrival(folded.previous_at_ms),
        rows=work.rows,
        journals=work.journals,
        codes=work.state.codes,
        rules=work.rules,
    )
    return books, credit(books)


# ------------------------------------------------------------------ the result


def count(totals: Totals, refused: dict[int, Rejected], duplicates: int) -> Totals:
    """Totals with the records that are no events, or none again."""
    rejected = dict(totals.rejected)
    for why in refused.values():
        rejected[why.reason] = rejected.get(why.reason, 0) + 1
    return replace(totals, rejected=rejected, duplicates=totals.duplicates + duplicates)


def nothing(rejected: list[Quarantined]) -> Effects:
    """The effects of a batch without an accepted event."""
    none = CellDeltas([], np.zeros((0, 11), np.int64))
    return Effects([], blank_rows(0), {}, {}, none, [], rejected, np.zeros((0, len(FEATURES)), np.float32))


@dataclass(frozen=True, slots=True)
class Tally:
    """Wallets per segment number, before or after a batch, of those that the batch changes."""

    wallets: dict[int, int]
    whales: dict[int, int]

    @classmethod
    def of(cls, rows: Mapping[str, NDArray[Any]] | NDArray[np.void]) -> Tally:
        known = rows["version"] > 0
        return cls(numbers(rows["segment"][known]), numbers(rows["segment"][known & ((rows["flags"] & WHALE) > 0)]))


def numbers(column: NDArray[np.uint16]) -> dict[int, int]:
    """How often each number occurs."""
    values, counts = np.unique(column, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def moved(totals: dict[int, int], before: dict[int, int], after: dict[int, int]) -> dict[int, int]:
    """Totals with wallets taken out of `before` and put into `after`; no zeros."""
    out = {n: totals.get(n, 0) - before.get(n, 0) + after.get(n, 0) for n in {*totals, *before, *after}}
    return {number: wallets for number, wallets in sorted(out.items()) if wallets}


def finish(
    work: Work,
    folded: Folded,
    books: Books,
    counted: Totals,
    asked: tuple[CellDeltas, list[Announcement], list[Quarantined]],
) -> tuple[State, Effects]:
    """The state after the batch, and everything it asks for."""
    cells, changes, rejected = asked
    events, rows, before = work.events, work.rows, work.state.wallets
    journals = {work.keys[wallet]: books.journals[wallet] for wallet in sorted(books.changed)}
    rows["flags"][sorted(books.changed)] |= HAS_JOURNAL
    was, now = Tally.of(work.was), Tally.of(rows)
    totals = replace(
        counted,
        transactions=counted.transactions + int((~events.is_touch).sum()),
        touches=counted.touches + int(events.is_touch.sum()),
        late=counted.late + int((events.occurred_at_ms < work.clock_ms - work.rules.lateness_ms).sum()),
        beyond_memory=counted.beyond_memory + books.beyond_memory,
        revenue_micros=counted.revenue_micros + sum(events.fee_micros.tolist()),
        cost_micros=counted.cost_micros + sum(events.cost_micros.tolist()),
        segment_changes=counted.segment_changes + len(changes),
        wallets=counted.wallets + int((work.was["version"] == 0).sum()),
        wallets_by_segment=moved(counted.wallets_by_segment, was.wallets, now.wallets),
        whales_by_segment=moved(counted.whales_by_segment, was.whales, now.whales),
    )
    new_rows, new_journals = before.rows.copy(), list(before.journals)
    new_rows[work.places] = rows
    for wallet in books.changed:
        new_journals[int(work.places[wallet])] = books.journals[wallet]
    after = replace(
        work.state,
        clock_ms=int(work.clock_ms[-1]),
        totals=totals,
        codes=books.codes,
        wallets=Wallets(before.keys, new_rows, new_journals),
    )
    new_codes = {name: books.codes.numbers[name] for name in books.codes.names[len(work.state.codes.names) :]}
    packed = {key: journal.pack() for key, journal in journals.items() if journal is not None}
    return after, Effects(work.keys, rows, packed, new_codes, cells, changes, rejected, folded.learning)
