"""Partitions are added while workers run: all refuse, and after `tidemark repartition` everything is exact."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from kafka.admin import KafkaAdminClient

from models.hashing import murmur2
from streams.simulate import SimulationPlan, write
from tests.kafka.cluster import Worker
from tests.kafka.exactness import judge_changes, judge_counters, judge_rejected
from tests.kafka.faultless import announced
from tests.kafka.processes import REPOSITORY
from tests.kafka.test_refusals import EVENT, count_one_event, refusal
from tests.kafka.test_transactions import send, transactional
from tests.kafka.world import World
from tests.oracle import oracle


def add_partitions(world: World, transactions: int, touches: int) -> None:
    wanted = {world.transactions: transactions, world.touches: touches}
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.create_partitions({topic: number for topic, number in wanted.items() if number != world.partitions})


def last_line(worker: Worker) -> str:
    """The one line a worker ends with by itself."""
    assert worker.wait(120) == 1, worker.tail()
    lines = [line for line in worker.text.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, worker.tail()
    return lines[0]


@pytest.mark.parametrize("touches", [8, 4], ids=["both", "only one"])
def test_workers_refuse_topics_that_get_more_partitions_while_they_run(world: World, touches: int) -> None:
    count_one_event(world)
    workers = [world.worker(f"worker-{number}") for number in range(2)]
    for worker in workers:
        worker.await_words('"event": "ready"')
    add_partitions(world, 8, touches)
    for worker in workers:
        assert "tidemark repartition" in last_line(worker)
    assert "tidemark repartition" in refusal(world, "work")


# ------------------------------------------------------------------ the command


def season(events: int, wallets: int = 3000) -> list[str]:
    """Lines of many wallets, with late, repeated and bad ones."""
    start = datetime.now(UTC).date() - timedelta(days=31)
    out = io.StringIO()
    write(SimulationPlan(3, wallets, 30, start, late=0.02, duplicates=0.02, bad=0.02, events=events), out)
    return out.getvalue().splitlines(keepends=True)


def produce(world: World, lines: list[str]) -> None:
    world.run("produce", stdin="".join(lines).encode(), seconds=600)


def count_some(world: World, records: int) -> None:
    """One worker counts at least so many records, and stops."""
    worker = world.worker("first", batch_records=50)
    world.await_applied(records)
    worker.terminate()
    assert worker.wait() == 0


def count_all(world: World, records: int) -> None:
    workers = [world.worker(f"after-{number}") for number in range(2)]
    world.await_applied(records, seconds=600)
    world.await_no_lag()
    for worker in workers:
        worker.terminate()
    assert [worker.wait() for worker in workers] == [0, 0]


def killed_when(world: World, reached: Callable[[], bool]) -> bool:
    """Start the command and kill it as soon as something is reached; False if it ended before."""
    command = [sys.executable, "-m", "streams", "repartition"]
    with subprocess.Popen(command, cwd=REPOSITORY, env=world.environment(), stderr=subprocess.PIPE) as running:
        while running.poll() is None:
            if reached():
                running.kill()
                running.communicate()
                return True
            time.sleep(0.001)
        assert running.returncode == 0, running.communicate()[1].decode()
    return False


def wallets_in_new(world: World) -> int:
    with world.store.client() as client:
        return sum(1 for key in client.scan_iter(match="{*}:w:*", count=10_000) if int(key[1 : key.index(b"}")]) >= 4)


def test_everything_is_exact_after_a_repartition_that_is_killed_again_and_again(world: World) -> None:
    lines = season(9000)
    first, rest = lines[:5000], lines[5000:]
    world.run("topics", "create")
    produce(world, first)
    count_some(world, 1000)
    left = world.applied()
    add_partitions(world, 8, 8)
    produce(world, rest[:2000])  # by the new number, while nobody works
    assert "tidemark repartition" in refusal(world, "work")
    assert killed_when(world, lambda: world.applied() > left + 500)
    assert killed_when(world, lambda: wallets_in_new(world) > 0)
    assert "tidemark repartition" in refusal(world, "work")
    moved = wallets_in_new(world)
    killed_when(world, lambda: wallets_in_new(world) > moved + 300)
    done = world.run("repartition", seconds=300).decode()
    assert "8 partitions" in done
    assert b"nothing to do" in world.run("repartition")
    world.partitions = 8
    produce(world, rest[2000:])
    count_all(world, len(lines))
    expected, totals = oracle(lines, 8), world.ask("totals")
    assert [*judge_counters(totals, world.ask("roi"), expected), *judge_rejected(world, expected)] == []
    assert [*judge_changes(announced(world), totals["segment_changes"])] == []
    # What the old number had left in its logs is newer than what the new partitions begin with, and makes it not late.
    assert totals["late"] == 0
    assert len(world.lines("wallets")) == expected["totals"]["wallets"]  # each is in one place


def test_it_refuses_while_a_worker_is_in_the_group_and_where_it_cannot_be_exact(world: World) -> None:
    assert "tidemark topics create" in refusal(world, "repartition")
    world.run("topics", "create")
    assert "nothing has been counted" in refusal(world, "repartition")
    world.run("produce", stdin=EVENT)
    worker = world.worker("worker")
    world.await_applied(1)
    assert b"nothing to do" in world.run("repartition")
    add_partitions(world, 8, 8)
    assert "1 workers are in the group" in refusal(world, "repartition")
    assert worker.wait(120) == 1
    add_partitions(world, 9, 9)
    assert "add partitions up to 12" in refusal(world, "repartition")
    add_partitions(world, 12, world.partitions)
    assert "both need the same number" in refusal(world, "repartition")
    assert "PARTITIONER is off" in refusal(world, "repartition", partitioner="off")


def test_what_a_producer_sends_by_the_old_number_afterwards_is_rejected_and_counted_nowhere_else(world: World) -> None:
    from kafka import KafkaProducer

    count_one_event(world)
    add_partitions(world, 8, 8)
    world.run("repartition")
    world.partitions = 8
    old, new = int(murmur2([b"w1"])[0]) % 4, int(murmur2([b"w1"])[0]) % 8
    assert old != new
    assert b"1 of 1 newest records are where murmur2 puts them among fewer partitions" in world.run("topics", "check")
    with closing(KafkaProducer(bootstrap_servers=world.bootstrap)) as producer:
        for partition, name in ((old, b"e2"), (new, b"e3")):
            value = EVENT.split(b'"value":', 1)[1].rstrip()[:-1].replace(b'"e1"', b'"%b"' % name)
            producer.send(world.transactions, value, key=b"w1", partition=partition).get(30)
    checked = world.command("topics", "check")
    assert checked.returncode == 1
    assert b"1 of 3 newest records are not where murmur2 puts them" in checked.stdout
    count_all(world, 3)
    totals = world.ask("totals")
    assert (totals["wallets"], totals["transactions"], totals["rejected"]) == (1, 2, {"wrong_partition": 1})


def test_it_counts_what_a_transaction_commits_and_not_what_it_aborts(world: World) -> None:
    world.run("topics", "create")
    with transactional(world) as producer:
        send(world, producer, range(20), commit=True)
        count_some(world, 1)
        send(world, producer, range(20, 40), commit=False)
        send(world, producer, range(40, 60), commit=True)
        send(world, producer, range(60, 80), commit=False)
        add_partitions(world, 8, 8)
        world.run("repartition")
    world.partitions = 8
    count_all(world, 80)
    totals = world.ask("totals")
    assert (totals["transactions"], totals["touches"], totals["rejected"]) == (40, 40, {})
