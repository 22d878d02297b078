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
from models.records import NULL, same
from models.rows import IDS

#: Kinds of events: taken, seen before, to wait for a sweep.
NEW, REPEATED, LEFT = range(3)

if TYPE_CHECKING:
    from models.joined import Joined
    from models.rules import Rules


def check(joined: Joined, events: Events, refused: dict[int, Rejected], rules: Rules) -> Events:
    """Refuse what does not fit its key, its partition or its time; tell the other events their wallet and partition."""
    rows, records = events.rows, joined.records.rows
    wrong = np.zeros(len(events), np.bool_)
    text = np.frombuffer(events.text, np.uint8)
    misfits = find_owners(text, records, rows, (joined.wallet_of, joined.record_part, rules.future_ms), wrong)
    lost = elsewhere(joined, rows["wallet"], rules)
    if not misfits and not lost.any():
        return events
    wrong |= lost
    for event in np.flatnonzero(wrong).tolist():
        place = int(rows["place"][event])
        (mine,) = events.texts("wallet_id", np.array([event]))
        key = joined.records[place].key
        refused[place] = why_refused(key, mine, rules.partitioner, misplaced=bool(lost[event]))
    return events.pick(np.flatnonzero(~wrong))


@compiled
def find_owners(
    text: NDArray[np.uint8],
    records: NDArray[np.void],
    events: NDArray[np.void],
    of_record: tuple[NDArray[np.int64], NDArray[np.int64], int],
    wrong: NDArray[np.bool_],
) -> int:
    """Tell events (n,) their wallet and partition; which have another key, or come from the future, and how many.

    `of_record`: of each record its wallet and its partition; and how long before an event its record may be stamped.
    """
    (wallet_of, part_of, future_ms), misfits = of_record, 0
    for number in range(len(events)):
        event = events[number]
        record = records[event["place"]]
        event["wallet"], event["part"] = wallet_of[event["place"]], part_of[event["place"]]
        wrong[number] = (
            record["key_end"] == NULL
            or event["at_ms"] - future_ms > record["timestamp"]
            or not same(text, record["key"], record["key_end"], event["wallet_id"], event["wallet_id_end"])
        )
        misfits += wrong[number]
    return misfits


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


def without_repeats(joined: Joined, events: Events, rules: Rules) -> Sorted:
    """Sort out events whose id is one of the 32 newest of their wallet; the rows remember the new ids.

    And with the first one that moves the clock of its partition to `State.until_ms`, all that come after it.
    """
    kinds, ends = np.empty(len(events), np.int8), np.full(len(joined.states), -1)
    clocks = np.array([(state.clock_ms, state.until_ms) for state in joined.states], np.int64).reshape(-1, 2)
    if remember_ids(joined.rows, events.rows, (clocks, rules.clock_step_ms), (kinds, ends)) == len(events):
        return Sorted(np.arange(len(events)), np.zeros(0, np.int64), ends)
    return Sorted(np.flatnonzero(kinds == NEW), np.flatnonzero(kinds == REPEATED), ends)


@compiled
def remember_ids(
    rows: NDArray[np.void],
    events: NDArray[np.void],
    pace: tuple[NDArray[np.int64], int],
    found: tuple[NDArray[np.int8], NDArray[np.int64]],
) -> int:
    """Remember the ids of events (n,) in the rows of their wallets, in order of arrival; how many were new.

    `pace`: clock and `until_ms` (p, 2), which change, and what an event moves a clock by at most. Fills `found`: the
    kind of each event, and `Sorted.ends`.
    """
    (clocks, step_ms), (kinds, ends) = pace, found
    new = 0
    for number in range(len(events)):
        event = events[number]
        part, row, event_id = event["part"], rows[event["wallet"]], event["id_hash"]
        clock = clocks[part]
        kinds[number] = LEFT if ends[part] >= 0 else REPEATED if remembers(row, event_id) else NEW
        if kinds[number] != NEW:
            continue
        now_ms = tick(clock[0], event["at_ms"], step_ms)
        if clock[0] and now_ms >= clock[1]:
            kinds[number], ends[part] = LEFT, number
            continue
        clock[0] = now_ms
        row["ring"][row["ids"] % IDS] = event_id
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
