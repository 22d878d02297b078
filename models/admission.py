"""Which records are events: the right key, the right partition, not from the future, and not seen before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.columns import Events
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
    joined: Joined, events: Events, wallet: NDArray[np.int64]
) -> tuple[Events, NDArray[np.int64], NDArray[np.int64]]:
    """Drop events whose id is among the wallet's 32 newest accepted; the others, and how many each partition dropped.

    Suspects are found by vector; only wallets with a suspect are walked in turn.
    """
    none = np.zeros(len(joined.states), np.int64)
    if not len(events):
        return events, wallet, none
    ids, rows = events.id_hashes, joined.rows
    mixed = ids ^ (wallet.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    ordered = np.sort(mixed)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    suspect = (rows["ring"][wallet] == ids[:, None]).any(axis=1)
    if len(twice):
        suspect |= np.isin(mixed, twice)
    repeated: list[int] = []
    for owner in np.unique(wallet[suspect]).tolist():
        repeated += repeats_of(rows[owner], ids, np.flatnonzero(wallet == owner).tolist())
    if not repeated:
        return events, wallet, none
    kept = np.setdiff1d(np.arange(len(events)), repeated)
    return events.pick(kept), wallet[kept], np.bincount(joined.part[wallet[repeated]], minlength=len(none))


def repeats_of(row: np.void, ids: NDArray[np.uint64], places: list[int]) -> list[int]:
    """The events, of those of one wallet in order, that repeat an id it remembers."""
    ring, accepted = row["ring"].tolist(), int(row["ids"])
    repeated = []
    for place in places:
        event_id = int(ids[place])
        if event_id in ring:
            repeated.append(place)
        else:
            ring[accepted % IDS] = event_id
            accepted += 1
    return repeated
