"""Minutes of live traffic: neither the memory of a worker nor its latency may grow."""

from __future__ import annotations

import time
from typing import Any

from scripts.bench_latency import by_the_broker, changes, learned
from scripts.bench_stage import Live, Stage, await_applied, end, quantile, resident_mb, say
from tests.kafka.cluster import Worker
from tests.kafka.world import World

RATE = 3000
#: Fewer than come by in the first minutes, so that the cache is full when the measured part begins.
CACHE, NEWCOMERS = 10_000, 0.1
SAMPLE_S = 10.0
#: The first part fills the cache.
SETTLED = 0.3


def measure_soak(stage: Stage, minutes: float, wallets: int) -> dict[str, Any]:
    """RSS and p99 latency over time; their slopes per hour over the part after the first 30 %.

    A slope that is small against the value, and a last value near the first, are flat. `samples`: minute, RSS in MB.
    """
    seconds = minutes * 60
    with stage.world() as world:
        by_the_broker(world, f"{world.prefix}segment.changes")
        world.run("topics", "create")
        worker = learned(stage, world, wallets, cache_wallets=CACHE)
        before = world.applied()
        say(f"soak: {minutes:g} minutes at {RATE}/s …")
        with Live(world, RATE, seconds, wallets=wallets, newcomers=NEWCOMERS) as live:
            memory = watched(worker, live)
            account = live.account()
        await_applied(world, worker, before + account["sent"])
        delays = by_minute(world, account["began_ms"])
        end(worker)
    settled = [(minute, mb) for minute, mb in memory if minute >= SETTLED * minutes]
    return {
        "minutes": minutes,
        "records_per_second": account["records_per_second"],
        "rss_mb": {"first": settled[0][1], "last": settled[-1][1], "per_hour": round(slope(settled) * 60, 1)},
        "p99_ms": {
            "by_minute": [p99 for _, p99 in delays],
            "per_hour": round(slope([each for each in delays if each[0] >= SETTLED * minutes]) * 60, 1),
        },
    }


def watched(worker: Worker, live: Live) -> list[tuple[float, float]]:
    """Minute and RSS in MB, until the traffic ends."""
    began, out = time.monotonic(), []
    while live.alive:
        time.sleep(SAMPLE_S)
        out.append((round((time.monotonic() - began) / 60, 2), round(resident_mb(worker.pid), 1)))
    return out


def by_minute(world: World, began_ms: int) -> list[tuple[float, float]]:
    """Minute and p99 in milliseconds of the changes that were caused in it."""
    minutes: dict[int, list[float]] = {}
    for caused_ms, delay_ms in changes(world):
        if caused_ms >= began_ms:
            minutes.setdefault((caused_ms - began_ms) // 60_000, []).append(delay_ms)
    return [(minute, quantile(sorted(found), 0.99)) for minute, found in sorted(minutes.items())]


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line of least squares through the points; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    across = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / across if across else 0.0
