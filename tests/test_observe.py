from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.observe import NAMES_SETTLE, REMEMBERED, WALLET_SIZE, Digest, Observed, Overview, observe
from models.rows import FEATURES, SEGMENTS, SLOTS, UnknownFormat
from models.rules import DAY_MS, Rules
from models.segments import EMPTY_CATALOGUE, Catalogue, Segment

START_MS = 1_775_000_000_000
#: Distance of neighbouring centres, in feature units: personas that cannot be mixed up.
CENTRES = np.abs(np.random.default_rng(3).normal(size=(5, 16))) * np.where(np.arange(16) < 6, 4, 0.4)


def learning_rows(seed: int, count: int, personas: int = 5) -> NDArray[np.float32]:
    draw = np.random.default_rng(seed)
    rows = CENTRES[draw.integers(0, personas, count)] + draw.normal(size=(count, 16)) * 0.15
    return np.maximum(rows, 0).astype(np.float32)


def digest(number: int, day: float, rows: int = 150, partition: int = 0, nonce: str = "") -> Digest:
    clock_ms = START_MS + int(day * DAY_MS)
    nonce = nonce or f"{partition}-{number}"
    return Digest(partition, number, nonce, clock_ms, learning_rows(number * 31 + partition, rows))


def stream(days: int, partitions: int = 2) -> list[Digest]:
    """One digest a day and partition."""
    return [digest(day + 1, day, partition=p) for day in range(days) for p in range(partitions)]


def nothing() -> Overview:
    return Overview.restore(None, None)


def restored(overview: Overview, observed: Observed) -> Overview:
    return Overview.restore(observed.snapshot, overview.catalogue.to_json())


@given(st.integers(0, 4095), st.integers(0, 2**60), st.integers(0, 2**50), st.integers(0, 40))
def test_a_digest_survives_the_wire(partition: int, number: int, clock_ms: int, rows: int) -> None:
    sent = Digest(partition, number, "00ff" * 4, clock_ms, learning_rows(number % 1000, rows))
    again = Digest.unpack(sent.pack())
    assert again.pack() == sent.pack()
    assert replace(again, rows=sent.rows) == again or again.rows.tobytes() == sent.rows.tobytes()
    assert (again.partition, again.number, again.nonce, again.clock_ms) == (partition, number, "00ff" * 4, clock_ms)


@pytest.mark.parametrize("packed", [b"", b"{}", nothing().snapshot(), digest(1, 0).pack()[:-3]])
def test_what_is_no_digest_is_refused(packed: bytes) -> None:
    with pytest.raises(UnknownFormat):
        Digest.unpack(packed)


@settings(max_examples=8)
@given(st.lists(st.integers(0, 15), max_size=8))
def test_a_digest_applied_again_changes_nothing(repeats: list[int]) -> None:
    digests = stream(8)
    twice = list(digests)
    for at in sorted(repeats, reverse=True):
        twice.insert(at + 1 + at % 3, digests[at])
    once, first = observe(nothing(), digests, Rules())
    _, second = observe(nothing(), twice, Rules())
    assert first == second
    again, third = observe(once, digests[-4:], Rules())
    assert (third.snapshot, third.pointer, third.catalogue) == (first.snapshot, first.pointer, None)
    assert again is once


@settings(max_examples=8)
@given(st.sets(st.integers(1, 15), max_size=6), st.booleans())
def test_neither_grouping_nor_a_restart_in_between_changes_a_byte(cuts: set[int], restart: bool) -> None:
    digests = stream(8)
    whole, expected = observe(nothing(), digests, Rules())
    overview, observed = nothing(), None
    edges = [0, *sorted(cuts), len(digests)]
    for begin, end in pairwise(edges):
        overview, observed = observe(overview, digests[begin:end], Rules())
        if restart:
            overview = restored(overview, observed)
            assert overview.snapshot() == observed.snapshot
    assert observed is not None
    assert (observed.snapshot, observed.pointer) == (expected.snapshot, expected.pointer)
    assert overview.catalogue.to_json() == whole.catalogue.to_json()


def test_what_is_observed_leaves_the_state_before_as_it_was() -> None:
    before, _ = observe(nothing(), stream(5), Rules())
    snapshot, catalogue = before.snapshot(), before.catalogue.to_json()
    after, _ = observe(before, [digest(6, 5), digest(7, 9)], Rules())
    assert after.snapshot() != snapshot
    assert (before.snapshot(), before.catalogue.to_json()) == (snapshot, catalogue)


def test_segments_are_published_as_soon_as_two_hundred_rows_are_known() -> None:
    overview, observed = observe(nothing(), [digest(1, 0, 190)], Rules())
    assert (observed.version, observed.catalogue) == (0, None)
    overview, observed = observe(overview, [digest(2, 0.1, 20)], Rules())
    assert observed.version == 1
    assert observed.catalogue is not None
    catalogue = Catalogue.from_json(observed.catalogue)
    assert len(catalogue.segments) >= 3
    assert len({segment.name for segment in catalogue.segments}) == len(catalogue.segments)
    assert {segment.born_version for segment in catalogue.segments} == {1}


def test_personas_are_told_apart_and_a_calm_stream_publishes_little() -> None:
    overview, observed = observe(nothing(), stream(60), Rules())
    assert len(overview.catalogue.segments) == 5
    assert min(segment.share for segment in overview.catalogue.segments) == pytest.approx(0.2, abs=0.03)
    assert sorted(overview.catalogue.place(CENTRES).argmax(axis=1)) == [0, 1, 2, 3, 4]
    assert observed.version <= 3
    assert len(observed.snapshot) <= 100_000


@pytest.mark.parametrize("restart", [False, True])
def test_a_segment_keeps_number_name_and_slot_while_others_come(restart: bool) -> None:
    overview = nothing()
    for day in range(4):
        four = replace(digest(day + 1, day), rows=learning_rows(day, 700, personas=4))
        overview, _ = observe(overview, [four], Rules())
    old = {segment.number: (segment.name, segment.slot) for segment in overview.catalogue.segments}
    assert len(old) == 4
    for day in range(4, 40):
        overview, observed = observe(overview, [digest(day + 1, day, 300)], Rules())
        overview = restored(overview, observed) if restart else overview
    new = {segment.number: (segment.name, segment.slot) for segment in overview.catalogue.segments}
    assert len(new) == 5
    assert old.items() <= new.items()
    newcomer = next(segment for segment in overview.catalogue.segments if segment.number not in old)
    assert newcomer.born_version == overview.catalogue.slot_since[newcomer.slot] > 1
    assert newcomer.number == 5


def test_names_follow_the_centres_until_they_have_settled() -> None:
    overview, _ = observe(nothing(), [digest(1, 0, 300)], Rules())
    column, centre = 0, overview.catalogue.centre(0)
    number = overview.catalogue.segments[column].number
    moved = learning_rows(5, 1000)
    mine = overview.catalogue.place(moved.astype(np.float64)).argmax(axis=1) == column
    products = slice(FEATURES.index("spot"), FEATURES.index("wallet") + 1)
    moved[mine, products] = 0
    moved[mine, FEATURES.index("lending")] = 1
    assert centre[FEATURES.index("lending")] ** 2 < 0.4
    early, _ = observe(overview, [replace(digest(2, 1), rows=moved)], Rules())
    late, _ = observe(replace(overview, rows_learned=NAMES_SETTLE), [replace(digest(2, 1), rows=moved)], Rules())
    names = [
        {segment.number: segment.name for segment in one.catalogue.segments}[number] for one in (overview, early, late)
    ]
    assert "lenders" in names[1]
    assert names[0] == names[2] != names[1]


def test_a_segment_that_is_gone_names_its_successor_and_its_number_rests() -> None:
    overview, _ = observe(nothing(), stream(10), Rules())
    days = range(10, 130)
    fewer = [replace(digest(day + 1, day), rows=learning_rows(day, 300, personas=3)) for day in days]
    overview, _ = observe(overview, fewer, Rules())
    alive = {segment.number for segment in overview.catalogue.segments}
    assert len(alive) == 3
    assert alive.isdisjoint(overview.catalogue.retired)
    assert set(overview.catalogue.retired) == set(overview.catalogue.retired_names)  # they keep what they were called
    assert {overview.catalogue.successor(number) for number in range(1, 6)} <= alive
    back = [replace(digest(day + 1, day), rows=learning_rows(day, 600)) for day in range(130, 180)]
    overview, _ = observe(overview, back, Rules())
    assert not {segment.number for segment in overview.catalogue.segments} & set(overview.catalogue.retired)


def test_the_number_of_segments_keeps_within_the_rules() -> None:
    for fewest, most in ((3, 3), (7, 8)):
        overview, _ = observe(nothing(), stream(10), Rules(fewest_segments=fewest, most_segments=most))
        assert fewest <= len(overview.catalogue.segments) <= most <= SLOTS


def test_a_whale_is_above_the_95th_percentile_of_the_learned_sizes() -> None:
    sizes = np.random.default_rng(0).normal(9, 2, 4000).clip(0)
    rows = learning_rows(1, 4000)
    rows[:, WALLET_SIZE] = sizes
    overview, _ = observe(nothing(), [replace(digest(1, 0), rows=rows)], Rules())
    assert overview.catalogue.whale_at == pytest.approx(np.quantile(sizes, 0.95), abs=1 / 8)
    assert nothing().catalogue.whale_at == float("inf")


def test_the_pointer_says_what_was_learned_and_from_whom() -> None:
    overview, observed = observe(nothing(), [*stream(3), digest(9, 1.5, partition=7)], Rules())
    assert json.loads(observed.pointer) == {
        "version": overview.catalogue.version,
        "hash": overview.catalogue.hash,
        "learned_until_ms": START_MS + 2 * DAY_MS,
        "heard": {"0": 3, "1": 3, "7": 9},
    }


def test_a_partition_that_began_anew_is_heard_again() -> None:
    overview, _ = observe(nothing(), [digest(number, number / 10) for number in range(1, 20)], Rules())
    anew = digest(2, 0.2, nonce="after the rollback")
    after, observed = observe(overview, [anew, anew], Rules())
    assert json.loads(observed.pointer)["heard"] == {"0": 2}
    assert after.rows_since + after.rows_before > overview.rows_since
    assert observe(after, [anew], Rules())[1].snapshot == observed.snapshot
    assert len(after.heard[0].seen) == REMEMBERED


def test_a_digest_without_rows_or_with_broken_ones_harms_nothing() -> None:
    overview, before = observe(nothing(), stream(4), Rules())
    spoilt = replace(digest(5, 4), rows=np.full((3, len(FEATURES)), np.nan, np.float32))
    empty = replace(digest(6, 4), rows=np.zeros((0, len(FEATURES)), np.float32))
    overview, observed = observe(overview, [spoilt, empty, digest(7, 5)], Rules())
    assert np.isfinite(overview.catalogue.centres).all()
    assert json.loads(observed.pointer)["heard"]["0"] == 7
    assert observed.version - before.version <= 1


def test_a_lost_snapshot_goes_on_from_the_catalogue_and_keeps_the_numbers() -> None:
    overview, _ = observe(nothing(), stream(10), Rules())
    before = {segment.number: segment.name for segment in overview.catalogue.segments}
    again, observed = observe(Overview.restore(None, overview.catalogue.to_json()), stream(20), Rules())
    assert {segment.number: segment.name for segment in again.catalogue.segments} == before
    assert observed.version >= overview.catalogue.version


def test_a_long_silence_does_not_empty_the_memory() -> None:
    overview, _ = observe(nothing(), stream(10), Rules())
    weight = overview.model.weight
    overview, _ = observe(overview, [digest(99, 4000)], Rules())
    assert overview.model.weight > 0.8 * weight


def test_the_numbers_of_a_pinned_catalogue_are_not_given_again() -> None:
    pinned = replace(EMPTY_CATALOGUE, segments=(Segment(7, 0, "theirs", 1.0, 1),), retired={9: 7})
    overview = Overview.restore(None, None)
    reserved = overview.after(pinned)
    assert (overview.model.next_number, reserved.model.next_number) == (1, 10)
    assert reserved.after(pinned) is reserved


def test_a_catalogue_whose_ids_no_row_can_hold_is_not_published() -> None:
    pinned = replace(EMPTY_CATALOGUE, segments=(Segment(SEGMENTS - 1, 0, "theirs", 1.0, 1),))
    overview, observed = observe(nothing().after(pinned), stream(10), Rules())
    assert (observed.catalogue, overview.catalogue.version) == (None, 0)
