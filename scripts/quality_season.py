"""Seasons to judge by: made once for each seed, kept in `.cache/`, given back as records with their truth."""

from __future__ import annotations

import hashlib
import inspect
import os
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.packed import pack, unpack
from models.records import Record
from models.rules import DAY_MS
from models.state import TRANSACTIONS
from streams import behaviour, dice, market, personas, season, simulate
from streams.dice import Dice
from streams.market import SILENT, Market
from streams.replay import Arrival, arrivals
from streams.simulate import Simulation, SimulationPlan

#: Parameters may be chosen by the first, figures are reported of the second only.
TUNING, JUDGING = tuple(range(1, 7)), tuple(range(101, 107))
DEADLINE = date(2026, 4, 15)
CACHE = Path(__file__).parent.parent / ".cache" / "quality"
#: Seasons of a seed that are kept beside the newest.
KEPT = 2
MADE_BY: tuple[ModuleType, ...] = (behaviour, dice, market, personas, season, simulate)


@dataclass(frozen=True, slots=True)
class Size:
    """Wallets and days of a season; the deadline comes after two thirds of it, the crash after three fifths."""

    wallets: int = 800
    days: int = 180


USUAL, SMALL = Size(), Size(400, 100)


def plan_of(seed: int, size: Size) -> SimulationPlan:
    """What season a seed stands for: habits, drift and who takes part are its own; a third have a persona born."""
    draw = Dice(seed * 7919)
    conditions = Market(
        spread=20 + draw.below(31),
        drift=20 + draw.below(41),
        changers=350,
        silent=100,
        born=80 if seed % 3 == 0 else 0,
        crash=2 + draw.below(3),
        crash_tickets=2,
    )
    start = DEADLINE - timedelta(days=size.days * 2 // 3)
    return SimulationPlan(seed, size.wallets, size.days, start, late=0.01, market=conditions)


@dataclass(frozen=True, eq=False)
class Season:
    """Records in order of arrival, as columns, and the truth.

    `lanes`, `times`, `wallet_of` (n,): of each record; `ends` (n,): where its value ends in `values`.
    `story`: by wallet, from when on it is what. `habits`: persona -> transactions in a thousand days, and leverage.
    """

    keys: list[bytes]
    lanes: NDArray[np.uint8]
    times: NDArray[np.int64]
    wallet_of: NDArray[np.int32]
    ends: NDArray[np.int64]
    values: bytes
    story: dict[str, list[tuple[int, str]]]
    habits: dict[str, tuple[int, int]]
    begins_ms: int
    crash_ms: int
    days: int

    def records(self) -> Iterator[Arrival]:
        columns = (self.lanes.tolist(), self.times.tolist(), self.wallet_of.tolist(), self.ends.tolist())
        begin = 0
        for number, (lane, at_ms, wallet, end) in enumerate(zip(*columns, strict=True)):
            yield lane, Record(number, at_ms, self.keys[wallet], self.values[begin:end])
            begin = end

    @property
    def ends_ms(self) -> int:
        return self.begins_ms + self.days * DAY_MS

    def persona(self, wallet: str, at_ms: int) -> str:
        """What a wallet is at a moment; one that has gone silent is silent."""
        told = self.story[wallet]
        return told[max(0, bisect_right(told, at_ms, key=lambda chapter: chapter[0]) - 1)][1]

    def manner(self, wallet: str, at_ms: int) -> str:
        """The same, but a silent wallet is what it was."""
        told = [chapter for chapter in self.story[wallet] if chapter[1] != SILENT]
        return told[max(0, bisect_right(told, at_ms, key=lambda chapter: chapter[0]) - 1)][1]

    def is_activation(self, before: str, after: str) -> bool:
        """Whether a wallet that turns so does half as much again, or takes more leverage."""
        (pace, leverage), (new_pace, new_leverage) = self.habits[before], self.habits[after]
        return new_pace > 1.5 * pace or new_leverage > leverage

    def last_seen(self, wallet: str, before_ms: int, days: int) -> tuple[int, int]:
        """A wallet's newest transaction before a moment, and how many it had in so many days up to it."""
        times = self._transactions.get(wallet.encode(), _NONE)
        times = times[times < before_ms]
        return (int(times[-1]), int((times > times[-1] - days * DAY_MS).sum())) if len(times) else (0, 0)

    @property
    def _transactions(self) -> dict[bytes, NDArray[np.int64]]:
        if "_by_wallet" not in self.__dict__:
            chosen = self.lanes == TRANSACTIONS
            order = np.argsort(self.wallet_of[chosen], kind="stable")
            wallets, times = self.wallet_of[chosen][order], self.times[chosen][order]
            cuts = np.searchsorted(wallets, np.arange(len(self.keys) + 1))
            by_wallet = {key: times[cuts[n] : cuts[n + 1]] for n, key in enumerate(self.keys)}
            object.__setattr__(self, "_by_wallet", by_wallet)
        found: dict[bytes, NDArray[np.int64]] = self.__dict__["_by_wallet"]
        return found


_NONE = np.zeros(0, np.int64)


def season_of(plan: SimulationPlan) -> Season:
    """The season of a plan; from the cache if the simulator has not changed since."""
    sources = "".join(map(inspect.getsource, MADE_BY))
    name = hashlib.sha256(f"{plan}{sources}{Path(__file__).read_text()}".encode()).hexdigest()[:20]
    file = CACHE / f"season-{plan.seed}-{name}"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in sorted(CACHE.glob(f"season-{plan.seed}-*"), key=lambda each: each.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
        part = file.with_name(f"part-of-{file.name}-{os.getpid()}")
        part.write_bytes(pack(*_made(plan)))
        part.rename(file)
    head, arrays = unpack(file.read_bytes())
    story = {wallet: [(at, persona) for at, persona in told] for wallet, told in head.pop("story").items()}
    habits = {persona: (pace, leverage) for persona, (pace, leverage) in head.pop("habits").items()}
    keys = [key.encode() for key in head.pop("keys")]
    return Season(
        keys=keys,
        lanes=arrays["lanes"],
        times=arrays["times"].astype(np.int64),
        wallet_of=arrays["wallet_of"].astype(np.int32),
        ends=arrays["ends"].astype(np.int64),
        values=zlib.decompress(arrays["values"].tobytes()),
        story=story,
        habits=habits,
        **head,
    )


def _made(plan: SimulationPlan) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The season as plain values and arrays."""
    simulation = Simulation(plan)
    places: dict[bytes, int] = {}
    lanes, times, wallet_of, values = bytearray(), [], [], []
    for lane, record in arrivals(simulation.lines()):
        lanes.append(lane)
        times.append(record.timestamp)
        wallet_of.append(places.setdefault(record.key or b"", len(places)))
        values.append(record.value or b"")
    crash = next(day for day in simulation.days if day.is_crash)
    head = {
        "keys": [key.decode() for key in places],
        "story": simulation.personas(),
        "habits": {persona.name: (persona.daily, persona.leverage[1]) for persona in simulation.cast.personas},
        "begins_ms": simulation.days[0].begins_ms,
        "crash_ms": crash.begins_ms,
        "days": plan.days,
    }
    return head, {
        "lanes": np.frombuffer(bytes(lanes), np.uint8),
        "times": np.array(times, np.float64),
        "wallet_of": np.array(wallet_of, np.float64),
        "ends": np.cumsum([len(value) for value in values], dtype=np.float64),
        "values": np.frombuffer(zlib.compress(b"".join(values), 1), np.uint8),
    }
