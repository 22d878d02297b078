"""The order in which a partition's two topics are folded: a function of the two logs, whatever the arrivals."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.records import Record, Records, records_of
from models.state import TOUCHES, TRANSACTIONS
from streams.errors import Refused
from streams.intake import (
    BATCH_BYTES,
    CATCHING_UP_MS,
    NOTHING_HERE_S,
    PATIENCE_HISTORY_S,
    Alone,
    Inbox,
    Lane,
    Merge,
    Now,
    next_offsets,
)

LATER = Now(1000.0, 10**12)
#: When the last poll was: a moment ago.
POLLED_MS = LATER.wall_ms - 100


class Arrival:
    """Records of one lane as they arrive; a list is a Kafka partition here."""

    def __init__(self, records: Sequence[Record], prev_next: int, polled_ms: int = 0) -> None:
        self.records: Records = records_of(records)
        self.prev_next, self.polled_ms, self.acked = prev_next, polled_ms, False

    def __len__(self) -> int:
        return len(self.records)

    @property
    def first_offset(self) -> int:
        return self.records[0].offset

    @property
    def next_offset(self) -> int:
        return self.records[-1].offset + 1

    def ack(self) -> None:
        self.acked = True


@dataclass
class Known:
    """Where a log ended at the last poll."""

    position: int
    stable: int
    polled_ms: int
    taken: int


class Logs:
    """Two logs delivered piece by piece to two lanes; an end is known as Kafka's client would know it."""

    def __init__(self, *logs: list[Record], now: Now = LATER) -> None:
        self.logs = logs
        self.lanes = [Lane(number, 0, now) for number in (TRANSACTIONS, TOUCHES)]
        self.at = [0, 0]
        self.polled_ms = POLLED_MS
        self.merge = Merge(self.lanes[TRANSACTIONS], self.lanes[TOUCHES], self.end_of)

    def end_of(self, lane: int) -> Known:
        end = self.logs[lane][-1].offset + 1 if self.logs[lane] else 0
        return Known(self.lanes[lane].received, end, self.polled_ms, self.lanes[lane].received)

    def deliver(self, lane: int, count: int) -> None:
        records = self.logs[lane][self.at[lane] : self.at[lane] + count]
        if records:
            self.at[lane] += count
            self.lanes[lane].put(Arrival(records, self.lanes[lane].received, self.polled_ms))


def log(timestamps: list[int], name: str) -> list[Record]:
    return [Record(offset, at, name.encode(), b"%d" % offset) for offset, at in enumerate(timestamps)]


def in_order(transactions: list[Record], touches: list[Record]) -> list[Record]:
    """What the merge has to give: by the largest timestamp so far in the lane, touches first, offsets as they are."""
    keyed = []
    for first, records in ((0, touches), (1, transactions)):
        for number, (latest, record) in enumerate(
            zip(accumulate((r.timestamp for r in records), max), records, strict=True)
        ):
            keyed.append(((latest, first, number), record))
    return [record for _, record in sorted(keyed, key=lambda pair: pair[0])]


timestamps = st.lists(st.integers(-1, 12), max_size=12)  # -1: without one
arrivals = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 5), st.integers(1, 4)), max_size=40)


@given(timestamps, timestamps, arrivals)
def test_any_arrival_gives_the_same_order(a: list[int], b: list[int], steps: list[tuple[int, int, int]]) -> None:
    logs = Logs(log(a, "x"), log(b, "t"))
    out: list[Record] = []
    lanes = b""
    for lane, count, limit in steps:
        logs.deliver(lane, count)
        taken = logs.merge.take(limit, LATER)
        assert len(taken.records) <= limit
        out += taken.records
        lanes += taken.lanes
    logs.deliver(TRANSACTIONS, 99)
    logs.deliver(TOUCHES, 99)
    taken = logs.merge.take(0, LATER)
    for passed_s in (1, 2):  # once for what is at hand, once more after the patience for the lane that ran empty first
        taken = logs.merge.take(999, Now(LATER.monotonic_s + passed_s, LATER.wall_ms))
        out += taken.records
        lanes += taken.lanes
    assert taken.wait_s == NOTHING_HERE_S
    assert out == in_order(*logs.logs)
    assert lanes == bytes(TOUCHES if record.key == b"t" else TRANSACTIONS for record in out)


@given(st.lists(st.integers(0, 12), max_size=12).map(sorted), st.lists(st.integers(0, 12), max_size=12).map(sorted))
def test_logs_in_order_are_merged_by_time_with_touches_first(a: list[int], b: list[int]) -> None:
    logs = Logs(log(a, "x"), log(b, "t"))
    logs.deliver(TRANSACTIONS, 99)
    logs.deliver(TOUCHES, 99)
    taken = [logs.merge.take(99, Now(LATER.monotonic_s + passed_s, LATER.wall_ms)) for passed_s in (1, 2)]
    found = [(r.timestamp, r.key) for each in taken for r in each.records]
    assert found == sorted(found, key=lambda pair: (pair[0], pair[1] != b"t"))


@given(timestamps, timestamps, st.integers(1, 5))
def test_history_is_taken_in_short_spans_and_in_the_same_order(a: list[int], b: list[int], span_ms: int) -> None:
    logs = Logs(log(a, "x"), log(b, "t"))
    logs.deliver(TRANSACTIONS, 99)
    logs.deliver(TOUCHES, 99)
    out: list[Record] = []
    for passed_s in range(1, 40):
        taken = logs.merge.take(99, Now(LATER.monotonic_s + passed_s, LATER.wall_ms), span_ms)
        assert all(record.timestamp < taken.records[0].timestamp + span_ms for record in taken.records)
        out += taken.records
    assert out == in_order(*logs.logs)


def test_live_traffic_is_not_cut_into_spans() -> None:
    logs = Logs(log([5, 6, 9], "x"), log([7, 20], "t"))
    logs.deliver(TRANSACTIONS, 99)
    logs.deliver(TOUCHES, 99)
    live = Now(LATER.monotonic_s, 5 + CATCHING_UP_MS)
    assert [record.timestamp for record in logs.merge.take(99, live, span_ms=1).records] == [5, 6, 7, 9, 20]


def only_transactions(**known: int) -> tuple[Merge, Lane, Lane, Known]:
    """Transactions at hand, no touches; what is known of the end of the touches is given."""
    end = Known(**{"position": 7, "stable": 7, "polled_ms": POLLED_MS, "taken": 7} | known)
    transactions, touches = Lane(TRANSACTIONS, 0, LATER), Lane(TOUCHES, 7, LATER)
    transactions.put(Arrival(log([5], "x"), 0, polled_ms=POLLED_MS))
    return Merge(transactions, touches, lambda _: end), transactions, touches, end


@pytest.mark.parametrize(
    "known",
    [{"stable": 8}, {"taken": 8}, {"polled_ms": POLLED_MS - 1}],
    ids=["more is in the log", "more has left the fetcher", "the end is older news than the head"],
)
def test_an_empty_lane_that_may_bring_something_is_waited_for(known: dict[str, int]) -> None:
    merge, *_ = only_transactions(**known)
    much_later = Now(LATER.monotonic_s + 3600, LATER.wall_ms)
    taken = merge.take(10, much_later)
    assert not taken.records
    assert 0 < taken.wait_s <= 0.02


def test_a_lane_whose_end_is_unknown_is_waited_for() -> None:
    transactions, touches = Lane(TRANSACTIONS, 0, LATER), Lane(TOUCHES, 0, LATER)
    transactions.put(Arrival(log([5], "x"), 0))
    assert not Merge(transactions, touches, lambda _: None).take(10, LATER).records


def test_history_gives_the_empty_lane_half_a_second_and_live_traffic_waits_for_nobody() -> None:
    merge, *_ = only_transactions()
    taken = merge.take(10, LATER)
    assert not taken.records
    assert taken.wait_s == pytest.approx(PATIENCE_HISTORY_S)
    assert len(merge.take(10, Now(LATER.monotonic_s, 5 + CATCHING_UP_MS)).records) == 1


def test_patience_is_spent_once_while_the_lane_stays_empty() -> None:
    merge, transactions, _, _ = only_transactions()
    later = Now(LATER.monotonic_s + PATIENCE_HISTORY_S, LATER.wall_ms)
    assert len(merge.take(10, later).records) == 1
    transactions.put(Arrival([Record(1, 6, b"x", b"")], 1, polled_ms=POLLED_MS))
    assert len(merge.take(10, later).records) == 1


def test_a_worker_that_stood_still_hears_first_what_came_meanwhile() -> None:
    merge, transactions, touches, end = only_transactions()
    assert not merge.take(10, LATER).records
    thawed = Now(LATER.monotonic_s + 9, LATER.wall_ms + 9000)  # SIGSTOP, SIGCONT: its patience is over by its own clock
    taken = merge.take(10, thawed)
    assert (list(taken.records), 0 < taken.wait_s <= 0.02) == ([], True)
    end.polled_ms = thawed.wall_ms + 50  # the first poll since
    touches.put(Arrival([Record(7, 3, b"t", b"")], 7, polled_ms=end.polled_ms))
    end.position = end.stable = end.taken = 8
    assert [record.key for record in merge.take(10, thawed).records] == [b"t"]
    much_later = Now(thawed.monotonic_s + 1, thawed.wall_ms + 100)
    assert [record.key for record in merge.take(10, much_later).records] == [b"x"]
    assert not transactions.batches


def test_a_batch_holds_four_mebibytes_and_at_most_one_record_more() -> None:
    logs = Logs([Record(offset, 0, b"x", bytes(1 << 20)) for offset in range(9)], [])
    logs.deliver(TRANSACTIONS, 9)
    patient = Now(LATER.monotonic_s + 1, LATER.wall_ms)
    sizes = [sum(len(r.value or b"") for r in logs.merge.take(1000, patient).records) for _ in range(3)]
    assert sizes == [BATCH_BYTES, BATCH_BYTES, 1 << 20]


def test_keys_and_headers_count_as_much_as_values_do() -> None:
    half = bytes(BATCH_BYTES // 2)
    for parts in (half, None, ()), (None, half, ()), (b"w", b"", (("h", half),)):
        lane = Lane(TRANSACTIONS, 0, LATER)
        lane.put(Arrival([Record(offset, 0, *parts) for offset in range(5)], 0))
        assert [len(Alone(lane).take(100, LATER).records) for _ in range(3)] == [2, 2, 1]


def test_a_missing_arrival_is_refused() -> None:
    lane = Lane(TRANSACTIONS, 10, LATER)
    with pytest.raises(Refused, match="offset 10 was expected"):
        lane.put(Arrival([Record(12, 0, None, b"")], 11))


def test_offsets_that_go_back_are_refused() -> None:
    lane = Lane(TRANSACTIONS, 10, LATER)
    with pytest.raises(Refused, match="recreated"):
        lane.put(Arrival([Record(0, 0, None, b"")], 10))


def test_what_comes_again_after_the_client_was_sent_back_is_taken_once() -> None:
    lane = Lane(TRANSACTIONS, 10, LATER)
    log = [Record(offset, 0, None, b"") for offset in range(10, 20)]
    for begin, end in ((0, 3), (1, 3), (1, 6), (0, 6), (6, 10)):
        lane.put(Arrival(log[begin:end], 10 + begin))
    assert (lane.received, lane.size) == (20, 10)
    assert list(Alone(lane).take(100, LATER).records) == log


def test_holes_in_a_log_are_no_loss() -> None:
    lane = Lane(TRANSACTIONS, 10, LATER)
    lane.put(Arrival([Record(12, 0, None, b""), Record(15, 0, None, b"")], 10))
    assert lane.received == 16


class Gates:
    """Which lanes are held back."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def hold(self, lane: int) -> None:
        self.held.add(lane)

    def release(self, lane: int) -> None:
        self.held.discard(lane)


def inbox(buffer_records: int = 1000) -> tuple[Inbox, Gates]:
    gates = Gates()
    return Inbox(Alone(Lane(0, 0, LATER)), gates, buffer_records), gates


def test_a_lane_that_runs_ahead_is_held_back_until_half_of_it_is_taken() -> None:
    async def scenario() -> None:
        box, gates = inbox(buffer_records=10)
        box.put(0, Arrival(log([0] * 12, "x"), 0))
        assert gates.held == {0}
        await box.gather(4)
        assert gates.held == {0}
        await box.gather(4)
        assert not gates.held

    asyncio.run(scenario())


def test_gathering_waits_for_an_arrival_and_ends_when_the_inbox_closes() -> None:
    async def scenario() -> None:
        box, _ = inbox()
        gathering = asyncio.create_task(box.gather(10))
        await asyncio.sleep(0)
        box.put(0, Arrival(log([1, 2], "x"), 0))
        taken = await gathering
        assert taken is not None
        assert [record.timestamp for record in taken.records] == [1, 2]
        gathering = asyncio.create_task(box.gather(10))
        await asyncio.sleep(0)
        box.close()
        assert await gathering is None
        box.put(0, Arrival(log([1, 2, 3], "x")[2:], 2))
        assert await box.gather(10) is None  # what comes too late comes again, to the next owner

    asyncio.run(scenario())


def test_a_batch_is_filling_while_its_records_wait_for_the_other_topic() -> None:
    async def scenario() -> None:
        lanes = Lane(TRANSACTIONS, 0, LATER), Lane(TOUCHES, 0, LATER)
        box = Inbox(Merge(*lanes, lambda _: None), Gates(), 1000)  # where the logs end is unknown: no patience runs out
        found = [box.filling]
        gathering = asyncio.create_task(box.gather(10))
        await asyncio.sleep(0)
        found.append(box.filling)
        box.put(TRANSACTIONS, Arrival(log([5], "x"), 0))
        await asyncio.sleep(0)
        found.append(box.filling)
        box.put(TOUCHES, Arrival(log([6], "t"), 0))
        assert await gathering is not None
        found.append(box.filling)  # what is left is not asked for yet
        assert found == [False, False, True, False]

    asyncio.run(scenario())


def test_a_hand_over_ends_a_rest() -> None:
    async def scenario() -> None:
        box, _ = inbox()
        await box.rest(0.001)
        resting = asyncio.create_task(box.rest(600))
        await asyncio.sleep(0)
        box.close()
        async with asyncio.timeout(30):
            await resting

    asyncio.run(scenario())


def test_an_arrival_is_acknowledged_when_all_of_it_is_committed() -> None:
    async def scenario() -> None:
        box, _ = inbox()
        first, second = Arrival(log([0] * 3, "x"), 0), Arrival(log([0] * 5, "x")[3:], 3)
        box.put(0, first)
        box.put(0, second)
        seen = []
        for offset in (2, 4, 5):
            box.ack({0: offset})
            seen.append((first.acked, second.acked))
        assert seen == [(False, False), (True, False), (True, True)]

    asyncio.run(scenario())


def test_next_offsets_move_only_the_lanes_that_were_taken_from() -> None:
    logs = Logs(log([1, 2], "x"), log([], "t"))
    logs.deliver(TRANSACTIONS, 2)
    taken = logs.merge.take(10, Now(LATER.monotonic_s + 1, LATER.wall_ms))
    assert next_offsets((0, 44), taken) == (2, 44)
