"""Which records are events: the right key, the right partition, not from the future, and not seen before."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.clocks import tick
from models.columns import Events
from models.compiled import compiled
from models.events import Rejected
from models.hashing import partitions_of
from models.rows import IDS

#: Kinds of events: taken, seen before, to wait for a sweep.
NEW, REPEATED, LEFT = range(3)

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
    places = np.flatnonzero(new)
    its = np.array([(state.partition, state.partitions) for state in joined.states], np.int64)[joined.part[places]]
    keys = [joined.keys[place] for place in places.tolist()]
    misplaced = np.zeros(len(new) + 1, np.bool_)  # one more: events without a key look there
    misplaced[places] = partitions_of(keys, its[:, 1], rules.partitioner) != its[:, 0]
    return misplaced[wallet]


class Sorted(NamedTuple):
    """What of the events (n,) is taken, by place: the `new` ones, and the `repeated` ones.

    `ends`: int64 (p,), the first event of each partition that has to wait for a sweep, -1 where none has.
    """

    new: NDArray[np.int64]
    repeated: NDArray[np.int64]
    ends: NDArray[np.int64]


def without_repeats(joined: Joined, events: Events, wallet: NDArray[np.int64], rules: Rules) -> Sorted:
    """Sort out events whose id is one of the 32 newest of their wallet; the rows remember the new ids.

    And with the first one that moves the clock of its partition to `State.until_ms`, all that come after it.
    """
    kinds, ends = np.empty(len(events), np.int8), np.full(len(joined.states), -1)
    clocks = np.array([(state.clock_ms, state.until_ms) for state in joined.states], np.int64).reshape(-1, 2)
    about = (wallet, joined.record_part[events.at], events.occurred_at_ms, events.id_hashes)
    if remember_ids(joined.rows, about, (clocks, rules.clock_step_ms), (kinds, ends)) == len(events):
        return Sorted(np.arange(len(events)), np.zeros(0, np.int64), ends)
    return Sorted(np.flatnonzero(kinds == NEW), np.flatnonzero(kinds == REPEATED), ends)


@compiled
def remember_ids(
    rows: NDArray[np.void],
    about: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]],
    pace: tuple[NDArray[np.int64], int],
    found: tuple[NDArray[np.int8], NDArray[np.int64]],
) -> int:
    """Remember the ids of events (n,) in the rows of their wallets, in order of arrival; how many were new.

    `about`: of each event its wallet, its partition, when it occurred, and its id. `pace`: clock and `until_ms` (p, 2),
    which change, and what an event moves a clock by at most. Fills `found`: the kind of each event, and `Sorted.ends`.
    """
    (wallet, part, at_ms, ids), (clocks, step_ms), (kinds, ends) = about, pace, found
    new = 0
    for event in range(len(ids)):
        row, clock = rows[wallet[event]], clocks[part[event]]
        kinds[event] = LEFT if ends[part[event]] >= 0 else REPEATED if remembers(row, ids[event]) else NEW
        if kinds[event] != NEW:
            continue
        now_ms = tick(clock[0], at_ms[event], step_ms)
        if clock[0] and now_ms >= clock[1]:
            kinds[event], ends[part[event]] = LEFT, event
            continue
        clock[0] = now_ms
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
