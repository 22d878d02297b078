"""The law book of the wallet side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.changes import rfc3339
from models.counters import decode_cell
from models.journeys import touches_of
from models.records import Record
from models.rows import ROW
from models.rules import DAY_MS, HOUR_MS, Rules
from models.segments import EMPTY_CATALOGUE, Catalogue
from models.state import TOUCHES, TRANSACTIONS, State, Totals
from models.step import step, step_together
from tests.partition import (
    NOON_MS,
    Arrival,
    Partition,
    Season,
    drawn_catalogue,
    encoded,
    learned,
    numbered,
    random_cut,
    touch,
    transaction,
)


@cache
def season() -> list[Arrival]:
    return Season().arrivals()


@cache
def catalogue(version: int = 1) -> Catalogue:
    rows = learned(season())
    return drawn_catalogue(rows if version == 1 else rows[::-1], segments=5 if version == 1 else 4, version=version)


@cache
def in_thousands() -> Partition:
    return Partition(catalogue()).take(season(), 1000)


def changes_of(partition: Partition) -> list[dict[str, Any]]:
    return [json.loads(change.value) for change in partition.changes]


def test_the_season_has_everything_that_could_break_a_law() -> None:
    totals = in_thousands().counted
    assert totals.transactions > 3000
    assert min(totals.duplicates, totals.late, totals.segment_changes, totals.wallets) > 50
    assert len(totals.wallets_by_segment) > 3
    assert len(totals.rejected) >= 7
    assert totals.whales_by_segment
    assert {change["origin"] for change in changes_of(in_thousands())} == {"live", "sweep"}
    assert {change["status"] for change in changes_of(in_thousands())} == {"entered", "moved", "left"}
    assert len(in_thousands().sweeps) > 50
    assert max(len(fees) for fees in in_thousands().fees.values()) > 100
    assert max(len(journal) for journal in in_thousands().journals.values()) > 900
    assert max(len(touches_of(journal)) for journal in in_thousands().journals.values()) > 50


# ------------------------------------------------------------------ where a batch is cut does not matter


@pytest.mark.parametrize("size", [1, 7, 333])
def test_where_a_batch_is_cut_does_not_matter(size: int) -> None:
    assert_equal(Partition(catalogue()).take(season(), size), in_thousands())


@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_cut_does_not_matter(seed: int) -> None:
    assert_equal(Partition(catalogue()).take_cut(season(), random_cut(seed)(len(season()))), in_thousands())


def test_the_whole_log_at_once_is_a_cut_too() -> None:
    assert_equal(Partition(catalogue()).take(season(), 10_000), in_thousands())


@pytest.mark.parametrize("size", [1, 50])
def test_a_cut_does_not_matter_after_a_new_catalogue(size: int) -> None:
    """The wallets come from version 1; version 2 is fixed from then on."""
    half = len(season()) // 2
    partitions = []
    for after in (size, 1000):
        partition = Partition(catalogue()).take(season()[:half])
        partition.catalogue = catalogue(version=2)
        partitions.append(partition.take(season()[half : half + 1000], after))
    assert_equal(*partitions)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    wallets=st.integers(1, 6),
    late=st.sampled_from([0.0, 0.5]),
    cut=st.integers(0, 1000),
    bounds=st.sampled_from([Rules(), Rules(touches_kept=3, fees_kept=6, eligible_touches=2)]),
)
def test_a_cut_does_not_matter_in_small(seed: int, wallets: int, late: float, cut: int, bounds: Rules) -> None:
    arrivals = Season(events=60, wallets=wallets, seed=seed, late=late, repeats=0.2, out_of_order=0.6).arrivals()
    whole = Partition(catalogue(), bounds).take(arrivals)
    assert_equal(Partition(catalogue(), bounds).take_cut(arrivals, random_cut(cut)(len(arrivals))), whole)


# ------------------------------------------------------------------ nor does who is stepped with whom


#: A partition and the batch it is about to take.
Turn = tuple[Partition, list[Arrival]]


def apart_and_together(logs: list[list[Arrival]], cut: int, bounds: Rules) -> Iterator[tuple[Partition, Partition]]:
    """Each log by a partition of its own, and by one that is stepped with the others; cut in different places."""
    together = []
    for number in range(len(logs)):
        partition = Partition(catalogue(), bounds)
        partition.number = number
        together.append((partition, iter(batches(logs[number], cut + number))))
    while turns := [(partition, arrivals) for partition, log in together for arrivals in islice(log, 1)]:
        while turns:
            turns = taken_together(turns, bounds)
    for (partition, _), log in zip(together, logs, strict=True):
        alone = Partition(catalogue(), bounds)
        alone.number = partition.number
        yield alone.take(log), partition


def taken_together(turns: list[Turn], bounds: Rules) -> list[Turn]:
    """One step for all; the partitions that have swept then, and what is left of their batches."""
    found = [partition.before(arrivals) for partition, arrivals in turns]
    stepped = step_together([(state, batch) for state, batch, _ in found], bounds, catalogue())
    left = []
    for (partition, arrivals), (_, _, lookup), (state, effects) in zip(turns, found, stepped, strict=True):
        if effects.taken:
            partition.commit(lookup, state, effects)
        if effects.taken < len(arrivals):
            partition.sweep(state.until_ms, arrivals[effects.taken])
            left.append((partition, arrivals[effects.taken :]))
    return left


def batches(arrivals: list[Arrival], cut: int) -> list[list[Arrival]]:
    edges = [*random_cut(cut)(len(arrivals)), len(arrivals)]
    return [arrivals[start:stop] for start, stop in pairwise(edges) if start < stop]


def test_partitions_stepped_together_are_byte_for_byte_what_each_is_alone() -> None:
    logs = [Season(events=1500, seed=seed).arrivals() for seed in (21, 22, 23)]
    for alone, partition in apart_and_together(logs, 5, Rules(partitioner="off")):
        assert len(alone.changes) > 20
        assert min(alone.counted.duplicates, alone.counted.late, sum(alone.counted.rejected.values())) > 5
        assert_equal(partition, alone)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000), cut=st.integers(0, 1000), sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4)
)
def test_who_is_stepped_with_whom_does_not_matter_in_small(seed: int, cut: int, sizes: list[int]) -> None:
    logs = [
        Season(events=size, wallets=3, seed=seed + place, late=0.5, repeats=0.2, bad=0.1, out_of_order=0.6).arrivals()
        for place, size in enumerate(sizes)
    ]
    bounds = Rules(partitioner="off", touches_kept=3, fees_kept=6, eligible_touches=2)
    for alone, partition in apart_and_together(logs, cut, bounds):
        assert_equal(partition, alone)


def test_a_cell_that_a_late_touch_empties_is_the_same_at_every_cut() -> None:
    arrivals = numbered(
        [
            encoded(TRANSACTIONS, transaction("t", "w", NOON_MS + 1000, fee_usd=1)),
            encoded(TOUCHES, touch("a", "w", NOON_MS), NOON_MS + 2000),
        ]
    )
    assert_equal(Partition().take(arrivals, 1), Partition().take(arrivals, 2))


def assert_equal(one: Partition, other: Partition) -> None:
    """Byte by byte; of what differs only the first is shown, not megabytes."""
    theirs = other.stored()
    for part, ours in one.stored().items():
        same = ours == theirs[part]
        assert same, f"{part}: {first_difference(ours, theirs[part])}"


def first_difference(ours: Any, theirs: Any) -> str:
    if isinstance(ours, dict):
        key = next(key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key))
        return f"{key!r}: {shown(ours.get(key))} and {shown(theirs.get(key))}"
    if isinstance(ours, list):
        pair = next(((a, b) for a, b in zip(ours, theirs, strict=False) if a != b), None)
        return f"{len(ours)} and {len(theirs)} of them, {pair}"
    return f"{ours!r} and {theirs!r}"


def shown(value: Any) -> Any:
    return np.frombuffer(value, ROW)[0] if isinstance(value, bytes) and len(value) == ROW.itemsize else value


# ------------------------------------------------------------------ again, and from a copy


def test_a_small_cache_gives_the_same() -> None:
    assert_equal(Partition(catalogue(), capacity=100).take(season(), 37), in_thousands())


def test_a_new_owner_gives_the_same() -> None:
    partition = Partition(catalogue())
    for start in range(0, len(season()), 500):
        partition.take(season()[start : start + 500], 250)
        partition.restart()
    assert_equal(partition, in_thousands())


def test_a_batch_replayed_after_its_commit_asks_for_nothing_new() -> None:
    """Inside the remembered ids: the newest 32 of each wallet."""
    arrivals = spread(season()[:3000])
    partition = Partition(catalogue()).take(arrivals, 300)
    before = partition.stored()
    again = arrivals[-300:]
    _, state, effects = partition.ask(again)
    assert (effects.keys, effects.journals, effects.fees, effects.spilled, effects.codes, effects.cells.names) == (
        [],
        {},
        {},
        {},
        {},
        [],
    )
    assert (effects.changes, len(effects.learning), state.clock_ms) == ([], 0, partition.clock_ms)
    partition.take(again)
    after = partition.stored()
    for part in ("rows", "journals", "fees", "cells", "codes", "changes", "learning"):
        assert after[part] == before[part]
    assert ignored(after["totals"]) == ignored(before["totals"]) + 300


def ignored(totals: bytes) -> int:
    counted = Totals.from_json(totals)
    return counted.duplicates + sum(counted.rejected.values())


def spread(arrivals: list[Arrival]) -> list[Arrival]:
    """Without the hot wallet, which has more events in a batch than it remembers ids."""
    return numbered(arrival for arrival in arrivals if arrival[1].key != b"w0")


@given(start=st.integers(0, 4000), size=st.integers(1, 200))
@settings(max_examples=15)
def test_the_same_state_and_batch_give_the_same_effects_and_change_nothing(start: int, size: int) -> None:
    partition = in_thousands()
    arrivals = season()[start : start + size]
    before, batch, _ = partition.before(numbered((lane, renamed(record)) for lane, record in arrivals))
    frozen = image(before)
    first, second = (step(before, batch, partition.rules, partition.catalogue) for _ in range(2))
    assert image(before) == frozen
    assert image(first[0]) == image(second[0])
    for name in ("keys", "journals", "fees", "spilled", "codes", "changes", "rejected"):
        assert getattr(first[1], name) == getattr(second[1], name)
    assert first[1].rows.tobytes() == second[1].rows.tobytes()
    assert first[1].learning.tobytes() == second[1].learning.tobytes()
    assert first[1].cells.names == second[1].cells.names
    assert first[1].cells.deltas.tolist() == second[1].cells.deltas.tolist()


def renamed(record: Record) -> Record:
    """The same event with an id of its own, so that it is no repeat."""
    if record.value is None:
        return record
    return record._replace(value=record.value.replace(b'"event_id":"e', b'"event_id":"new'))


def image(state: State) -> tuple[Any, ...]:
    wallets = state.wallets
    return (
        state.clock_ms,
        state.totals.to_json(),
        list(state.codes.names),
        wallets.keys,
        wallets.rows.tobytes(),
        list(wallets.journals),
    )


# ------------------------------------------------------------------ nothing is lost


def test_credit_adds_up_to_the_totals_for_every_rule() -> None:
    totals, sums = in_thousands().counted, in_thousands().sums()
    assert sums[0] == totals.cost_micros > 0
    assert set(sums[1:6]) == {totals.revenue_micros}
    assert len(set(sums[6:11])) == 1
    assert sums[6] % 1_000_000 == 0


def test_every_record_is_counted_once() -> None:
    totals = in_thousands().counted
    rejected = sum(totals.rejected.values())
    assert totals.transactions + totals.touches + totals.duplicates + rejected == len(season())
    assert len(in_thousands().rejected) == rejected
    assert {each.record for each in in_thousands().rejected} <= {record for _, record in season()}


def test_wallets_are_counted_once_and_by_segment() -> None:
    partition = in_thousands()
    rows = np.frombuffer(b"".join(partition.rows.values()), ROW)
    totals = partition.counted
    assert totals.wallets == len(rows) == sum(totals.wallets_by_segment.values())
    segments, counts = np.unique(rows["segment"], return_counts=True)
    assert totals.wallets_by_segment == dict(zip(segments.tolist(), counts.tolist(), strict=True))
    assert sum(totals.whales_by_segment.values()) == int((rows["flags"] & 1).sum())


def test_a_batch_of_bad_records_only_changes_nothing_but_its_counts() -> None:
    bad = numbered([(0, season()[0][1]._replace(value=b"no", offset=i)) for i in range(5)])
    partition = Partition().take(bad)
    assert (partition.rows, partition.cells, partition.clock_ms) == ({}, {}, 0)
    assert partition.counted.rejected == {"not_json": 5}


# ------------------------------------------------------------------ changes


def test_the_changes_of_a_wallet_are_numbered_without_gap_and_follow_each_other() -> None:
    last: dict[str, tuple[int, Any]] = {}
    for change in changes_of(in_thousands()):
        sequence, segment = last.get(change["wallet_id"], (0, None))
        assert change["sequence"] == sequence + 1
        assert change["from"] == segment
        assert change["to"] != segment
        assert change["status"] == (("moved" if segment else "entered") if change["to"] else "left")
        last[change["wallet_id"]] = change["sequence"], change["to"]
    assert max(sequence for sequence, _ in last.values()) > 2
    for key, row in in_thousands().rows.items():
        stored = np.frombuffer(row, ROW)[0]
        sequence, segment = last.get(key.decode(), (0, None))
        assert (stored["sequence"], f"s{stored['segment']}") == (sequence, segment["segment"] if segment else "s0")


def test_a_reason_tells_what_a_feature_was_at_the_change_before() -> None:
    last: dict[tuple[str, str], tuple[int, float]] = {}
    compared = 0
    for change in changes_of(in_thousands()):
        for reason in change["reasons"]:
            name = change["wallet_id"], reason["feature"]
            sequence, after = last.get(name, (0, 0.0))
            if change["sequence"] == 1:
                assert reason["before"] is None
            elif sequence == change["sequence"] - 1:
                assert reason["before"] == pytest.approx(after, rel=1e-3, abs=1e-3)
                compared += 1
            last[name] = change["sequence"], reason["after"]
    assert compared > 15


def test_a_change_names_the_record_that_caused_it() -> None:
    by_offset = {(lane, record.offset): record for lane, record in season()}
    for change in changes_of(in_thousands()):
        lane = TRANSACTIONS if change["source"]["topic"] == "wallet.transactions" else TOUCHES
        record = by_offset[lane, change["source"]["offset"]]
        assert change["decided_at"] == rfc3339(record.timestamp)
        if change["origin"] == "sweep":  # the wallet was silent: another one's record, or its own that came too late
            assert change["occurred_at"] <= change["decided_at"]
        else:
            assert (lane, record.key) == (TRANSACTIONS, change["wallet_id"].encode())


def test_a_touch_makes_a_wallet_and_decides_nothing() -> None:
    punctual = Season(late=0, out_of_order=0).arrivals()  # touches move the clock; only for a late one that matters
    without = [arrival for arrival in punctual if arrival[0] == TRANSACTIONS]
    ours, both = (
        sorted(
            (each["wallet_id"], each["sequence"], str(each["to"]), each["confidence"]) for each in changes_of(partition)
        )
        for partition in (Partition(catalogue()).take(without), Partition(catalogue()).take(punctual))
    )
    assert ours == both
    touched = Partition(catalogue()).take(numbered([encoded(TOUCHES, touch(f"e{i}", "w", NOON_MS)) for i in range(20)]))
    row = np.frombuffer(touched.rows[b"w"], ROW)[0]
    assert (touched.counted.wallets, touched.changes, row["segment"], row["sums"].any()) == (1, [], 0, False)


def test_without_a_catalogue_everybody_is_unassigned() -> None:
    partition = Partition(EMPTY_CATALOGUE).take(season())
    totals = partition.counted
    assert partition.changes == []
    assert totals.wallets_by_segment == {0: totals.wallets}
    assert {name.split(b"|")[0] for name in partition.cells} == {b"unassigned"}


# ------------------------------------------------------------------ the clock


def test_one_event_moves_the_clock_by_a_day_at_most() -> None:
    arrivals = [encoded(0, transaction(f"e{i}", "w", at_ms)) for i, at_ms in enumerate((NOON_MS, NOON_MS + 9 * DAY_MS))]
    assert Partition().take(numbered(arrivals)).clock_ms == NOON_MS + DAY_MS


def test_what_is_behind_the_clock_by_more_than_the_lateness_is_late() -> None:
    times = (NOON_MS, NOON_MS - HOUR_MS, NOON_MS - HOUR_MS - 1)
    arrivals = [encoded(0, transaction(f"e{i}", "w", at_ms)) for i, at_ms in enumerate(times)]
    totals = Partition().take(numbered(arrivals)).counted
    assert (totals.transactions, totals.late) == (3, 1)


def test_cells_are_eleven_integers() -> None:
    assert {len(decode_cell(cell)) for cell in in_thousands().cells.values()} == {11}
