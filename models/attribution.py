"""What every campaign earned and cost: five rules side by side, in integers that add up to the amount.

A transaction with a fee is split over the eligible touches of its wallet by integer weights and largest
remainders, ties to the earlier touch. A touch that arrives after transactions it should have shared in takes their
credit back as it was given and gives it again. Exact definitions: docs/attribution.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.changes import segment_id
from models.counters import NUMBERS, CellDeltas, Codes, campaign_field, cell_field
from models.journeys import EMPTY_JOURNAL, FEE, NO_PATH, Journal, Path, Touched
from models.rows import FEES, SEGMENTS
from models.splits import RULES, Runs, split

if TYPE_CHECKING:
    from models.columns import Events
    from models.rules import Rules

#: A whole conversion: conversions are split like amounts, in millionths.
MILLION = 1_000_000
#: Places of a cell: cost; revenue by rule; conversions by rule. Linear, time decay, position share one split.
COST, FIRST, LAST, SHARED, CONVERTED = 0, 1, 2, 3, 5
RULE = np.arange(FIRST, FIRST + CONVERTED)[:, None]
#: Sums beyond this are added as Python's integers.
ROOM = 2.0**62


class Share(NamedTuple):
    """One amount to be credited along a path. `ledger`: partition and segment. `sign` -1 takes back what was given."""

    path: int
    amount: int
    ledger: int
    sign: int


@dataclass(slots=True)
class Books:
    """The money side of a batch while it is worked on; (n,) in order of arrival, (k,) by wallet.

    `part`: (k,) the partition of each wallet, an index into `codes` and `beyond_memory`. `segment`: the wallet's with
    each event. `previous_at_ms`: its newest transaction before each event.
    """

    events: Events
    wallet: NDArray[np.int64]
    segment: NDArray[np.int64]
    clock_ms: NDArray[np.int64]
    previous_at_ms: NDArray[np.int64]
    rows: NDArray[np.void]
    journals: list[Journal | None]
    part: NDArray[np.int64]
    codes: list[Codes]
    beyond_memory: list[int]
    rules: Rules
    changed: set[int] = field(default_factory=set)
    paths: list[Path] = field(default_factory=list)
    recredits: list[Share] = field(default_factory=list)

    def ledger(self, events: NDArray[np.bool_]) -> NDArray[np.int64]:
        """What some events are credited to: partition and segment as one number."""
        return self.part[self.wallet[events]] * SEGMENTS + self.segment[events]


def credit(books: Books) -> list[CellDeltas]:
    """Credit a batch: additions to the ROI cells, by partition. Updates the books' rows, journals, codes and counts."""
    events, wallet = books.events, books.wallet
    campaign = name_campaigns(books)
    books.paths = [NO_PATH if journal is None else journal.path for journal in books.journals]
    lo, hi = (np.fromiter([path[end] for path in books.paths], np.int64, len(books.paths)) for end in (0, 1))
    due, at_ms = events.fee_micros != 0, events.occurred_at_ms
    touched = np.zeros(len(books.journals), np.bool_)
    touched[wallet[events.is_touch]] = True
    simple = ~touched[wallet] & (lo[wallet] <= at_ms) & (at_ms < hi[wallet])
    path_of = wallet.copy()
    for event in np.flatnonzero(np.where(events.is_touch, ~events.is_sent, due & ~simple)).tolist():
        if event in campaign:
            take_touch(books, event, campaign[event])
        else:
            path_of[event] = add_path(books, int(wallet[event]), int(at_ms[event]))
    shares = np.array([path_of[due], events.fee_micros[due], books.ledger(due), np.ones(due.sum(), np.int64)])
    if books.recredits:
        shares = np.concatenate([shares, np.array(books.recredits, np.int64).T], axis=1)
    costs = np.array([books.ledger(events.is_touch), [*campaign.values()], events.cost_micros[events.is_touch]])
    deltas = Cells(books, shares, costs.astype(np.int64, copy=False)).deltas()
    remember_fees(books)
    return deltas


def name_campaigns(books: Books) -> dict[int, int]:
    """Give every campaign and channel of the batch its number: touch -> number, in order of arrival."""
    campaigns, touches = books.events.campaigns, np.flatnonzero(books.events.is_touch)
    parts = books.part[books.wallet[touches]].tolist()
    asked = {
        place: (part, campaign)
        for place, part in zip(touches.tolist(), parts, strict=True)
        if (campaign := campaigns[place]) is not None
    }
    fields = {each: campaign_field(*each[1]) for each in dict.fromkeys(asked.values())}
    for part in set(parts):
        new = [name for (of, _), name in fields.items() if of == part and name not in books.codes[part].numbers]
        if new:
            books.codes[part] = books.codes[part].with_names(new)
    numbers = {each: books.codes[each[0]].numbers[name] for each, name in fields.items()}
    return {place: numbers[each] for place, each in asked.items()}


def add_path(books: Books, wallet: int, at_ms: int) -> int:
    """The number of the path of a transaction of `wallet` at `at_ms`, added to the batch's paths."""
    journal = books.journals[wallet]
    books.paths.append(NO_PATH if journal is None else journal.path_at(at_ms, books.rules))
    return len(books.paths) - 1


def take_touch(books: Books, event: int, code: int) -> None:
    """Memory, and the credit of transactions that came before this touch although they happened after."""
    events, wallet = books.events, int(books.wallet[event])
    at_ms, clock_ms = int(events.occurred_at_ms[event]), int(books.clock_ms[event])
    before = books.journals[wallet] or EMPTY_JOURNAL
    after, dropped = before.with_touch(Touched(at_ms, events.event_ids[event].encode(), code), clock_ms, books.rules)
    books.beyond_memory[books.part[wallet]] += dropped
    books.journals[wallet] = after
    books.changed.add(wallet)
    if at_ms <= books.previous_at_ms[event]:
        since_ms = max(at_ms, clock_ms - books.rules.lateness_ms)
        until_ms = at_ms + books.rules.look_back_ms
        for packed, amount in fees_in_memory(books, wallet, event):
            if since_ms <= packed // SEGMENTS <= until_ms:
                recredit(books, wallet, (packed, amount), (before, after))


def recredit(books: Books, wallet: int, fee: tuple[int, int], journals: tuple[Journal, Journal]) -> None:
    """Take a fee's credit back as it was given, and give it again with one more touch. `journals`: before, after."""
    (at_ms, segment), amount = divmod(fee[0], SEGMENTS), fee[1]
    ledger = int(books.part[wallet]) * SEGMENTS + segment
    for journal, sign in zip(journals, (-1, 1), strict=True):
        books.recredits.append(Share(len(books.paths), amount, ledger, sign))
        books.paths.append(journal.path_at(at_ms, books.rules))


def fees_in_memory(books: Books, wallet: int, event: int) -> Iterator[tuple[int, int]]:
    """The wallet's fees that are remembered when `event` arrives, as a row has them, oldest arrival first."""
    journal, rules = books.journals[wallet] or EMPTY_JOURNAL, books.rules
    spilled = list(FEE.iter_unpack(journal.fees))
    row = books.rows[wallet]
    newest = [tuple(row["recent_fees"][n % FEES].tolist()) for n in range(max(0, int(row["fees"]) - FEES), row["fees"])]
    earlier = np.flatnonzero((books.wallet[:event] == wallet) & (books.events.fee_micros[:event] != 0))
    for place in earlier.tolist():
        newest.append((int(kept_at(books, place)), int(books.events.fee_micros[place])))
        if len(newest) > FEES:
            leaving, oldest = newest.pop(0), SEGMENTS * (int(books.clock_ms[place]) - rules.lateness_ms)
            if leaving[0] >= oldest:
                spilled.append(leaving)
                while spilled[0][0] < oldest:
                    spilled.pop(0)
                del spilled[: -(rules.fees_kept - FEES)]
    yield from spilled
    yield from newest


def kept_at(books: Books, events: NDArray[np.int64] | int) -> NDArray[np.int64] | np.int64:
    """When events were and the segment each was credited to, as one integer."""
    kept: NDArray[np.int64] | np.int64 = books.events.occurred_at_ms[events] * SEGMENTS + books.segment[events]
    return kept


def remember_fees(books: Books) -> None:
    """The newest 4 fees of a wallet stay in its row; one pushed out while a late touch may need it goes to `j`."""
    fee, rows = books.events.fee_micros, books.rows
    with_fee = np.flatnonzero(fee)
    if not len(with_fee):
        return
    with_fee = with_fee[np.argsort(books.wallet[with_fee], kind="stable")]
    wallet = books.wallet[with_fee]
    count = np.bincount(wallet, minlength=len(rows))
    rank = np.arange(len(with_fee)) - (np.cumsum(count) - count)[wallet]
    slot = (rows["fees"][wallet] + rank) % FEES
    new = np.array([kept_at(books, with_fee), fee[with_fee]]).T
    leaving = rows["recent_fees"][wallet, slot]
    of_this_batch = np.flatnonzero(rank >= FEES)
    leaving[of_this_batch] = new[of_this_batch - FEES]
    oldest = books.clock_ms[with_fee] - books.rules.lateness_ms
    spill(books, wallet, leaving, oldest)
    stays = rank >= count[wallet] - FEES
    rows["recent_fees"][wallet[stays], slot[stays]] = new[stays]
    rows["fees"] += count.astype(np.uint32)


def spill(books: Books, wallet: NDArray[np.int64], leaving: NDArray[np.int64], oldest: NDArray[np.int64]) -> None:
    """Fees that left their rows and are not too old, into the journals. Sorted by wallet, then arrival."""
    needed = np.flatnonzero((leaving[:, 0] >= oldest * SEGMENTS) & (leaving[:, 0] > 0))
    if not len(needed):
        return
    fees, since = leaving[needed].tobytes(), oldest[needed].tolist()
    starts = np.flatnonzero(np.diff(wallet[needed], prepend=-1))
    owners, most = wallet[needed[starts]].tolist(), books.rules.fees_kept - FEES
    for owner, start, stop in zip(owners, starts.tolist(), [*starts[1:].tolist(), len(needed)], strict=True):
        journal = books.journals[owner] or EMPTY_JOURNAL
        spilled = fees[start * FEE.size : stop * FEE.size]
        books.journals[owner], lost = journal.with_fees(spilled, since[start:stop], most)
        books.changed.add(owner)
        books.beyond_memory[books.part[owner]] += lost


class Cells:
    """Adds shares into the cells of a batch: a dense block of the segments and campaigns that occur in it.

    A row is a segment of one partition, a column the number of a campaign, which each partition gives in its own way.
    `shares`: columns of `Share`; `costs`: partition and segment, number of the campaign, amount; (…, n) each.
    """

    def __init__(self, books: Books, shares: NDArray[np.int64], costs: NDArray[np.int64]) -> None:
        self.campaigns = [codes.names for codes in books.codes]
        self.path, self.amount, ledger, self.sign = shares
        self.converted = np.where(self.amount > 0, self.sign, 0)
        parts, segments = np.divmod(np.concatenate([ledger, costs[0]]), SEGMENTS)
        many_segments = int(segments.max(initial=0)) + 1
        credited = parts * many_segments + segments
        occurs = np.bincount(credited) > 0
        row = (np.cumsum(occurs) - 1)[credited]
        self.part, self.segment = np.divmod(np.flatnonzero(occurs), many_segments)
        self.row, cost_row = row[: len(ledger)], row[len(ledger) :]
        #: the paths that have touches, and the number of each path among them
        has_touches = np.fromiter([path.touches > 0 for path in books.paths], np.bool_, len(books.paths))
        self.runs, self.number = Runs.of([path for path in books.paths if path.touches]), np.cumsum(has_touches) - 1
        self.along = has_touches[self.path]
        used = np.zeros(max(map(len, self.campaigns)), np.bool_)
        used[0] = True
        used[costs[1]] = True
        used[self.runs.code] = True
        self.codes, self.column = np.flatnonzero(used), np.cumsum(used) - 1
        many = float(np.abs(self.amount).sum(dtype=np.float64)) >= ROOM
        shape = len(self.codes), len(self.part), NUMBERS
        self.sums: NDArray[Any] = np.zeros(shape, object if many else np.int64)
        #: cells that got a share. Sums alone would not do: a share given and taken back in one batch leaves no trace
        self.touched = np.zeros(shape[:2], np.bool_)
        self._add(self.cell(costs[1], cost_row) + COST, costs[2])

    def deltas(self) -> list[CellDeltas]:
        """Every split of every share, added up: the cells that change, by partition."""
        if not self.along.all():
            self._without_campaign(np.flatnonzero(~self.along))
        if self.along.any():
            self._along_paths(np.flatnonzero(self.along))
        columns, rows = np.nonzero(self.touched)
        parts = self.part[rows]
        return [self._of(part, columns[parts == part], rows[parts == part]) for part in range(len(self.campaigns))]

    def _of(self, part: int, columns: NDArray[np.int64], rows: NDArray[np.int64]) -> CellDeltas:
        names, segments, codes = self.campaigns[part], self.segment[rows].tolist(), self.codes[columns].tolist()
        fields = [cell_field(segment_id(segment), names[code]) for segment, code in zip(segments, codes, strict=True)]
        return CellDeltas(fields, self.sums[columns, rows])

    def cell(self, code: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the numbers of cells begin; these cells change."""
        cell: NDArray[np.int64] = self.column[code] * len(self.part) + row
        self.touched.reshape(-1)[cell] = True
        return cell * NUMBERS

    def _without_campaign(self, shares: NDArray[np.int64]) -> None:
        """Revenue without an eligible touch, and no conversion of anybody's."""
        cell = self.cell(np.zeros_like(shares), self.row[shares])
        self._add_both(cell + RULE, self.amount[shares] * self.sign[shares], self.converted[shares] * MILLION)

    def _along_paths(self, shares: NDArray[np.int64]) -> None:
        amount, sign, converted = self.amount[shares], self.sign[shares], self.converted[shares]
        runs, place = self.runs.pick(self.number[self.path[shares]])
        revenue = split(np.abs(amount), runs) * runs.by_touch(np.sign(amount) * sign)
        conversions = split(MILLION, self.runs).take(place, axis=1) * runs.by_touch(converted)
        cell = self.cell(runs.code, runs.by_touch(self.row[shares]))
        self._add_both(cell + SHARED + RULES, revenue, conversions)
        ends = np.array([cell[runs.start] + FIRST, cell[runs.start + runs.touches - 1] + LAST])
        self._add_both(ends, amount * sign, converted * MILLION)

    def _add_both(self, place: NDArray[np.int64], revenue: NDArray[np.int64], conversions: NDArray[np.int64]) -> None:
        """Add to the revenue at places (r, n), and to the conversions of the same rules."""
        for where, amount in ((place, revenue), (place + CONVERTED, conversions)):
            self._add(where.ravel(), np.broadcast_to(amount, place.shape).ravel())

    def _add(self, place: NDArray[np.int64], amount: NDArray[np.int64]) -> None:
        np.add.at(self.sums.reshape(-1), place, amount.astype(self.sums.dtype, copy=False))
