"""A season is the same bytes for the same plan, believable, and its truth is what the oracle counts."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter, defaultdict
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.behaviour import decimal_text, half_even
from streams.dice import Dice, Table, power_of_two
from streams.personas import PERSONAS
from streams.season import DAY_MS, HOUR_MS
from streams.simulate import Simulation, SimulationPlan, default_start, refuse_future, simulate, write
from tests.oracle import oracle, time_ms

START = date(2026, 2, 20)
START_MS = 1_771_545_600_000
CERTAIN = {"late": 0, "beyond_memory": 0}


def plan(**changes: Any) -> SimulationPlan:
    return SimulationPlan(**{"seed": 7, "wallets": 400, "days": 60, "start": START, "events": 6000, **changes})


def records(**changes: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in simulate(plan(**changes))]


def at_ms(event: dict[str, Any]) -> int:
    told = event["occurred_at"]
    found = told if isinstance(told, int) else time_ms(told)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def season() -> list[dict[str, Any]]:
    """A whole season of valid events, in order."""
    return records(events=25_000)


# ------------------------------------------------------------------ the same, everywhere, and true


def test_a_plan_makes_these_very_bytes_on_every_machine() -> None:
    text = "\n".join(simulate(plan(late=0.01, duplicates=0.01, bad=0.02, events=20_000, oversized=False)))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "d1d7abb7cd54d52384198f983b6c453e6dd9ba75541ca503461e71825f8f793d"
    )


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**40),
    wallets=st.integers(1, 60),
    days=st.integers(1, 70),
    shares=st.tuples(*[st.sampled_from([0.0, 0.01, 0.3])] * 3),
    events=st.integers(0, 1200),
)
@example(seed=0, wallets=1, days=1, shares=(0.3, 0.3, 0.3), events=1200)
@example(seed=1, wallets=1, days=40, shares=(0.3, 0.0, 0.0), events=5000)  # more than 64 touches share
@example(seed=5, wallets=2, days=40, shares=(0.3, 0.3, 0.0), events=1200)
def test_the_truth_is_what_an_oracle_counts(
    seed: int, wallets: int, days: int, shares: tuple[float, float, float], events: int
) -> None:
    late, duplicates, bad = shares
    season = Simulation(SimulationPlan(seed, wallets, days, START, late, duplicates, bad, events))
    counted = oracle(season.lines())
    truth = season.truth()
    assert truth["totals"] == counted["totals"] | CERTAIN
    assert truth["roi"] == counted["roi"]
    assert truth["lines"] == events
    totals = truth["totals"]
    read = totals["transactions"] + totals["touches"] + totals["duplicates"] + sum(totals["rejected"].values())
    assert read == events


def test_the_truth_of_a_season_cut_short_is_the_truth_of_its_lines() -> None:
    season = Simulation(plan(late=0.1, duplicates=0.1, bad=0.1))
    lines = [line for _, line in zip(range(2500), season.lines(), strict=False)]
    counted = oracle(lines)
    assert season.truth()["totals"] == counted["totals"] | CERTAIN
    assert season.truth()["roi"] == counted["roi"]
    assert season.truth()["lines"] == 2500


def test_written_lines_and_truth_are_those_of_the_plan(tmp_path: Path) -> None:
    out, file = io.StringIO(), tmp_path / "truth.json"
    told = write(plan(), out, file)
    assert out.getvalue() == "".join(f"{line}\n" for line in simulate(plan()))
    assert json.loads(file.read_text()) == told


def test_without_a_number_of_events_wallets_do_what_their_personas_do() -> None:
    few, many = (sum(1 for _ in simulate(plan(events=None, wallets=count, days=20))) for count in (20, 200))
    assert 20 * 20 <= few <= 20 * 20 * 12
    assert 4 * few < many < 25 * few


# ------------------------------------------------------------------ arrival


@pytest.mark.parametrize("late", [0.0, 0.2])
def test_lines_stand_in_order_of_arrival_and_lateness_stays_inside_the_hour(late: float) -> None:
    arrived, newest, behind = 0, 0, 0
    for record in records(late=late):
        occurred = at_ms(record["value"])
        assert arrived <= record["timestamp"]
        arrived = record["timestamp"]
        assert occurred <= arrived < occurred + HOUR_MS - 5 * 60_000
        behind += occurred < newest
        newest = max(newest, occurred)
    assert newest < START_MS + 60 * DAY_MS
    assert 0.15 * 6000 < behind < 0.25 * 6000 if late else behind == 0


def test_repeats_are_equal_and_come_within_20_events_of_the_wallet() -> None:
    seen: dict[str, list[str]] = defaultdict(list)
    contents: dict[str, dict[str, Any]] = {}
    repeats = 0
    for record in records(duplicates=0.1):
        event, wallet = record["value"], record["key"]
        if event["event_id"] in contents:
            repeats += 1
            assert contents[event["event_id"]] == {**event, "topic": record["topic"]}
            assert event["event_id"] in seen[wallet][-20:]
        contents[event["event_id"]] = {**event, "topic": record["topic"]}
        seen[wallet].append(event["event_id"])
    assert 0.08 * 6000 < repeats < 0.12 * 6000


def test_every_reason_a_producer_can_cause_is_there_with_its_headers() -> None:
    refused = [record for record in records(bad=0.5, events=2000) if "headers" in record]
    truth = Simulation(plan(bad=0.5, events=2000))
    sizes = [len(line) for line in truth.lines()]
    told = truth.truth()["totals"]["rejected"]
    assert set(told) == {
        "null_value", "too_large", "not_utf8", "not_json", "not_an_object", "too_deep", "missing_field", "wrong_type",
        "unknown_value", "out_of_range", "key_missing", "key_mismatch", "from_the_future",
    }  # fmt: skip
    assert len(refused) == sum(told.values())
    assert sum(size > 1 << 20 for size in sizes) == told["too_large"] == 1
    for record in refused:
        if "value_base64" in record:
            base64.b64decode(record["value_base64"], validate=True)


def test_no_line_is_oversized_where_that_is_not_wanted() -> None:
    assert max(len(line) for line in simulate(plan(bad=0.5, events=3000, oversized=False))) < 2000


# ------------------------------------------------------------------ believable


def test_personas_can_be_told_apart_by_what_their_wallets_do(season: list[dict[str, Any]]) -> None:
    """Nearest centre over a handful of plain features, learned on one half of the wallets, is right on the other."""
    told = Simulation(plan(events=25_000)).truth()["personas"]
    deeds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in season:
        if record["topic"] == "wallet.transactions":
            deeds[record["key"]].append(record["value"])
    steady = [w for w, spans in told.items() if len(spans) == 1 and len(deeds[w]) >= 5]
    rows = np.array([features(deeds[wallet]) for wallet in steady])
    rows = (rows - rows.mean(0)) / rows.std(0)
    names = np.array([told[wallet][0][1] for wallet in steady])
    known = np.arange(len(steady)) % 2 == 0
    labels = [name for name in sorted(set(names)) if (names[known] == name).sum() >= 3]
    centres = np.array([rows[known & (names == name)].mean(0) for name in labels])
    guessed = np.array(labels)[((rows[:, None] - centres) ** 2).sum(2).argmin(1)]
    assert len(labels) >= 6
    assert (guessed == names)[~known].mean() > 0.85


def features(events: list[dict[str, Any]]) -> list[float]:
    tickets = [float(event["usd_value"]) for event in events if "usd_value" in event] or [1.0]
    products = Counter(event["product"] for event in events)
    shares = [products[name] / len(events) for name in ("spot", "derivatives", "staking", "lending", "wallet")]
    sells = sum(event.get("side") == "sell" for event in events) / len(events)
    return [np.log(np.median(tickets)), np.log(len(events)), sells, len({e["asset"].upper() for e in events}), *shares]


def test_tickets_are_heavy_tailed(season: list[dict[str, Any]]) -> None:
    tickets = sorted(float(r["value"]["usd_value"]) for r in season if "usd_value" in r["value"])
    assert sum(tickets[-len(tickets) // 20 :]) > 0.6 * sum(tickets)
    assert tickets[len(tickets) // 2] < 0.25 * sum(tickets) / len(tickets)


def test_every_persona_takes_part_and_some_wallets_change_once() -> None:
    told = Simulation(plan(wallets=2000, events=0)).truth()["personas"].values()
    begun = Counter(spans[0][1] for spans in told)
    assert set(begun) == {persona.name for persona in PERSONAS}
    changed = [spans for spans in told if len(spans) > 1]
    assert 0.09 * 2000 < len(changed) < 0.17 * 2000
    for (begins_ms, before), (changes_ms, after) in changed:
        assert before != after
        assert begins_ms == START_MS < changes_ms < START_MS + 60 * DAY_MS
        assert changes_ms % DAY_MS == 0


def test_a_wallet_that_turns_to_derivatives_leaves_its_old_products() -> None:
    season = Simulation(plan(wallets=800, events=30_000))
    lines = list(season.lines())
    turns = {
        wallet: spans[1][0]
        for wallet, spans in season.truth()["personas"].items()
        if len(spans) > 1 and spans[1][1] == "derivatives"
    }
    products: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    for line in lines:
        record = json.loads(line)
        if record["key"] in turns and "product" in record["value"]:
            after = at_ms(record["value"]) >= turns[record["key"]]
            products[after][record["value"]["product"]] += 1
    assert products[False]["derivatives"] == 0 < products[False].total()
    assert products[True]["derivatives"] > 0.8 * products[True].total() > 0


def test_the_crash_is_busy_and_one_sided(season: list[dict[str, Any]]) -> None:
    days: Counter[int] = Counter()
    sides: Counter[str] = Counter()
    liquidated: Counter[bool] = Counter()
    crash_ms = START_MS + 36 * DAY_MS
    for record in season:
        occurred, event = at_ms(record["value"]), record["value"]
        days[(occurred - START_MS) // DAY_MS] += 1
        in_crash = crash_ms + 13 * HOUR_MS <= occurred < crash_ms + 16 * HOUR_MS
        sides[event.get("side", "") if in_crash else "other"] += 1
        liquidated[in_crash] += event.get("kind") == "liquidation"
    assert days[36] > 1.5 * days[35]
    assert sides["sell"] > 5 * sides["buy"] > 0
    assert liquidated[True] > 10


def test_activity_ramps_up_to_the_15th_of_april_and_falls_after(season: list[dict[str, Any]]) -> None:
    deadline = (date(2026, 4, 15) - START).days
    days = Counter((at_ms(record["value"]) - START_MS) // DAY_MS for record in season)
    before, ramp, after = (
        sum(days[day] for day in range(begin, begin + 5)) for begin in (10, deadline - 4, deadline + 1)
    )
    assert ramp > 1.5 * before
    assert after < 0.7 * ramp


def test_touches_come_before_some_transactions_and_a_control_group_is_never_shown_anything() -> None:
    season = records(events=25_000)
    touches = [record["value"] for record in season if record["topic"] == "campaign.touches"]
    assert 0.05 * len(season) < len(touches) < 0.25 * len(season)
    assert {touch.get("touch", "click") for touch in touches} == {"sent", "impression", "open", "click", "visit"}
    assert len({touch["campaign_id"] for touch in touches}) == 6
    assert {touch["channel"].lower() for touch in touches} >= {"email", "social", "search", "web", "app_notification"}
    assert {touch["goal"] for touch in touches} == {"acquisition", "retention"}
    control = [touch for touch in touches if touch["variant"] == "holdout"]
    assert control
    assert all(touch["touch"] == "sent" and "cost_usd" not in touch for touch in control)
    arms = defaultdict(set)
    for touch in touches:
        arms[touch["wallet_id"]].add(touch["variant"])
    assert all(len(variants) == 1 for variants in arms.values())
    credited = [row for row in oracle(map(json.dumps, season))["roi"] if row["campaign_id"] and row["revenue_micros"]]
    assert len({row["campaign_id"] for row in credited}) == 6


def test_no_wallet_outgrows_its_memory_however_busy() -> None:
    """At most 128 touches in a look-back and an hour, 256 fees in an hour, before and after late ones arrived."""
    shown: dict[str, list[int]] = defaultdict(list)
    paid: dict[str, list[int]] = defaultdict(list)
    for changes in ({"wallets": 4, "events": 9000, "days": 40}, {"wallets": 2, "events": 9000, "days": 2}):
        shown.clear()
        paid.clear()
        for record in records(late=0.4, **changes):
            event = record["value"]
            if float(event.get("fee_usd", 0)):
                paid[record["key"]].append(at_ms(event))
            elif record["topic"] == "campaign.touches" and event.get("touch") != "sent":
                shown[record["key"]].append(at_ms(event))
        for moments, span_ms, most in ((shown, 30 * DAY_MS + 2 * HOUR_MS, 128), (paid, 2 * HOUR_MS, 256)):
            for times in moments.values():
                times.sort()
                assert all(later - times[place] > span_ms for place, later in enumerate(times[most:])), (
                    "more than a wallet remembers"
                )
    assert max(len(times) for times in paid.values()) > 256


# ------------------------------------------------------------------ plans


def test_the_default_season_ends_before_today_and_a_future_one_is_refused() -> None:
    today = date(2026, 11, 21)
    start = default_start(today, 60)
    assert start == date(2026, 9, 21)
    refuse_future(plan(start=start), today)
    refuse_future(plan(start=date(2026, 9, 22)), today)
    with pytest.raises(ValueError, match=r"^the season would end on 2026-11-22, in the future: .*$"):
        refuse_future(plan(start=date(2026, 9, 23)), today)


@pytest.mark.parametrize(
    "changes",
    [{"wallets": 0}, {"days": 0}, {"late": -0.1}, {"bad": 0.6}, {"events": -1}, {"start": date(2009, 1, 3)}],
)
def test_a_plan_that_makes_no_sense_is_refused_in_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        plan(**changes)


# ------------------------------------------------------------------ chance and amounts


@given(st.floats(-40, 40))
def test_powers_of_two_are_right_to_five_digits(exponent: float) -> None:
    assert power_of_two(exponent) == pytest.approx(2.0**exponent, rel=2e-6)


def test_chance_has_the_shape_it_says() -> None:
    dice = Dice(1)
    normal = np.array([dice.normal() for _ in range(20_000)])
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.02
    drawn = Counter(dice.pick(Table((("a", 1), ("b", 0), ("c", 3)))) for _ in range(4000))
    assert set(drawn) == {"a", "c"}
    assert 2800 < drawn["c"] < 3200


@given(st.integers(-(10**15), 10**15))
@example(15)
@example(25)
@example(-15)
@example(-25)
def test_fees_round_half_to_even(fee: int) -> None:
    assert half_even(fee) == int((Decimal(fee) / 10).to_integral_value(ROUND_HALF_EVEN))


@given(st.integers(-(10**15), 10**15), st.integers(1, 8))
def test_amounts_are_written_exactly(units: int, places: int) -> None:
    assert Decimal(decimal_text(units, places)) == Decimal(units) / 10**places
