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
from models.journeys import EMPTY_JOURNAL, FEE, NARROW, NO_PATH, Journal, Path, Touched, width
from models.rows import FEES

if TYPE_CHECKING:
    from models.columns import Events
    from models.rules import Rules

#: A whole conversion: conversions are split like amounts, in millionths.
MILLION = 1_000_000
#: A fee and the segment it was credited to share one int64: fee x 8192 + segment.
SEGMENTS = 8192
#: Places of a cell: cost; revenue by rule; conversions by rule. Linear, time decay, position share one split.
COST, FIRST, LAST, SHARED, CONVERTED = 0, 1, 2, 3, 5
#: Sums beyond this are added as Python's integers.
ROOM = 2.0**62


class Share(NamedTuple):
    """One amount to be credited along a path. `sign` -1 takes back what was given."""

    path: int
    amount: int
    segment: int
    sign: int


@dataclass(slots=True)
class Books:
    """The money side of one batch while it is worked on; (n,) in order of arrival, (k,) by wallet.

    `segment`: the wallet's segment with each event. `previous_at_ms`: its newest transaction before each event.
    """

    events: Events
    wallet: NDArray[np.int64]
    segment: NDArray[np.int64]
    clock_ms: NDArray[np.int64]
    previous_at_ms: NDArray[np.int64]
    rows: NDArray[np.void]
    journals: list[Journal | None]
    codes: Codes
    rules: Rules
    changed: set[int] = field(default_factory=set)
    paths: list[Path] = field(default_factory=list)
    recredits: list[Share] = field(default_factory=list)
    costs: list[tuple[int, int, int]] = field(default_factory=list)
    beyond_memory: int = 0


def credit(books: Books) -> CellDeltas:
    """Credit a batch: the additions to the ROI cells. Updates the books' rows, journals, codes and counts."""
    events, wallet = books.events, books.wallet
    name_campaigns(books)
    books.paths = [NO_PATH if journal is None else journal.path for journal in books.journals]
    bounds = np.array([(path.lo, path.hi) for path in books.paths], np.int64)
    due = events.fee_micros != 0
    touched = np.zeros(len(books.journals), np.bool_)
    touched[wallet[events.is_touch]] = True
    at_ms = events.occurred_at_ms
    simple = due & ~touched[wallet] & (bounds[wallet, 0] <= at_ms) & (at_ms < bounds[wallet, 1])
    path_of = wallet.copy()
    for event in np.flatnonzero(events.is_touch | (due & ~simple)).tolist():
        if events.is_touch[event]:
            take_touch(books, event)
        else:
            path_of[event] = add_path(books, int(wallet[event]), int(at_ms[event]))
    shares = np.column_stack([path_of, events.fee_micros, books.segment, np.ones_like(wallet)])[due]
    if books.recredits:
        shares = np.concatenate([shares, np.array(books.recredits, np.int64)])
    deltas = Cells(books, shares).deltas()
    remember_fees(books)
    return deltas


def name_campaigns(books: Books) -> None:
    """Give every campaign and channel of the batch its number."""
    known = books.codes.numbers
    seen = dict.fromkeys(campaign for campaign in books.events.campaigns if campaign is not None)
    new = [name for campaign in seen if (name := campaign_field(*campaign)) not in known]
    if new:
        books.codes = books.codes.with_names(new)


def add_path(books: Books, wallet: int, at_ms: int) -> int:
    """The number of the path of a transaction of `wallet` at `at_ms`, added to the batch's paths."""
    journal = books.journals[wallet]
    books.paths.append(NO_PATH if journal is None else journal.path_at(at_ms, books.rules))
    return len(books.paths) - 1


def take_touch(books: Books, event: int) -> None:
    """Cost, memory, and the credit of transactions that came before this touch although they happened after."""
    events, wallet = books.events, int(books.wallet[event])
    campaign = events.campaigns[event]
    if campaign is None:
        raise AssertionError("a touch without a campaign")
    code = books.codes.numbers[campaign_field(*campaign)]
    books.costs.append((int(books.segment[event]), code, int(events.cost_micros[event])))
    if events.is_sent[event]:
        return
    at_ms, clock_ms = int(events.occurred_at_ms[event]), int(books.clock_ms[event])
    before = books.journals[wallet] or EMPTY_JOURNAL
    after, dropped = before.with_touch(Touched(at_ms, events.event_ids[event].encode(), code), clock_ms, books.rules)
    books.beyond_memory += dropped
    books.journals[wallet] = after
    books.changed.add(wallet)
    if at_ms <= books.previous_at_ms[event]:
        since_ms = max(at_ms, clock_ms - books.rules.lateness_ms)
        until_ms = at_ms + books.rules.look_back_ms
        for fee_at_ms, packed in fees_in_memory(books, wallet, event):
            if since_ms <= fee_at_ms <= until_ms:
                recredit(books, fee_at_ms, packed, before, after)


def recredit(books: Books, at_ms: int, packed: int, before: Journal, after: Journal) -> None:
    """Take a fee's credit back as it was given, and give it again with one more touch."""
    amount, segment = packed // SEGMENTS, packed % SEGMENTS
    for journal, sign in ((before, -1), (after, 1)):
        books.recredits.append(Share(len(books.paths), amount, segment, sign))
        books.paths.append(journal.path_at(at_ms, books.rules))


def fees_in_memory(books: Books, wallet: int, event: int) -> Iterator[tuple[int, int]]:
    """The wallet's fees that are remembered when `event` arrives: (occurred_at, packed), oldest arrival first."""
    journal, rules = books.journals[wallet] or EMPTY_JOURNAL, books.rules
    spilled = list(FEE.iter_unpack(journal.fees))
    row = books.rows[wallet]
    newest = [tuple(row["recent_fees"][n % FEES].tolist()) for n in range(max(0, int(row["fees"]) - FEES), row["fees"])]
    earlier = np.flatnonzero((books.wallet[:event] == wallet) & (books.events.fee_micros[:event] != 0))
    for place in earlier.tolist():
        newest.append((int(books.events.occurred_at_ms[place]), pack_fee(books, place)))
        if len(newest) > FEES:
            leaving, oldest = newest.pop(0), int(books.clock_ms[place]) - rules.lateness_ms
            if leaving[0] >= oldest:
                spilled.append(leaving)
                while spilled[0][0] < oldest:
                    spilled.pop(0)
                del spilled[: -(rules.fees_kept - FEES)]
    yield from spilled
    yield from newest


def pack_fee(books: Books, event: int) -> int:
    """An event's fee and the segment it was credited to, as one integer."""
    return int(books.events.fee_micros[event]) * SEGMENTS + int(books.segment[event])


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
    packed = fee[with_fee] * SEGMENTS + books.segment[with_fee]
    new = np.column_stack([books.events.occurred_at_ms[with_fee], packed])
    leaving = np.where((rank < FEES)[:, None], rows["recent_fees"][wallet, slot], np.roll(new, FEES, axis=0))
    oldest = books.clock_ms[with_fee] - books.rules.lateness_ms
    spill(books, wallet, leaving, oldest)
    stays = rank >= count[wallet] - FEES
    rows["recent_fees"][wallet[stays], slot[stays]] = new[stays]
    rows["fees"] += count.astype(np.uint32)


def spill(books: Books, wallet: NDArray[np.int64], leaving: NDArray[np.int64], oldest: NDArray[np.int64]) -> None:
    """Fees that left their rows and are not too old, into the journals. Sorted by wallet, then arrival."""
    needed = np.flatnonzero((leaving[:, 0] >= oldest) & (leaving[:, 0] > 0))
    starts = np.flatnonzero(np.diff(wallet[needed], prepend=-1))
    for group in np.split(needed, starts[1:]) if len(needed) else ():
        owner = int(wallet[group[0]])
        fees = [FEE.pack(*fee) for fee in leaving[group].tolist()]
        journal = books.journals[owner] or EMPTY_JOURNAL
        most = books.rules.fees_kept - FEES
        books.journals[owner], lost = journal.with_fees(fees, oldest[group].tolist(), most)
        books.changed.add(owner)
        books.beyond_memory += lost


class Cells:
    """Adds shares into the cells of a batch: a dense block of the segments and campaigns that occur in it."""

    def __init__(self, books: Books, shares: NDArray[np.int64]) -> None:
        self.books = books
        self.path, self.amount, segment, self.sign = shares.T
        cost_segment, cost_code, self.cost = np.array(books.costs, np.int64).reshape(-1, 3).T
        self.segments, row = np.unique(np.concatenate([segment, cost_segment]), return_inverse=True)
        self.row, self.cost_row = row[: len(segment)], row[len(segment) :]
        self.touches = np.array([path.touches for path in books.paths], np.int64)[self.path]
        used = np.zeros(len(books.codes.names), np.bool_)
        used[0] = True
        used[cost_code] = True
        self.groups = list(self._groups())
        for _, block, wide in self.groups:
            used[block[:, :wide]] = True
        self.codes = np.flatnonzero(used)
        self.column = np.cumsum(used) - 1
        many = float(np.abs(self.amount).sum(dtype=np.float64)) >= ROOM
        shape = len(self.codes), len(self.segments), NUMBERS
        self.sums: NDArray[Any] = np.zeros(shape, object if many else np.int64)
        self.flat = self.sums.reshape(-1)
        #: cells that got a share. Sums alone would not do: a share given and taken back in one batch leaves no trace
        self.touched = np.zeros(self.flat.size // NUMBERS, np.bool_)
        self._add((self.column[cost_code] * len(self.segments) + self.cost_row) * NUMBERS + COST, self.cost)

    def deltas(self) -> CellDeltas:
        """Every split of every share, added up: the cells that change."""
        self._without_campaign()
        for shares, block, wide in self.groups:
            self._along_paths(shares, block, wide)
        columns, rows = np.nonzero(self.touched.reshape(self.sums.shape[:2]))
        names = self.books.codes.names
        ids = [segment_id(number) for number in self.segments.tolist()]
        campaigns = [names[code] for code in self.codes.tolist()]
        fields = [cell_field(ids[r], campaigns[c]) for c, r in zip(columns.tolist(), rows.tolist(), strict=True)]
        return CellDeltas(fields, self.sums[columns, rows])

    def _groups(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
        """Shares by the width of their paths' blocks: places, blocks (u, …) stacked, width."""
        for wide in sorted({width(count) for count in np.unique(self.touches).tolist()} - {0}):
            least = 1 if wide == NARROW else NARROW + 1 if wide == 64 else wide - 63
            shares = np.flatnonzero((self.touches >= least) & (self.touches <= wide))
            stacked = b"".join([self.books.paths[path].block for path in self.path[shares].tolist()])
            yield shares, np.frombuffer(stacked, np.int64).reshape(len(shares), -1), wide

    def _without_campaign(self) -> None:
        """Revenue without an eligible touch, and no conversion of anybody's."""
        plain = np.flatnonzero(self.touches == 0)
        amount = self.amount[plain] * self.sign[plain]
        converted = np.where(self.amount[plain] > 0, self.sign[plain] * MILLION, 0)
        for rule in range(FIRST, FIRST + CONVERTED):
            self._add(self.row[plain] * NUMBERS + rule, amount)
            self._add(self.row[plain] * NUMBERS + rule + CONVERTED, converted)

    def _along_paths(self, shares: NDArray[np.int64], block: NDArray[np.int64], wide: int) -> None:
        longest = int(self.touches[shares].max())
        column = self.column[block[:, :longest]]
        weight = block[:, wide : 4 * wide].reshape(-1, 3, wide)[:, :, :longest]
        total = block[:, 4 * wide : 4 * wide + 3, None]
        amount, sign = self.amount[shares], self.sign[shares]
        converted = np.where(amount > 0, sign, 0)
        revenue = split(np.abs(amount)[:, None, None], weight, total) * (np.sign(amount) * sign)[:, None, None]
        conversions = split(np.full((len(shares), 1, 1), MILLION), weight, total) * converted[:, None, None]
        cell = (column * len(self.segments) + self.row[shares, None]) * NUMBERS
        shared = cell[:, None, :] + np.arange(SHARED, SHARED + 3)[:, None]
        last = cell[np.arange(len(shares)), self.touches[shares] - 1]
        real = np.broadcast_to(weight[:, :1] > 0, weight.shape)  # the rest is padding, and no cell of its own
        for place, money, conversion in (
            (shared[real], revenue[real], conversions[real]),
            (cell[:, 0] + FIRST, amount * sign, converted * MILLION),
            (last + LAST, amount * sign, converted * MILLION),
        ):
            self._add(place, money)
            self._add(place + CONVERTED, conversion)

    def _add(self, place: NDArray[np.int64], amount: NDArray[np.int64]) -> None:
        self.touched[place // NUMBERS] = True
        np.add.at(self.flat, place, amount.astype(self.flat.dtype, copy=False))


def split(amount: NDArray[np.int64], weight: NDArray[np.int64], total: NDArray[np.int64]) -> NDArray[np.int64]:
    """Largest remainders: amounts (m, 1, 1) >= 0 by weights (m, 3, w) whose sums are `total` (m, 3, 1).

    Share = floor(amount x weight / total); the units left over go to the largest exact remainders, ties to the
    earlier. The amount's multiple of the total is taken out first, so products stay below 2^54.
    """
    whole = amount // total
    product = (amount - whole * total) * weight
    floor = product // total
    remainder = product - floor * total
    shares: NDArray[np.int64] = whole * weight + floor
    left = amount - shares.sum(axis=-1, keepdims=True)
    # one key orders by remainder, then by place; the units left over go to the first so many
    places = weight.shape[-1]
    key = remainder * places + np.arange(places - 1, -1, -1)
    rank = np.argsort(np.argsort(-key, axis=-1, kind="stable"), axis=-1, kind="stable")
    shares += rank < left
    return shares
