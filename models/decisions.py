"""When a wallet changes its segment: evidence is gathered until it outweighs what speaks for staying.

The evidence G for another segment is a leaky, capped CUSUM of its log-likelihood lead over the wallet's own
(Page 1954; leak and cap as in docs/decisions.md): G = max(0, G exp(-dt / 10 d) + clip(lead - 0.5, +-6) dt), with dt
the days since the wallet's previous transaction, at most 5. G above `switch_at` moves the wallet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.rounds import Rounds, scan
from models.rows import FEATURES, WHALE
from models.rules import DAY_MS, Rules

if TYPE_CHECKING:
    from models.features import Folded
    from models.segments import Catalogue

LEAK_DAYS, MARGIN, CAP, LONGEST_DAYS = np.float32(10), 0.5, 6.0, 5
#: A whale stays one until it falls below this part of the threshold, so the flag does not flicker.
WHALE_STAYS = 0.8
SIZE = FEATURES.index("wallet_size")


class Move(NamedTuple):
    """A change of segment. `place`: of its event, in round order. Numbers of segments; `left` 0: unassigned."""

    place: int
    wallet: int
    left: int
    joined: int
    origin: str


@dataclass(frozen=True, slots=True)
class Decided:
    """`segment`: the wallet's segment number after each event (n,), `is_whale` likewise, in round order.

    `scores`: float64 (n, K) log-likelihoods. `moves`: in no particular order.
    """

    segment: NDArray[np.int64]
    is_whale: NDArray[np.bool_]
    scores: NDArray[np.float64]
    moves: list[Move]


def decide(folded: Folded, rounds: Rounds, catalogue: Catalogue, rules: Rules) -> Decided:
    """Place every event's wallet and let evidence decide. Changes `folded.rows`: segment, cusum, catalogue, flags."""
    scores = catalogue.place(folded.features)
    is_whale = whales(folded, rounds, catalogue.whale_at)
    numbers = folded.rows["segment"].astype(np.int64)
    if not catalogue.segments:
        return Decided(numbers[rounds.wallet], is_whale, scores, [])
    case = Case(folded, rounds, catalogue, rules, scores)
    evidence = gather_evidence(case)
    segment = numbers[rounds.wallet]
    moves: list[Move] = []
    for wallet in sorted(set(rounds.wallet[due(case, evidence)].tolist())):
        moves += walk(case, wallet, evidence, segment)
    rows = folded.rows
    rows["cusum"] = 0
    rows["cusum"][:, case.slots] = evidence[rounds.last]
    rows["segment"] = segment[rounds.last]
    decided = np.zeros(len(rows), np.bool_)
    decided[rounds.wallet[folded.is_transaction]] = True
    rows["catalogue"] = np.where(decided, catalogue.version, rows["catalogue"])
    return Decided(segment, is_whale, scores, moves)


class Case:
    """What a decision rests on, once for the whole batch; (n, …) in round order."""

    def __init__(
        self, folded: Folded, rounds: Rounds, catalogue: Catalogue, rules: Rules, scores: NDArray[np.float64]
    ) -> None:
        self.folded, self.rounds, self.catalogue, self.rules, self.scores = folded, rounds, catalogue, rules, scores
        self.slots = [segment.slot for segment in catalogue.segments]
        self.numbers = [segment.number for segment in catalogue.segments]
        known = folded.rows["segment"].astype(np.int64)
        column = np.full(max(known.max(), *self.numbers) + 1, -1)
        column[self.numbers] = np.arange(len(self.numbers))
        #: column of each wallet's segment before the batch; -1: unassigned, or no longer in the catalogue
        self.column = column[known][rounds.wallet]
        self.unassigned = (known == 0)[rounds.wallet]
        days = np.clip((folded.newest_at_ms - folded.previous_at_ms) / DAY_MS, 0, LONGEST_DAYS)
        self.days = np.where(folded.is_transaction & (folded.previous_at_ms > 0), days, 0).astype(np.float32)
        self.kept = np.exp(-self.days / LEAK_DAYS)

    def best(self, place: int) -> int:
        """The column of the segment that an event fits best."""
        return int(self.scores[place].argmax())

    def gain(self, places: slice, column: NDArray[np.int64]) -> NDArray[np.float32]:
        """What events add to the evidence for each segment (m, K), against the one in `column` (m,)."""
        scores = self.scores[places]
        own = scores[np.arange(len(scores)), column]
        capped = np.clip(scores - own[:, None] - MARGIN, -CAP, CAP)
        gained: NDArray[np.float32] = (capped * self.days[places, None]).astype(np.float32)
        return gained


def whales(folded: Folded, rounds: Rounds, whale_at: float) -> NDArray[np.bool_]:
    """Whether the wallet is a whale after each event (n,); the rows get the last word.

    On at `whale_at`, off below 0.8 of it in USD, unchanged between.
    """
    size = folded.features[:, SIZE]
    on = folded.is_transaction & (size >= whale_at)
    off = folded.is_transaction & (size < np.log1p(WHALE_STAYS * np.expm1(whale_at)))
    before = (folded.rows["flags"] & WHALE) > 0
    # a running maximum of (rank, verdict) remembers the last event that was sure
    sure = np.where(on | off, (rounds.rank + 1) * 2 + on, 0)
    latest = scan(np.maximum, before.astype(np.int64), sure, rounds)
    is_whale: NDArray[np.bool_] = (latest & 1).astype(np.bool_)
    flags = folded.rows["flags"]
    folded.rows["flags"] = np.where(is_whale[rounds.last], flags | WHALE, flags & ~np.uint16(WHALE))
    return is_whale


def gather_evidence(case: Case) -> NDArray[np.float32]:
    """The evidence (n, K) after each event, as if no wallet changed its segment."""
    rounds, rows = case.rounds, case.folded.rows
    since = np.array(case.catalogue.slot_since)[case.slots]
    previous = np.where(rows["catalogue"][:, None] < since, np.float32(0), rows["cusum"][:, case.slots])
    gain = case.gain(slice(None), case.column) * (case.column >= 0)[:, None]
    evidence = np.empty_like(gain)
    for start, stop in rounds.slices:
        now = evidence[start:stop]
        np.multiply(previous[: stop - start], case.kept[start:stop, None], out=now)
        np.add(now, gain[start:stop], out=now)
        np.maximum(now, 0, out=now)
        previous = now
    return evidence


def due(case: Case, evidence: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Events (n,) at which a wallet would change, if it had not changed before in this batch."""
    places, segments = evidence.shape
    convinced = np.zeros(places, np.bool_)
    convinced[np.flatnonzero(evidence > case.rules.switch_at) // segments] = True
    convinced &= case.column >= 0
    first = case.unassigned & (case.folded.transactions >= case.rules.evidence)
    orphaned = ~case.unassigned & (case.column < 0)
    due_now: NDArray[np.bool_] = convinced | ((first | orphaned) & case.folded.is_transaction)
    return due_now


def walk(case: Case, wallet: int, evidence: NDArray[np.float32], segment: NDArray[np.int64]) -> list[Move]:
    """Decide one wallet's events in turn; `evidence` and `segment` are set right from its first change on."""
    number = int(case.folded.rows["segment"][wallet])
    column = case.catalogue.column_of(number)
    moves: list[Move] = []
    decided = False
    gathered = np.zeros(len(case.numbers), np.float32)
    for start, _ in case.rounds.slices[: int(case.rounds.count[wallet])]:
        place = start + wallet
        if moves:  # what was gathered as if nobody changed was gathered against another segment
            gain = case.gain(slice(place, place + 1), np.array([column]))[0]
            evidence[place] = gathered = np.maximum(gathered * case.kept[place] + gain, np.float32(0))
        joined = joins(case, place, number, evidence[place])
        if joined >= 0:
            origin = origin_of(case, wallet, number, joined, first=not decided)
            moves.append(Move(place, wallet, number, case.numbers[joined], origin))
            column, number = joined, case.numbers[joined]
            evidence[place] = gathered = np.zeros_like(gathered)
        segment[place] = number
        decided = decided or bool(case.folded.is_transaction[place])
    return moves


def joins(case: Case, place: int, number: int, evidence: NDArray[np.float32]) -> int:
    """The column of the segment that a wallet of segment `number` joins with this event; -1: it stays."""
    if case.catalogue.column_of(number) >= 0:
        return int(evidence.argmax()) if evidence.max() > case.rules.switch_at else -1
    return homeless(case, place, number) if case.folded.is_transaction[place] else -1


def homeless(case: Case, place: int, number: int) -> int:
    """The column for a wallet without a segment in this catalogue; -1: not yet enough evidence."""
    if number:
        heir = case.catalogue.column_of(case.catalogue.successor(number))
        return heir if heir >= 0 else case.best(place)
    return case.best(place) if case.folded.transactions[place] >= case.rules.evidence else -1


def origin_of(case: Case, wallet: int, number: int, joined: int, *, first: bool) -> str:
    """`recalibration` where the model moved and not the wallet, else `live`.

    The model moved if the segment is gone, or if the wallet's row at its last change, placed by today's
    catalogue, already lies in the new segment. `first`: the batch has no earlier transaction of the wallet, so
    its row still tells the catalogue of the transaction before.
    """
    if number == 0:
        return "live"
    if case.catalogue.column_of(number) < 0:
        return "recalibration"
    if not first or int(case.folded.rows["catalogue"][wallet]) == case.catalogue.version:
        return "live"
    then = case.catalogue.place(case.folded.rows["before"][wallet : wallet + 1].astype(np.float64))
    return "recalibration" if int(then[0].argmax()) == joined else "live"


def confidence(scores: NDArray[np.float64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """The posterior probability, 0 to 1, of the segment in each of `columns` (m,), for scores (m, K)."""
    own = scores[np.arange(len(scores)), columns]
    chances: NDArray[np.float64] = 1 / np.exp(scores - own[:, None]).sum(axis=1)
    return chances
