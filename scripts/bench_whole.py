"""The whole job over a backlog: events per CPU-second of one worker, warm, under different loads."""

from __future__ import annotations

import json
import time
from typing import Any

from models.rules import Rules
from scripts.bench_known import bytes_per_wallet, crowd, settle, traffic
from scripts.bench_stage import Shares, Stage, await_applied, cpu_seconds, end, fill, resident_mb, say
from scripts.bench_traffic import Traffic
from tests.kafka.world import World

#: The measured part begins when this share of the records is applied: wallets are in the cache, batches are full.
WARM = 0.4


def over_backlog(stage: Stage, world: World, count: int, **settings: object) -> dict[str, Any]:
    """One worker, from nothing to the last of `count` records that wait for it."""
    began = time.monotonic()
    worker = stage.worker(world, **settings)
    await_applied(world, worker, int(WARM * count))
    announced = changes_so_far(world)
    warm, warm_cpu, warm_at = world.applied(), cpu_seconds(worker.pid), time.monotonic()
    others = Shares(broker=world.kafka.pid, redis=world.store.pid)
    others.restart(warm_at)
    await_applied(world, worker, count)
    cpu, ended = cpu_seconds(worker.pid), time.monotonic()
    announced = changes_so_far(world) - announced
    shares, resident = others.until(ended), resident_mb(worker.pid)
    totals, segments = world.ask("totals"), world.ask("segments")
    end(worker)
    return {
        "events_per_cpu_second": round((count - warm) / (cpu - warm_cpu)),
        "events_per_second": round((count - warm) / (ended - warm_at)),
        "events_per_cpu_second_with_start": round(count / cpu),
        "seconds": round(ended - began, 1),
        "rss_mb": round(resident),
        "cores": shares | {"worker": round((cpu - warm_cpu) / (ended - warm_at), 2)},
        "segment_changes": totals["segment_changes"],
        "changes_in_100_events": round(announced / (count - warm) * 100, 2),
        "catalogue_version": totals["catalogue_version"],
        "segments": len([row for row in segments if row["wallets"] and row["segment"] != "unassigned"]),
    }


def changes_so_far(world: World) -> int:
    """Changes of segment that are committed; read from Redis at once, no read-out takes CPU meanwhile."""
    with world.store.client() as client:
        stored = client.mget([f"{{{number}}}:totals" for number in range(world.partitions)])
    return sum(json.loads(totals)["segment_changes"] for totals in stored if totals)


def small_batches(stage: Stage, wallets: int, counts: dict[int, int]) -> dict[str, Any]:
    """Records of a batch at most -> the whole job with TIDEMARK_BATCH_RECORDS; `counts`: records for each."""
    out = {}
    for size, count in counts.items():
        say(f"batches of {size}: {count} records …")
        with stage.world() as world:
            world.run("topics", "create")
            fill(world, Traffic(wallets).records(count))
            out[str(size)] = over_backlog(stage, world, count, batch_records=size)["events_per_cpu_second"]
    return out


def hot_wallet(stage: Stage, wallets: int, count: int, share: float = 0.3) -> dict[str, Any]:
    """The whole job where one wallet makes `share` of the traffic."""
    say(f"one wallet with {share:.0%} of {count} records …")
    with stage.world() as world:
        world.run("topics", "create")
        fill(world, Traffic(wallets, hot=share).records(count))
        return over_backlog(stage, world, count)


def by_wallets(stage: Stage, sizes: list[int], count: int, cache: int = 100_000) -> dict[str, Any]:
    """Known wallets -> the whole job over their traffic, with room for `cache` of them in memory.

    All are in Redis before, with their segments, and the catalogue is pinned: so what differs is only how many there
    are. `bytes_per_wallet`: in Redis, before the run.
    """
    people, out = crowd(Rules()), {}
    for size in sizes:
        say(f"{size} known wallets: {count} records …")
        with stage.world() as world:
            world.run("topics", "create")
            file = settle(world, people, size)
            stored = bytes_per_wallet(world, size)
            fill(world, traffic(size).records(count))
            found = over_backlog(stage, world, count, catalogue=file, cache_wallets=cache)
            out[str(size)] = found | {"bytes_per_wallet": stored}
    return out
