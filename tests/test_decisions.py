"""Deciding a batch at once is deciding event by event."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.decisions import Decided, confidence, decide
from models.features import Folded
from models.rounds import Rounds, lay_out
from models.rows import FEATURES, SLOTS, WHALE, blank_rows
from models.rules import DAY_MS, Rules
from models.segments import EMPTY_CATALOGUE, Catalogue, Segment
from tests.partition import NOON_MS

SIZE = FEATURES.index("wallet_size")
RULES = Rules()
WHALE_AT = 5.0
#: Segments 1, 2, 3 and 7 exist; 4 was retired in favour of 5, and that of 3; 6 has no heir; 9 was never heard of.
NUMBERS, GONE = (1, 2, 3, 7), (4, 5, 6, 9)
NOTHING_LEARNED = np.zeros((0, 16), np.float32), np.zeros(0, np.int64)
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


def drawn_batch(seed: int, wallets: int, more: int) -> tuple[Folded, Rounds]:
    """A batch of wallets with any past; features wander around the centres."""
    dice = np.random.default_rng(seed)
    wallet_of = dice.permutation([*range(wallets), *(wallets * dice.random(more) ** 2).astype(int)])
    rounds = lay_out(wallet_of, wallets)
    rows = blank_rows(wallets)
    rows["version"] = 1
    rows["segment"] = dice.choice([0, 0, *NUMBERS, *GONE], wallets)
    rows["catalogue"] = dice.choice([1, 2], wallets)
    rows["flags"] = dice.choice([0, WHALE], wallets)
    placed = np.isin(rows["segment"], NUMBERS)
    rows["cusum"] = np.where(placed[:, None], dice.uniform(0, 10, (wallets, SLOTS)), 0)
    centre = CATALOGUE.mean + CATALOGUE.sd * CATALOGUE.centres
    rows["before"] = centre[dice.integers(0, 4, wallets)]
    count = len(wallet_of)
    is_transaction = dice.random(count) < 0.8
    newest, previous = np.zeros(count, np.int64), np.zeros(count, np.int64)
    transactions = np.zeros(count)
    at_ms = np.where(dice.random(wallets) < 0.7, NOON_MS, 0)
    made = np.where(at_ms > 0, dice.integers(1, 8, wallets), 0)
    for place, wallet in enumerate(rounds.wallet.tolist()):
        previous[place] = at_ms[wallet]
        if is_transaction[place]:
            step_ms = int(dice.choice([0, 1000, DAY_MS // 3, 2 * DAY_MS, 9 * DAY_MS]))
            at_ms[wallet] = at_ms[wallet] + step_ms if at_ms[wallet] else NOON_MS
            made[wallet] += 1
        newest[place], transactions[place] = at_ms[wallet], made[wallet]
    features = centre[dice.integers(0, 4, count)] + dice.normal(0, 1, (count, 16))
    features[:, SIZE] = dice.choice([4.0, 4.7, 4.8, 4.9, 5.0, 5.2], count)
    return Folded(rows, is_transaction, features, newest, previous, transactions, *NOTHING_LEARNED), rounds


# ------------------------------------------------------------------ the reference: one event of one wallet at a time


@dataclass
class Wallet:
    segment: int
    evidence: dict[int, np.float32]
    catalogue: int
    whale: bool
    before: NDArray[np.float32]
    moves: list[tuple[int, int, int, str]] = field(default_factory=list)


def naive(folded: Folded, rounds: Rounds, catalogue: Catalogue) -> tuple[list[Wallet], list[int], list[bool]]:
    """Wallets at the end; segment and whale flag after each event, in round order."""
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
            row["before"],
        )
        for row in folded.rows
    ]
    segments, whales = [], []
    for place, number in enumerate(rounds.wallet.tolist()):
        if folded.is_transaction[place]:
            take(wallets[number], place, folded, catalogue)
        segments.append(wallets[number].segment)
        whales.append(wallets[number].whale)
    return wallets, segments, whales


def take(wallet: Wallet, place: int, folded: Folded, catalogue: Catalogue) -> None:
    """One transaction."""
    features = folded.features[place]
    scores = dict(zip(NUMBERS, catalogue.place(features[None])[0], strict=True))
    if features[SIZE] >= WHALE_AT:
        wallet.whale = True
    elif features[SIZE] < math.log1p(0.8 * math.expm1(WHALE_AT)):
        wallet.whale = False
    since = int(folded.previous_at_ms[place])
    days = np.float32(min(max((int(folded.newest_at_ms[place]) - since) / DAY_MS, 0), 5) if since else 0)
    leak = np.exp(-days / np.float32(10))
    own = scores.get(wallet.segment)
    for number, score in scores.items():
        gain = np.float32(min(max(score - own - 0.5, -6), 6) * days) if own is not None else np.float32(0)
        wallet.evidence[number] = max(np.float32(wallet.evidence[number] * leak + gain), np.float32(0))
    joined = joins(wallet, scores, float(folded.transactions[place]), catalogue)
    if joined:
        wallet.moves.append((place, wallet.segment, joined, origin(wallet, joined, catalogue)))
        wallet.segment = joined
        wallet.evidence = dict.fromkeys(wallet.evidence, np.float32(0))
    wallet.catalogue = catalogue.version


def joins(wallet: Wallet, scores: dict[int, np.float64], transactions: float, catalogue: Catalogue) -> int:
    best = max(scores, key=lambda number: scores[number])
    if wallet.segment in scores:
        most = max(wallet.evidence, key=lambda number: wallet.evidence[number])
        return most if wallet.evidence[most] > RULES.switch_at else 0
    if wallet.segment == 0:
        return best if transactions >= RULES.evidence else 0
    return catalogue.successor(wallet.segment) or best


def origin(wallet: Wallet, joined: int, catalogue: Catalogue) -> str:
    if wallet.segment == 0:
        return "live"
    if wallet.segment in GONE:
        return "recalibration"
    if wallet.catalogue == catalogue.version:
        return "live"
    then = catalogue.place(wallet.before[None].astype(np.float64))[0]
    return "recalibration" if NUMBERS[int(then.argmax())] == joined else "live"


# ------------------------------------------------------------------ the laws


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 60))
@settings(max_examples=150)
def test_deciding_at_once_is_deciding_one_by_one(seed: int, wallets: int, more: int) -> None:
    folded, rounds = drawn_batch(seed, wallets, more)
    ends, segments, whales = naive(folded, rounds, CATALOGUE)
    decided = decide(folded, rounds, CATALOGUE, RULES)
    assert decided.segment.tolist() == segments
    assert decided.is_whale.tolist() == whales
    moves = sorted((move.place, move.left, move.joined, move.origin) for move in decided.moves)
    assert moves == sorted(move for end in ends for move in end.moves)
    for row, end in zip(folded.rows, ends, strict=True):
        assert (row["segment"], bool(row["flags"] & WHALE), row["catalogue"]) == (end.segment, end.whale, end.catalogue)
        for segment in CATALOGUE.segments:
            assert row["cusum"][segment.slot] == end.evidence[segment.number]


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    """Bit by bit; a matrix product would differ in its last bits."""
    folded, _ = drawn_batch(1, 20, 300)
    together = CATALOGUE.place(folded.features)
    assert together.tobytes() == b"".join(CATALOGUE.place(row[None]).tobytes() for row in folded.features)


def test_the_drawn_batches_hold_every_kind_of_move() -> None:
    kinds = set()
    for seed in range(60):
        folded, rounds = drawn_batch(seed, 8, 60)
        for move in decide(folded, rounds, CATALOGUE, RULES).moves:
            kinds.add((move.left == 0, move.left in GONE, move.origin))
    assert kinds == {
        (True, False, "live"),
        (False, False, "live"),
        (False, False, "recalibration"),
        (False, True, "recalibration"),
    }


def one_wallet(sizes: list[float], catalogue: Catalogue, segment: int = 0) -> tuple[Folded, Decided]:
    """Transactions of one wallet, a day apart, in the middle of segment 1, with these wallet sizes."""
    count = len(sizes)
    rows = blank_rows(1)
    rows["segment"] = segment
    at_ms = NOON_MS + DAY_MS * np.arange(count)
    features = np.tile(CATALOGUE.centre(0), (count, 1))
    features[:, SIZE] = sizes
    made = np.arange(1, count + 1, dtype=np.float64)
    before = np.array([0, *at_ms[:-1].tolist()], np.int64)
    folded = Folded(rows, np.ones(count, np.bool_), features, at_ms, before, made, *NOTHING_LEARNED)
    return folded, decide(folded, lay_out(np.zeros(count, np.int64), 1), catalogue, RULES)


def test_a_whale_stays_one_until_it_is_clearly_none() -> None:
    stays = math.log1p(0.8 * math.expm1(WHALE_AT))
    sizes = [4.9, 5.0, stays, 4.9, stays - 1e-6, 4.99, 5.1]
    folded, decided = one_wallet(sizes, CATALOGUE)
    assert decided.is_whale.tolist() == [False, True, True, True, False, False, True]
    assert folded.rows["flags"][0] == WHALE


def test_without_a_threshold_nobody_is_a_whale() -> None:
    _, decided = one_wallet([1e300], EMPTY_CATALOGUE)
    assert decided.is_whale.tolist() == [False]


def test_a_wallet_is_unassigned_until_there_is_evidence() -> None:
    _, decided = one_wallet([1.0] * 6, CATALOGUE)
    assert decided.segment.tolist()[:4] == [0, 0, 0, 0]
    assert 0 not in decided.segment.tolist()[4:]
    assert [(move.place, move.left, move.origin) for move in decided.moves] == [(4, 0, "live")]


def test_a_retired_segment_gives_its_wallets_to_its_successor() -> None:
    for gone, heir in ((4, 3), (5, 3)):
        _, decided = one_wallet([1.0], CATALOGUE, segment=gone)
        assert [(move.left, move.joined, move.origin) for move in decided.moves] == [(gone, heir, "recalibration")]
    for gone in (6, 9):
        _, decided = one_wallet([1.0], CATALOGUE, segment=gone)
        best = NUMBERS[int(decided.scores[0].argmax())]
        assert [(move.left, move.joined) for move in decided.moves] == [(gone, best)]


def test_a_catalogue_without_segments_moves_nobody() -> None:
    _, decided = one_wallet([1.0] * 9, replace(EMPTY_CATALOGUE, version=3), segment=2)
    assert (decided.segment.tolist(), decided.moves) == ([2] * 9, [])


@given(st.lists(st.floats(-300, 50), min_size=1, max_size=12))
def test_confidences_are_probabilities(scores: list[float]) -> None:
    found = confidence(np.tile(scores, (len(scores), 1)), np.arange(len(scores))).tolist()
    assert all(0 <= each <= 1 for each in found)
    assert math.isclose(sum(found), 1, rel_tol=1e-9)
