"""Is it exact? Simulated events through real workers that are killed, against an oracle that reads only the file.

`scripts/check-exact` runs this large, tests/kafka/test_exactness.py small.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from streams.simulate import SimulationPlan, write
from tests.kafka.cluster import KafkaServer, RedisServer, Worker
from tests.kafka.faultless import Announced, announced, repeats
from tests.kafka.processes import REPOSITORY
from tests.kafka.reading import read_topic
from tests.kafka.world import World
from tests.oracle import oracle

#: Totals that do not depend on how arrivals interleave.
CERTAIN = ("transactions", "touches", "duplicates", "rejected", "revenue_micros", "cost_micros", "wallets")


@dataclass(frozen=True, slots=True)
class Trial:
    """One run. `rate`: records a second of a live stream; None: everything is there before a worker starts.

    `visits`: instead of being killed, one worker stays while another comes and goes so often.
    """

    events: int
    seed: int = 7
    workers: int = 2
    kills: int = 3
    visits: int = 0
    rate: int | None = None
    wallets: int = 2000
    days: int = 30
    say: Callable[[str], None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came out. `wrong`: sentences, none when all is exact. `facts`: figures for people."""

    wrong: list[str]
    facts: dict[str, Any]


def run_trial(world: World, trial: Trial) -> Finding:
    """Simulate, produce, kill and restart workers on the way, stop them cleanly, and compare everything."""
    events = world.folder / "events.ndjson"
    plan = SimulationPlan(
        seed=trial.seed,
        wallets=trial.wallets,
        days=trial.days,
        start=datetime.now(UTC).date() - timedelta(days=trial.days + 1),
        late=0.01,
        duplicates=0.01,
        bad=0.01,
        events=trial.events,
    )
    with events.open("w", encoding="utf-8") as out:
        write(plan, out)
    expected = oracle(events.read_text(encoding="utf-8").splitlines(), world.partitions)
    trial.say("simulated; the oracle has counted")
    world.run("topics", "create")
    began = time.monotonic()
    if trial.rate is None:
        world.run("produce", str(events), seconds=600)
        trial.say("produced; workers start")
        workers = disturb(world, trial)
    else:
        workers = live(world, trial, events)
    world.await_applied(trial.events, seconds=600)
    world.await_no_lag()
    exits = stop(workers)
    seconds = time.monotonic() - began
    trial.say(f"lag 0 and stopped after {seconds:.0f} s; comparing")
    wrong = [f"exit codes {exits}"] if any(exits) else []
    told, totals = announced(world), world.ask("totals")
    wrong += judge_counters(totals, world.ask("roi"), expected)
    wrong += [*judge_changes(told, totals["segment_changes"]), *judge_rejected(world, expected)]
    facts = {"changes": len(told), "announced_again": repeats(told)[0]}
    return Finding(wrong, {"events": trial.events, "seconds": round(seconds, 1), **facts})


def live(world: World, trial: Trial, events: Path) -> list[Worker]:
    """The stream is produced at its rate while the workers live and die."""
    command = [sys.executable, "-m", "streams", "produce", str(events), "--rate", str(trial.rate)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=world.environment(), stderr=subprocess.PIPE) as producer:
        drain = threading.Thread(target=producer.communicate)
        drain.start()
        workers = disturb(world, trial)
        drain.join()
    assert producer.returncode == 0, f"produce: exit {producer.returncode}"
    return workers


def disturb(world: World, trial: Trial) -> list[Worker]:
    """Start the workers and make their life hard; those that live at the end."""
    return work_through_visits(world, trial) if trial.visits else work_through_kills(world, trial)


def work_through_visits(world: World, trial: Trial) -> list[Worker]:
    """One worker lives through it all while partitions leave it and come back: a stale cache would show."""
    resident = world.worker("resident")
    for visit in range(trial.visits):
        world.await_applied(int(trial.events * (visit + 0.2) / (trial.visits + 1)), seconds=600)
        visitor = world.worker(f"visitor-{visit}")
        visitor.await_words('"event": "ready"')
        world.await_applied(int(trial.events * (visit + 0.7) / (trial.visits + 1)), seconds=600)
        visitor.terminate()
        if visitor.wait() != 0:
            raise RuntimeError(f"{visitor.name} ended badly:\n{visitor.tail()}")
        trial.say(f"{visitor.name} came and went")
    return [resident]


def work_through_kills(world: World, trial: Trial) -> list[Worker]:
    """Workers that are killed (-9) and started again, gated on what has been committed, not on time."""
    chance = random.Random(trial.seed)
    workers = [world.worker(f"worker-{number}", session_timeout_ms=6000) for number in range(trial.workers)]
    for kill in range(trial.kills):
        gate = int(trial.events * (kill + 0.3 + 0.4 * chance.random()) / (trial.kills + 0.5))
        world.await_applied(gate, seconds=600)
        victim = chance.choice(workers)
        victim.kill()
        trial.say(f"killed {victim.name} at {world.applied()} records")
        victim.start()
    return workers


def stop(workers: list[Worker]) -> list[int]:
    """SIGTERM to all; their exit codes."""
    for worker in workers:
        worker.terminate()
    return [worker.wait() for worker in workers]


# ------------------------------------------------------------------ the judges


def judge_counters(totals: dict[str, Any], roi: list[dict[str, Any]], expected: dict[str, Any]) -> Iterator[str]:
    """Totals, and every ROI row summed over segments, against the oracle's integers."""
    for name in CERTAIN:
        if totals[name] != expected["totals"][name]:
            yield f"totals.{name} is {totals[name]}, the oracle has {expected['totals'][name]}"
    found, want = rows_of(roi), rows_of(expected["roi"])
    for key in sorted({*want, *found}, key=str):
        if found.get(key) != want.get(key):
            yield f"roi {key} is {found.get(key)}, the oracle has {want.get(key)}"


def rows_of(roi: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], list[int]]:
    """ROI rows summed over segments; none that is all zero."""
    sums: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in roi:
        numbers = sums[row["campaign_id"], row["channel"], row["rule"]]
        for place, name in enumerate(("revenue_micros", "cost_micros", "conversions_micros")):
            numbers[place] += row[name]
    return {key: numbers for key, numbers in sums.items() if any(numbers)}


def judge_changes(told: Announced, committed: int) -> Iterator[str]:
    """Per wallet 1, 2, 3 … without a gap, each from where the last one ended, repeats equal byte for byte."""
    by_wallet: dict[str, dict[int, Any]] = defaultdict(dict)
    for (wallet, sequence), contents in told.items():
        if len(contents) > 1:
            yield f"change {wallet}/{sequence} was announced with two contents"
        by_wallet[wallet][sequence] = json.loads(next(iter(contents))[0])
    for wallet, by_sequence in by_wallet.items():
        if sorted(by_sequence) != list(range(1, len(by_sequence) + 1)):
            yield f"changes of {wallet} have a gap: {sorted(by_sequence)}"
        last: dict[str, str] | None = None
        for sequence in sorted(by_sequence):
            change = by_sequence[sequence]
            if segment(change["from"]) != segment(last):  # the id: a catalogue may rename a segment
                yield f"change {wallet}/{sequence} is from {change['from']}, not from {last}"
            last = change["to"]
    if len(told) != committed:
        yield f"{len(told)} changes were announced, {committed} committed"


def segment(side: dict[str, str] | None) -> str | None:
    """The id of one side of a change."""
    return side["segment"] if side else None


def judge_rejected(world: World, expected: dict[str, Any]) -> Iterator[str]:
    """Every bad record byte for byte, key and headers too, once or more, and nothing else."""
    sent = {
        (topic, record.partition, record.offset): record
        for topic in (world.transactions, world.touches)
        for record in read_topic(world.bootstrap, topic)
    }
    found: dict[tuple[str, int, int], str] = {}
    for record in read_topic(world.bootstrap, f"{world.prefix}events.rejected"):
        ours = {name: value.decode() for name, value in record.headers if name.startswith("tidemark.rejected.")}
        place = tuple(ours[f"tidemark.rejected.{part}"] for part in ("topic", "partition", "offset"))
        source = sent[place[0], int(place[1]), int(place[2])]
        theirs = [header for header in record.headers if not header[0].startswith("tidemark.rejected.")]
        if (record.key, record.value, theirs) != (source.key, source.value, list(source.headers)):
            yield f"the rejected record {place} is not what was sent"
        found[place[0], int(place[1]), int(place[2])] = ours["tidemark.rejected.reason"]
    reasons = dict(Counter(found.values()))
    if reasons != expected["totals"]["rejected"]:
        yield f"rejected {reasons}, the oracle has {expected['totals']['rejected']}"


def main() -> None:
    """Both ways, a backlog and a live stream, on a broker and a Redis of their own."""
    parser = argparse.ArgumentParser(prog="scripts/check-exact", description=main.__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rate", type=int, default=3000, help="records a second of the live stream")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--only", choices=("backlog", "live"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    ways = {"backlog": None, "live": given.rate}
    out = {}
    for way, rate in ways.items():
        if given.only in (None, way):
            trial = Trial(
                given.events,
                given.seed,
                given.workers,
                given.kills,
                rate=rate,
                say=partial(report, way),
            )
            out[way] = alone(trial)
    if given.json:
        print(json.dumps({way: {"wrong": found.wrong, **found.facts} for way, found in out.items()}))
    else:
        for way, found in out.items():
            print(f"{way}: {'EXACT' if not found.wrong else 'WRONG'} {found.facts}", *found.wrong, sep="\n  ")
    sys.exit(any(found.wrong for found in out.values()))


def report(way: str, text: str) -> None:
    """Progress, on stderr."""
    print(f"{way}: {text}", file=sys.stderr, flush=True)


def alone(trial: Trial) -> Finding:
    """A trial on a broker and a Redis that are started for it and ended after it."""
    with tempfile.TemporaryDirectory(prefix="tidemark-exact-") as name:
        folder = Path(name)
        with KafkaServer(folder) as kafka, RedisServer(folder) as store:
            kafka.start()
            store.start()
            world = World(kafka, store, folder, partitions=12)
            try:
                return run_trial(world, trial)
            finally:
                world.close()


if __name__ == "__main__":
    main()
