"""A real Redis Cluster of three nodes: as exact as one server, while a node restarts and while a slot moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest

from streams.errors import Unavailable
from streams.ledger import NO_WORDS, Ledger, Mark, Writes
from streams.ledger_reader import LedgerReader
from streams.store import Address
from tests.commands import words
from tests.kafka.cluster import KafkaServer, RedisServer
from tests.kafka.exactness import Trial, judge_counters, run_trial
from tests.kafka.processes import wait_until
from tests.kafka.redis_cluster import ClusteredWorld, RedisCluster, command
from tests.kafka.test_refusals import refusal
from tests.kafka.test_repartition import add_partitions, count_all, count_some, produce, season
from tests.kafka.world import World
from tests.oracle import oracle


@pytest.fixture
def cluster(machine: None, tmp_path: Path) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path) as started:
        yield started.start()


@pytest.fixture
def clustered(kafka: KafkaServer, cluster: RedisCluster, tmp_path: Path) -> Iterator[ClusteredWorld]:
    world = ClusteredWorld(kafka, cluster, tmp_path)
    try:
        yield world
    finally:
        world.close()


def test_a_cluster_counts_exactly_while_a_node_restarts_and_a_slot_moves(clustered: ClusteredWorld) -> None:
    trial = Trial(events=9000, wallets=200, kills=0, rate=1500)

    over = Event()

    def gate(records: int) -> None:
        reached = f"{records} records committed"
        wait_until(lambda: clustered.applied() >= records or over.is_set(), reached, 120)

    def upset() -> None:
        cluster = clustered.cluster
        gate(2000)
        victim = cluster.node_of("{0}:mark")
        victim.kill()
        victim.start()
        gate(5000)
        source, target = cluster.begin_move("{1}:mark")
        cluster.move_keys("{1}:mark", source, target, pause_s=0.01)
        cluster.end_move("{1}:mark", source, target)

    with ThreadPoolExecutor(1) as pool:
        upsetting = pool.submit(upset)
        try:
            finding = run_trial(clustered, trial)
        finally:
            over.set()
        upsetting.result()
    assert finding.wrong == []
    wallets = clustered.lines("wallets")
    assert len({wallet["wallet_id"] for wallet in wallets}) == len(wallets) == clustered.ask("totals")["wallets"]
    assert clustered.ask("wallet", wallets[0]["wallet_id"])["wallet_id"] == wallets[0]["wallet_id"]
    said = refusal(clustered, "totals", redis_cluster="false")
    assert said == "tidemark: Redis is a cluster: set TIDEMARK_REDIS_CLUSTER=true"
    assert refusal(clustered, "work", redis_cluster="false") == said


def test_a_repartition_moves_wallets_from_node_to_node(clustered: ClusteredWorld) -> None:
    lines = season(4000, wallets=800)
    clustered.run("topics", "create")
    produce(clustered, lines[:3000])
    count_some(clustered, 1000)
    add_partitions(clustered, 8, 8)
    assert b"8 partitions" in clustered.run("repartition", seconds=300)
    clustered.partitions = 8
    produce(clustered, lines[3000:])
    count_all(clustered, len(lines))
    expected = oracle(lines, 8)
    assert [*judge_counters(clustered.ask("totals"), clustered.ask("roi"), expected)] == []
    assert len(clustered.lines("wallets")) == expected["totals"]["wallets"]


@pytest.mark.parametrize("gone", [b"w:1100", b"w:1499", b"j:1200", b"f:2", b"w:p"])
def test_a_commit_into_a_slot_that_moves_is_whole_or_not_at_all(cluster: RedisCluster, gone: bytes) -> None:
    wallets = [b"%d" % number for number in range(1500)]  # more than one MSET of the script takes
    names = [b"w:" + wallet for wallet in wallets] + [b"j:" + wallet for wallet in wallets]
    more = dict.fromkeys([b"f:1", b"f:2", b"w:p"], b"old")  # to be written in part
    marks = [Mark(number, (number, number), ("a", "b"), 4, f"{number:016x}") for number in range(3)]

    async def scenario() -> None:
        patient, impatient = (Ledger(Address(cluster.url, cluster=True), give_up_s=each) for each in (60, 0.5))
        held, _ = await patient.claim(0, marks[0])
        old, new = (
            Writes(
                dict.fromkeys(names[1500:], value) | (more if value == b"old" else {}),
                {b"roi": {b"f": value}},
                parts={} if value == b"old" else dict.fromkeys([b"f:1", b"f:2"], (3, b"+")),
                whole=words(*(word for name in names[:1500] for word in (b"{0}:" + name, value))),
                patches=NO_WORDS if value == b"old" else words(b"{0}:w:p", b"3", b"+"),
            )
            for value in (b"old", b"new")
        )
        await patient.commit(0, (held, marks[1]), b"", old)
        source, target = cluster.begin_move("{0}:mark")
        command(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", b"{0}:" + gone)
        with pytest.raises(Unavailable):
            await impatient.commit(0, (marks[1], marks[2]), b"", new)
        assert command(source, "MGET", *(b"{0}:" + name for name in names[:3])) == [b"old"] * 3
        waiting = asyncio.create_task(patient.commit(0, (marks[1], marks[2]), b"", new))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(cluster.end_move, "{0}:mark", source, target)
        await waiting
        assert await impatient.read_strings(0, *names) == [b"new"] * len(names)
        assert await impatient.read_strings(0, *more) == [b"old+"] * len(more)
        for ledger in (patient, impatient):
            await ledger.close()

    asyncio.run(scenario())
    with closing(LedgerReader(Address(cluster.url, cluster=True))) as reader:
        assert reader.snapshot(0).mark == marks[2]
        assert sum(1 for _ in reader.wallets()) == len(wallets) + 1


def test_who_follows_a_slot_to_its_new_node_brings_the_script_along(cluster: RedisCluster) -> None:
    marks = [Mark(number, (number, number), ("a", "b"), 4, f"{number:016x}") for number in range(3)]
    writes = Writes({b"totals": b"{}"})

    async def scenario() -> None:
        ledger = Ledger(Address(cluster.url, cluster=True), give_up_s=60)
        held, _ = await ledger.claim(2, marks[0])
        await ledger.commit(2, (held, marks[1]), b"", writes)
        source, target = cluster.begin_move("{2}:mark")
        cluster.move_keys("{2}:mark", source, target)  # the slot is not the target's yet: it answers only who asks
        await ledger.commit(2, (marks[1], marks[2]), b"", writes)
        with closing(LedgerReader(Address(cluster.url, cluster=True))) as reader:
            with pytest.raises(Unavailable, match="moves to another node: try again"):
                reader.snapshot(2)
            cluster.end_move("{2}:mark", source, target)
            assert reader.snapshot(2).mark == marks[2]
        await ledger.close()

    asyncio.run(scenario())


def test_one_server_taken_for_a_cluster_says_so(world: World, store: RedisServer) -> None:
    said = refusal(world, "totals", redis_cluster="true")
    assert said == "tidemark: Redis is no cluster: leave TIDEMARK_REDIS_CLUSTER away"
