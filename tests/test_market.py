from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.rules import DAY_MS
from streams.dice import Dice
from streams.market import PAYER, SILENT, USUAL, Cast, Drift, Market, cast_of
from streams.personas import PERSONAS
from streams.simulate import Simulation, SimulationPlan, simulate
from tests.oracle import oracle

START = date(2026, 1, 1)


def plan(market: Market, **changes: Any) -> SimulationPlan:
    return SimulationPlan(**{"seed": 5, "wallets": 120, "days": 50, "start": START, "market": market, **changes})


def seen(market: Market) -> dict[str, list[int]]:
    """By wallet, when its lines were written."""
    times: dict[str, list[int]] = {}
    for line in map(json.loads, simulate(plan(market))):
        times.setdefault(line["key"], []).append(line["timestamp"])
    return times


@settings(max_examples=15)
@given(
    st.builds(
        Market,
        spread=st.integers(0, 60),
        drift=st.integers(0, 100),
        changers=st.integers(0, 1000),
        silent=st.integers(0, 1000),
        born=st.integers(0, 300),
        crash=st.integers(1, 6),
        crash_tickets=st.integers(1, 3),
    )
)
def test_whatever_the_market_the_truth_is_what_an_oracle_counts(market: Market) -> None:
    season = Simulation(plan(market, wallets=40, days=30, late=0.05, duplicates=0.02, bad=0.02, events=2000))
    counted, truth = oracle(season.lines()), season.truth()
    assert truth["roi"] == counted["roi"]
    assert {name: truth["totals"][name] for name in counted["totals"]} == counted["totals"]


def test_a_market_makes_the_same_season_again_and_another_market_another() -> None:
    market = Market(spread=30, drift=40, silent=100, born=80, crash=3)
    one, again = ("\n".join(simulate(plan(market, events=3000))) for _ in range(2))
    assert one == again
    assert one != "\n".join(simulate(plan(USUAL, events=3000)))


def test_a_wallet_that_has_stopped_does_nothing_any_more() -> None:
    market = Market(silent=500, changers=0)
    times, story = seen(market), Simulation(plan(market)).personas()
    stopped = {wallet: told[-1][0] for wallet, told in story.items() if told[-1][1] == SILENT}
    assert 30 < len(stopped) < 90
    assert all(max(times[wallet], default=0) < at_ms for wallet, at_ms in stopped.items() if wallet in times)
    ends_ms = max(map(max, times.values()))
    assert sum(max(times[w]) > ends_ms - 20 * DAY_MS for w in times if w not in stopped) > 30


def test_no_story_goes_on_after_silence() -> None:
    story = Simulation(plan(Market(silent=1000, changers=1000))).personas()
    for told in story.values():
        assert [at_ms for at_ms, _ in told] == sorted(at_ms for at_ms, _ in told)
        assert [persona for _, persona in told].index(SILENT) == len(told) - 1
    assert {len(told) for told in story.values()} == {2, 3}


def test_the_persona_that_is_born_appears_in_mid_season_and_stays() -> None:
    market = Market(born=100)
    times, story = seen(market), Simulation(plan(market)).personas()
    born = {wallet: told for wallet, told in story.items() if told[0][1] == PAYER.name}
    assert len(born) == 12
    assert all(len(told) == 1 and told[0][0] <= min(times[wallet]) for wallet, told in born.items())
    begins = {told[0][0] for told in born.values()}
    middle_ms = min(map(min, times.values())) // DAY_MS * DAY_MS + 25 * DAY_MS
    assert middle_ms <= min(begins) < max(begins) < middle_ms + 10 * DAY_MS


def test_habits_differ_from_the_tables_but_personas_keep_their_names_and_products() -> None:
    cast = cast_of(Market(spread=40), Dice(9))
    assert [persona.name for persona in cast.personas] == [persona.name for persona in PERSONAS]
    for found, usual in zip(cast.personas, PERSONAS, strict=True):
        assert found.daily != usual.daily
        assert {name for name, _ in found.products} == {name for name, _ in usual.products}
        assert usual.daily / 4 < found.daily < usual.daily * 4
    assert cast_of(USUAL, Dice(9)).personas == PERSONAS


def test_what_drifts_goes_one_way_and_no_further_than_it_is_told_to() -> None:
    drift = Drift(Market(drift=100), 8, Dice(4))
    assert drift.paces(0) == (1000,) * 8
    assert drift.tickets(0) == (1.0,) * 8
    for persona in range(8):
        way = [drift.tickets(day)[persona] for day in (0, 50, 100)]
        assert way in (sorted(way), sorted(way, reverse=True))
        assert 0.5 <= way[2] <= 2
        assert 499 <= drift.paces(100)[persona] <= 2000
    assert len(set(drift.tickets(100))) == 8
    assert Drift(USUAL, 8, Dice(4)).paces(100) == (1000,) * 8


def test_the_day_of_the_crash_is_as_busy_and_its_tickets_are_as_large_as_told() -> None:
    usual, wild = (Simulation(plan(Market(crash=crash, crash_tickets=crash))) for crash in (1, 5))
    crash = next(day.number for day in usual.days if day.is_crash)
    assert wild.days[crash].activity == 5 * usual.days[crash].activity
    assert wild.days[crash].tickets == tuple(5 * factor for factor in usual.days[crash].tickets)
    assert wild.days[crash - 1].activity == usual.days[crash - 1].activity


@pytest.mark.parametrize("changes", [{"silent": 1001}, {"born": -1}, {"spread": 500}, {"drift": -1}, {"crash": 0}])
def test_a_market_that_makes_no_sense_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Market(**changes)


def test_a_persona_that_turns_into_nothing_stays_what_it_is() -> None:
    cast = Cast([*PERSONAS, PAYER])
    assert cast.becomes[cast.by_name[PAYER.name]].items == [cast.by_name[PAYER.name]]
