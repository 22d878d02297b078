"""The compiled code decides as it is written in words, beside a slow reference."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.columns import read
from models.decisions import (
    LEAN_SHIFT,
    LEAN_SLOT,
    ORIGINS,
    days_between,
    decide,
    enter,
    is_held,
    mark_whale,
    notice_model,
    standing,
)
from models.records import records_of
from models.rows import BY_MODEL, FEATURES, LEANS, SLOTS, WHALE, blank_rows
from models.rules import DAY_MS, HOUR_MS, Rules
from models.segments import DOUBT, EMPTY_CATALOGUE, Catalogue, Segment, confidence
from models.state import TRANSACTIONS
from models.turns import Pace, room_for, take_turns
from tests.partition import NOON_MS, encoded, transaction

SIZE = FEATURES.index("wallet_size")
RULES = Rules()
WHALE_AT = 5.0
#: Segments 1, 2, 3 and 7 exist; 4 was retired in favour of 5, and that of 3; 6 has no heir; 9 was never heard of.
NUMBERS, GONE = (1, 2, 3, 7), (4, 5, 6, 9)
dice = np.random.default_rng(3)
CATALOGUE = Catalogue(
    version=2,
    mean=np.full(16, 2.0),
    sd=np.full(16, 1.5),
    centres=dice.normal(0, 1.2, (4, 16)),
    variances=dice.uniform(0.5, 2, (4, 16)),
    shares=np.array([0.1, 0.2, 0.3, 0.4]),
    segments=tuple(Segment(n, slot, f"segment {n}", 0.25, 1) for n, slot in zip(NUMBERS, (4, 0, 15, 7), strict=True)),
    slot_since=tuple(2 if slot in (0, 3) else 1 for slot in range(SLOTS)),
    whale_at=WHALE_AT,
    retired={4: 5, 5: 3, 6: 0},
)


@dataclass(frozen=True)
class Transaction:
    """A transaction as decisions see it: the wallet's features with it, and the time since its last one, 0 none."""

    wallet: int
    features: NDArray[np.float64]
    before_ms: int
    at_ms: int


def drawn(seed: int, wallets: int, more: int) -> tuple[NDArray[np.void], list[Transaction]]:
    """Wallets with any past, and what they do; features wander around the centres."""
    dice = np.random.default_rng(seed)
    rows = blank_rows(wallets)
    rows["version"] = 1
    rows["segment"] = dice.choice([0, 0, *NUMBERS, *GONE], wallets)
    rows["catalogue"] = dice.choice([1, 2], wallets)
    rows["flags"] = dice.choice([0, WHALE], wallets)
    placed = np.isin(rows["segment"], NUMBERS)
    leans = dice.choice([0, LEANS, LEANS | BY_MODEL], wallets) + (dice.choice([0, 4, 7, 15], wallets) << LEAN_SHIFT)
    rows["flags"] |= np.where(placed & (leans & LEANS > 0), leans, 0).astype(np.uint16)
    most = dice.choice([10, 45], (wallets, 1))
    rows["cusum"] = np.where(placed[:, None], dice.uniform(0, most, (wallets, SLOTS)), 0)
    centre = CATALOGUE.mean + CATALOGUE.sd * CATALOGUE.centres
    rows["before"] = centre[dice.integers(0, 4, wallets)]
    rows["last_at_ms"] = np.where(dice.random(wallets) < 0.7, NOON_MS, 0)
    rows["transactions"] = np.where(rows["last_at_ms"] > 0, dice.integers(1, 8, wallets), 0)
    newest, made = rows["last_at_ms"].tolist(), []
    for wallet in dice.permutation([*range(wallets), *(wallets * dice.random(more) ** 2).astype(int)]).tolist():
        features = centre[dice.integers(0, 4)] + dice.normal(0, 1, 16)
        features[SIZE] = dice.choice([4.0, 4.7, 4.8, 4.9, 5.0, 5.2])
        before_ms, step_ms = newest[wallet], int(dice.choice([-1000, 0, 1000, DAY_MS // 3, 2 * DAY_MS, 9 * DAY_MS]))
        newest[wallet] = max(before_ms, before_ms + step_ms if before_ms else NOON_MS)
        made.append(Transaction(wallet, features, before_ms, newest[wallet]))
    return rows, made


def decided(
    rows: NDArray[np.void], made: list[Transaction], catalogue: Catalogue = CATALOGUE
) -> tuple[list[tuple[int, int, int, str]], list[int], list[bool]]:
    """Moves (place, left, joined, origin), and segment and whale flag after each transaction, by the compiled code."""
    found, moves, segments, whales = standing(catalogue, RULES)[0], [], [], []
    for place, one in enumerate(made):
        row, left = rows[one.wallet], int(rows[one.wallet]["segment"])
        row["transactions"] += 1
        if catalogue.segments and row["catalogue"] != catalogue.version:
            notice_model(row, catalogue.place(row["before"][None].astype(np.float64))[0], found)
        mark_whale(row, one.features[SIZE], found)
        if catalogue.segments:
            scores, days = catalogue.place(one.features[None])[0], days_between(one.before_ms, one.at_ms)
            joined, origin = decide(row, np.float32(days), scores, found)
            if joined >= 0:
                enter(row, catalogue.segments[joined].number, one.at_ms, one.features)
                moves.append((place, left, int(row["segment"]), ORIGINS[origin]))
        segments.append(int(row["segment"]))
        whales.append(bool(row["flags"] & WHALE))
    return moves, segments, whales


# ------------------------------------------------------------------ the reference: one event of one wallet at a time


@dataclass
class Wallet:
    segment: int
    evidence: dict[int, np.float32]
    catalogue: int
    whale: bool
    before: NDArray[np.float32]
    transactions: int
    leaning: int  # number of the segment, 0 none
    by_model: bool
    moves: list[tuple[int, int, int, str]] = field(default_factory=list)


def naive(
    rows: NDArray[np.void], made: list[Transaction], catalogue: Catalogue
) -> tuple[list[Wallet], list[int], list[bool]]:
    """Wallets at the end; segment and whale flag after each transaction."""
    slots = {segment.number: segment.slot for segment in catalogue.segments}
    wallets = [
        Wallet(
            int(row["segment"]),
            {
                n: np.float32(0) if row["catalogue"] < catalogue.slot_since[slot] else row["cusum"][slot]
                for n, slot in slots.items()
            },
            int(row["catalogue"]),
            bool(row["flags"] & WHALE),
            row["before"].copy(),
            int(row["transactions"]),
            leaning(row, catalogue),
            bool(row["flags"] & BY_MODEL),
        )
        for row in rows
    ]
    segments, whales = [], []
    for place, one in enumerate(made):
        take(wallets[one.wallet], place, one, catalogue)
        segments.append(wallets[one.wallet].segment)
        whales.append(wallets[one.wallet].whale)
    return wallets, segments, whales


def leaning(row: np.void, catalogue: Catalogue) -> int:
    """The number of the segment a wallet leans to, 0 none."""
    slots = {segment.slot: segment.number for segment in catalogue.segments}
    return slots.get((int(row["flags"]) & LEAN_SLOT) >> LEAN_SHIFT, 0) if row["flags"] & LEANS else 0


def take(wallet: Wallet, place: int, one: Transaction, catalogue: Catalogue) -> None:
    """One transaction."""
    scores = dict(zip(NUMBERS, catalogue.place(one.features[None])[0], strict=True))
    wallet.transactions += 1
    if wallet.catalogue != catalogue.version and wallet.segment in scores:
        learned_anew(wallet, catalogue)
    if one.features[SIZE] >= WHALE_AT:
        wallet.whale = True
    elif one.features[SIZE] < math.log1p(0.8 * math.expm1(WHALE_AT)):
        wallet.whale = False
    days = np.float32(min((one.at_ms - one.before_ms) / DAY_MS, 5) if one.before_ms else 0)
    leak = np.float32(math.exp(-float(days) / 10))
    own = scores.get(wallet.segment)
    for number, score in scores.items():
        gain = np.float32(min(max(score - own - 0.5, -6), 6) * float(days)) if own is not None else np.float32(0)
        wallet.evidence[number] = max(np.float32(wallet.evidence[number] * leak + gain), np.float32(0))
    joined, why = joins(wallet, scores, catalogue)
    if joined:
        wallet.moves.append((place, wallet.segment, joined, why))
        wallet.segment, wallet.before = joined, one.features.astype(np.float32)
        wallet.evidence = dict.fromkeys(wallet.evidence, np.float32(0))
        wallet.leaning, wallet.by_model = 0, False
    wallet.catalogue = catalogue.version


def learned_anew(wallet: Wallet, catalogue: Catalogue) -> None:
    """The catalogue is new to the wallet, which is as it was (here: at its last change)."""
    then = NUMBERS[int(catalogue.place(wallet.before[None].astype(np.float64))[0].argmax())]
    voided = {s.number for s in catalogue.segments if wallet.catalogue < catalogue.slot_since[s.slot]}
    if then == wallet.segment:
        wallet.leaning, wallet.by_model = 0, False
    elif then != wallet.leaning or then in voided:
        wallet.leaning, wallet.by_model = then, True


def joins(wallet: Wallet, scores: dict[int, np.float64], catalogue: Catalogue) -> tuple[int, str]:
    best = max(scores, key=lambda number: scores[number])
    if wallet.segment == 0:
        return (best if wallet.transactions >= RULES.evidence else 0), "live"
    if wallet.segment not in scores:
        return catalogue.successor(wallet.segment) or best, "recalibration"
    if best == wallet.segment:
        wallet.leaning, wallet.by_model = 0, False
        return 0, ""
    if best != wallet.leaning:
        wallet.leaning, wallet.by_model = best, False
    needed = RULES.switch_at * (4 if wallet.by_model else 1)
    return (best if wallet.evidence[best] > needed else 0), "recalibration" if wallet.by_model else "live"


# ------------------------------------------------------------------ the laws


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 60))
@settings(max_examples=150)
def test_the_compiled_code_decides_as_the_reference(seed: int, wallets: int, more: int) -> None:
    rows, made = drawn(seed, wallets, more)
    ends, segments, whales = naive(rows, made, CATALOGUE)
    moves, *found = decided(rows, made)
    assert found == [segments, whales]
    assert moves == sorted(move for end in ends for move in end.moves)
    for row, end in zip(rows, ends, strict=True):
        assert (row["segment"], bool(row["flags"] & WHALE), row["catalogue"]) == (end.segment, end.whale, end.catalogue)
        assert row["before"].tolist() == end.before.tolist()
        assert (leaning(row, CATALOGUE), bool(row["flags"] & BY_MODEL)) == (end.leaning, end.by_model)
        for segment in CATALOGUE.segments:
            assert row["cusum"][segment.slot] == end.evidence[segment.number]


def test_evidence_of_a_slot_that_no_segment_has_is_dropped() -> None:
    rows, made = drawn(1, 3, 0)
    rows["cusum"] = 9
    decided(rows, made)
    assert not np.delete(rows["cusum"], [segment.slot for segment in CATALOGUE.segments], axis=1).any()


def test_the_drawn_pasts_hold_every_kind_of_move() -> None:
    kinds = set()
    for seed in range(60):
        for _, left, _, origin in decided(*drawn(seed, 8, 60))[0]:
            kinds.add((left == 0, left in GONE, origin))
    assert kinds == {
        (True, False, "live"),
        (False, False, "live"),
        (False, False, "recalibration"),
        (False, True, "recalibration"),
    }


def test_a_change_is_numbered_and_dated_in_the_row() -> None:
    rows, made = drawn(7, 1, 40)
    moves, _, _ = decided(rows, made)
    assert moves
    assert rows["sequence"][0] == len(moves)
    assert rows["changed_s"][0] == made[moves[-1][0]].at_ms // 1000


def one_wallet(
    sizes: list[float], catalogue: Catalogue, segment: int = 0
) -> tuple[NDArray[np.void], list[Transaction]]:
    """Transactions of one wallet, a day apart, in the middle of segment 1, with these wallet sizes."""
    rows, made = blank_rows(1), []
    rows["segment"] = segment
    for place, size in enumerate(sizes):
        features = CATALOGUE.centre(0)
        features[SIZE] = size
        at_ms = NOON_MS + DAY_MS * place
        made.append(Transaction(0, features, at_ms - DAY_MS if place else 0, at_ms))
    return rows, made


def test_a_whale_stays_one_until_it_is_clearly_none() -> None:
    stays = math.log1p(0.8 * math.expm1(WHALE_AT))
    rows, made = one_wallet([4.9, 5.0, stays, 4.9, stays - 1e-6, 4.99, 5.1], CATALOGUE)
    assert decided(rows, made)[2] == [False, True, True, True, False, False, True]
    assert rows["flags"][0] == WHALE


def test_without_a_threshold_nobody_is_a_whale() -> None:
    assert decided(*one_wallet([1e300], EMPTY_CATALOGUE), EMPTY_CATALOGUE)[2] == [False]


def test_a_wallet_is_unassigned_until_there_is_evidence() -> None:
    moves, segments, _ = decided(*one_wallet([1.0] * 6, CATALOGUE))
    assert segments[:4] == [0, 0, 0, 0]
    assert 0 not in segments[4:]
    assert [(place, left, origin) for place, left, _, origin in moves] == [(4, 0, "live")]


def test_a_retired_segment_gives_its_wallets_to_its_successor() -> None:
    for gone, heir in ((4, 3), (5, 3)):
        assert decided(*one_wallet([1.0], CATALOGUE, segment=gone))[0] == [(0, gone, heir, "recalibration")]
    for gone in (6, 9):
        rows, made = one_wallet([1.0], CATALOGUE, segment=gone)
        best = NUMBERS[int(CATALOGUE.place(made[0].features[None])[0].argmax())]
        assert decided(rows, made)[0] == [(0, gone, best, "recalibration")]


def test_a_catalogue_without_segments_moves_nobody() -> None:
    later = replace(EMPTY_CATALOGUE, version=3)
    moves, segments, _ = decided(*one_wallet([1.0] * 9, later, segment=2), later)
    assert (segments, moves) == ([2] * 9, [])


@given(st.lists(st.floats(-30_000, 50), min_size=1, max_size=12))
def test_confidences_are_probabilities(scores: list[float]) -> None:
    found = confidence(np.tile(scores, (len(scores), 1)), np.arange(len(scores))).tolist()
    assert all(0 <= each <= 1 for each in found)
    assert math.isclose(sum(found), 1, rel_tol=1e-9)


# ------------------------------------------------------------------ whose doing a change is


def lived(rows: NDArray[np.void], features: NDArray[np.float64], catalogue: Catalogue, days: int) -> list[str]:
    """Origins of the moves of wallets (n,) that stay as they are, `features` (n, 16), with a transaction a day."""
    found, origins = standing(catalogue, RULES)[0], []
    for day in range(days):
        for row, as_ever in zip(rows, features, strict=True):
            scores = catalogue.place(as_ever[None])[0]
            row["transactions"] += 1
            if row["catalogue"] != catalogue.version:
                notice_model(row, scores, found)
            joined, origin = decide(row, np.float32(1), scores, found)
            if joined >= 0:
                enter(row, catalogue.segments[joined].number, NOON_MS + DAY_MS * day, as_ever)
                origins.append(ORIGINS[origin])
    return origins


def settled(wallets: int) -> tuple[NDArray[np.void], NDArray[np.float64]]:
    """Wallets around the middle of segment 1, and that is where they are."""
    rows, features = blank_rows(wallets), CATALOGUE.centre(0) + np.random.default_rng(1).normal(0, 0.03, (wallets, 16))
    assert set(lived(rows, features, CATALOGUE, 6)) == {"live"}
    assert set(rows["segment"].tolist()) == {1}
    return rows, features


def refitted(lead: float, version: int = 3) -> Catalogue:
    """The same catalogue with a boundary moved: who was in the middle of segment 1 is better off in 2 by `lead`."""
    by = CATALOGUE.place(CATALOGUE.centre(0)[None])[0]
    shares = CATALOGUE.shares.copy()
    shares[1] *= math.exp(by[0] - by[1] + lead)
    return replace(CATALOGUE, version=version, shares=shares)


def test_a_refit_that_moves_a_boundary_moves_nobody_who_stays_as_he_is() -> None:
    """However long it lasts, and though evidence by behaviour would be enough within days."""
    rows, features = settled(50)
    assert lived(rows, features, refitted(3.5), 100) == []
    assert (rows["cusum"].max(axis=1) > RULES.switch_at).all()
    assert (rows["flags"] & BY_MODEL).all()


def test_refit_after_refit_moves_nobody_either() -> None:
    rows, features = settled(20)
    origins = [lived(rows, features, refitted(dice.uniform(-3.5, 3.5), 3 + n), 3) for n in range(20)]
    assert not any(origins)


def test_a_segment_that_fits_far_better_takes_wallets_over_and_says_so() -> None:
    rows, features = settled(20)
    assert lived(rows, features, refitted(30), 10) == []
    assert lived(rows, features, refitted(30), 2) == ["recalibration"] * 20


def test_a_wallet_that_changes_is_told_live_under_a_new_catalogue_too() -> None:
    rows, _ = settled(20)
    elsewhere = np.tile(CATALOGUE.centre(2), (20, 1))
    found = standing(replace(CATALOGUE, version=3), RULES)[0]
    for row in rows:
        notice_model(row, CATALOGUE.place(CATALOGUE.centre(0)[None])[0], found)
        row["catalogue"] = 3
    assert lived(rows, elsewhere, replace(CATALOGUE, version=3), 5) == ["live"] * 20


def test_a_wallet_moves_only_into_the_segment_that_fits_it_best() -> None:
    rows, _ = settled(1)
    found = standing(CATALOGUE, RULES)[0]
    rows["cusum"][0] = 9.9
    scores = CATALOGUE.place(CATALOGUE.centre(2)[None])[0]
    joined, _ = decide(rows[0], np.float32(1), scores, found)
    assert joined in (-1, 2)
    assert rows["cusum"][0][0] > 0


def test_a_crash_holds_from_its_beginning_until_its_end() -> None:
    held = standing(replace(CATALOGUE, held_from_ms=NOON_MS, held_until_ms=NOON_MS + 1000), RULES)[0]
    assert [is_held(held, NOON_MS + after) for after in (-1, 0, 999, 1000)] == [False, True, True, False]
    assert not is_held(standing(CATALOGUE, RULES)[0], NOON_MS)


def test_in_a_crash_nobody_moves_and_nothing_done_is_evidence() -> None:
    """Learning goes on; what is done after the crash is judged as ever."""
    values = [transaction(f"e{hour}", "w", NOON_MS + hour * HOUR_MS, usd_value=20) for hour in range(30)]
    ends_ms = NOON_MS + 29 * HOUR_MS
    calm, crash = blank_rows(1), blank_rows(1)
    assert turned(calm, values, CATALOGUE).tolist()[3:6] == [0, *calm["segment"].tolist() * 2]
    held = replace(CATALOGUE, held_from_ms=NOON_MS, held_until_ms=ends_ms)
    segments = turned(crash, values, held)
    assert set(segments[:-1].tolist()) == {0}
    assert segments[-1] == calm["segment"][0]
    assert crash["sums"].tobytes() == calm["sums"].tobytes()
    other = 7 if calm["segment"][0] != 7 else 1
    for rows in (calm, crash):
        rows["segment"], rows["cusum"] = other, 0
    later = [transaction(f"f{hour}", "w", ends_ms + hour * HOUR_MS, usd_value=20) for hour in range(1, 5)]
    turned(calm, later, CATALOGUE)
    turned(crash, later, replace(CATALOGUE, held_from_ms=ends_ms, held_until_ms=ends_ms + DAY_MS))
    assert calm["cusum"].any()
    assert not crash["cusum"].any()
    assert crash["segment"].tolist() == [other]


def turned(rows: NDArray[np.void], values: list[dict[str, Any]], catalogue: Catalogue) -> NDArray[np.int64]:
    """Transactions of one wallet in turn; its segment with each."""
    records = records_of(encoded(TRANSACTIONS, value)[1] for value in values)
    events, _ = read(records, bytes([TRANSACTIONS]) * len(values))
    told = room_for(len(values), 1, len(catalogue.segments))
    standing_now = standing(catalogue, RULES), catalogue.terms
    take_turns(rows, events.rows, np.zeros(1, np.int64), Pace(DAY_MS, DAY_MS), standing_now, told)
    return told.segment


def test_a_confidence_is_never_certain_and_rises_with_the_lead() -> None:
    leads = np.linspace(-50, 200, 30)
    found = confidence(np.stack([np.zeros(30), leads], axis=1), np.ones(30, np.int64))
    assert (np.diff(found) >= 0).all()
    assert (found[0], found[-1]) == (pytest.approx(DOUBT / 2, abs=0.01), pytest.approx(1 - DOUBT / 2))
