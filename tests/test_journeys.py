"""A wallet's journal: stored and read back the same, its path true wherever it says so, its bounds counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.journeys import (
    DECAY,
    EMPTY_JOURNAL,
    FEE,
    FOREVER,
    Journal,
    Known,
    Path,
    Touched,
    position_weights,
    weigh,
    width,
)
from models.rows import UnknownFormat
from models.rules import DAY_MS, HOUR_MS, Rules
from tests.partition import NOON_MS

#: A short look-back, so that touches come and go within few hours.
RULES = Rules(look_back_ms=10 * HOUR_MS, lateness_ms=HOUR_MS, eligible_touches=5, touches_kept=12, fees_kept=8)

times = st.integers(0, 40).map(lambda halves: NOON_MS + halves * HOUR_MS // 2)
touches = st.builds(Touched, times, st.binary(min_size=1, max_size=6), st.integers(1, 2**32 - 1))
known = st.lists(touches, max_size=20, unique_by=lambda touch: touch.event_id).map(sorted).map(tuple)
fees = st.lists(st.tuples(times, st.integers(-(2**60), 2**60)), max_size=6).map(
    lambda all_: b"".join(FEE.pack(*fee) for fee in all_)
)


@given(known, fees)
def test_a_journal_comes_back_as_it_was_stored(touched: tuple[Touched, ...], kept: bytes) -> None:
    journal = Journal.of(touched, kept, RULES)
    again = Journal.unpack(journal.pack())
    assert (again.touches, again.fees, again.path) == (touched, kept, journal.path)
    assert again.pack() == journal.pack()


def test_a_journal_of_another_version_is_refused() -> None:
    with pytest.raises(UnknownFormat):
        Journal.unpack(b"\x09" + EMPTY_JOURNAL.pack()[1:])


def columns(touched: tuple[Touched, ...] | list[Touched]) -> Known:
    return Known.of(b"".join(touch.pack() for touch in touched))


def block(path: list[Touched]) -> bytes:
    return weigh([touch.occurred_at_ms for touch in path], [touch.code for touch in path])


def eligible(touched: tuple[Touched, ...], t: int, rules: Rules) -> list[Touched]:
    """The contract's words."""
    return [touch for touch in touched if t - rules.look_back_ms <= touch.occurred_at_ms <= t][
        -rules.eligible_touches :
    ]


@given(known, times)
def test_a_path_holds_the_eligible_touches(touched: tuple[Touched, ...], t: int) -> None:
    path, expected = Path.at(columns(touched), t, RULES), eligible(touched, t, RULES)
    assert path.touches == len(expected)
    assert path.block == (block(expected) if expected else b"")


@given(known, times)
@settings(max_examples=200)
def test_a_path_is_true_everywhere_it_is_valid_and_not_beyond(touched: tuple[Touched, ...], t: int) -> None:
    path = Path.at(columns(touched), t, RULES)
    assert path.lo <= t < path.hi
    here = eligible(touched, t, RULES)
    moments = {touch.occurred_at_ms + more for touch in touched for more in (-1, 0, 1)}
    moments |= {at_ms + RULES.look_back_ms for at_ms in moments} | {path.lo, path.hi - 1, NOON_MS - DAY_MS}
    for moment in moments:
        if path.lo <= moment < path.hi:
            assert eligible(touched, moment, RULES) == here
    for beyond in (path.lo - 1, path.hi):  # as wide as possible, or paths would be made again and again
        if abs(beyond) < FOREVER and touched:
            edges = {touch.occurred_at_ms for touch in touched} | {
                touch.occurred_at_ms + RULES.look_back_ms + 1 for touch in touched
            }
            assert max(beyond, path.lo) in edges


@given(known, times)
def test_a_journal_finds_the_path_of_any_time(touched: tuple[Touched, ...], t: int) -> None:
    assert Journal.of(touched, b"", RULES).path_at(t, RULES).block == Path.at(columns(touched), t, RULES).block


@given(st.lists(touches, min_size=1, max_size=200).map(sorted))
def test_a_block_has_codes_weights_and_their_sums(path: list[Touched]) -> None:
    numbers, wide, count = np.frombuffer(block(path), np.int64), width(len(path)), len(path)
    codes, linear, decayed, position = numbers[: 4 * wide].reshape(4, wide)
    assert codes[:count].tolist() == [touch.code for touch in path]
    assert linear[:count].tolist() == [1] * count
    hours = [(path[-1].occurred_at_ms - touch.occurred_at_ms) // HOUR_MS for touch in path]
    assert decayed[:count].tolist() == [round(2**24 * 2 ** (-hour / 180)) for hour in hours]
    assert position[:count].tolist() == list(position_weights(count))
    assert not numbers[: 4 * wide].reshape(4, wide)[:, count:].any()
    assert numbers[4 * wide :].tolist() == [linear.sum(), decayed.sum(), position.sum(), count]


def test_the_weights_of_the_contract() -> None:
    assert [position_weights(n) for n in range(1, 6)] == [(1,), (1, 1), (2, 1, 2), (4, 1, 1, 4), (6, 1, 1, 1, 6)]
    assert (DECAY[0], DECAY[180], DECAY[360], len(DECAY) > 30 * 24) == (2**24, 2**23, 2**22, True)


@given(known, touches, st.integers(0, 60))
def test_one_more_touch_is_kept_in_order_and_old_ones_leave(
    touched: tuple[Touched, ...], new: Touched, hours: int
) -> None:
    clock_ms = NOON_MS + hours * HOUR_MS
    journal, dropped = Journal.of(touched, b"fees", RULES).with_touch(new, clock_ms, RULES)
    oldest = clock_ms - RULES.look_back_ms - RULES.lateness_ms
    useful = sorted(touch for touch in (*touched, new) if touch.occurred_at_ms >= oldest)
    assert list(journal.touches) == useful[-RULES.touches_kept :]
    assert dropped == max(0, len(useful) - RULES.touches_kept)
    assert journal.fees == b"fees"


def test_a_wallet_remembers_128_touches_and_what_is_dropped_is_counted() -> None:
    journal, dropped = EMPTY_JOURNAL, 0
    for number in range(130):
        journal, lost = journal.with_touch(Touched(NOON_MS + number, b"t%d" % number, 1), NOON_MS, Rules())
        dropped += lost
    assert (len(journal.touches), dropped, journal.touches[0].event_id) == (128, 2, b"t2")
    assert journal.path.touches == 64


@given(st.lists(st.tuples(times, st.integers(0, 3)), max_size=20), st.data())
def test_fees_are_remembered_the_same_one_by_one_and_all_at_once(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    packed = [FEE.pack(at_ms, number) for number, (at_ms, _) in enumerate(steps)]
    oldest = np.maximum.accumulate([NOON_MS, *[at_ms - hours * HOUR_MS for at_ms, hours in steps]])[1:].tolist()
    most, alone, lost_alone = 5, EMPTY_JOURNAL, 0
    for fee, since in zip(packed, oldest, strict=True):
        alone, lost = alone.with_fees(fee, [since], most)
        lost_alone += lost
    cut = data.draw(st.integers(0, len(steps)))
    together, lost_together = EMPTY_JOURNAL, 0
    for part in (slice(0, cut), slice(cut, None)):
        if packed[part]:
            together, lost = together.with_fees(b"".join(packed[part]), oldest[part], most)
            lost_together += lost
    assert (together.fees, lost_together) == (alone.fees, lost_alone)
    assert len(alone.fees) <= most * FEE.size
