"""Where a benchmark takes place: one broker, a Redis and names of its own for each part, probes for CPU and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
import venv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from scripts.bench_traffic import TOUCHES, TRANSACTIONS, Sent
from streams.lines import Outgoing
from streams.produce import Sender, Target
from tests.kafka.cluster import KafkaServer, RedisServer, Worker, clean_environment
from tests.kafka.processes import REPOSITORY, Child, wait_until
from tests.kafka.world import World

PARTITIONS = 12
PATIENCE_S = 900.0


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


@dataclass(slots=True)
class Stage:
    """The broker all parts share, a folder, and settings for every worker (`--set`, names in lower case)."""

    kafka: KafkaServer
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def world(self, partitions: int = PARTITIONS) -> Iterator[World]:
        """Fresh topics and a fresh Redis (appendfsync always); gone afterwards."""
        folder = self.folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        with RedisServer(folder) as store:
            store.start()
            world = World(self.kafka, store, folder, partitions)
            try:
                yield world
            finally:
                world.close()

    def worker(self, world: World, name: str = "worker", /, **changed: object) -> Worker:
        """A started `tidemark work`; the settings of this part give way to those of the command line."""
        return world.worker(name, **(changed | dict(self.settings)))


def fill(world: World, records: Iterable[Sent]) -> int:
    """Send a backlog to the world's inputs and wait for every acknowledgement; how many records it was."""
    names = {TRANSACTIONS: world.transactions, TOUCHES: world.touches}
    sender, number = Sender(Target(world.bootstrap, {})), 0
    try:
        for number, sent in enumerate(records, 1):
            sender.send(Outgoing(names[sent.topic], sent.key, sent.value, sent.at_ms, []), sent.at_ms, number)
        sender.settle()
    finally:
        sender.close()
    return number


def await_applied(world: World, worker: Worker, records: int) -> None:
    """Wait until so many records are committed; fail at once when the worker ends."""

    def applied_or_ended() -> bool:
        return world.applied() >= records or not worker.alive

    wait_until(applied_or_ended, f"{records} records committed", PATIENCE_S)
    if world.applied() < records:
        raise RuntimeError(f"the worker ended; its last words:\n{worker.tail()}")


def end(worker: Worker) -> None:
    """SIGTERM, and a clean end."""
    worker.terminate()
    if worker.wait() != 0:
        raise RuntimeError(f"the worker ended badly:\n{worker.tail()}")


# ------------------------------------------------------------------ probes


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used so far, all its threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Memory a process has resident now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the ordered values does not exceed."""
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def spread(values: Iterable[float]) -> dict[str, Any]:
    """p50, p99 and max; each None where nothing was measured."""
    ordered = sorted(values)
    if not ordered:
        return dict.fromkeys(("p50", "p99", "max"))
    return {"p50": quantile(ordered, 0.5), "p99": quantile(ordered, 0.99), "max": ordered[-1]}


# ------------------------------------------------------------------ processes of other environments


def environment(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment in `.cache/`, made once: its packages are none of ours."""
    folder = REPOSITORY / ".cache" / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        say(f"making .cache/{name} once: {', '.join(packages)} …")
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
        subprocess.run(install, check=True, stdout=sys.stderr)
        (folder / "complete").touch()
    return python


class Live(Child):
    """`scripts/bench_sender.py` at work on a world's inputs."""

    def __init__(self, world: World, rate: float, seconds: float = 1e9, **options: float) -> None:
        super().__init__("sender", world.folder / f"sender-{uuid.uuid4().hex[:8]}.log")
        words = [sys.executable, "-m", "scripts.bench_sender", world.bootstrap]
        words += ["--topics", world.transactions, world.touches, "--rate", str(rate), "--seconds", str(seconds)]
        for option, value in options.items():
            words += [f"--{option}", str(value)]
        self.launch(words, clean_environment() | {"PYTHONDONTWRITEBYTECODE": "1"})

    def account(self, seconds: float = 120) -> dict[str, Any]:
        """What was sent, once it has ended; see `bench_sender.Account`."""
        if self.wait(seconds) != 0:
            raise RuntimeError(f"the sender ended badly:\n{self.tail()}")
        account: dict[str, Any] = json.loads(self.text.splitlines()[-1])
        return account | {"sent": account["transactions"] + account["touches"]}


class Shares:
    """Shares of a core that the processes of a run use between two moments."""

    def __init__(self, **pids: int) -> None:
        self._read = {name: partial(cpu_seconds, pid) for name, pid in pids.items()}
        self.restart(0.0)

    def restart(self, now_s: float) -> None:
        self._at_s, self._before = now_s, {name: read() for name, read in self._read.items()}

    def until(self, now_s: float) -> dict[str, float]:
        spent = now_s - self._at_s
        return {name: round((read() - self._before[name]) / spent, 2) for name, read in self._read.items()}
