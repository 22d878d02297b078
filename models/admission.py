"""Which records are events: the right key, the right partition, not from the future, and not seen before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.columns import Events
from models.compiled import compiled
from models.events import Rejected
from models.hashing import partitions_of
from models.rows import IDS

if TYPE_CHECKING:
    from models.joined import Joined
    from models.rules import Rules


def check(
    joined: Joined, events: Events, refused: dict[int, Rejected], rules: Rules
) -> tuple[Events, NDArray[np.int64]]:
    """Refuse what does not fit its key, its partition or its time; the other events and their wallets."""
    places, wallet = events.at.tolist(), joined.wallet_of[events.at]
    _, stamps, sent_keys, _, _ = zip(*joined.records, strict=True) if joined.records else ((),) * 5
    keys = [sent_keys[place] for place in places]
    early = events.occurred_at_ms > np.array(stamps, np.int64)[events.at] + rules.future_ms
    lost = elsewhere(joined, wallet, rules)
    mine = [wallet_id.encode() for wallet_id in events.wallet_ids]
    wrong = early | lost
    if mine != keys:
        wrong |= np.fromiter((key != name for key, name in zip(keys, mine, strict=True)), np.bool_, len(keys))
    for event in np.flatnonzero(wrong).tolist():
        refused[places[event]] = why_refused(keys[event], mine[event], rules.partitioner, misplaced=bool(lost[event]))
    if not wrong.any():
        return events, wallet
    kept = np.flatnonzero(~wrong)
    return events.pick(kept), wallet[kept]


def why_refused(key: bytes | None, wallet_id: bytes, partitioner: str, *, misplaced: bool) -> Rejected:
    """The first reason that fits, in the contract's order."""
    if key is None:
        return Rejected("key_missing", "the record key must be the wallet_id")
    if key != wallet_id:
        return Rejected("key_mismatch", "the record key is not the wallet_id")
    if misplaced:
        advice = {"murmur2": "set partitioner=murmur2_random in librdkafka", "crc32": "its partitioner is not crc32"}
        return Rejected("wrong_partition", advice.get(partitioner, ""))
    return Rejected("from_the_future", "occurred_at is later than the record's timestamp")


def elsewhere(joined: Joined, wallet: NDArray[np.int64], rules: Rules) -> NDArray[np.bool_]:
    """Events (n,) of wallets never seen whose key belongs to another partition."""
    new = joined.rows["version"] == 0
    meant = np.zeros(len(new), np.bool_)  # a key without an event may be anything: it is rejected for that
    meant[wallet[wallet >= 0]] = True
    new &= meant
    if rules.partitioner == "off" or not new.any():
        return np.zeros(len(wallet), np.bool_)
    misplaced = np.zeros(len(new) + 1, np.bool_)  # one more: events without a key look there
    for part, state in enumerate(joined.states):
        places = np.flatnonzero(new & (joined.part == part))
        keys = [joined.keys[place] for place in places.tolist()]
        if keys:
            misplaced[places] = partitions_of(keys, state.partitions, rules.partitioner) != state.partition
    return misplaced[wallet]


def without_repeats(
    rows: NDArray[np.void], events: Events, wallet: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Events (n,) whose id is none of the 32 newest of their wallet, and the others; `rows` remember the new ids."""
    is_new = np.empty(len(events), np.bool_)
    if remember_ids(rows, wallet, events.id_hashes, is_new) == len(events):
        return np.arange(len(events)), np.zeros(0, np.int64)
    return np.flatnonzero(is_new), np.flatnonzero(~is_new)


@compiled
def remember_ids(
    rows: NDArray[np.void], wallet: NDArray[np.int64], ids: NDArray[np.uint64], is_new: NDArray[np.bool_]
) -> int:
    """Remember ids (n,) in the rows of their wallets, in order of arrival; how many were new. Fills `is_new` (n,)."""
    new = 0
    for event in range(len(ids)):
        row = rows[wallet[event]]
        is_new[event] = not remembers(row, ids[event])
        if is_new[event]:
            row["ring"][row["ids"] % IDS] = ids[event]
            row["ids"] += 1
            new += 1
    return new


@compiled
def remembers(row: np.void, event_id: np.uint64) -> bool:
    """Whether an id is among the newest of its wallet."""
    found = False
    for place in range(IDS):  # no early end: so four are compared at a time
        found |= row["ring"][place] == event_id
    return found
