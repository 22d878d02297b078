"""How long from a record's timestamp to that of the `segment.changes` record that it caused, at fixed rates."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

from kafka.admin import KafkaAdminClient

from scripts.bench_stage import Live, Shares, Stage, await_applied, end, fill, say, spread
from scripts.bench_traffic import Traffic
from tests.kafka.cluster import Worker
from tests.kafka.processes import wait_until
from tests.kafka.reading import read_topic
from tests.kafka.world import World

#: Two days that end now, so that a catalogue has been learned when the live traffic begins. After three an hour with
#: a hundred times the usual wallets would be a flash crash, in which nobody changes.
HISTORY, HISTORY_MS = 60_000, 2 * 86_400_000
#: Newcomers are given their first segment with their fifth transaction, a second apart; then there is a steady flow.
#: And a broker that was started a minute ago is still being compiled, in bursts of half a core: one that runs for days
#: has that behind it.
WARM_S = 60.0
#: A busy sender waits so long for records to send together, as Kafka's own does since 4.0; a calm one, as that of
#: kafka-python does, sends at once what it has.
BUSY, LINGER_MS = 5_000, 5.0


def measure_latency(stage: Stage, rates: list[int], seconds: float, wallets: int) -> dict[str, Any]:
    """Rate -> p50, p99, max in milliseconds, and what the run was like; one worker, default settings, 12 partitions.

    One record in twenty comes from wallets never seen before: each is announced with its fifth transaction, so at
    least 1 % of the records cause a change, and it is always known which one did.
    """
    with stage.world() as world:
        by_the_broker(world, f"{world.prefix}segment.changes")
        world.run("topics", "create")
        worker = learned(stage, world, wallets)
        out = {str(rate): at_rate(world, worker, rate, seconds, wallets) for rate in rates}
        end(worker)
    return out


def by_the_broker(world: World, topic: str) -> None:
    """A topic whose timestamps the broker sets: the moment from which a consumer can read the record."""
    wanted = {
        "num_partitions": world.partitions,
        "replication_factor": 1,
        "configs": {"message.timestamp.type": "LogAppendTime"},
    }
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.create_topics({topic: wanted})


def learned(stage: Stage, world: World, wallets: int, **settings: object) -> Worker:
    """A worker that has learned a catalogue from two days of history."""
    say(f"latency: {HISTORY} records of history …")
    start_ms = time.time_ns() // 1_000_000 - HISTORY_MS
    fill(world, Traffic(wallets, start_ms=start_ms, gap_ms=HISTORY_MS // HISTORY).records(HISTORY))
    worker = stage.worker(world, **settings)
    await_applied(world, worker, HISTORY)
    wait_until(lambda: len(world.ask("segments")) > 1, "a catalogue", 60)
    return worker


def at_rate(world: World, worker: Worker, rate: int, seconds: float, wallets: int) -> dict[str, Any]:
    """One rate: warm up, measure, wait until everything is applied, read what was announced."""
    say(f"latency at {rate}/s for {seconds:g} s …")
    before = world.applied()
    linger_ms = LINGER_MS if rate >= BUSY else 0.0
    with Live(world, rate, WARM_S + seconds, wallets=wallets, linger=linger_ms) as live:
        shares = Shares(worker=worker.pid, broker=world.kafka.pid, redis=world.store.pid, sender=live.pid)
        time.sleep(WARM_S)
        from_ms = time.time() * 1000
        shares.restart(time.monotonic())
        time.sleep(seconds - 1)  # the sender began a little later than it was started
        cores = shares.until(time.monotonic())
        until_ms = time.time() * 1000
        account = live.account()
    await_applied(world, worker, before + account["sent"])
    found = latencies(world, from_ms, until_ms)
    return spread(found) | {
        "changes": len(found),
        "records_per_second": account["records_per_second"],
        "sender_behind_ms": account["behind_ms"],
        "cores": cores,
    }


def latencies(world: World, from_ms: float, until_ms: float) -> list[int]:
    """Milliseconds of every change whose cause was sent in this span of time."""
    return [delay_ms for caused_ms, delay_ms in changes(world) if from_ms <= caused_ms <= until_ms]


def changes(world: World) -> Iterator[tuple[int, int]]:
    """When each change was caused (epoch milliseconds), and how many milliseconds later it was there."""
    for record in read_topic(world.bootstrap, f"{world.prefix}segment.changes"):
        caused_ms = round(datetime.fromisoformat(json.loads(record.value)["decided_at"]).timestamp() * 1000)
        yield caused_ms, record.timestamp - caused_ms
