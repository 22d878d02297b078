"""Is it exact whatever breaks? One fault at a time on a real Kafka and Redis, judged by the oracle and a run without.

`scripts/chaos` runs all of them large and prints the table of docs/benchmarks.md, tests/kafka/test_chaos.py some small.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kafka import faults_broker, faults_input, faults_redis, faults_workers
from tests.kafka.cluster import KafkaServer, RedisServer
from tests.kafka.exactness import judge_changes, judge_counters, judge_rejected
from tests.kafka.explained import explain
from tests.kafka.faultless import Trace, differences, missing, repeats, run_faultless, trace
from tests.kafka.inputs import Inputs, make_inputs, produce
from tests.kafka.processes import REPOSITORY
from tests.kafka.proxy import Proxy
from tests.kafka.scene import PATIENCE_S, Fault, Outcome, Scene, Stream, deciding
from tests.kafka.world import World, records_read

FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (*faults_workers.FAULTS, *faults_input.FAULTS, *faults_redis.FAULTS, *faults_broker.FAULTS)
}


@dataclass(frozen=True, slots=True)
class Backlog:
    """Input topics that are full, and what a run without faults makes of them with these settings."""

    world: World
    faultless: Trace


@dataclass(slots=True)
class Chaos:
    """Inflicts faults on one broker; each run has names, workers and a Redis of its own.

    What only the input decides is kept for the next run with the same: events, their topics, what they come to without
    faults. `rate`: records a second of live streams.
    """

    kafka: KafkaServer
    folder: Path
    partitions: int = 12
    rate: int = 1000
    say: Callable[[str], None] = lambda _: None
    _inputs: dict[tuple[Any, ...], Inputs] = field(default_factory=dict)
    _backlogs: dict[tuple[Any, ...], Backlog] = field(default_factory=dict)
    _runs: int = 0

    def run(self, fault: Fault, *, seed: int, events: int) -> Outcome:
        """One run of one fault; what it was and what was wrong."""
        self._runs += 1
        began, folder = time.monotonic(), self._folder(f"{self._runs}-{fault.name}")
        inputs = self._inputs_of(fault.stream, seed, events)
        with ExitStack() as stack:
            backlog = self._backlog(fault, inputs, (fault.stream, seed, events)) if fault.is_comparable else None
            store = stack.enter_context(RedisServer(folder, fault.redis_options)).start()
            world = World(self.kafka, store, folder, self.partitions, backlog.world if backlog else None)
            world.seen = None if fault.is_comparable else folder / "seen.ndjson"
            stack.callback(self._close, world)
            if backlog and fault.own_topics:
                stack.callback(self._close, backlog.world)
            proxy = stack.enter_context(Proxy(store.port)).start() if fault.proxied else None
            scene = Scene(world, fault, inputs, seed, say=self.say, proxy=proxy)
            world.run("topics", "create")
            if not (backlog or fault.live):
                produce(world, inputs, fault.stream, seed=seed, stop=fault.first)
            recovery_s = self._play(scene)
            return judge(scene, backlog, recovery_s, seed=seed, seconds=time.monotonic() - began)

    def _play(self, scene: Scene) -> float:
        """The run itself, until everything is committed and every worker has left; seconds of recovery."""
        fault = scene.fault
        for _ in range(fault.workers):
            scene.add_worker()
        with self._live(scene) if fault.live else ExitStack():
            fault.inflict(scene)
            undone = time.monotonic()
            scene.await_moves(scene.standings())
            recovery_s = time.monotonic() - undone
        scene.await_progress(1.0)
        scene.world.await_no_lag()
        scene.finish()
        self.say(f"recovered in {recovery_s:.1f} s, everything committed, lag 0; comparing")
        return recovery_s

    @contextmanager
    def _live(self, scene: Scene) -> Iterator[None]:
        """From when all workers are ready, the events are produced at a rate, to the end."""
        for worker in scene.workers:
            scene.await_ready(worker)
        file = str(scene.inputs.file)
        command = [sys.executable, "-m", "streams", "produce", file, "--rate", str(self.rate)]
        environment = scene.world.environment()
        with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE) as producer:
            said: list[bytes] = []
            drain = threading.Thread(target=lambda: said.append(producer.communicate()[1]))
            drain.start()
            try:
                yield
                drain.join(PATIENCE_S)
            finally:
                producer.kill()
                drain.join()
        if producer.returncode != 0:
            raise RuntimeError(f"produce ended with {producer.returncode}: {said[0].decode()[-500:]}")

    def _inputs_of(self, stream: Stream, seed: int, events: int) -> Inputs:
        key = stream, seed, events
        if key not in self._inputs:
            folder = self._folder(f"events-{len(self._inputs) + 1}")
            self._inputs[key] = make_inputs(folder, stream, seed=seed, events=events, partitions=self.partitions)
            self.say(f"simulated {self._inputs[key].records} records; the oracle has counted")
        return self._inputs[key]

    def _backlog(self, fault: Fault, inputs: Inputs, key: tuple[Any, ...]) -> Backlog:
        """Full topics, shared unless the fault harms them. Settings that decide results are the same in all runs."""
        if key in self._backlogs and not fault.own_topics:
            return self._backlogs[key]
        folder = self._folder(f"backlog-{self._runs}")
        with RedisServer(folder).start() as store:
            world = World(self.kafka, store, folder, self.partitions)
            try:
                world.run("topics", "create")
                produce(world, inputs, fault.stream, seed=key[1])
                backlog = Backlog(world, run_faultless(world, inputs, deciding(inputs)))
            except BaseException:
                self._close(world)
                raise
        if not fault.own_topics:
            self._backlogs[key] = backlog
        self.say(f"produced, and counted once without faults: {len(backlog.faultless.announced)} changes")
        return backlog

    def close(self) -> None:
        """Delete the topics that were kept."""
        for backlog in self._backlogs.values():
            self._close(backlog.world)
        self._backlogs.clear()

    def _close(self, world: World) -> None:
        if not self.kafka.alive:  # a fault that failed half-way may leave it so
            self.kafka.start()
        world.close()

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder


# ------------------------------------------------------------------ the verdict


def judge(scene: Scene, backlog: Backlog | None, recovery_s: float, *, seed: int, seconds: float) -> Outcome:
    """Everything that can be wrong, in sentences and numbers."""
    world, fault, expected = scene.world, scene.fault, scene.inputs.expected
    left, totals = trace(world), world.ask("totals")
    wrong = [*scene.wrong, *judge_counters(totals, left.roi, expected), *judge_rejected(world, expected)]
    if wrong:
        ends = {number: standing.offsets for number, standing in scene.standings().items()}
        wrong += explain(world, ends, scene.lateness_ms)
    if totals["beyond_memory"]:
        wrong.append(f"the oracle cannot judge: beyond_memory is {totals['beyond_memory']}")
    if not fault.contradicts:
        wrong += judge_changes(left.announced, totals["segment_changes"])
    lost = max(0, scene.inputs.records - records_read(totals))
    if backlog:
        wrong += differences(left, backlog.faultless)
        lost += missing(left, backlog.faultless)
    again, conflicting = repeats(left.announced)
    return Outcome(
        name=fault.name,
        seed=seed,
        events=scene.inputs.records,
        wrong=wrong,
        lost=lost,
        announced_again=again,
        conflicting=conflicting,
        recovery_s=round(recovery_s, 1),
        restarts=scene.restarts,
        seconds=round(seconds, 1),
    )


# ------------------------------------------------------------------ the command


def main() -> None:
    """Inflict faults on a broker and workers of their own, and print what came of it as a Markdown table.

    Exit code 0 only if every run was exact.
    """
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=main.__doc__)
    parser.add_argument("--fault", action="append", choices=sorted(FAULTS), metavar="NAME", help="may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next ones count up")
    parser.add_argument("--runs", type=int, default=1, help="of each fault")
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--rate", type=int, default=1000, help="records a second of live streams")
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave events and logs of all processes there")
    parser.add_argument("--json", action="store_true", help="one object for each run")
    parser.add_argument("--list", action="store_true", help="say what the faults are, and end")
    given = parser.parse_args()
    if given.keep and given.keep.exists():
        parser.error(f"{given.keep} exists: name a folder that does not")
    if given.list:
        for fault in FAULTS.values():
            print(f"{fault.name}: {fault.what}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # whatever was started ends with us
    with _place(given.keep) as folder, KafkaServer(folder) as kafka:
        chaos = Chaos(kafka.start(), folder, given.partitions, given.rate, say=_report)
        outcomes = []
        for fault in [FAULTS[name] for name in given.fault or FAULTS]:
            for seed in range(given.seed, given.seed + given.runs):
                outcomes.append(_tried(chaos, fault, seed, given.events))
                if given.json:
                    print(json.dumps(described(outcomes[-1])), flush=True)
    if not given.json:
        print(*table(outcomes), sep="\n")
    sys.exit(not all(outcome.exact for outcome in outcomes))


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """One row of Markdown for each fault, its runs together; recovery is that of the slowest."""
    yield "| fault | runs | events | wrong counters | lost | announced twice with the same id | recovery, s |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    by_name: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_name[outcome.name].append(outcome)
    for name, runs in by_name.items():
        events, wrong, lost = sum(run.events for run in runs), sum(len(run.wrong) for run in runs), _sum(runs, "lost")
        again, slowest = _sum(runs, "announced_again"), max(run.recovery_s for run in runs)
        yield f"| {name} | {len(runs)} | {events:,} | {wrong} | {lost} | {again} | {slowest:.1f} |"


def _sum(runs: Sequence[Outcome], name: str) -> int:
    return sum(getattr(run, name) for run in runs)


def described(outcome: Outcome) -> dict[str, Any]:
    """A run as one JSON object."""
    return {
        "fault": outcome.name,
        "seed": outcome.seed,
        "events": outcome.events,
        "exact": outcome.exact,
        "wrong": len(outcome.wrong),
        "lost": outcome.lost,
        "announced_again": outcome.announced_again,
        "conflicting": outcome.conflicting,
        "recovery_seconds": outcome.recovery_s,
        "restarts": outcome.restarts,
        "seconds": outcome.seconds,
        "problems": list(outcome.wrong),
    }


def _tried(chaos: Chaos, fault: Fault, seed: int, events: int) -> Outcome:
    """A run; one that does not come to its end is wrong, and the next fault goes on."""
    _report(f"--- {fault.name}, seed {seed}")
    try:
        outcome = chaos.run(fault, seed=seed, events=events)
    except Exception as problem:  # noqa: BLE001 -- whatever kept it from its end is what is wrong with it
        outcome = Outcome(fault.name, seed, events, [f"it did not end: {problem}"], 0, 0, 0, 0.0, 0, 0.0)
    verdict = "EXACT" if outcome.exact else "WRONG"
    _report("\n  ".join([f"{verdict} {fault.name}, seed {seed}: {described(outcome)}", *outcome.wrong]))
    return outcome


def _report(text: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextmanager
def _place(keep: Path | None) -> Iterator[Path]:
    if keep:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="tidemark-chaos-") as name:
        yield Path(name)


if __name__ == "__main__":
    main()
