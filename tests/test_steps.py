"""Partitions that have a batch at the same moment are stepped together, and each gets what is its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from models.rules import Rules
from models.segments import EMPTY_CATALOGUE, Catalogue
from models.state import Batch, State
from models.step import step
from streams import steps as module
from streams.steps import MOST, Steps
from tests.partition import Arrival, Partition, Season

RULES = Rules(partitioner="off")


class Watch:
    """A catalogue that never changes; counts the steps, since each asks for it once."""

    def __init__(self) -> None:
        self.steps = 0

    @property
    def catalogue(self) -> Catalogue:
        self.steps += 1
        return EMPTY_CATALOGUE


def turn(number: int, arrivals: list[Arrival]) -> tuple[State, Batch]:
    partition = Partition(rules=RULES)
    partition.number = number
    state, batch, _ = partition.before(arrivals)
    return state, batch


def steps() -> tuple[Steps, Watch]:
    watch = Watch()
    return Steps(RULES, watch), watch  # type: ignore[arg-type]  # all it asks of a watch


def test_those_who_come_together_are_stepped_together_and_get_what_is_their_own() -> None:
    turns = [turn(number, Season(events=20, seed=number).arrivals()) for number in range(5)]

    async def scenario() -> list[Any]:
        together, watch = steps()
        found = await asyncio.gather(*(together.step(*each) for each in turns))
        assert watch.steps == 1
        return found

    found = asyncio.run(scenario())
    for (state, batch), (after, effects, catalogue) in zip(turns, found, strict=True):
        expected_after, expected = step(state, batch, RULES, EMPTY_CATALOGUE)
        assert (after.partition, after.totals) == (state.partition, expected_after.totals)
        assert (effects.keys, effects.rows.tobytes()) == (expected.keys, expected.rows.tobytes())
        assert catalogue is EMPTY_CATALOGUE


def test_a_step_takes_only_so_many_records_and_the_rest_is_next() -> None:
    turns = [turn(number, Season(events=900, seed=3, bad=0, repeats=0).arrivals()) for number in range(6)]
    assert sum(len(batch.records) for _, batch in turns) > MOST

    async def scenario() -> None:
        together, watch = steps()
        await asyncio.gather(*(together.step(*each) for each in turns))
        assert watch.steps == 2

    asyncio.run(scenario())


def test_who_is_cancelled_while_waiting_is_left_out() -> None:
    turns = [turn(number, Season(events=20, seed=number).arrivals()) for number in range(3)]

    async def scenario() -> None:
        together, watch = steps()
        tasks = [asyncio.create_task(together.step(*each)) for each in turns]
        await asyncio.sleep(0)
        tasks[1].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in done] == [False, True, False]
        assert watch.steps == 1

    asyncio.run(scenario())


def test_what_goes_wrong_ends_everybody_who_was_part_of_it() -> None:
    state, batch = turn(0, Season(events=20).arrivals())
    broken = Batch(batch.records, batch.lanes, batch.wallet_of + 10_000)

    async def scenario() -> None:
        together, watch = steps()
        done = await asyncio.gather(together.step(state, batch), together.step(state, broken), return_exceptions=True)
        assert [type(each) for each in done] == [IndexError, IndexError]
        assert watch.steps == 1

    asyncio.run(scenario())


@dataclass(eq=False)
class Somebody:
    """A partition that may be on its way."""

    coming: bool


def test_a_step_waits_for_who_is_on_the_way_and_for_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPANY_S", 600.0)
    early, late = (turn(number, Season(events=20, seed=number).arrivals()) for number in range(2))

    async def scenario() -> None:
        together, watch = steps()
        await together.step(*early)  # nobody is on the way
        somebody = Somebody(coming=True)
        together.members.add(somebody)
        first = asyncio.create_task(together.step(*early))
        await asyncio.sleep(0.01)
        assert watch.steps == 1
        somebody.coming = False
        await asyncio.gather(first, together.step(*late))
        assert watch.steps == 2

    asyncio.run(scenario())


def test_a_step_does_not_wait_for_ever_for_who_never_comes() -> None:
    alone = turn(0, Season(events=20).arrivals())

    async def scenario() -> None:
        together, _ = steps()
        together.members.add(Somebody(coming=True))
        async with asyncio.timeout(30):
            await together.step(*alone)

    asyncio.run(scenario())


def test_what_a_large_step_made_is_handed_out_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDED", 30)
    turns = [turn(number, Season(events=20, seed=number).arrivals()) for number in range(5)]

    async def scenario() -> None:
        together, watch = steps()
        waiting = [asyncio.create_task(together.step(*each)) for each in turns]
        left: list[int] = []
        while waiting:
            await asyncio.sleep(0)
            waiting = [each for each in waiting if not each.done()]
            left.append(len(waiting))
        assert list(dict.fromkeys(left)) == [5, 3, 1, 0]  # two and more of twenty records a turn
        assert watch.steps == 1

    asyncio.run(scenario())


def test_who_is_cancelled_while_results_are_handed_out_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDED", 1)
    turns = [turn(number, Season(events=20, seed=number).arrivals()) for number in range(3)]

    async def scenario() -> None:
        together, _ = steps()
        first, second, third = (asyncio.create_task(together.step(*each)) for each in turns)
        await first
        second.cancel()
        await third
        assert second.cancelled()

    asyncio.run(scenario())
