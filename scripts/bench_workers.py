"""Many workers: throughput and balance of 1, 2 and 4, and how long a partition stands still when they come and go."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from scripts.bench_latency import learned
from scripts.bench_ready import lines
from scripts.bench_stage import PATIENCE_S, Live, Stage, cpu_seconds, end, fill, quantile, say
from scripts.bench_traffic import Traffic
from tests.kafka.cluster import Worker
from tests.kafka.processes import wait_until
from tests.kafka.world import World

LOOK_S = 0.005
#: After every incident the traffic goes on for so long before the next one; a session may time out within it.
CALM_S = 6.0
RATE, SESSION_MS = 2000, 6000


# ------------------------------------------------------------------ throughput and balance


def by_workers(stage: Stage, counts: Sequence[int], records: int, wallets: int) -> dict[str, Any]:
    """Number of workers -> events per second and per CPU-second of all together, and what each of them did."""
    out = {}
    for many in counts:
        say(f"{many} workers: {records} records …")
        with stage.world() as world:
            world.run("topics", "create")
            fill(world, Traffic(wallets).records(records))
            out[str(many)] = together(stage, world, many, records)
    return out


def together(stage: Stage, world: World, many: int, records: int) -> dict[str, Any]:
    """So many workers started at once over a backlog; measured once all are ready and 40 % is applied."""
    workers = [stage.worker(world, f"worker-{number}") for number in range(many)]
    applied_or_ended(workers, lambda: world.applied() >= 0.4 * records)
    applied_or_ended(workers, lambda: all(partitions(worker) for worker in workers))
    began, before = time.monotonic(), world.applied()
    cpu = sum(cpu_seconds(worker.pid) for worker in workers)
    applied_or_ended(workers, lambda: world.applied() >= records)
    seconds = time.monotonic() - began
    cpu = sum(cpu_seconds(worker.pid) for worker in workers) - cpu
    owned = [len(partitions(worker)) for worker in workers]
    for worker in workers:
        end(worker)
    measured = records - before
    return {
        "events_per_second": round(measured / seconds),
        "events_per_cpu_second": round(measured / cpu),
        "cores": round(cpu / seconds, 2),
        "measured_records": measured,
        "partitions": owned,
        "records": [sum(line.get("records", 0) for line in told(worker, "worked")) for worker in workers],
    }


def applied_or_ended(workers: Sequence[Worker], true: Callable[[], bool]) -> None:
    """Wait until it is true; fail at once when a worker ends."""
    wait_until(lambda: true() or not all(worker.alive for worker in workers), "progress", PATIENCE_S)
    for worker in workers:
        if not worker.alive:
            raise RuntimeError(f"{worker.name} ended; its last words:\n{worker.tail()}")


def told(worker: Worker, event: str) -> list[dict[str, Any]]:
    """The lines of this kind in a worker's log."""
    return [line for line in map(json.loads, lines(worker)) if line.get("event") == event]


def partitions(worker: Worker) -> list[Any]:
    """The partitions of the inputs that a worker said it has, last."""
    said = told(worker, "ready")
    return [name for name in said[-1]["partitions"] if name != "overview"] if said else []


# ------------------------------------------------------------------ standstill


class Watch:
    """Looks every 5 ms at what each partition has committed, from the outside: the offsets of its mark in Redis."""

    def __init__(self, world: World) -> None:
        self._world, self._ended = world, threading.Event()
        self._moved: list[list[float]] = [[] for _ in range(world.partitions)]
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def standstill(self, from_s: float, until_s: float) -> dict[str, float]:
        """The longest time without a commit, for the partition that stood longest and for the one in the middle."""
        pauses = sorted(longest_pause(moved, from_s, until_s) for moved in self._moved)
        return {"longest": round(pauses[-1], 2), "median": round(quantile(pauses, 0.5), 2)}

    def _look(self) -> None:
        names = [f"{{{number}}}:mark" for number in range(self._world.partitions)]
        seen: list[Any] = [None] * len(names)
        with self._world.store.client() as client:
            while not self._ended.wait(LOOK_S):
                for number, mark in enumerate(client.mget(names)):
                    offsets = json.loads(mark)["offsets"] if mark else None
                    if offsets != seen[number]:
                        seen[number] = offsets
                        self._moved[number].append(time.monotonic())


def longest_pause(moved: Sequence[float], from_s: float, until_s: float) -> float:
    """The longest time between two movements that reaches into the span; standing still at its edges counts too."""
    first = [] if moved and moved[0] <= from_s else [from_s]
    last = [] if moved and moved[-1] >= until_s else [until_s]
    pauses = [(a, b) for a, b in pairwise([*first, *moved, *last]) if b > from_s and a < until_s]
    return max((b - a for a, b in pauses), default=0.0)


class Crew:
    """Workers that come and go while the traffic goes on; `incidents`: name -> standstill in seconds."""

    def __init__(self, stage: Stage, world: World, watch: Watch, first: Worker) -> None:
        self.stage, self.world, self.watch = stage, world, watch
        self.workers = [first]
        self.incidents: dict[str, dict[str, float]] = {}
        self._number = 0

    def join(self) -> None:
        self._number += 1
        self.workers.append(self.stage.worker(self.world, f"joined-{self._number}", session_timeout_ms=SESSION_MS))
        newest = self.workers[-1]
        wait_until(lambda: bool(partitions(newest)) or not newest.alive, "the new worker having partitions", 120)

    def leave(self) -> None:
        end(self.workers.pop(0))

    def killed(self) -> None:
        """The standstill of a killed worker's partitions lasts until the others have them."""
        self.workers.pop(0).kill()
        time.sleep(SESSION_MS / 1000 + 3)

    def replace_all(self) -> None:
        """A rolling restart: each in turn ends, and another comes before the next one ends."""
        for _ in list(self.workers):
            self.leave()
            self.join()

    def suffer(self, name: str, incident: Callable[[], None]) -> None:
        """What an incident does to the partitions, until the traffic has gone on calmly for a while."""
        say(f"{name} …")
        began = time.monotonic()
        incident()
        time.sleep(CALM_S)
        self.incidents[name] = self.watch.standstill(began, time.monotonic())


def coming_and_going(stage: Stage, wallets: int) -> dict[str, Any]:
    """Standstill in seconds for each incident under live traffic, and whether every total was exact in the end."""
    with stage.world() as world:
        world.run("topics", "create")
        first = learned(stage, world, wallets, session_timeout_ms=SESSION_MS)
        before = world.ask("totals")
        watch = Watch(world)
        with Live(world, RATE, wallets=wallets) as live:
            crew = Crew(stage, world, watch, first)
            time.sleep(CALM_S)
            crew.suffer("calm", lambda: None)
            crew.suffer("join 1 -> 2", crew.join)
            crew.suffer("join 2 -> 3", crew.join)
            crew.suffer("leave 3 -> 2", crew.leave)
            crew.suffer("join again", crew.join)
            crew.suffer("rolling restart", crew.replace_all)
            crew.suffer("kill -9", crew.killed)
            live.terminate()
            account = live.account()
        applied_or_ended(crew.workers, lambda: world.applied() >= sum(counted(before)) + account["sent"])
        watch.close()
        wrong = differences(world, before, account)
        for worker in crew.workers:
            end(worker)
    return {
        "session_timeout_s": SESSION_MS / 1000,
        "records_per_second": account["records_per_second"],
        "standstill_s": crew.incidents,
        "wrong_totals": wrong,
    }


def counted(totals: dict[str, Any]) -> tuple[int, int]:
    """Transactions and touches."""
    return totals["transactions"], totals["touches"]


def differences(world: World, before: dict[str, Any], account: dict[str, Any]) -> dict[str, int]:
    """What was counted beyond what was sent, by name; empty when everything is exact."""
    after = world.ask("totals")
    sent = {name: account[name] for name in ("transactions", "touches", "revenue_micros", "cost_micros")}
    sent |= {"duplicates": 0}
    wrong = {name: after[name] - before[name] - many for name, many in sent.items()}
    return {name: difference for name, difference in wrong.items() if difference}
