from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.names import GivenName
from models.observe import NAMES_SETTLE, REMEMBERED, WALLET_SIZE, Digest, Observed, Overview, observe
from models.packed import pack, unpack
from models.rows import FEATURES, SEGMENTS, SLOTS, UnknownFormat
from models.rules import DAY_MS, HOUR_MS, Rules
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


def of_format_1(snapshot: bytes) -> bytes:
    """A snapshot as it was written before there were flows, probation by centre, and segments that return."""
    head, arrays = unpack(snapshot)
    its, model = unpack(arrays["model"].tobytes())
    for name in ("age", "resting"):
        del its[name]
    its |= {"format": 1, "wish": [None, 0]}
    model = {name: array for name, array in model.items() if name != "wish" and not name.startswith("resting_")}
    del head["flow"]
    packed = np.frombuffer(pack(its, model), np.uint8)
    return pack(head | {"format": 1}, {"sizes": arrays["sizes"], "model": packed})


def test_digests_and_snapshots_of_format_1_are_read() -> None:
    sent = digest(3, 1)
    head, arrays = unpack(sent.pack())
    again = Digest.unpack(pack(head | {"format": 1}, {"rows": arrays["rows"]}))
    assert (again.rows.tobytes(), again.flow.shape, again.clock_ms) == (sent.rows.tobytes(), (0, 4), sent.clock_ms)
    overview, observed = observe(nothing(), stream(6), Rules())
    old = Overview.restore(of_format_1(observed.snapshot), overview.catalogue.to_json())
    (one, first), (other, second) = (observe(each, [digest(7, 6)], Rules()) for each in (old, overview))
    assert first.pointer == second.pointer
    assert one.model._summary.means.tobytes() == other.model._summary.means.tobytes()


def busy(number: int, hour: float, wallets: float, partition: int = 0) -> Digest:
    """A digest without rows in which so many wallets acted in an hour."""
    clock_ms = START_MS + int((hour + 1) * HOUR_MS)
    flow = np.array([[START_MS // HOUR_MS + hour, 3 * wallets, wallets, 1e6]])
    return Digest(partition, number, f"{partition}-{number}", clock_ms, learning_rows(number, 0), flow)


def test_a_flash_crash_is_told_in_the_pointer_for_three_days_and_survives_a_restart() -> None:
    overview, observed = observe(nothing(), [], Rules())
    for hour in range(200):
        overview, observed = observe(overview, [busy(hour, hour, 200 + 7 * (hour % 5))], Rules())
    assert json.loads(observed.pointer)["regime"] == "normal"
    overview, observed = observe(restored(overview, observed), [busy(200, 200, 1500)], Rules())
    told = json.loads(observed.pointer)
    begins = (START_MS // HOUR_MS + 200) * HOUR_MS
    assert (told["regime"], told["regime_from_ms"], told["regime_until_ms"]) == ("crash", begins, begins + 73 * HOUR_MS)
    overview, observed = observe(restored(overview, observed), [busy(274, 274, 210)], Rules())
    assert json.loads(observed.pointer)["regime"] == "normal"


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
    first, _ = observe(nothing(), [digest(1, 0, 300)], Rules())
    column, centre = 0, first.catalogue.centre(0)
    number = first.catalogue.segments[column].number
    products = slice(FEATURES.index("spot"), FEATURES.index("wallet") + 1)
    lending = FEATURES.index("lending")
    assert centre[lending] ** 2 < 0.4
    early, late = first, replace(first, rows_learned=NAMES_SETTLE)
    for day in range(1, 13):
        moved, part = learning_rows(day, 600), min(1.0, day / 8)
        mine = first.catalogue.place(moved.astype(np.float64)).argmax(axis=1) == column
        moved[mine, products] *= 1 - part
        moved[mine, lending] += part
        early, _ = observe(replace(early, rows_learned=0), [replace(digest(day + 1, day), rows=moved)], Rules())
        late, _ = observe(late, [replace(digest(day + 1, day), rows=moved)], Rules())
    names = [one.catalogue.name_of(number) for one in (first, early, late)]
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


def test_the_threshold_for_whales_follows_also_where_no_boundary_moves() -> None:
    overview, _ = observe(nothing(), stream(10), Rules())
    richer = replace(overview, sizes=np.roll(overview.sizes, 8))  # everybody has e times as much
    after, observed = observe(richer, [digest(20, 11)], Rules())
    assert after.catalogue.whale_at == pytest.approx(overview.catalogue.whale_at + 1, abs=0.1)
    assert observed.version == overview.catalogue.version + 1
    assert np.array_equal(after.catalogue.centres, overview.catalogue.centres)
    assert observe(after, [digest(21, 12)], Rules())[1].catalogue is None


def test_the_pointer_says_what_was_learned_and_from_whom() -> None:
    overview, observed = observe(nothing(), [*stream(3), digest(9, 1.5, partition=7)], Rules())
    assert json.loads(observed.pointer) == {
        "version": overview.catalogue.version,
        "hash": overview.catalogue.hash,
        "learned_until_ms": START_MS + 2 * DAY_MS,
        "heard": {"0": 3, "1": 3, "7": 9},
        "regime": "normal",
        "regime_from_ms": 0,
        "regime_until_ms": 0,
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


def test_names_by_users_come_out_at_once_in_a_version_of_their_own_and_stay() -> None:
    overview, before = observe(nothing(), stream(10), Rules())
    number = overview.catalogue.segments[1].number
    given = {number: GivenName("our favourites", "look after them")}
    renamed, observed = observe(overview, [digest(50, 10)], Rules(), given)
    assert observed.version == before.version + 1
    column = renamed.catalogue.column_of(number)
    assert renamed.catalogue.segments[column].name == "our favourites"
    assert renamed.catalogue.segments[column].description == "look after them"
    assert np.array_equal(renamed.catalogue.centres, overview.catalogue.centres)
    later, again = observe(renamed, [digest(51, 10.1)], Rules(), given)
    assert again.catalogue is None
    reset, last = observe(later, [digest(52, 10.2)], Rules())
    assert last.version == before.version + 2
    assert reset.catalogue.segments == overview.catalogue.segments


def test_a_persona_that_comes_back_within_a_month_has_its_number_and_name_again() -> None:
    def some(day: int, personas: int) -> Digest:
        return replace(digest(day + 1, day), rows=learning_rows(day, 900, personas))

    overview, _ = observe(nothing(), [some(day, 5) for day in range(6)], Rules())
    known = {segment.number: segment.name for segment in overview.catalogue.segments}
    day = 6
    while len(overview.catalogue.segments) == 5:
        overview, _ = observe(overview, [some(day, 4)], Rules(fewest_segments=4, most_segments=4 + (day < 40)))
        day += 1
        assert day < 200
    (gone,) = known.keys() & overview.catalogue.retired.keys()
    for later in range(day, day + 15):
        overview, _ = observe(overview, [some(later, 5)], Rules())
    assert {segment.number: segment.name for segment in overview.catalogue.segments} == known
    assert gone not in overview.catalogue.retired
    assert [(each.kind, each.segment) for each in overview.catalogue.history[-2:]] == [
        ("absorbed", gone),
        ("returned", gone),
    ]


def test_a_persona_that_was_away_for_long_comes_back_under_a_new_number() -> None:
    fewer = [replace(digest(day + 1, day), rows=learning_rows(day, 300, personas=4)) for day in range(10, 200)]
    overview, _ = observe(nothing(), [*stream(10), *fewer], Rules())
    (gone,) = overview.catalogue.retired
    back = [replace(digest(day + 1, day), rows=learning_rows(day, 600)) for day in range(200, 230)]
    overview, _ = observe(overview, back, Rules())
    assert len(overview.catalogue.segments) == 5
    assert gone in overview.catalogue.retired


def test_a_newcomer_takes_nobody_s_place_while_there_is_room_and_stands_three_refits_of_probation() -> None:
    overview = nothing()
    for day in range(6):
        four = replace(digest(day + 1, day), rows=learning_rows(day, 700, personas=4))
        overview, _ = observe(overview, [four], Rules())
    old = {segment.number for segment in overview.catalogue.segments}
    ages = []
    for day in range(6, 30):
        overview, _ = observe(overview, [digest(day + 1, day, 700)], Rules())
        now = {segment.number for segment in overview.catalogue.segments}
        assert old <= now
        ages.append(len(now))
    assert ages[:2] == [4, 4]  # asked for by at most two refits
    assert ages[-1] == 5


def test_another_clusterer_goes_on_from_the_catalogue_and_gives_no_number_twice() -> None:
    overview, _ = observe(nothing(), stream(10), Rules())
    before = {segment.number for segment in overview.catalogue.segments}
    river = Rules(clusterer="river.KMeans", clusterer_params='{"n_clusters":5}')
    after, observed = observe(overview, [digest(day + 1, day, 300) for day in range(10, 40)], river)
    numbers = {segment.number for segment in after.catalogue.segments}
    assert max(numbers - before, default=99) > max(before)
    assert restored(after, observed).model.__class__.__name__ == "Borrowed"
    back, _ = observe(after, [digest(day + 1, day, 300) for day in range(40, 60)], Rules())
    assert back.model.__class__.__name__ == "MicroClusters"
    assert back.model.next_number >= after.model.next_number
