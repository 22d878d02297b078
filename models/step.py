"""The wallet side: one batch of one partition folded into its wallets, pure and exact wherever the batch is cut.

Three passes over the events: fold (features, every event in turn for its wallet), place (all rows at once, against
a frozen catalogue), decide and credit (they need only the segment with each event). Features never depend on the
segment, so the passes are exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
from models.joined import Joined, join
from models.journeys import EMPTY_JOURNAL
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
    (result,) = step_together([(state, batch)], rules, catalogue)
    return result


def step_together(
    batches: Sequence[tuple[State, Batch]], rules: Rules, catalogue: Catalogue
) -> list[tuple[State, Effects]]:
    """A batch of each of several partitions: byte for byte what `step` makes of each alone, and far cheaper."""
    joined = join(batches)
    events, refused = read(joined.records, joined.lanes)
    events, wallet = check(joined, events, refused, rules)
    events, wallet, duplicates = without_repeats(joined, events, wallet)
    rejected = quarantine(joined, refused)
    counted = [count(*each) for each in zip(joined.states, rejected, duplicates.tolist(), strict=True)]
    if not len(events):
        return [unmoved(*each) for each in zip(joined.states, counted, rejected, strict=True)]
    work = Work(joined, events, wallet, rules)
    folded = fold(work.rows, events, work.rounds)
    decided = decide(folded, work.rounds, catalogue, rules)
    changes = announce_changes(work, folded, decided, catalogue)
    books, cells = settle(work, folded, decided)
    return [
        finish(Share(part, work), folded, books, (cells[part], changes[part], rejected[part], counted[part]))
        for part in range(len(joined.states))
    ]


def quarantine(joined: Joined, refused: dict[int, Rejected]) -> list[list[Quarantined]]:
    """The records that are no events, by partition, in order of arrival."""
    out: list[list[Quarantined]] = [[] for _ in joined.states]
    for place, why in sorted(refused.items()):
        found = Quarantined(joined.lanes[place], joined.records[place], why.reason, why.detail)
        out[int(joined.record_part[place])].append(found)
    return out


# ------------------------------------------------------------------ the batch at work


class Work:
    """Events laid out in rounds, with copies of the rows they change; wallets in the rounds' order."""

    def __init__(self, joined: Joined, events: Events, wallet: NDArray[np.int64], rules: Rules) -> None:
        self.joined, self.events, self.rules = joined, events, rules
        here, wallet = numbered(wallet, len(joined.keys))
        self.rounds: Rounds = lay_out(wallet, len(here))
        #: index among the joined wallets of each wallet of the rounds, and the partition of each
        self.places = here[self.rounds.busiest]
        self.part = joined.part[self.places]
        self.journals: list[Journal | None] = [joined.journals[place] for place in self.places.tolist()]
        self.rows = joined.rows[self.places]
        self.was = {name: self.rows[name].copy() for name in ("version", "segment", "flags")}
        #: wallet of each event, in order of arrival
        self.wallet = np.empty(len(events), np.int64)
        self.wallet[self.rounds.order] = self.rounds.wallet
        #: where the events of each partition end
        self.ends = np.searchsorted(self.part[self.wallet], np.arange(1, len(joined.states) + 1)).tolist()
        clocks = [
            clock(state.clock_ms, events.occurred_at_ms[start:end], rules.clock_step_ms)
            for state, start, end in zip(joined.states, [0, *self.ends], self.ends, strict=False)
        ]
        self.clock_ms = np.concatenate(clocks)
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
        stated = {w: j for w, j in zip(self.wallet.tolist(), events.jurisdictions, strict=True) if j}
        rows["jurisdiction"][list(stated)] = list(stated.values())

    def by_arrival(self, column: NDArray[np.int64]) -> NDArray[np.int64]:
        """A column in round order, in order of arrival."""
        out = np.empty_like(column)
        out[self.rounds.order] = column
        return out


def numbered(wallet: NDArray[np.int64], wallets: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The wallets that occur in `wallet` (n,), in order, and for each of the n its place among them."""
    occurs = np.zeros(wallets, np.bool_)
    occurs[wallet] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[wallet]


def clock(before_ms: int, occurred_at_ms: NDArray[np.int64], step_ms: int) -> NDArray[np.int64]:
    """The clock of the partition with each event (n,): the newest event, raised by at most `step_ms` at a time."""
    if not len(occurred_at_ms):
        return occurred_at_ms
    start = before_ms or int(occurred_at_ms[0])
    newest = np.maximum.accumulate(np.maximum(occurred_at_ms, start))
    if not (np.diff(newest, prepend=start) > step_ms).any():
        return newest
    now, out = start, np.empty_like(occurred_at_ms)
    for place, at_ms in enumerate(occurred_at_ms.tolist()):
        now = out[place] = min(max(now, at_ms), now + step_ms)
    return out


# ------------------------------------------------------------------ changes and money


def announce_changes(work: Work, folded: Folded, decided: Decided, catalogue: Catalogue) -> list[list[Announcement]]:
    """Every change of segment, by partition, in order of arrival; numbers it in the wallet's sequence."""
    rounds, rows, events, joined = work.rounds, work.rows, work.events, work.joined
    stated = jurisdictions(work, {move.wallet for move in decided.moves})
    sequences, befores = rows["sequence"], rows["before"]
    newest: dict[int, Change] = {}
    changes = []
    for event, move in sorted((int(rounds.order[move.place]), move) for move in decided.moves):
        place, wallet = int(events.at[event]), move.wallet
        if wallet in newest:
            sequence, before = newest[wallet].sequence, newest[wallet].features.astype(np.float32)
        else:
            sequence, before = int(sequences[wallet]), befores[wallet]
        change = newest[wallet] = Change(
            move=move,
            wallet_id=events.wallet_ids[event],
            sequence=sequence + 1,
            occurred_at_ms=int(events.occurred_at_ms[event]),
            features=folded.features[move.place],
            before=before if sequence else None,
            scores=decided.scores[move.place],
            is_whale=bool(decided.is_whale[move.place]),
            jurisdiction=stated[event],
            lane=joined.lanes[place],
            record=joined.records[place],
            partition=joined.states[work.part[wallet]].partition,
        )
        changes.append(change)
    told: list[list[Announcement]] = [[] for _ in joined.states]
    for change, announced in zip(changes, announce(changes, catalogue, work.rules), strict=True):
        told[int(work.part[change.move.wallet])].append(announced)
    for wallet, change in newest.items():
        sequences[wallet], befores[wallet] = change.sequence, change.features
        rows["changed_s"][wallet] = change.occurred_at_ms // 1000
    return told


def jurisdictions(work: Work, wallets: set[int]) -> dict[int, str | None]:
    """Event -> the jurisdiction that its wallet had stated by then, for the events of these wallets."""
    before = work.joined.rows["jurisdiction"][work.places]
    known = {wallet: bytes(before[wallet]).decode() or None for wallet in wallets}
    out = {}
    for event in np.flatnonzero(np.isin(work.wallet, list(wallets))).tolist():
        wallet = int(work.wallet[event])
        known[wallet] = out[event] = work.events.jurisdictions[event] or known[wallet]
    return out


def settle(work: Work, folded: Folded, decided: Decided) -> tuple[Books, list[CellDeltas]]:
    """Credit the money to the segment each wallet has with each event; the additions by partition."""
    books = Books(
        events=work.events,
        wallet=work.wallet,
        segment=work.by_arrival(decided.segment),
        clock_ms=work.clock_ms,
        previous_at_ms=work.by_arrival(folded.previous_at_ms),
        rows=work.rows,
        journals=work.journals,
        part=work.part,
        codes=[state.codes for state in work.joined.states],
        beyond_memory=[0 for _ in work.joined.states],
        rules=work.rules,
    )
    return books, credit(books)


# ------------------------------------------------------------------ the result


def count(state: State, rejected: list[Quarantined], duplicates: int) -> Totals:
    """Totals with the records that are no events, or none again."""
    totals = state.totals
    reasons = Counter(totals.rejected) + Counter(each.reason for each in rejected)
    return replace(totals, rejected=dict(reasons), duplicates=totals.duplicates + duplicates)


def unmoved(state: State, counted: Totals, rejected: list[Quarantined]) -> tuple[State, Effects]:
    """What is left of a batch without an accepted event."""
    none = CellDeltas([], np.zeros((0, 11), np.int64))
    learning = np.zeros((0, len(FEATURES)), np.float32)
    effects = Effects([], blank_rows(0), {}, {}, none, [], rejected, learning, (0, 0))
    return replace(state, totals=counted), effects


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
    counts = np.bincount(column)
    occurring = np.flatnonzero(counts)
    return dict(zip(occurring.tolist(), counts[occurring].tolist(), strict=True))


def moved(totals: dict[int, int], before: dict[int, int], after: dict[int, int]) -> dict[int, int]:
    """Totals with wallets taken out of `before` and put into `after`; no zeros."""
    out = {n: totals.get(n, 0) - before.get(n, 0) + after.get(n, 0) for n in {*totals, *before, *after}}
    return {number: wallets for number, wallets in sorted(out.items()) if wallets}


class Share:
    """One partition's share of the work: its wallets, among those of the rounds, and its events."""

    def __init__(self, part: int, work: Work) -> None:
        self.part, self.work = part, work
        self.state = work.joined.states[part]
        alone = len(work.joined.states) == 1
        self.wallets = np.arange(len(work.rows)) if alone else np.flatnonzero(work.part == part)
        self.rows = work.rows if alone else work.rows[self.wallets]
        self.was = {name: column[self.wallets] for name, column in work.was.items()}
        #: index in the state of each wallet
        self.places = work.places[self.wallets] - work.joined.wallets_before[part]
        self.keys = [self.state.wallets.keys[place] for place in self.places.tolist()]
        self.events = slice(work.ends[part - 1] if part else 0, work.ends[part])

        late = work.events.occurred_at_ms[self.events] < work.clock_ms[self.events] - work.rules.lateness_ms
        late_touches = int((late & work.events.is_touch[self.events]).sum())
        #: how many events came late: transactions, touches
        self.late = int(late.sum()) - late_touches, late_touches

    def totals(self, counted: Totals, beyond_memory: int, changes: int) -> Totals:
        """What the partition has counted, with these events."""
        events, was, now = self.work.events, Tally.of(self.was), Tally.of(self.rows)
        touches = int(events.is_touch[self.events].sum())
        return replace(
            counted,
            transactions=counted.transactions + self.events.stop - self.events.start - touches,
            touches=counted.touches + touches,
            late=counted.late + sum(self.late),
            beyond_memory=counted.beyond_memory + beyond_memory,
            revenue_micros=counted.revenue_micros + sum(events.fee_micros[self.events].tolist()),
            cost_micros=counted.cost_micros + sum(events.cost_micros[self.events].tolist()),
            segment_changes=counted.segment_changes + changes,
            wallets=counted.wallets + int((self.was["version"] == 0).sum()),
            wallets_by_segment=moved(counted.wallets_by_segment, was.wallets, now.wallets),
            whales_by_segment=moved(counted.whales_by_segment, was.whales, now.whales),
        )

    def after(self, journals: dict[int, Journal]) -> Wallets:
        """The wallets of the state as they are now. `journals`: those that changed, by index in the state."""
        before = self.state.wallets
        rows, all_journals = np.empty_like(before.rows), list(before.journals)
        if len(self.rows) < len(rows):  # a wallet without an accepted event stays as it was
            rows[:] = before.rows
        rows[self.places] = self.rows
        for place, journal in journals.items():
            all_journals[place] = journal
        return Wallets(before.keys, rows, all_journals)


def finish(
    share: Share,
    folded: Folded,
    books: Books,
    asked: tuple[CellDeltas, list[Announcement], list[Quarantined], Totals],
) -> tuple[State, Effects]:
    """The state of one partition after its batch, and everything the batch asks for."""
    (cells, changes, rejected, counted), part, state = asked, share.part, share.state
    if not len(share.wallets):
        return unmoved(state, counted, rejected)
    with_journal = np.isin(share.wallets, sorted(books.changed))
    share.rows["flags"][with_journal] |= HAS_JOURNAL
    wallets, places = share.wallets[with_journal].tolist(), share.places[with_journal].tolist()
    journals = {place: books.journals[wallet] or EMPTY_JOURNAL for wallet, place in zip(wallets, places, strict=True)}
    after = replace(
        state,
        clock_ms=int(share.work.clock_ms[share.events.stop - 1]),
        totals=share.totals(counted, books.beyond_memory[part], len(changes)),
        codes=books.codes[part],
        wallets=share.after(journals),
    )
    new_codes = {name: after.codes.numbers[name] for name in after.codes.names[len(state.codes.names) :]}
    packed = {state.wallets.keys[place]: journal.pack() for place, journal in journals.items()}
    learning = folded.learning[share.work.part[folded.learners] == part]
    return after, Effects(share.keys, share.rows, packed, new_codes, cells, changes, rejected, learning, share.late)
