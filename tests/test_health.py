"""The judgement of a worker: every quiet death dies, what waits for others lives, and both say why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.health import (
    KINDS,
    LOOP_S,
    Pulse,
    Seen,
    Sign,
    Vitals,
    carried,
    live,
    quiet,
    ready,
    records_behind,
)

OPERATIONS = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
NOW_S = 100_000.0
DEATHS = {name: kind for name, kind in KINDS.items() if kind.dead_s < 600}
WAITS = {name: kind for name, kind in KINDS.items() if kind.excuses}
signs = st.builds(Sign, st.sampled_from(sorted(KINDS)), st.sampled_from(["", "partition 3"]))


class End(NamedTuple):
    position: int
    stable: int
    polled_ms: int
    taken: int


def pulse(name: int | str = 0, *lanes: Seen) -> Pulse:
    return Pulse(name, 1_700_000_000_000, lanes or (Seen("x", 10, 500, 0), Seen("t", 5, 500, 0)))


def vitals(*held: tuple[str, float], looked_s: float = 0.5, pulses: tuple[Pulse, ...] = (pulse(),)) -> Vitals:
    """What was seen `looked_s` ago; `held`: signs and how long they have held."""
    return Vitals(NOW_S - looked_s, {Sign(kind, "it"): NOW_S - lasted for kind, lasted in held}, pulses)


# ------------------------------------------------------------------ the table of deaths


def test_a_worker_at_work_lives_and_is_ready() -> None:
    assert live(vitals(), NOW_S).good
    assert ready(vitals(pulses=(pulse(3), pulse("overview"))), NOW_S) == (True, "it works on partition 3, the overview")


def test_a_worker_in_the_group_with_nothing_to_do_is_ready() -> None:
    verdict = ready(vitals(pulses=()), NOW_S)
    assert verdict.good
    assert "no partition for it" in verdict.why


def test_a_loop_that_does_not_turn_is_dead_whatever_it_saw_last() -> None:
    assert live(vitals(looked_s=LOOP_S - 1), NOW_S).good
    verdict = live(vitals(looked_s=LOOP_S + 2), NOW_S)
    assert verdict == (False, "its loop has not turned for 12 s")
    assert ready(vitals(looked_s=LOOP_S + 2), NOW_S) == verdict


@pytest.mark.parametrize("kind", sorted(DEATHS))
def test_a_quiet_death_is_dead_after_its_time_and_not_before(kind: str) -> None:
    assert live(vitals((kind, DEATHS[kind].dead_s - 1)), NOW_S).good
    verdict = live(vitals((kind, DEATHS[kind].dead_s + 1)), NOW_S)
    assert not verdict.good
    assert verdict.why == DEATHS[kind].says.format(about="it", s=round(DEATHS[kind].dead_s + 1))
    assert ready(vitals((kind, DEATHS[kind].dead_s + 1)), NOW_S) == verdict


def test_the_deaths_that_were_met_are_in_the_table() -> None:
    assert set(DEATHS) >= {"rebalancing", "rejoining", "joining", "ended", "silent", "still", "unclaimed"}


@pytest.mark.parametrize("kind", sorted(WAITS))
def test_who_waits_for_others_lives_and_is_not_ready(kind: str) -> None:
    held = vitals((kind, 599.0))
    assert live(held, NOW_S).good
    assert ready(held, NOW_S) == (False, KINDS[kind].says.format(about="it", s=599))


@given(st.dictionaries(signs, st.floats(0, 2000)), st.floats(0, 20))
def test_who_is_ready_lives_and_who_is_not_says_one_sentence(held: dict[Sign, float], looked_s: float) -> None:
    seen = Vitals(NOW_S - looked_s, {sign: NOW_S - lasted for sign, lasted in held.items()})
    lives, is_ready = live(seen, NOW_S), ready(seen, NOW_S)
    assert lives.good or not is_ready.good
    for verdict in (lives, is_ready):
        assert "{" not in verdict.why
        assert "\n" not in verdict.why


# ------------------------------------------------------------------ two looks


def test_a_partition_with_work_that_does_not_move_is_still() -> None:
    before = pulse(3, Seen("x", 10, 500, 4), Seen("t", 5, 500, 0))
    polled = pulse(3, Seen("x", 10, 600, 4), Seen("t", 5, 600, 0))
    moved = pulse(3, Seen("x", 11, 600, 3), Seen("t", 5, 600, 0))
    assert list(quiet([before], [polled])) == [Sign("still", "partition 3")]
    assert list(quiet([before], [moved])) == []
    assert list(quiet([], [polled])) == []  # just taken over


def test_an_idle_partition_is_not_still_as_long_as_kafka_answers_both_its_topics() -> None:
    before = pulse(3)
    both = pulse(3, Seen("x", 10, 600, 0), Seen("t", 5, 600, 0))
    one = pulse(3, Seen("x", 10, 600, 0), Seen("t", 5, 500, 0))
    assert list(quiet([before], [both])) == []
    assert list(quiet([before], [one])) == [Sign("still", "partition 3")]


def test_a_client_that_fetches_nothing_is_silent() -> None:
    assert next(quiet([pulse(1), pulse(2)], [pulse(1), pulse(2)])) == Sign("silent")
    answered = pulse(2, Seen("x", 10, 501, 0), Seen("t", 5, 501, 0))
    assert list(quiet([pulse(1), pulse(2)], [pulse(1), answered])) == [Sign("still", "partition 1")]


def test_a_sign_keeps_the_moment_it_began_until_it_goes() -> None:
    still, redis = Sign("still", "partition 1"), Sign("redis")
    first = carried({}, {still: 10.0})
    assert carried(first, {still: 11.0}) == {still: 10.0}
    assert carried(carried(first, {}), {still: 12.0}) == {still: 12.0}
    assert carried({}, {redis: 4.0}) == {redis: 4.0}  # known to have begun before the look


@given(st.sampled_from(sorted(WAITS)), st.sampled_from(sorted(DEATHS)), st.integers(1, 500))
def test_nothing_dies_while_it_waits_for_others(wait: str, death: str, seconds: int) -> None:
    since: dict[Sign, float] = {}
    for second in range(seconds):
        at_s = NOW_S + second
        since = carried(since, {Sign(wait): at_s, Sign(death, "it"): at_s})
        assert live(Vitals(at_s, since), at_s).good
    after_s = NOW_S + seconds
    since = carried(since, {Sign(death, "it"): after_s})  # and its time begins when the wait is over
    assert live(Vitals(after_s, since), after_s).good
    assert not live(Vitals(after_s + 200, since), after_s + 200).good


# ------------------------------------------------------------------ how far behind


@pytest.mark.parametrize(
    ("applied", "end", "behind"),
    [
        (0, None, None),
        (10, End(10, 10, 1, 10), 0),
        (7, End(10, 10, 1, 10), 3),  # received, not applied
        (10, End(10, 25, 1, 10), 15),  # still in Kafka
        (10, End(12, 12, 1, 10), 0),  # the last two offsets are marks of a transaction
        (10, End(10, 10, 1, 0), 0),  # taken over, nothing came yet
    ],
)
def test_lag_counts_records_and_no_marks_of_transactions(applied: int, end: End | None, behind: int | None) -> None:
    assert records_behind(applied, end) == behind


def test_event_time_lag_is_that_of_the_read_out() -> None:
    waiting = pulse(0, Seen("x", 10, 1, 2))
    assert pulse().event_time_lag_s(1_700_000_009_000) == 0
    assert waiting.event_time_lag_s(1_700_000_009_000) == 9
    assert waiting.event_time_lag_s(1_600_000_000_000) == 0
    assert Pulse(0, 0, waiting.lanes).event_time_lag_s(1) is None


# ------------------------------------------------------------------ what the documents say


def test_every_sentence_is_in_operations_with_its_times() -> None:
    section = OPERATIONS.read_text(encoding="utf-8").partition("\n## Health\n")[2].partition("\n## ")[0]
    rows = [row.split(" | ") for row in section.splitlines() if re.match(r"\| `(?!why)", row)]
    told = {tuple(re.findall("`([^`]+)`", row[0])): row[1:3] for row in rows}
    written = {kind: KINDS[kind].says for kind in KINDS if kind != "kafka"}
    for kind, says in written.items():
        found = [row for row in told if all(_fits(part, says) for part in row)]
        assert len(found) == 1, kind
        unready, dead = told[found[0]]
        assert unready == (f"{KINDS[kind].unready_s:g} s" if KINDS[kind].unready_s else "at once"), kind
        assert dead == _duration(KINDS[kind].dead_s), kind
    assert len(told) == len(KINDS) + 1  # and the loop


def _fits(told: str, says: str) -> bool:
    text = re.sub(r"\{\w+\}", "…", says)
    parts = [re.escape(part) for part in told.split("…")]
    return re.search(".*".join(parts), text) is not None


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "never"
    return f"{seconds / 60:g} min" if seconds >= 600 else f"{seconds:g} s"
