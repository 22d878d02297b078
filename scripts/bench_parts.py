"""The parts of a benchmark: what each measures, and under which names its figures are found."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kafka.admin import KafkaAdminClient

from models.rules import Rules
from scripts.bench_latency import measure_latency
from scripts.bench_peers import PEERS, PYTHON_PEERS, jvm_peers, python_peers
from scripts.bench_ready import measure_ready
from scripts.bench_season import season
from scripts.bench_soak import measure_soak
from scripts.bench_stage import PARTITIONS, Stage, fill, say
from scripts.bench_traffic import TOUCHES, TRANSACTIONS, Sent, Traffic
from scripts.bench_whole import by_wallets, hot_wallet, over_backlog, small_batches
from scripts.bench_workers import by_workers, coming_and_going
from scripts.phases import phases
from tests.kafka.world import World

#: In the one object of `--json`, whatever was measured; null where it was not.
KEYS = (
    "events_per_cpu_second",
    "events_per_second",
    "python_peers",
    "times_best_python_peer",
    "jvm_peers",
    "latency_ms",
    "ready_seconds",
    "cost_ratio_1e6_to_1e4",
    "rss_mb",
    "phases_us",
)
#: A peer reads its first records cold and stops after so many; the slow ones would take minutes for more.
PEER_RECORDS, JVM_RECORDS = 100_000, 1_000_000
PHASE_RECORDS = 100_000
Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked for."""

    stage: Stage
    given: argparse.Namespace

    @property
    def quick(self) -> bool:
        return bool(self.given.quick)

    @property
    def count(self) -> int:
        return int(min(self.given.events, 400_000) if self.quick else self.given.events)

    @property
    def wallets(self) -> int:
        return int(self.given.wallets)

    def stream(self, count: int) -> list[Sent]:
        if self.given.stream == "season":
            return list(season(count, self.wallets))
        return list(Traffic(self.wallets).records(count))


# ------------------------------------------------------------------ the parts


def whole(run: Run) -> Found:
    """Events per CPU-second of one worker for the whole job over a backlog, warm; with the peers on the same topics."""
    say(f"{run.count} records of {run.wallets} wallets …")
    with run.stage.world() as world:
        world.transactions, world.touches = TRANSACTIONS, TOUCHES
        create_inputs(world)
        world.run("topics", "create")
        fill(world, run.stream(run.count))
        say("tidemark …")
        found = over_backlog(run.stage, world, run.count)
    names = wanted_peers(run)
    peers = python_peers(names, run.stage, PARTITIONS, min(run.count, PEER_RECORDS)) if names else None
    best = max((peers or {}).values(), default=None)
    times = round(found["events_per_cpu_second"] / best, 2) if best else None
    return found | {"python_peers": peers, "times_best_python_peer": times}


def jvm(run: Run) -> Found:
    """Kafka Streams and Flink on a million records, their second half."""
    topics = ("jvm.transactions", "jvm.touches", "jvm.changes")
    with run.stage.world() as world:
        world.transactions, world.touches = topics[:2]
        create_inputs(world, topics[2])
        fill(world, Traffic(run.wallets).records(JVM_RECORDS))
    return {"jvm_peers": jvm_peers(run.stage, topics, JVM_RECORDS)}


def latency(run: Run) -> Found:
    """From a record's timestamp to the broker's timestamp of the change it caused, at fixed rates."""
    rates, seconds = (run.given.rates[:1], 15.0) if run.quick else (run.given.rates, run.given.seconds)
    return {"latency_ms": measure_latency(run.stage, rates, seconds, run.wallets)}


def ready(run: Run) -> Found:
    """From a process's start to its first commit: cold, and with a million wallets known (`ready_seconds`)."""
    found = measure_ready(run.stage, run.given.known[-1])
    return {"ready_seconds": found["restart"]["first_commit"], "ready": found}


def wallets(run: Run) -> Found:
    """Cost per event, bytes in Redis and memory with 10^4, 10^5 and 10^6 wallets, room for 100,000 in the cache."""
    sizes = run.given.known
    found = by_wallets(run.stage, sizes, run.count)
    first, last = (found[str(size)] for size in (sizes[0], sizes[-1]))
    ratio = round(first["events_per_cpu_second"] / last["events_per_cpu_second"], 2)
    whole_span = (sizes[0], sizes[-1]) == (10**4, 10**6)
    return {"by_wallets": found, "rss_mb": last["rss_mb"], "cost_ratio_1e6_to_1e4": ratio if whole_span else None}


def batches(run: Run) -> Found:
    """Batches of 7, 33 and 1,000: the whole job, and the step alone in memory."""
    some = run.stream(PHASE_RECORDS)
    sizes = {7: run.count // 10, 33: run.count // 3, 1000: run.count}
    jobs = small_batches(run.stage, run.wallets, sizes)
    steps = {str(size): phases(some, Rules(), size) for size in sizes}
    return {
        "batches": {size: {"events_per_cpu_second": jobs[size], "phases_us": steps[size]} for size in jobs},
    }


def hot(run: Run) -> Found:
    """One wallet with 30 % of the records."""
    return {"hot_wallet": hot_wallet(run.stage, run.wallets, run.count)}


def step(run: Run) -> Found:
    """Microseconds of CPU per event and phase of the step, in memory, in batches of 1,000."""
    say("phases …")
    return {"phases_us": phases(run.stream(min(run.count, PHASE_RECORDS)), Rules())}


def soak(run: Run) -> Found:
    """Minutes of live traffic: memory and latency must stay flat."""
    return {"soak": measure_soak(run.stage, run.given.soak or 10.0, run.wallets)}


def workers(run: Run) -> Found:
    """Throughput and balance of several workers on 12 partitions."""
    return {"workers": by_workers(run.stage, run.given.workers or [1, 2, 4], run.count, run.wallets)}


def rebalance(run: Run) -> Found:
    """How long partitions stand still when workers come, go and are killed, and whether every total stays exact."""
    return {"rebalance": coming_and_going(run.stage, run.wallets)}


PARTS: Mapping[str, Callable[[Run], Found]] = {
    "whole": whole,
    "jvm": jvm,
    "phases": step,
    "latency": latency,
    "ready": ready,
    "wallets": wallets,
    "batches": batches,
    "hot": hot,
    "soak": soak,
    "workers": workers,
    "rebalance": rebalance,
}
QUICK = ("whole", "phases", "latency", "ready")
USUAL = ("whole", "phases", "latency", "ready", "wallets", "batches", "hot")


def create_inputs(world: World, *more: str) -> None:
    """The topics under the names the peers read, and those they write to."""
    wanted = {"num_partitions": PARTITIONS, "replication_factor": 1, "configs": {"retention.ms": "-1"}}
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        names = (world.transactions, world.touches, *(more or ("segment.changes",)))
        admin.create_topics(dict.fromkeys(names, wanted))


def wanted_peers(run: Run) -> tuple[str, ...]:
    """Which Python peers take part; says why when none does."""
    why = {
        "not asked for": run.given.no_peers,
        "../shared/peers is not here": not PEERS.is_dir(),
        "they read the peers' own stream only": run.given.stream == "season",
    }
    for reason, applies in why.items():
        if applies:
            say(f"no peers: {reason}")
            return ()
    return PYTHON_PEERS[:2] if run.quick else PYTHON_PEERS


def measured(run: Run) -> Found:
    """Everything the parts found, under the promised names at least."""
    result: Found = dict.fromkeys(KEYS)
    for part in run.given.parts:
        found = PARTS[part](run)
        say(f"{part}: {json.dumps(found)}")  # a later part may fail
        result |= {key: value for key, value in found.items() if value is not None}
    return result
