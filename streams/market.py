"""What can make a simulated season harder to read than the usual one: other habits, drift, silence, a new persona.

It has a source of chance of its own, so that a season without any of it is the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from streams.dice import Dice, Table, power_of_two
from streams.personas import BECOMES, CHANGERS, PERSONAS, Mix, Persona

#: Whose wallets appear in mid-season, all within `ARRIVAL_DAYS`: many small payments in stable coins.
PAYER = Persona(
    name="payer", share=0, daily=6_000, ticket_cents=3_500, spread=60, sells=0, fee=15, kyc="basic",
    products=(("wallet", 97), ("spot", 3)), assets=(("USDC", 6), ("USDT", 3), ("DAI", 1)), reach=0,
)  # fmt: skip
ARRIVAL_DAYS = 10
#: What the truth calls a wallet that has stopped for good.
SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Market:
    """The conditions of a season; the defaults are the usual one.

    `spread`: how far each persona's share, pace, ticket and mixes are from the tables, as the standard deviation in
    hundredths of a doubling. `drift`: the furthest that a persona's pace and tickets go in 100 days, in the same unit.
    `changers`, `silent`: wallets in a thousand that change their persona once, and that stop for good. `born`: wallets
    in a thousand, beside the others, of a persona that first appears in mid-season. `crash`: how many times busier
    the day of the crash is; `crash_tickets`: and how many times larger its transactions.
    """

    spread: int = 0
    drift: int = 0
    changers: int = CHANGERS
    silent: int = 0
    born: int = 0
    crash: int = 2
    crash_tickets: int = 1

    def __post_init__(self) -> None:
        shares = (self.changers, self.silent, self.born)
        if not (all(0 <= share <= 1000 for share in shares) and 0 <= self.spread <= 200 and 0 <= self.drift <= 400):
            raise ValueError("shares must be 0 to 1,000, the spread 0 to 200 and the drift 0 to 400")
        if not (1 <= self.crash <= 100 and 1 <= self.crash_tickets <= 100):
            raise ValueError("the crash must be 1 to 100 times as busy, with tickets 1 to 100 times as large")


USUAL = Market()


class Cast:
    """The personas of one season, and tables to draw from, by the number of the persona."""

    def __init__(self, personas: Sequence[Persona]) -> None:
        self.personas = tuple(personas)
        self.by_name = {persona.name: number for number, persona in enumerate(self.personas)}
        self.shares = Table([(number, persona.share) for number, persona in enumerate(self.personas)])
        self.products = [Table(persona.products) for persona in self.personas]
        self.assets = [Table(persona.assets) for persona in self.personas]

    @cached_property
    def becomes(self) -> list[Table[int]]:
        """What the wallets of each persona turn into; those that have no other stay."""
        turns = [BECOMES.get(persona.name, ((persona.name, 1),)) for persona in self.personas]
        return [Table([(self.by_name[name], weight) for name, weight in mix]) for mix in turns]


def cast_of(market: Market, dice: Dice) -> Cast:
    """The personas under these conditions."""
    personas = [_varied(persona, market.spread, dice) for persona in PERSONAS] if market.spread else PERSONAS
    return Cast([*personas, PAYER] if market.born else personas)


def _varied(persona: Persona, spread: int, dice: Dice) -> Persona:
    """The same kind of persona with habits of its own."""

    def vary(number: int, by: int = spread) -> int:
        return max(1, int(number * dice.lognormal(by)))

    def mixed(mix: Mix) -> Mix:
        return tuple((name, vary(100 * weight)) for name, weight in mix)

    return replace(
        persona,
        share=vary(persona.share),
        daily=vary(persona.daily),
        ticket_cents=vary(persona.ticket_cents),
        spread=vary(persona.spread, spread // 2),
        sells=min(950, vary(persona.sells, spread // 2)),
        products=mixed(persona.products),
        assets=mixed(persona.assets),
    )


class Drift:
    """Where pace and tickets of every persona go: each in a direction of its own, half of it with the market."""

    def __init__(self, market: Market, personas: int, dice: Dice) -> None:
        self._personas = personas
        self._slopes: list[tuple[float, float]] = []
        if market.drift:
            common = [2 * dice.random() - 1 for _ in range(2)]
            for _ in range(personas):
                pace, ticket = (market.drift * (way + 2 * dice.random() - 1) / 2 for way in common)
                self._slopes.append((pace, ticket))

    def paces(self, day: int) -> tuple[int, ...]:
        """By persona, thousandths of its usual pace."""
        if not self._slopes:
            return (1000,) * self._personas
        return tuple(int(1000 * power_of_two(pace * day / 10_000)) for pace, _ in self._slopes)

    def tickets(self, day: int) -> tuple[float, ...]:
        """By persona, a factor of its usual tickets."""
        if not self._slopes:
            return (1.0,) * self._personas
        return tuple(power_of_two(ticket * day / 10_000) for _, ticket in self._slopes)
