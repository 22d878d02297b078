"""A wallet's journal: stored and read back the same, its path true wherever it says so, its bounds counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.journeys import DECAY, EMPTY_JOURNAL, FEE, FOREVER, HEAD, Journal, Touched, width
from models.rows import FEES, SEGMENTS, UnknownFormat
from models.rules import HOUR_MS, Rules
from tests.journals import Booked, Happened, Plainly, as_stored, eligible, numbered_as, weights_of
from tests.partition import NOON_MS

#: A short look-back, so that touches come and go within few hours.
RULES = Rules(look_back_ms=10 * HOUR_MS, lateness_ms=HOUR_MS, eligible_touches=5, touches_kept=12, fees_kept=8)
MOST = 10**15 - 1

times = st.integers(0, 40).map(lambda halves: NOON_MS + halves * HOUR_MS // 2)
touches = st.builds(Touched, times, st.binary(min_size=1, max_size=6), st.integers(1, 2**32 - 1))
known = st.lists(touches, max_size=20, unique_by=lambda touch: touch.event_id).map(sorted).map(tuple)
fees = st.lists(st.tuples(times, st.integers(-(2**60), 2**60)), max_size=6)

# ------------------------------------------------------------------ as stored


@given(known, fees)
def test_a_journal_is_read_as_it_was_stored(touched: tuple[Touched, ...], kept: list[tuple[int, int]]) -> None:
    journal = Journal.unpack(as_stored(touched, kept, RULES))
    assert (journal.touches, list(FEE.iter_unpack(journal.fees))) == (touched, kept)
    assert journal.pack() == as_stored(touched, kept, RULES)


def test_a_journal_of_another_version_is_refused() -> None:
    with pytest.raises(UnknownFormat):
        Journal.unpack(b"\x09" + EMPTY_JOURNAL.pack()[1:])


def test_an_empty_journal_is_one_without_touches_and_fees() -> None:
    assert as_stored((), [], RULES) == EMPTY_JOURNAL.pack()
    assert [width(touches) for touches in (0, 1, 8, 9, 64, 65)] == [0, 8, 8, 64, 64, 128]


def test_the_weights_of_the_contract() -> None:
    times = [[hour * HOUR_MS for hour in range(n)] for n in range(1, 6)]
    positions = [weights_of("position", each) for each in times]
    assert positions == [[1], [1, 1], [2, 1, 2], [4, 1, 1, 4], [6, 1, 1, 1, 6]]
    assert (DECAY[0], DECAY[180], DECAY[360], len(DECAY) > 30 * 24) == (2**24, 2**23, 2**22, True)


# ------------------------------------------------------------------ what a batch makes of it


@st.composite
def stories(draw: st.DrawFn) -> list[Happened]:
    """A wallet's events over a day, many of them at the same time, in any order."""
    amount = st.integers(-(10**6), 10**8) | st.sampled_from([1, -1, MOST, -MOST, MOST - 1])
    out = []
    for number in range(draw(st.integers(1, 60))):
        at_ms, segment = draw(times), draw(st.sampled_from([0, 0, 1, 9000]))
        if draw(st.booleans()):
            # ids that begin alike, differ in length and beyond ASCII: ties in time are ordered by their bytes
            event_id = draw(st.sampled_from(["a", "b", "ab", "aé", "a\U0001f30a", "aￜ"])) + str(number % 7)
            campaign = draw(st.sampled_from(["x", "y", "z|"]))
            is_sent = draw(st.integers(0, 4)) == 0
            out.append(Happened(at_ms, abs(draw(amount)), campaign, event_id, is_sent, segment))
        else:
            out.append(Happened(at_ms, draw(amount | st.just(0)), segment=segment))
    return out if draw(st.booleans()) else sorted(out, key=lambda event: event.at_ms)


@given(stories(), st.integers(1, 20))
@settings(max_examples=400)
def test_a_wallet_is_credited_and_remembered_as_when_everything_is_looked_at_again(
    story: list[Happened], size: int
) -> None:
    """Wherever batches are cut; to the last byte of the journal."""
    plain, booked = Plainly(RULES), Booked(RULES)
    for at in range(0, len(story), size):
        booked.take(story[at : at + size])
        for event in story[at : at + size]:
            plain.take(event)
        assert booked.numbers() == plain.numbers()
        assert numbered_as(booked.codes, plain.codes)
        assert booked.lost == plain.lost
        expected = as_stored(plain.touched, plain.spilled, RULES) if plain.has_journal else None
        assert (booked.journal and booked.journal.pack()) == expected
        many = int(booked.rows["fees"][0])
        newest = range(max(0, many - FEES), many)
        assert [tuple(booked.rows["recent_fees"][0, n % FEES].tolist()) for n in newest] == plain.recent


@given(known, times, st.integers(1, MOST))
@settings(max_examples=200)
def test_a_wallet_read_back_is_credited_along_the_eligible_touches(
    touched: tuple[Touched, ...], at_ms: int, fee: int
) -> None:
    """Whether the path that is stored is the one it takes or not."""
    touched = tuple(touch._replace(code=1 + touch.code % 3) for touch in touched)
    booked, plain = Booked(RULES), Plainly(RULES)
    booked.codes = booked.codes.with_names([b"x|email", b"y|email", b"z|email"])
    booked.journal, plain.touched = Journal(as_stored(touched, [], RULES)), list(touched)
    booked.take([Happened(at_ms, fee)])
    plain.take(Happened(at_ms, fee))
    assert booked.numbers() == plain.numbers()


@given(known, st.data())
def test_a_stored_path_is_true_everywhere_it_is_valid_and_not_beyond(
    touched: tuple[Touched, ...], data: st.DataObject
) -> None:
    *_, lo, hi = HEAD.unpack_from(as_stored(touched, [], RULES))
    here = eligible(touched, touched[-1].occurred_at_ms, RULES) if touched else []
    for moment in (lo, hi - 1, data.draw(st.integers(lo, hi - 1))):
        assert eligible(touched, moment, RULES) == here
    for beyond in (lo - 1, hi):  # as wide as possible, or paths would be made again and again
        if abs(beyond) < FOREVER and touched:
            edges = {touch.occurred_at_ms for touch in touched} | {
                touch.occurred_at_ms + RULES.look_back_ms + 1 for touch in touched
            }
            assert max(beyond, lo) in edges


def test_a_wallet_remembers_128_touches_and_what_is_dropped_is_counted() -> None:
    for size in (1, 130):
        booked = Booked(Rules())
        story = [Happened(NOON_MS + number, 0, "x", f"t{number}") for number in range(130)]
        for at in range(0, 130, size):
            booked.take(story[at : at + size])
        assert booked.journal is not None
        assert (len(booked.journal.touches), booked.lost) == (128, 2)
        assert booked.journal.touches[0].event_id == b"t2"
        assert HEAD.unpack_from(booked.journal.pack())[3] == 64


@given(st.lists(st.tuples(st.integers(0, 30 * 24), st.integers(1, 40)), min_size=1, max_size=140), st.integers(0, MOST))
@example([(0, 1)] * 64, MOST)
@example([(hour, hour + 1) for hour in range(64)], MOST)
@settings(max_examples=60)
def test_paths_of_any_length_share_the_largest_fees_exactly(hours: list[tuple[int, int]], fee: int) -> None:
    """Up to 64 touches, weights up to 2^24, among more campaigns than a small table has room for."""
    story = [Happened(NOON_MS + h * HOUR_MS, 5, f"c{c}", f"e{i}", segment=i) for i, (h, c) in enumerate(hours)]
    end = NOON_MS + 30 * 24 * HOUR_MS
    story += [Happened(end, fee, segment=number) for number in range(3)]
    plain, booked = Plainly(Rules()), Booked(Rules())
    for event in story:
        plain.take(event)
    booked.take(story)
    assert booked.numbers() == plain.numbers()


@pytest.mark.parametrize("lateness", [0, 30 * 24 * HOUR_MS])
def test_fees_kept_for_late_touches_are_bounded(lateness: int) -> None:
    """Many late touches, each of which shares in all remembered fees, in one batch."""
    rules = Rules(lateness_ms=lateness, fees_kept=300)
    story = [Happened(NOON_MS + number, number + 1, segment=number % 50) for number in range(330)]
    story += [Happened(NOON_MS + number, 0, f"c{number}", f"e{number}") for number in range(0, 330, 30)]
    plain, booked = Plainly(rules), Booked(rules)
    for event in story:
        plain.take(event)
    booked.take(story)
    assert booked.numbers() == plain.numbers()
    assert booked.lost == plain.lost == (30 if lateness else 0)
    assert (np.array(plain.spilled)[:, 0] // SEGMENTS).min() >= NOON_MS if plain.spilled else not lateness
