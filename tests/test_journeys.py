"""A wallet's journal: stored and read back the same, its money split as the contract says, its bounds counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.journeys import DECAY, EMPTY_JOURNAL, Touched, fees_of, touches_of, unpack_journal
from models.layout import FEE, FOREVER, H_SIZE, H_TOUCHES, HEAD, TOUCH
from models.rows import FEES, SEGMENTS, UnknownFormat, since_look
from models.rules import HOUR_MS, Rules
from tests.journals import Booked, Happened, Plainly, as_stored, numbered_as, weights_of
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
    journal = unpack_journal(as_stored(touched, kept))
    assert (touches_of(journal), list(FEE.iter_unpack(fees_of(journal)))) == (touched, kept)
    assert journal == as_stored(touched, kept)


def test_a_journal_of_another_version_is_refused() -> None:
    with pytest.raises(UnknownFormat):
        unpack_journal(b"\x09" + EMPTY_JOURNAL[1:])


def fits(stored: bytes) -> bool:
    """Whether a journal is what its head says, in plain Python."""
    if len(stored) < HEAD.size:
        return False
    _, size, count = HEAD.unpack_from(stored)
    place, times = HEAD.size, [0]
    if not place <= size <= len(stored) or (len(stored) - size) % FEE.size:
        return False
    while count and place + TOUCH.size <= size:
        at_ms, code, length = TOUCH.unpack_from(stored, place)
        if not times[-1] <= at_ms < FOREVER or not code:
            return False
        place, count, times = place + TOUCH.size + length, count - 1, [at_ms]
    return place == size and not count


def codes_in(stored: bytes) -> list[int]:
    """The numbers of the campaigns in a journal that fits; 0 when it has no touch."""
    return [0, *[touch.code for touch in touches_of(stored)]]


KNOWN_CODES = 4
three = known.map(lambda touched: tuple(touch._replace(code=1 + touch.code % 3) for touch in touched))


@given(three, fees, st.data())
@settings(max_examples=600)
def test_a_damaged_journal_is_refused_or_harmless(
    touched: tuple[Touched, ...], kept: list[tuple[int, int]], data: st.DataObject
) -> None:
    """No loop trusts what does not fit: any count, length, time or campaign that is not one is refused."""
    stored = bytearray(as_stored(touched, [(at_ms * SEGMENTS, fee % MOST) for at_ms, fee in kept]))
    place = data.draw(st.integers(1, HEAD.size - 1) | st.integers(1, len(stored) - 1))
    for byte in data.draw(st.binary(max_size=4)):
        stored[place % (len(stored) - 1) + 1] = byte
        place += 1
    damaged = bytes(stored[: data.draw(st.just(len(stored)) | st.integers(1, len(stored)))])
    damaged += bytes(data.draw(st.sampled_from([0, 0, 1, 16, 80])))
    try:
        journal = unpack_journal(damaged, KNOWN_CODES)
    except UnknownFormat:
        assert not fits(damaged) or max(codes_in(damaged)) >= KNOWN_CODES
        return
    assert fits(damaged)
    booked = Booked(RULES)
    booked.codes = booked.codes.with_names([b"x|email", b"y|email", b"z|email"])
    booked.journal, newest = journal, NOON_MS + 20 * HOUR_MS
    booked.take([Happened(newest + number, 1) for number in range(6)] + [Happened(newest - HOUR_MS, 1, "x", "late")])
    assert booked.journal is not None


@pytest.mark.parametrize(
    ("place", "size", "value"),
    [
        (H_SIZE, 4, 2**32 - 1), (H_SIZE, 4, 0), (H_TOUCHES, 2, 60_000), (H_TOUCHES, 2, 2),
        (HEAD.size + 16, 8, NOON_MS - 1), (HEAD.size + 44, 2, 1), (HEAD.size + 8, 4, 0),
        (HEAD.size, 8, 2**63), (HEAD.size + 8, 4, 4), (HEAD.size + 12, 2, 65_535),
    ],
)  # fmt: skip
def test_every_part_of_a_journal_that_loops_rely_on_is_looked_at(place: int, size: int, value: int) -> None:
    touched = [Touched(NOON_MS + number, b"e%d" % number, 1 + number) for number in range(3)]
    stored = as_stored(touched, [(NOON_MS, 1)])
    assert unpack_journal(stored, KNOWN_CODES) == stored
    with pytest.raises(UnknownFormat, match="wallet journal"):
        unpack_journal(stored[:place] + value.to_bytes(size, "little") + stored[place + size :], KNOWN_CODES)


@pytest.mark.parametrize("cut", [1, 3, 15, 17, 31, 37])
def test_a_journal_cut_short_is_refused(cut: int) -> None:
    stored = as_stored([Touched(NOON_MS, b"e", 1)], [(NOON_MS, 1)])
    with pytest.raises(UnknownFormat, match="damaged wallet journal"):
        unpack_journal(stored[:-cut])


def test_an_empty_journal_is_one_without_touches_and_fees() -> None:
    assert as_stored((), []) == EMPTY_JOURNAL


def test_the_weights_of_the_contract() -> None:
    times = [[hour * HOUR_MS for hour in range(n)] for n in range(1, 6)]
    positions = [weights_of("position", each) for each in times]
    assert positions == [[1], [1, 1], [2, 1, 2], [4, 1, 1, 4], [6, 1, 1, 1, 6]]
    assert (DECAY[0], DECAY[180], DECAY[360], len(DECAY) > 30 * 24) == (2**24, 2**23, 2**22, True)


# ------------------------------------------------------------------ what a batch makes of it


@st.composite
def stories(draw: st.DrawFn) -> list[Happened]:
    """A wallet's events over a day, many of them at the same time, in any order; or so many that most fees spill."""
    hurried, most = draw(st.sampled_from([(False, 60), (True, 150)]))
    amount = st.integers(-(10**6), 10**8) | st.sampled_from([1, -1, MOST, -MOST, MOST - 1])
    out = []
    for number in range(draw(st.integers(1, most))):
        at_ms, segment = draw(times), draw(st.sampled_from([0, 0, 1, 9000]))
        if hurried:
            at_ms = NOON_MS + number * HOUR_MS // 40 + at_ms % HOUR_MS
        if draw(st.integers(0, 9)) < (2 if hurried else 5):
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
        expected = as_stored(plain.touched, plain.stored) if plain.has_journal else None
        assert (booked.journal and booked.journal) == expected
        assert since_look(booked.rows).tolist() == [plain.since_look]
        many = int(booked.rows["fees"][0])
        newest = range(max(0, many - FEES), many)
        assert [tuple(booked.rows["recent_fees"][0, n % FEES].tolist()) for n in newest] == plain.recent


@given(known, times, st.integers(1, MOST))
@settings(max_examples=200)
def test_a_wallet_read_back_is_credited_along_the_eligible_touches(
    touched: tuple[Touched, ...], at_ms: int, fee: int
) -> None:
    touched = tuple(touch._replace(code=1 + touch.code % 3) for touch in touched)
    booked, plain = Booked(RULES), Plainly(RULES)
    booked.codes = booked.codes.with_names([b"x|email", b"y|email", b"z|email"])
    booked.journal, plain.touched = as_stored(touched, []), list(touched)
    booked.take([Happened(at_ms, fee)])
    plain.take(Happened(at_ms, fee))
    assert booked.numbers() == plain.numbers()


def test_a_wallet_remembers_128_touches_and_what_is_dropped_is_counted() -> None:
    for size in (1, 130):
        booked = Booked(Rules())
        story = [Happened(NOON_MS + number, 0, "x", f"t{number}") for number in range(130)]
        for at in range(0, 130, size):
            booked.take(story[at : at + size])
        assert booked.journal is not None
        assert (len(touches_of(booked.journal)), booked.lost) == (128, 2)
        assert touches_of(booked.journal)[0].event_id == b"t2"


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
