"""The calendar of a simulated season: how busy each day is, what a unit costs, which campaigns run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from streams.dice import Dice, Table
from streams.market import Drift, Market
from streams.personas import CAMPAIGNS, PRICES, STABLE, Persona

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
#: Hours (UTC) of a usual day, and of the day of the crash, by how much happens in them.
USUAL_HOURS = Table(
    tuple(enumerate((5, 4, 3, 3, 3, 4, 6, 8, 10, 11, 11, 12, 13, 15, 16, 16, 15, 13, 12, 11, 10, 9, 8, 6)))
)
CRASH_HOURS = Table(
    tuple(enumerate((5, 4, 3, 3, 3, 4, 6, 8, 10, 11, 11, 12, 15, 60, 95, 70, 40, 25, 18, 14, 12, 10, 8, 6)))
)
CRASH_BEGINS, CRASH_ENDS = 13, 16
#: Days before the deadline in which losses are realised.
RAMP_DAYS = 21


@dataclass(frozen=True, slots=True)
class Day:
    """One day of the season. `activity`: in thousandths of the usual.

    By persona: `wanted` campaigns running, `paces` in thousandths of the usual, `tickets` factors.
    """

    number: int
    begins_ms: int
    activity: int
    is_crash: bool
    losses: int
    prices: dict[str, int]
    wanted: tuple[tuple[int, ...], ...]
    paces: tuple[int, ...]
    tickets: tuple[float, ...]

    def crashes_at(self, at_ms: int) -> bool:
        return self.is_crash and CRASH_BEGINS <= (at_ms - self.begins_ms) // HOUR_MS < CRASH_ENDS

    def times(self, count: int, dice: Dice) -> list[int]:
        """So many moments of the day, in order, as epoch milliseconds."""
        hours = CRASH_HOURS if self.is_crash else USUAL_HOURS
        return sorted(self.begins_ms + dice.pick(hours) * HOUR_MS + dice.below(HOUR_MS) for _ in range(count))


@dataclass(frozen=True, slots=True)
class Climate:
    """What the days of a season are like for its personas."""

    market: Market
    personas: tuple[Persona, ...]
    drift: Drift


def calendar(start: date, days: int, dice: Dice, climate: Climate) -> list[Day]:
    """The season's days: a weekly rhythm, a ramp to 15 April (or to the last day), one crash, wandering prices."""
    market, drift = climate.market, climate.drift
    begins_ms = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) * 1000
    deadline, crash = deadline_day(start, days), days * 3 // 5
    prices = dict(PRICES)
    season = []
    for number in range(days):
        move_prices(prices, dice, is_crash=number == crash)
        left = deadline - number
        season.append(
            Day(
                number=number,
                begins_ms=begins_ms + number * DAY_MS,
                activity=activity(start + timedelta(days=number), left) * (market.crash if number == crash else 1),
                is_crash=number == crash,
                losses=300 * (RAMP_DAYS - left) // RAMP_DAYS if 0 <= left < RAMP_DAYS else 0,
                prices=dict(prices),
                wanted=wanted(number * 1000 // days, climate.personas),
                paces=drift.paces(number),
                tickets=tuple(t * (market.crash_tickets if number == crash else 1) for t in drift.tickets(number)),
            )
        )
    return season


def deadline_day(start: date, days: int) -> int:
    """The day of the season that is 15 April, else its last."""
    for year in (start.year, start.year + 1):
        if 0 < (date(year, 4, 15) - start).days < days:
            return (date(year, 4, 15) - start).days
    return days - 1


def activity(day: date, left: int) -> int:
    """Thousandths of a usual day, with `left` days to the deadline."""
    usual = 780 if day.weekday() >= 5 else 1050
    if 0 <= left < RAMP_DAYS:
        usual += usual * 3 * (RAMP_DAYS - left) // (2 * RAMP_DAYS)
    return usual


def move_prices(prices: dict[str, int], dice: Dice, *, is_crash: bool) -> None:
    """One day's wandering of every price, in place."""
    for asset, cents in prices.items():
        if asset not in STABLE:
            moved = int(cents * (0.65 if is_crash else 1.0) * dice.lognormal(4))
            prices[asset] = max(1, moved)


def wanted(progress: int, personas: Sequence[Persona]) -> tuple[tuple[int, ...], ...]:
    """For each persona the campaigns that want it, at so many thousandths of the season."""
    running = [number for number, c in enumerate(CAMPAIGNS) if c.begins <= progress < c.ends]
    return tuple(tuple(n for n in running if persona.name in CAMPAIGNS[n].wants) for persona in personas)
