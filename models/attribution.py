"""What every campaign earned and cost: five rules side by side, in integers that add up to the amount.

A transaction with a fee is split over the eligible touches of its wallet by integer weights and largest
remainders, ties to the earlier touch. A touch that arrives after transactions it should have shared in takes their
credit back as it was given and gives it again. Exact definitions: docs/attribution.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.cells import SMALLEST, Cells, empty_cells, expect, find_rows, in_order, with_room
from models.changes import segment_id
from models.compiled import compiled, leaf
from models.counters import CONVERSIONS as CONVERTED
from models.counters import COST, CellDeltas, Codes, campaign_field, cell_field
from models.counters import REVENUE as SHARED
from models.counters import RULES as NAMES
from models.journeys import DECAY, EMPTY_JOURNAL, Journal
from models.layout import CAMPAIGNS
from models.memory import (
    BEGIN,
    CODES,
    CONVERSIONS,
    END,
    IS_CUT,
    IS_TOUCHED,
    MANY_FEES,
    MANY_SINCE_LOOK,
    MANY_SPILLED,
    MANY_TOUCHES,
    NEWLY_SPILLED,
    RECENT,
    REVENUE,
    WALLET_COLUMNS,
    Limits,
    Memory,
    decode,
    first_remembered,
    open_memory,
    path_of,
    remember_fee,
    remember_touch,
    remembered_fee,
    room_for_paths,
    write_journals,
)
from models.rows import FEES, SEGMENTS, since_look, with_since_look
from models.splits import share_out

if TYPE_CHECKING:
    from models.columns import Events
    from models.rules import Rules

#: A whole conversion: conversions are split like amounts, in millionths.
MILLION = 1_000_000
#: Weights of time decay, by whole hours.
WEIGHTS_BY_HOURS = np.array(DECAY)
#: How many rules there are; where in a cell revenue and conversions by rule begin.
RULES, REVENUE_0, CONVERSIONS_0 = len(NAMES), SHARED.start, CONVERTED.start


@dataclass(slots=True)
class Books:
    """The money side of a batch while it is worked on; (n,) in order of arrival, (k,) by wallet.

    The partition of an event is an index into `codes` and `beyond_memory`. `segment`: its wallet's with each event.
    `previous_at_ms`: the wallet's newest transaction before it. What became of the journals, (k,): whose
    touches are others, of whose fees old ones were cut off, and how many fees have spilled to the end.
    """

    events: Events
    segment: NDArray[np.int64]
    clock_ms: NDArray[np.int64]
    previous_at_ms: NDArray[np.int64]
    rows: NDArray[np.void]
    journals: list[Journal | None]
    codes: list[Codes]
    beyond_memory: list[int]
    rules: Rules
    touched: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    cut: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    spilled: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


def credit(books: Books) -> list[CellDeltas]:
    """Credit a batch: additions to the ROI cells, by partition. Updates the books' rows, journals, codes and counts."""
    rules, rows = books.rules, books.rows
    limits = Limits(
        rules.look_back_ms, rules.lateness_ms, rules.touches_kept, rules.fees_kept - FEES, rules.eligible_touches
    )
    text, wallets, moves = columns(books)
    lost = np.array(books.beyond_memory, np.int64)
    cells, journals, ends = work_through(moves, text, wallets, WEIGHTS_BY_HOURS, lost, limits)
    rows["fees"], rows["recent_fees"] = wallets[:, MANY_FEES], wallets[:, RECENT:].reshape(-1, FEES, 2)
    rows["flags"] = with_since_look(rows, wallets[:, MANY_SINCE_LOOK])
    books.beyond_memory = lost.tolist()
    take_journals(books, wallets, journals.tobytes(), ends)
    return deltas(books, cells)


# ------------------------------------------------------------------ what the loop is given, and what it gives back


class Moves(NamedTuple):
    """What moves money, in order of arrival; (n,) by event, (t,) by touch.

    `events`: of `EVENT`. `code`: (t,) the number of the touch's campaign. `id_ends`: (t + 1,) where in the text the
    first event id begins, and where each ends.
    """

    events: NDArray[np.void]
    segment: NDArray[np.int64]
    clock_ms: NDArray[np.int64]
    previous_at_ms: NDArray[np.int64]
    code: NDArray[np.int64]
    id_ends: NDArray[np.int64]


def columns(books: Books) -> tuple[NDArray[np.uint8], NDArray[np.int64], Moves]:
    """All bytes that the loop needs, end to end; the wallets, as `Memory` has them; the events."""
    events = books.events
    touches = np.flatnonzero(events.rows["is_touch"])
    stored = [journal or b"" for journal in books.journals]
    ids = events.texts("event_id", touches)
    ends = np.cumsum([0, *map(len, stored), *map(len, ids)])
    wallets = np.zeros((len(stored), WALLET_COLUMNS), np.int64)
    wallets[:, BEGIN], wallets[:, END] = ends[: len(stored)], ends[1 : len(stored) + 1]
    wallets[:, MANY_FEES], wallets[:, RECENT:] = books.rows["fees"], books.rows["recent_fees"].reshape(-1, 2 * FEES)
    wallets[:, MANY_SINCE_LOOK] = since_look(books.rows)
    moves = Moves(
        events=events.rows,
        segment=books.segment,
        clock_ms=books.clock_ms,
        previous_at_ms=books.previous_at_ms,
        code=name_campaigns(books, touches),
        id_ends=ends[len(stored) :],
    )
    return np.frombuffer(b"".join([*stored, *ids]), np.uint8), wallets, moves


def name_campaigns(books: Books, touches: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of the campaign and channel of each touch (t,); those that have none yet get one, in this order."""
    events, codes = books.events, books.codes
    parts = events.rows["part"][touches].tolist()
    named = zip(events.texts("campaign", touches), events.texts("channel", touches), strict=True)
    fields = [_field(campaign, channel) for campaign, channel in named]
    new: dict[int, dict[bytes, None]] = {}
    for part, name in zip(parts, fields, strict=True):
        if name not in codes[part].numbers:
            new.setdefault(part, {})[name] = None
    for part, names in new.items():
        codes[part] = codes[part].with_names(names)
    return np.array([codes[part].numbers[name] for part, name in zip(parts, fields, strict=True)], np.int64)


@lru_cache(maxsize=10_000)
def _field(campaign: bytes, channel: bytes) -> bytes:
    """The name of a campaign and channel, as they were written; one that is not ASCII is in lower case already."""
    return campaign_field(campaign.decode(), channel.lower().decode())


def take_journals(books: Books, wallets: NDArray[np.int64], written: bytes, ends: NDArray[np.int64]) -> None:
    """The journals that have changed or grown, into the books."""
    books.touched, books.cut = wallets[:, IS_TOUCHED] > 0, wallets[:, IS_CUT] > 0
    books.spilled = wallets[:, NEWLY_SPILLED].copy()
    begins, ends, whole = ends[:-1], ends[1:], books.touched | books.cut
    new = np.flatnonzero(ends > begins)
    edges = zip(new.tolist(), begins[new].tolist(), ends[new].tolist(), whole[new].tolist(), strict=True)
    for wallet, begin, end, is_whole in edges:
        before = b"" if is_whole else books.journals[wallet] or EMPTY_JOURNAL
        books.journals[wallet] = before + written[begin:end]


def deltas(books: Books, cells: Cells) -> list[CellDeltas]:
    """What is added to the cells, by partition; each in the order of campaigns, then segments."""
    part, code, segment, numbers = in_order(cells)
    edges = np.searchsorted(part, np.arange(len(books.codes) + 1)).tolist()
    segments = {number: segment_id(number) for number in set(segment.tolist())}
    names = [
        cell_field(segments[of], books.codes[place].names[campaign])
        for place, campaign, of in zip(part.tolist(), code.tolist(), segment.tolist(), strict=True)
    ]
    return [CellDeltas(names[begin:end], numbers[begin:end]) for begin, end in pairwise(edges)]


# ------------------------------------------------------------------ the loop over events


class Event(NamedTuple):
    """What moves money, one at a time. `ledger`: key of the cell without a campaign, by partition and segment."""

    wallet: int
    ledger: int
    at_ms: int
    clock_ms: int


@compiled
def work_through(
    moves: Moves,
    text: NDArray[np.uint8],
    wallets: NDArray[np.int64],
    decay: NDArray[np.int64],
    lost: NDArray[np.int64],
    limits: Limits,
) -> tuple[Cells, NDArray[np.uint8], NDArray[np.int64]]:
    """Every event in turn: the cells, and the new journals as `write_journals` gives them.

    `lost`: (p,) what memory lost, by partition; added to. `text`, `wallets` and `decay`: as `Memory` has them.
    """
    memory = open_memory(text, wallets, decay, new_by_wallet(moves.events, len(wallets)))
    path, cells = room_for_paths(limits), empty_cells(SMALLEST)
    wanted = np.empty((2, path.shape[1]), np.int64)
    touch = 0
    for number in range(len(moves.events)):
        told, segment = moves.events[number], moves.segment[number]
        wallet, part, at_ms = told["wallet"], told["part"], told["at_ms"]
        ledger = part * CAMPAIGNS * SEGMENTS + segment
        event = Event(wallet, ledger, at_ms, moves.clock_ms[number])
        if told["is_touch"]:
            is_late = at_ms <= moves.previous_at_ms[number] and not told["is_sent"]
            cells = with_room(cells, most_cells(memory, wallet) if is_late else 1)
            code, id_begin = moves.code[touch], moves.id_ends[touch]
            touch += 1
            wanted[0, 0] = ledger + code * SEGMENTS
            find_rows(cells.slots, cells.rows, wanted, 1)
            expect(cells.rows, told["cost_micros"])
            cells.rows[wanted[1, 0], COST] += told["cost_micros"]
            for sign in (-1, 1):
                if sign == 1 and not told["is_sent"]:
                    new = at_ms, code, id_begin, moves.id_ends[touch] - id_begin
                    lost[part] += remember_touch(memory, wallet, new, event.clock_ms, limits)
                if is_late:
                    credit_again(memory, cells, (path, wanted), event, sign, limits)
        elif told["fee_micros"] != 0:
            cells = with_room(cells, path.shape[1] + 1)
            touches = path_of(memory, wallet, at_ms, limits, path)
            credit_fee(cells, path, touches, wanted, Fee(ledger, told["fee_micros"], 1))
            fee = at_ms * SEGMENTS + segment, told["fee_micros"]
            lost[part] += remember_fee(memory, wallet, fee, event.clock_ms, limits)
    journals, ends = write_journals(memory)
    return cells, journals, ends


@compiled
def new_by_wallet(events: NDArray[np.void], wallets: int) -> NDArray[np.int64]:
    """(k, 2): how many touches and how many others each wallet has in the batch."""
    new = np.zeros((wallets, 2), np.int64)
    for number in range(len(events)):
        new[events[number]["wallet"], 0 if events[number]["is_touch"] else 1] += 1
    return new


@leaf
def most_cells(memory: Memory, wallet: int) -> int:
    """The most cells a late touch can add to: its own, and along the paths of all fees it may be too late for."""
    decode(memory, wallet)
    of = memory.wallets[wallet]
    return 1 + int((of[MANY_SPILLED] + FEES) * (of[MANY_TOUCHES] + 2))


@leaf
def credit_again(
    memory: Memory,
    cells: Cells,
    room: tuple[NDArray[np.int64], NDArray[np.int64]],
    event: Event,
    sign: int,
    limits: Limits,
) -> None:
    """Credit, or take back, every remembered fee that a late touch shares in, along the path the wallet has now.

    `room`: for a path and its cells.
    """
    (path, wanted), of = room, memory.wallets[event.wallet]
    since_ms, until_ms = max(event.at_ms, event.clock_ms - limits.lateness_ms), event.at_ms + limits.look_back_ms
    first = first_remembered(memory, event.wallet, limits.spilled)
    for number in range(first, of[MANY_SPILLED] + min(FEES, of[MANY_FEES])):
        kept, amount = remembered_fee(memory, event.wallet, number)
        paid_at_ms, segment = kept // SEGMENTS, kept % SEGMENTS
        if since_ms <= paid_at_ms <= until_ms:
            touches = path_of(memory, event.wallet, paid_at_ms, limits, path)
            ledger = event.ledger - event.ledger % SEGMENTS + segment
            credit_fee(cells, path, touches, wanted, Fee(ledger, amount, sign))


class Fee(NamedTuple):
    """An amount to be credited to a ledger, in micro-USD; `sign` -1 takes back what was given."""

    ledger: int
    amount: int
    sign: int


@leaf
def credit_fee(cells: Cells, path: NDArray[np.int64], touches: int, wanted: NDArray[np.int64], fee: Fee) -> None:
    """Add a fee to the cells of its path, by all five rules; a positive one is a conversion too."""
    converted = MILLION if fee.amount > 0 else 0
    for shares, amount in ((REVENUE, abs(fee.amount)), (CONVERSIONS, converted)):
        share_out(path, touches, amount, shares)
    if touches == 0:
        path[CODES, 0], touches = 0, 1
    for touch in range(touches):
        wanted[0, touch] = fee.ledger + path[CODES, touch] * SEGMENTS
    find_rows(cells.slots, cells.rows, wanted, touches)
    rows, sign = cells.rows, fee.sign if fee.amount > 0 else -fee.sign
    expect(rows, abs(fee.amount) + MILLION)
    for touch in range(touches):
        row = wanted[1, touch]
        for rule in range(RULES):
            rows[row, REVENUE_0 + rule] += sign * path[REVENUE + rule, touch]
            rows[row, CONVERSIONS_0 + rule] += fee.sign * path[CONVERSIONS + rule, touch]
