"""What a wallet remembers, in plain Python and the contract's words: journals as stored, the books of one wallet.

`Plainly` keeps lists and looks at all of them for every event. `Booked` has the same events credited by the step's own
loops, a batch at a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from models.arrivals import EVENT
from models.attribution import Books, credit
from models.columns import Events
from models.counters import EMPTY_CELL, RULES, Codes, campaign_field
from models.journeys import DECAY, EMPTY_JOURNAL, JOURNAL_VERSION, Journal, Touched, unpack_journal
from models.layout import FEE, HEAD, TOUCH
from models.rows import FEES, HAS_FEES, HAS_JOURNAL, LOOK_EVERY, SEGMENTS, blank_rows, since_look, unpack_rows
from models.rules import HOUR_MS, Rules

MILLION = 1_000_000


def largest_remainders(amount: int, weights: Sequence[int]) -> list[int]:
    exact = [Fraction(amount * weight, sum(weights)) for weight in weights]
    shares = [math.floor(each) for each in exact]
    order = sorted(range(len(weights)), key=lambda i: (-(exact[i] - shares[i]), i))
    for i in order[: amount - sum(shares)]:
        shares[i] += 1
    return shares


def weights_of(rule: str, times: Sequence[int]) -> list[int]:
    n = len(times)
    if rule == "first":
        return [1] + [0] * (n - 1)
    if rule == "last":
        return [0] * (n - 1) + [1]
    if rule == "time_decay":
        return [DECAY[(times[-1] - at_ms) // HOUR_MS] for at_ms in times]
    if rule == "position" and n > 2:
        return [2 * (n - 2), *[1] * (n - 2), 2 * (n - 2)]
    return [1] * n


# ------------------------------------------------------------------ a journal as stored


def eligible(touched: Sequence[Touched], t: int, rules: Rules) -> list[Touched]:
    return [touch for touch in touched if t - rules.look_back_ms <= touch.occurred_at_ms <= t][
        -rules.eligible_touches :
    ]


def as_stored(touched: Sequence[Touched], fees: Sequence[tuple[int, int]]) -> bytes:
    """A journal of touches in their order, and of fees, byte by byte."""
    entries = b"".join(TOUCH.pack(t.occurred_at_ms, t.code, len(t.event_id)) + t.event_id for t in touched)
    head = HEAD.pack(JOURNAL_VERSION, HEAD.size + len(entries), len(touched))
    return head + entries + b"".join(FEE.pack(*fee) for fee in fees)


#: What version 4 left in `f` when its page was turned; nobody may take it for fees.
STALE = FEE.pack(7 * SEGMENTS, 7) * 15


def as_version_4(row: bytes, journal: bytes | None, fees: bytes | None) -> tuple[bytes, bytes | None, bytes | None]:
    """A wallet stored today, as version 4 stored it: new fees on a page of at most 15, those before in the journal."""
    read, fees = unpack_rows([row]), fees or b""
    paged = int(since_look(read)[0])
    turned, page = fees[: len(fees) - FEE.size * paged], fees[len(fees) - FEE.size * paged :]
    read["version"], read["flags"] = 4, read["flags"] & (0xFFFF ^ HAS_FEES) | (HAS_JOURNAL if turned else 0)
    in_journal = (journal or EMPTY_JOURNAL) + turned if journal or turned else None
    return read.tobytes(), in_journal, page or (STALE if turned else None)


# ------------------------------------------------------------------ the books of one wallet


class Happened(NamedTuple):
    """A touch of a campaign (`amount` its cost), or a transaction (`amount` its fee), as it arrives. Micro-USD."""

    at_ms: int
    amount: int
    campaign: str = ""
    event_id: str = ""
    is_sent: bool = False
    segment: int = 0


@dataclass
class Plainly:
    """A wallet's credit by looking at everything again. `stored`: spilled fees, those of no more use among them."""

    rules: Rules
    clock_ms: int = 0
    newest_ms: int = 0
    lost: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    touched: list[Touched] = field(default_factory=list)
    spilled: list[tuple[int, int]] = field(default_factory=list)
    stored: list[tuple[int, int]] = field(default_factory=list)
    since_look: int = 0
    recent: list[tuple[int, int]] = field(default_factory=list)
    cells: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * 11))
    has_journal: bool = False

    def take(self, event: Happened) -> None:
        self.clock_ms = max(self.clock_ms, event.at_ms)
        if event.campaign:
            self.take_touch(event)
        else:
            if event.amount:
                self.credit((event.at_ms * SEGMENTS + event.segment, event.amount), 1)
                self.remember((event.at_ms * SEGMENTS + event.segment, event.amount))
            self.newest_ms = max(self.newest_ms, event.at_ms)

    def take_touch(self, event: Happened) -> None:
        code = self.codes.setdefault(event.campaign, len(self.codes) + 1)
        self.cells[event.segment, code][0] += event.amount
        if event.is_sent:
            return
        late = [
            fee
            for fee in [*self.spilled, *self.recent]
            if max(event.at_ms, self.clock_ms - self.rules.lateness_ms)
            <= fee[0] // SEGMENTS
            <= event.at_ms + self.rules.look_back_ms
        ]
        for fee in late:
            self.credit(fee, -1)
        oldest = self.clock_ms - self.rules.look_back_ms - self.rules.lateness_ms
        self.touched = sorted([*self.touched, Touched(event.at_ms, event.event_id.encode(), code)])
        self.touched = [touch for touch in self.touched if touch.occurred_at_ms >= oldest]
        self.lost += max(0, len(self.touched) - self.rules.touches_kept)
        self.touched = self.touched[-self.rules.touches_kept :]
        self.has_journal = True
        for fee in late:
            self.credit(fee, 1)

    def credit(self, fee: tuple[int, int], sign: int) -> None:
        path = eligible(self.touched, fee[0] // SEGMENTS, self.rules)
        codes = [touch.code for touch in path] or [0]
        for place, rule in enumerate(RULES):
            weights = weights_of(rule, [touch.occurred_at_ms for touch in path]) or [1]
            revenue = largest_remainders(abs(fee[1]), weights)
            conversions = largest_remainders(MILLION if fee[1] > 0 else 0, weights)
            for code, earned, converted in zip(codes, revenue, conversions, strict=True):
                cell = self.cells[fee[0] % SEGMENTS, code]
                cell[1 + place] += sign * (earned if fee[1] > 0 else -earned)
                cell[6 + place] += sign * converted

    def remember(self, fee: tuple[int, int]) -> None:
        self.recent.append(fee)
        if len(self.recent) > FEES:
            leaving, oldest = self.recent.pop(0), (self.clock_ms - self.rules.lateness_ms) * SEGMENTS
            if leaving[0] >= oldest:
                self.has_journal = True
                self.spilled.append(leaving)
                while self.spilled[0][0] < oldest:
                    self.spilled.pop(0)
                if len(self.spilled) > self.rules.fees_kept - FEES:
                    self.spilled.pop(0)
                    self.lost += 1
                self.stored, self.since_look = [*self.stored, leaving], self.since_look + 1
                if self.since_look == LOOK_EVERY:
                    self.stored, self.since_look = list(self.spilled), 0

    def numbers(self) -> dict[tuple[int, int], list[int]]:
        return {key: cell for key, cell in self.cells.items() if any(cell)}


@dataclass
class Booked:
    """The same wallet, credited by the step's loops; between batches only what is stored is left."""

    rules: Rules
    clock_ms: int = 0
    newest_ms: int = 0
    lost: int = 0
    codes: Codes = field(default_factory=Codes)
    journal: Journal | None = None
    cells: dict[bytes, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = blank_rows(1)

    def take(self, events: Sequence[Happened]) -> None:
        """One batch."""
        clocks = np.maximum.accumulate([self.clock_ms, *[event.at_ms for event in events]])[1:]
        paid = [0 if event.campaign else event.at_ms for event in events]
        newest = np.maximum.accumulate([self.newest_ms, *paid])
        books = Books(
            events=columns(events),
            segment=np.array([event.segment for event in events]),
            clock_ms=clocks,
            previous_at_ms=newest[:-1],
            rows=self.rows,
            journals=[self.journal],
            codes=[self.codes],
            beyond_memory=[self.lost],
            rules=self.rules,
        )
        (deltas,) = credit(books)
        for name, added in zip(deltas.names, deltas.deltas.tolist(), strict=True):
            self.cells[name] = tuple(map(int.__add__, self.cells.get(name, EMPTY_CELL), added))
        (self.codes,), (self.lost,) = books.codes, books.beyond_memory
        self.clock_ms, self.newest_ms = int(clocks[-1]), int(newest[-1])
        journal = books.journals[0]
        self.journal = None if journal is None else unpack_journal(journal)

    def numbers(self) -> dict[tuple[int, int], list[int]]:
        """(segment, number of the campaign) -> the cell, if any of it is not 0."""
        out = {}
        for name, cell in self.cells.items():
            segment, campaign = name.split(b"|", 1)
            number = 0 if segment == b"unassigned" else int(segment[1:])
            if any(cell):
                out[number, self.codes.numbers.get(campaign, 0)] = list(cell)
        return out


def columns(events: Sequence[Happened]) -> Events:
    """What the books look at; the rest is blank."""
    rows = np.zeros(len(events), EVENT)
    text = b""
    for row, event in zip(rows, events, strict=True):
        row["at_ms"], row["is_touch"], row["is_sent"] = event.at_ms, bool(event.campaign), event.is_sent
        row["cost_micros" if event.campaign else "fee_micros"] = event.amount
        for name, content in (("event_id", event.event_id), ("campaign", event.campaign or ""), ("channel", "email")):
            row[name] = len(text)
            text += content.encode()
            row[f"{name}_end"] = len(text)
    return Events(text, rows)


def numbered_as(codes: Codes, plain: dict[str, int]) -> bool:
    """Whether campaigns have the numbers of their first touches."""
    return all(codes.numbers[campaign_field(name, "email")] == number for name, number in plain.items())
