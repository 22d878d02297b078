"""A believable tax season as NDJSON, in order of arrival, the same bytes for the same plan on every machine.

Each line first draws its moment and its wallet, then what happens: a touch of a running campaign, a transaction in
the manner of the wallet's persona, a repeat of a recent event, or a record that must be refused. The truth is kept
along the way.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any, TextIO

from streams.behaviour import Behaviour, Wallet, is_here, make_wallet, persona_on, touch_event
from streams.dice import Dice
from streams.market import ARRIVAL_DAYS, PAYER, SILENT, USUAL, Drift, Market, cast_of
from streams.personas import CAMPAIGNS
from streams.season import Climate, Day, calendar
from streams.spoil import REASONS, Draft, spoil
from streams.truth import Truth

#: How late a late line is: safely inside the allowed lateness of an hour.
LATE_FROM_MS, LATE_TO_MS = 5 * 60_000, 50 * 60_000
#: What is unusual about a season is drawn apart, so that the usual one stays the same.
MARKET_SEED = 0x5EA50
#: One too large record (1 MiB) for so many refused ones, from the 500th on.
TOO_LARGE_EVERY, TOO_LARGE_FROM = 1000, 500


@dataclass(frozen=True, slots=True)
class SimulationPlan:
    """What to simulate.

    `late`, `duplicates`, `bad`: shares of the lines, 0 to 0.5. `events`: lines to write; None: as many as these
    wallets make. `oversized`: records of more than 1 MiB among many refused ones. `market`: what is unusual about the
    season. Raises ValueError, one line.
    """

    seed: int
    wallets: int
    days: int
    start: date
    late: float = 0.0
    duplicates: float = 0.0
    bad: float = 0.0
    events: int | None = None
    oversized: bool = True
    market: Market = USUAL

    def __post_init__(self) -> None:
        if not (1 <= self.wallets <= 10_000_000 and 1 <= self.days <= 3660):
            raise ValueError("wallets must be 1 to 10,000,000 and days 1 to 3,660")
        if not all(0 <= share <= 0.5 for share in (self.late, self.duplicates, self.bad)):
            raise ValueError("the shares of late, repeated and bad lines must be 0 to 0.5 each")
        if self.events is not None and self.events < 0:
            raise ValueError("the number of events must not be negative")
        if self.start < date(2009, 1, 4):
            raise ValueError("the start must be 2009-01-04 or later: no wallet did anything before")


def default_start(today: date, days: int) -> date:
    """So that the season ends yesterday."""
    if not 1 <= days <= 3660:
        raise ValueError("days must be 1 to 3,660")
    return today - timedelta(days=days + 1)


def refuse_future(plan: SimulationPlan, today: date) -> None:
    """Raise ValueError if the season has not ended: brokers refuse timestamps in the future."""
    if plan.start > today:
        raise ValueError(f"the season would start on {plan.start}, in the future: choose an earlier start")
    end = plan.start + timedelta(days=plan.days)
    if end > today:
        raise ValueError(f"the season would end on {end}, in the future: choose an earlier start or fewer days")


def simulate(plan: SimulationPlan) -> Iterator[str]:
    """The lines of the season, without line ends, in order of arrival."""
    return Simulation(plan).lines()


def write(plan: SimulationPlan, out: TextIO, truth: Path | None = None) -> dict[str, Any]:
    """Write the season's lines, and its truth as JSON to a file; return the truth."""
    simulation = Simulation(plan)
    for line in simulation.lines():
        out.write(line)
        out.write("\n")
    told = simulation.truth()
    if truth is not None:
        truth.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


class Simulation:
    """One run of a plan. Consume `lines()` once, then ask for the `truth()`."""

    def __init__(self, plan: SimulationPlan) -> None:
        self.plan = plan
        self.dice = Dice(plan.seed)
        self.books = Truth()
        chance = Dice(plan.seed ^ MARKET_SEED)
        self.cast = cast_of(plan.market, chance)
        drift = Drift(plan.market, len(self.cast.personas), chance)
        self.days = calendar(plan.start, plan.days, self.dice, Climate(plan.market, self.cast.personas, drift))
        self.wallets = [self._wallet(number) for number in range(plan.wallets)]
        self._silence(chance)
        self.wallets += self._arrivals()
        self.acts = Behaviour(self.dice, self.books, self.cast)
        self.written = 0
        self.refused = 0

    def _wallet(self, number: int) -> Wallet:
        plan = self.plan
        return make_wallet(wallet_id(plan.seed, number), plan.days, self.cast, plan.market.changers, self.dice)

    def _silence(self, chance: Dice) -> None:
        """Some wallets stop for good, in the middle three fifths of the season."""
        for wallet in self.wallets if self.plan.market.silent else ():
            if chance.chance(self.plan.market.silent):
                wallet.silent_on = self.plan.days // 5 + chance.below(self.plan.days * 3 // 5)

    def _arrivals(self) -> list[Wallet]:
        """The wallets of the persona that first appears in mid-season."""
        plan = self.plan
        many = plan.wallets * plan.market.born // 1000
        wallets = [self._wallet(number) for number in range(plan.wallets, plan.wallets + many)]
        for wallet in wallets:
            wallet.persona, wallet.changes_on = self.cast.by_name[PAYER.name], -1
            wallet.begins_on = plan.days // 2 + self.dice.below(ARRIVAL_DAYS)
        return wallets

    def lines(self) -> Iterator[str]:
        quota = self._quota()
        for day, lines in zip(self.days, quota, strict=True):
            bounds = list(accumulate(self._weights(day)))
            for at_ms in day.times(lines, self.dice):
                wallet = self.wallets[bisect_right(bounds, int(self.dice.random() * bounds[-1]))]
                self.written += 1
                yield self._line(wallet, day, at_ms)

    def totals(self) -> dict[str, Any]:
        """What `totals` must say of the lines written so far; far cheaper than the whole truth."""
        return self.books.totals()

    def truth(self) -> dict[str, Any]:
        """Totals, ROI over all segments, and each wallet's personas: what the lines written so far must come to."""
        return {
            "lines": self.written,
            "totals": self.totals(),
            "roi": self.books.roi(),
            "personas": self.personas(),
        }

    def personas(self) -> dict[str, list[list[Any]]]:
        """For each wallet, from when on (epoch milliseconds) it is what."""
        return {wallet.wallet_id: self._personas(wallet) for wallet in self.wallets}

    def _personas(self, wallet: Wallet) -> list[list[Any]]:
        """From when on it was what; a wallet that stops before it would have changed does not change."""
        personas, last = self.cast.personas, len(self.days) - 1
        told: list[list[Any]] = [[self.days[min(wallet.begins_on, last)].begins_ms, personas[wallet.persona].name]]
        if wallet.changes_on >= 0 and not 0 <= wallet.silent_on <= wallet.changes_on:
            told.append([self.days[wallet.changes_on].begins_ms, personas[wallet.becomes].name])
        if wallet.silent_on >= 0:
            told.append([self.days[wallet.silent_on].begins_ms, SILENT])
        return told

    def _weights(self, day: Day) -> Iterator[int]:
        """How much each wallet does on a day, touches included."""
        by_persona = [
            p.daily * day.paces[n] // 1000 + (p.reach if day.wanted[n] else 0) for n, p in enumerate(self.cast.personas)
        ]
        for wallet in self.wallets:
            yield wallet.rate * by_persona[persona_on(wallet, day)] if is_here(wallet, day) else 0

    def _quota(self) -> list[int]:
        """Lines of each day: in proportion to what the wallets do, and exactly the plan's number in all."""
        through = list(accumulate(sum(self._weights(day)) * day.activity for day in self.days))
        total = through[-1] // 10**9 if self.plan.events is None else self.plan.events
        ends = [total * part // through[-1] for part in through]
        return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]

    def _line(self, wallet: Wallet, day: Day, at_ms: int) -> str:
        plan, dice = self.plan, self.dice
        if plan.bad and dice.random() < plan.bad:
            return self._refused(wallet, day, at_ms)
        if plan.duplicates and wallet.recent and dice.random() < plan.duplicates:
            lane, event = wallet.recent[dice.below(len(wallet.recent))]
            self.books.counts["duplicates"] += 1
            return Draft(lane, wallet.wallet_id, event, at_ms).line()
        occurred_ms = at_ms
        if plan.late and dice.random() < plan.late:
            occurred_ms -= LATE_FROM_MS + dice.below(LATE_TO_MS - LATE_FROM_MS)
        if self.acts.is_touched(wallet, day):
            lane, event = 1, self.acts.touch(wallet, day, occurred_ms)
        else:
            lane, event = 0, self.acts.transaction(wallet, day, occurred_ms)
        if plan.duplicates:
            wallet.recent.append((lane, event))
        return Draft(lane, wallet.wallet_id, event, at_ms).line()

    def _refused(self, wallet: Wallet, day: Day, at_ms: int) -> str:
        """A record that was an event until something happened to it; nothing of it counts but its reason."""
        self.refused += 1
        reason = self.dice.pick(REASONS)
        if self.plan.oversized and self.refused % TOO_LARGE_EVERY == TOO_LARGE_FROM:
            reason = "too_large"
        lane = int(self.dice.chance(300))
        if lane:
            event = touch_event(self.acts.start(wallet, at_ms), CAMPAIGNS[0], "email")
        else:
            event = self.acts.bare_transaction(wallet, day, at_ms)[0]
        draft = Draft(lane, wallet.wallet_id, event, at_ms)
        spoil(draft, reason, self.dice)
        self.books.rejected[reason] += 1
        return draft.line({"trace": f"refused-{self.refused}"})


def wallet_id(seed: int, number: int) -> str:
    """An address that looks like one."""
    return "0x" + hashlib.sha256(f"{seed}/{number}".encode()).hexdigest()[:40]
