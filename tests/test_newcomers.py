"""A persona that nobody knew appears in mid-season: it becomes a segment of its own, once, and stays that one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date
from functools import cache

import pytest

from models.rules import DAY_MS, Rules
from models.segments import Catalogue, Happening
from streams.market import PAYER, Market
from streams.replay import Replay, arrivals
from streams.simulate import Simulation, SimulationPlan

#: In the first the segment they wait in outlives them, in the second it is gone with their birth.
SEEDS = (8, 2)
DAYS = 64
#: A newborn needs 2 % of what was learned in a month, and three refits.
BORN_WITHIN_DAYS = 20


@dataclass(frozen=True)
class Seen:
    """What came out of a season: catalogues in their order, and the segment of each wallet at the end."""

    catalogues: list[Catalogue]
    segment_of: dict[str, int]
    newcomers: set[str]
    came_ms: int

    @property
    def theirs(self) -> int:
        """The segment most of the newcomers are in."""
        return Counter(self.segment_of[wallet] for wallet in self.newcomers).most_common(1)[0][0]

    def happenings(self) -> list[Happening]:
        return [each for each in self.catalogues[-1].history if each.segment == self.theirs]


@cache
def season(seed: int) -> Seen:
    """A season through the product's own step and observe."""
    simulation = Simulation(SimulationPlan(seed, 300, DAYS, date(2026, 1, 1), market=Market(born=100)))
    replay = Replay(Rules())
    catalogues = [slot.catalogue for slot in replay.run(arrivals(simulation.lines()))]
    versions = {catalogue.version: catalogue for catalogue in [*catalogues, replay.catalogue]}
    wallets = replay.wallets()
    segments = zip(wallets.keys, wallets.rows["segment"].tolist(), strict=True)
    segment_of = {key.decode(): number for key, number in segments}
    begins = {wallet: story[0][0] for wallet, story in simulation.personas().items() if story[0][1] == PAYER.name}
    return Seen(list(versions.values()), segment_of, {*begins} & {*segment_of}, min(begins.values()))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_new_persona_is_born_once_and_its_birth_is_told(seed: int) -> None:
    seen = season(seed)
    (birth,) = seen.happenings()
    assert birth.kind in {"born", "split"}
    assert seen.came_ms < birth.at_ms < seen.came_ms + BORN_WITHIN_DAYS * DAY_MS
    assert not any(c.column_of(seen.theirs) >= 0 for c in seen.catalogues if c.version < birth.version)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_new_persona_has_one_segment_with_nobody_else_in_it(seed: int) -> None:
    seen = season(seed)
    inside = {wallet for wallet, number in seen.segment_of.items() if number == seen.theirs}
    assert len(inside & seen.newcomers) > 0.9 * len(seen.newcomers)
    assert len(inside & seen.newcomers) > 0.8 * len(inside)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_new_persona_keeps_id_slot_and_name(seed: int) -> None:
    seen = season(seed)
    (birth,) = seen.happenings()
    since = [c for c in seen.catalogues if c.version >= birth.version]
    called = [{(s.number, s.slot, s.name) for s in c.segments if s.number == seen.theirs} for c in since]
    assert all(each == called[0] and len(each) == 1 for each in called)
    assert next(iter(called[0]))[2] not in {"", f"s{seen.theirs}"}
