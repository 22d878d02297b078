"""How long from a worker's start to its first commit, with nothing known and with many wallets known."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

from models.rules import Rules
from scripts.bench_known import crowd, settle, traffic
from scripts.bench_stage import Stage, await_applied, end, fill, say
from scripts.bench_traffic import Traffic
from tests.kafka.cluster import Worker
from tests.kafka.processes import wait_until
from tests.kafka.world import World

RECORDS = 12_000


def measure_ready(stage: Stage, wallets: int) -> dict[str, Any]:
    """Seconds from the process's start to the first commit, and to the line "ready" in its log.

    `cold`: an empty Redis and a short log. `restart`: after a clean end, with `wallets` wallets and more records.
    """
    say(f"ready: cold, and with {wallets} known wallets …")
    with stage.world() as world:
        world.run("topics", "create")
        fill(world, Traffic(10_000).records(RECORDS))
        worker, cold = started(stage, world)
        await_applied(world, worker, RECORDS)
        end(worker)
    return {"cold": cold, "restart": {"wallets": wallets, **restarted(stage, wallets)}}


def restarted(stage: Stage, wallets: int) -> dict[str, float]:
    """A worker that comes back to wallets it has worked on, in a Redis that holds `wallets`."""
    people = crowd(Rules())
    with stage.world() as world:
        world.run("topics", "create")
        file = settle(world, people, wallets)
        records = list(traffic(wallets).records(2 * RECORDS))
        fill(world, records[:RECORDS])
        worker, _ = started(stage, world, catalogue=file)
        await_applied(world, worker, RECORDS)
        end(worker)
        fill(world, records[RECORDS:])
        worker, again = started(stage, world, "again", catalogue=file)
        await_applied(world, worker, 2 * RECORDS)
        end(worker)
    return again


def started(stage: Stage, world: World, name: str = "worker", /, **settings: object) -> tuple[Worker, dict[str, float]]:
    """A worker, and the seconds it needed."""
    before = commits(world)
    began, began_s = time.time(), time.monotonic()
    worker = stage.worker(world, name, **settings)
    wait_until(lambda: commits(world) > before or not worker.alive, "the first commit", 120)
    first = time.monotonic() - began_s
    worker.await_words('"event": "ready"')
    said = next(line for line in map(json.loads, lines(worker)) if line["event"] == "ready")
    ready = datetime.fromisoformat(said["timestamp"]).timestamp() - began
    return worker, {"first_commit": round(first, 2), "ready_line": round(ready, 2)}


def lines(worker: Worker) -> list[str]:
    """The lines of its log."""
    return [line for line in worker.text.splitlines() if line.startswith("{")]


def commits(world: World) -> int:
    """Commits of all partitions so far."""
    with world.store.client() as client:
        marks = client.mget([f"{{{number}}}:mark" for number in range(world.partitions)])
    return sum(json.loads(mark)["number"] for mark in marks if mark)
