"""The benchmark's own parts: what it sends, how it reckons, what it promises to print. Nothing is measured here."""

from __future__ import annotations

import itertools
import json
import runpy
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from models import step as wallet_side
from models.rules import Rules
from scripts.bench_known import crowd
from scripts.bench_packing import EVENTS_OF_A_NEWCOMER, Batches, Body, Source
from scripts.bench_parts import KEYS, Run, measured
from scripts.bench_season import season
from scripts.bench_sender import Account, Pace, bodies, now_ms, send
from scripts.bench_soak import slope
from scripts.bench_stage import quantile
from scripts.bench_traffic import TRANSACTIONS, Traffic
from scripts.bench_wire import failures
from scripts.bench_workers import longest_pause
from scripts.benchmark import flat, parse
from scripts.phases import PHASES, Stopwatch, phases, taken_apart
from tests.live import Live, expected, who
from tests.oracle import murmur2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.bench_stage import Stage
    from streams.produce import Clock

NOWHERE = cast("Stage", None)  # for parts that need no servers
RUN, NOW_MS = 1_775_000_000_123, 1_775_000_000_000


# ------------------------------------------------------------------ the command line


def test_a_part_that_does_not_exist_is_refused_with_the_names_of_those_that_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--only", "phases,speed"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "'speed'" in said
    assert "latency" in said


def test_what_takes_long_runs_only_when_asked_for() -> None:
    assert not {"soak", "workers", "rebalance", "jvm"} & set(parse([]).parts)
    assert set(parse(["--soak", "1", "--workers", "1,2", "--jvm"]).parts) >= {"soak", "workers", "rebalance", "jvm"}


def test_settings_of_the_workers_are_named_with_or_without_their_prefix() -> None:
    given = parse(["--set", "fetch_min_bytes=65536", "--set", "TIDEMARK_CACHE_WALLETS=1000"])
    assert given.set == {"fetch_min_bytes": "65536", "cache_wallets": "1000"}


def test_the_object_has_every_promised_key_and_null_where_nothing_was_measured() -> None:
    result = measured(Run(NOWHERE, parse(["--only", "phases", "--events", "4000", "--wallets", "50"])))
    assert list(result) == list(KEYS)
    assert [name for name, value in result.items() if value is not None] == ["phases_us"]
    json.dumps(result)


def test_people_read_the_same_figures_with_dotted_names() -> None:
    assert flat({"a": 1, "b": {"c": {"d": 2}}, "e": [3]}) == [("a", 1), ("b.c.d", 2), ("e", [3])]


# ------------------------------------------------------------------ the phases


def test_the_step_has_every_function_the_phases_name() -> None:
    with taken_apart(Stopwatch()) as unknown:
        assert unknown == []


def test_a_step_that_was_taken_apart_is_whole_again() -> None:
    before = dict(vars(wallet_side))
    with taken_apart(Stopwatch()):
        assert vars(wallet_side)["read"] is not before["read"]
    assert dict(vars(wallet_side)) == before


def test_phases_add_up_to_their_sum() -> None:
    found = phases(list(Traffic(50).records(4000)), Rules(), 100)
    assert set(PHASES) < set(found)
    assert found.pop("sum") == pytest.approx(sum(found.values()), abs=0.1)


# ------------------------------------------------------------------ what is sent


def test_the_traffic_is_that_of_the_peers(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["produce_to.py", "nowhere", "2000", "300", "4", "tx", "touch", "out"])
    theirs = runpy.run_path(str(shared / "peers" / "produce_to.py"))["events"]()
    names = {"wallet.transactions": "tx", "campaign.touches": "touch"}
    for sent, (topic, key, event) in zip(Traffic(300).records(2000), theirs, strict=True):
        ours = json.loads(sent.value)
        assert (names[sent.topic], sent.key) == (topic, key.encode())
        assert {name: ours[name] for name in ours if name not in {"event_id", "occurred_at"}} == {
            name: event[name] for name in event if name not in {"event_id", "occurred_at"}
        }


def test_a_wallet_keeps_its_product_however_many_wallets_share_a_character() -> None:
    products: dict[bytes, set[str]] = {}
    for sent in Traffic(1000, characters=20).records(5000):
        if sent.topic == TRANSACTIONS:
            products.setdefault(sent.key, set()).add(json.loads(sent.value)["product"])
    assert {len(found) for found in products.values()} == {1}
    assert len({found.pop() for found in products.values()}) == 5


def test_a_hot_wallet_has_its_share() -> None:
    wallets = Counter(sent.key for sent in Traffic(1000, hot=0.3).records(5000))
    assert wallets[b"w0"] / 5000 == pytest.approx(0.3, abs=0.1)


def test_the_season_has_as_many_records_as_asked_for() -> None:
    assert len(list(season(500, 30))) == 500


class Log:
    """Keeps what it is given, and of each request: when its first record came, when it left, how many went in it.

    Batches are read as aiokafka reads them. `sent`: lane, key, value and time of each record, in the order they came.
    """

    def __init__(self, source: Source, clock: Clock = time, partitions: tuple[int, int] = (5, 3)) -> None:
        self.sent: list[Live] = []
        self.requests: list[tuple[float, float, int]] = []
        self._batches, self._partitions = Batches(source, partitions), partitions
        self._clock, self._first_s = clock, 0.0

    @property
    def waiting(self) -> int:
        return self._batches.waiting

    def take(self, many: int, at_ms: int) -> None:
        if not self.waiting:
            self._first_s = self._clock.monotonic()
        self._batches.take(many, at_ms)

    def ship(self) -> None:
        self.requests.append((self._first_s, self._clock.monotonic(), self.waiting))
        found = [record for lane in zip(itertools.count(), self._batches.packed()) for record in self._read(*lane)]
        self.sent += sorted(found, key=number_of)

    def settle(self) -> None:
        self.ship()

    def _read(self, lane: int, packed: tuple[int, memoryview]) -> Iterator[Live]:
        many, rest = packed
        for _ in range(many):
            partition, size = struct.unpack_from(">ii", rest)
            batches, rest = MemoryRecords(bytes(rest[8 : 8 + size])), rest[8 + size :]
            batch = batches.next_batch()
            assert batch.validate_crc()
            records = list(batch)
            assert [record.offset for record in records] == list(range(batch.next_offset))
            assert [record.headers for record in records] == [[]] * len(records)
            assert {murmur2(record.key) % self._partitions[lane] for record in records} == {partition}
            assert batch.max_timestamp == max(record.timestamp for record in records)
            assert not batches.has_next()
            yield from (Live(lane, record.key, record.value, record.timestamp) for record in records)
        assert not rest


def number_of(record: Live) -> int:
    return int(json.loads(record.value)["event_id"].rpartition("-")[2])


def drawn(source: Source, many: int) -> list[Live]:
    """The first records of a source, as they are sent."""
    log = Log(source)
    for done in range(0, many, 1000):
        log.take(min(1000, many - done), NOW_MS)
        log.ship()
    return log.sent


class Fitful:
    """The clock of a process that runs only at given moments: a sleep ends at the first that is late enough.

    Time stands still while it runs. On a real clock a test cannot tell a record that left too soon from one that was
    noted too late.
    """

    def __init__(self, moments: list[float]) -> None:
        self._moments, self._now_s = moments, moments[0]

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, seconds: float, /) -> None:
        self._now_s = next(at for at in self._moments if at >= self._now_s + seconds)


def test_live_records_say_when_they_were_sent_and_are_accounted_for() -> None:
    source = Source(bodies(100), 0.25, 2000, RUN)
    log, from_ms = Log(source), now_ms()
    account = send(log, source, Pace(20_000, 0.1))
    events = [json.loads(record.value) for record in log.sent]
    assert account.sent == len(log.sent) == 2000
    assert [event["occurred_at"] for event in events] == [record.at_ms for record in log.sent]
    assert from_ms <= min(record.at_ms for record in log.sent) <= max(record.at_ms for record in log.sent) <= now_ms()
    assert [event["wallet_id"].encode() for event in events] == [record.key for record in log.sent]
    assert [event["event_id"] for event in events] == [f"l{RUN}-{number}" for number in range(2000)]
    fees = sum(round(event.get("fee_usd", 0) * 1_000_000) for event in events)
    costs = sum(round(event.get("cost_usd", 0) * 1_000_000) for event in events)
    assert (account.revenue_micros, account.cost_micros) == (fees, costs)
    lanes = Counter(record.lane for record in log.sent)
    assert (account.transactions, account.touches) == (lanes[0], lanes[1])
    assert sum(many for _, _, many in log.requests) == 2000


made = st.builds(
    Body,
    lane=st.integers(0, 1),
    wallet=st.integers(0, 10**9),
    rest=st.integers(1, 300).map(lambda size: b'"a":"%b"}' % (b"x" * size)),
    micros=st.integers(0, 10**12),
)


@given(
    pool=st.lists(made, min_size=1, max_size=9).map(lambda pool: [Body(0, 7, b'"a":1}', 1), *pool]),
    newcomers=st.floats(0, 1),
    rate=st.floats(1, 1000),
    # more than 64 records of one partition, more than 64 ms apart and back: numbers of two bytes
    turns=st.lists(st.tuples(st.integers(0, 300), st.integers(NOW_MS, NOW_MS + 10_000)), max_size=6),
)
def test_what_is_packed_is_what_is_to_be_sent(
    pool: list[Body], newcomers: float, rate: float, turns: list[tuple[int, int]]
) -> None:
    source = Source(pool, newcomers, rate, RUN)
    log = Log(source, partitions=(2, 1))
    for number, turn in enumerate(turns):
        log.take(*turn)
        if number % 3 == 2:
            log.ship()
    log.settle()
    wanted = list(expected(pool, newcomers, rate, RUN, turns))
    assert log.sent == wanted
    bought = [body for _, body in itertools.islice(who(pool, newcomers, rate), len(wanted))]
    by_lane = [[body.micros for body in bought if body.lane == lane] for lane in (0, 1)]
    assert source.sums == [[len(micros) for micros in by_lane], [sum(micros) for micros in by_lane]]


@pytest.mark.parametrize(("many", "fits"), [(1000, True), (1100, False)])
def test_no_more_is_packed_than_kafka_takes_at_once(many: int, fits: bool) -> None:
    source = Source([Body(0, 1, b'"a":"%b"}' % (b"x" * 900), 0)], 0.0, 1, RUN)
    batches = Batches(source, (3, 3))
    batches.take(many, NOW_MS)
    if fits:
        assert [count for count, _ in batches.packed()] == [1, 0]
    else:
        with pytest.raises(SystemExit, match="more than 1048576 bytes"):
            batches.packed()


@pytest.mark.parametrize("linger_s", [0.0, 0.02])
@given(gaps_ms=st.lists(st.integers(2, 60)))  # longer than the pauses of a pace: it never sleeps through a moment
def test_records_leave_at_once_or_when_the_first_has_lingered(linger_s: float, gaps_ms: list[int]) -> None:
    moments = [ms / 1000 for ms in itertools.accumulate(gaps_ms + [2] * 200, initial=5000)]
    clock = Fitful(moments)
    source = Source([Body(0, 1, b'"fee_usd":1}', 1_000_000)], 0.0, 500, RUN)
    log = Log(source, clock)
    send(log, source, Pace(500, 0.3, linger_s, clock))
    ended_s = clock.monotonic()  # what has not lingered by then is settled
    assert sum(many for _, _, many in log.requests) == 150
    for first_s, left_s, _ in log.requests:
        assert left_s == min(ended_s, next(at for at in moments if at - first_s >= linger_s))


def test_every_newcomer_makes_enough_transactions_to_be_given_a_segment() -> None:
    found = [record for record in drawn(Source(bodies(100), 0.25, 100, RUN), 1200) if record.key.startswith(b"n")]
    assert len(found) == 300
    assert {record.lane for record in found} == {0}
    events = Counter(record.key for record in found)
    begun = {record.key for record in found[:25] + found[-25:]}  # there at the beginning, or at the end
    assert {many for key, many in events.items() if key not in begun} == {EVENTS_OF_A_NEWCOMER}


def test_one_newcomer_in_six_is_at_each_point_of_its_life() -> None:
    """All at the same would be announced within one second of six."""
    records = drawn(Source(bodies(100), 0.25, 240, RUN), 14_400)
    found = [record.key for record in records if record.key.startswith(b"n")]
    so_far: Counter[bytes] = Counter()
    fifths = []
    for number, key in enumerate(found):
        so_far[key] += 1
        if so_far[key] == 5:
            fifths.append(number // 60)
    by_second = Counter(fifths)
    assert {by_second[second] for second in range(10, 60)} == {10}


def test_an_answer_names_every_partition_that_took_nothing() -> None:
    def taken(partition: int, error: int) -> bytes:
        return struct.pack(">ihqq", partition, error, 7, -1)

    topics = [(b"tx", [taken(0, 0), taken(3, 10)]), (b"touch", [taken(1, 6)])]
    told = [struct.pack(">h", len(name)) + name + struct.pack(">i", len(of)) + b"".join(of) for name, of in topics]
    answer = struct.pack(">ii", 5, len(topics)) + b"".join(told) + struct.pack(">i", 0)
    assert failures(answer) == [("tx", 3, 10), ("touch", 1, 6)]


def test_the_pace_is_kept_and_ends_by_itself() -> None:
    source = Source([Body(0, 1, b'"fee_usd":1}', 1)], 0.0, 5000, RUN)
    pace, account, log, sent = Pace(5000, 0.1), Account(), Log(source), 0
    while many := pace.wait(sent, account, log):
        sent += many
    assert sent == 500


def test_bodies_are_the_traffic_without_who_and_when() -> None:
    assert set(json.loads(b"{" + bodies(10)[1].rest)) & {"event_id", "wallet_id", "occurred_at"} == set()


def test_known_wallets_have_segments_of_the_catalogue_that_goes_with_them() -> None:
    people = crowd(Rules(), characters=400, events=8000)
    assert len(people.stored) == 400
    placed = [segment for segment in people.segments if segment]
    assert len(placed) > 300
    assert set(placed) <= {segment.number for segment in people.catalogue.segments}
    assert any(journal for _, journal, _ in people.stored)


# ------------------------------------------------------------------ how it reckons


@given(st.lists(st.integers(), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed(values: list[int], share: float) -> None:
    ordered = sorted(values)
    found = quantile(ordered, share)
    needed = share * len(ordered)
    assert sum(value <= found for value in ordered) >= needed - 1e-9
    assert sum(value < found for value in ordered) < needed + 1e-9


@given(st.floats(-1000, 1000), st.floats(-1000, 1000), st.integers(2, 20))
def test_the_slope_of_points_on_a_line_is_that_of_the_line(rise: float, start: float, many: int) -> None:
    assert slope([(x, start + rise * x) for x in range(many)]) == pytest.approx(rise, abs=1e-6)


@pytest.mark.parametrize(
    ("moved", "pause"),
    [
        ([9.0, 10.5, 11.0, 13.0, 13.5, 20.0], 6.5),  # the one that ends after the span counts whole
        ([8.0, 14.0, 14.5, 16.0], 6.0),  # so does the one that began before
        ([9.9, 10.1], 4.9),  # still standing when the span ends
        ([], 5.0),  # never moved
        ([1.0, 2.0, 9.9, 10.1, 14.9, 15.1, 90.0], 4.8),  # what lies outside does not count
    ],
)
def test_a_standstill_is_the_longest_pause_that_reaches_into_the_span(moved: list[float], pause: float) -> None:
    assert longest_pause(moved, 10.0, 15.0) == pytest.approx(pause)
