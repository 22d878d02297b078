"""What a fault is, what it works with, and what came of it. Faults themselves: tests/kafka/faults_*.py.

A fault is a story: `scene.await_progress(0.3)`, then the harm, gated on what has been committed and never on time
alone. While a scene waits it supervises: a worker that has ended is started again, as systemd would.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from models.rules import DAY_MS, HOUR_MS
from tests.kafka.cluster import READY
from tests.kafka.processes import wait_until

if TYPE_CHECKING:
    from tests.kafka.cluster import Worker
    from tests.kafka.inputs import Inputs
    from tests.kafka.proxy import Proxy
    from tests.kafka.world import World

#: Nothing a fault waits for takes longer, on a crowded machine either.
PATIENCE_S = 600.0
#: A worker that ended is started again after this.
RESTART_S = 1.0
#: Short sessions: a killed worker's partitions move soon. Small commits: many places where something can break.
SETTINGS: Mapping[str, object] = {"session_timeout_ms": 6000, "batch_records": 100}
#: What all workers of a run must agree on, those without faults too: wallets move easily, so there is much to announce.
DECIDING: Mapping[str, object] = {"switch_at": 1}
#: A month goes by in a minute: a producer that a busy machine holds up for a second is half a day late, and what is
#: later than the allowed lateness is credited by what was known.
LIVE = {"allowed_lateness": 5 * DAY_MS}


@dataclass(frozen=True, slots=True)
class Stream:
    """How the events of a run are made. `late`, `duplicates`, `bad`, `hot`: shares of the lines, 0 to 0.5.

    `hot`: lines that all belong to one wallet. `poisoned`: every reason to reject a record is among the lines.
    `aborted`: share of upstream transactions before which another one is aborted; 0: the producer knows none.
    """

    late: float = 0.01
    duplicates: float = 0.01
    bad: float = 0.01
    hot: float = 0.0
    poisoned: bool = False
    aborted: float = 0.0
    days: int = 30


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of harm. `inflict` returns when the harm is done and undone.

    `name`: for --fault. `what`: one sentence for people. `workers`: how many are started before `inflict` begins.
    `live`: records are produced at a rate while the fault runs; else all are there before a worker starts, and results
    are also compared with those of a run without faults. `settings`: TIDEMARK_* of the workers, over `SETTINGS`.
    `own_topics`: the fault harms the input topics, so no other run may share them. `first`: share of the lines that are
    there before a worker starts; the fault itself sends the others, and nothing is compared with a run without faults.
    `proxied`: the workers reach Redis through `scene.proxy`. `redis_options`: more words for redis-server's command
    line; the last of a name wins. `contradicts`: writes that Redis had answered may be lost, and with them a change of
    a live stream that was announced: the hole beside the guarantee.
    """

    name: str
    what: str
    inflict: Callable[[Scene], None]
    workers: int = 3
    live: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    stream: Stream = Stream()
    own_topics: bool = False
    first: float = 1.0
    proxied: bool = False
    redis_options: Sequence[str] = ()
    contradicts: bool = False

    @property
    def is_comparable(self) -> bool:
        """Whether a run without faults sees the same topics, full from the beginning."""
        return self.first == 1.0 and not self.live


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run. `wrong`: sentences, none when all is exact.

    `lost`: events, rejected records and announcements that are missing. `announced_again`: announcements that came
    twice with the same id and content, which is allowed; `conflicting`: with other content. `recovery_s`: from the end
    of the fault until every partition that had work has committed again. `restarts`: workers that ended by themselves
    and were started again.
    """

    name: str
    seed: int
    events: int
    wrong: Sequence[str]
    lost: int
    announced_again: int
    conflicting: int
    recovery_s: float
    restarts: int
    seconds: float

    @property
    def exact(self) -> bool:
        return not (self.wrong or self.lost)


def deciding(inputs: Inputs) -> dict[str, object]:
    """The settings that decide results: the same for every worker over these inputs."""
    return {**DECIDING, "catalogue": inputs.catalogue}


class Standing(NamedTuple):
    """How far a partition is: number of its last commit, next offset of each topic."""

    number: int
    offsets: tuple[int, ...]


class Scene:
    """A running system for a fault to harm.

    `world`: names, broker (`world.kafka`) and Redis (`world.store`, which read-outs reach directly). `workers`: those
    supposed to run. `chance`: the only source of it. `inputs`: what is produced, `events` records. `proxy`: between
    workers and Redis, None unless the fault asks for it. `wrong`: what the fault itself found wrong.
    """

    def __init__(
        self,
        world: World,
        fault: Fault,
        inputs: Inputs,
        seed: int,
        *,
        say: Callable[[str], None] = lambda _: None,
        proxy: Proxy | None = None,
    ) -> None:
        self.world, self.fault, self.inputs, self.say, self.proxy = world, fault, inputs, say, proxy
        self.events = inputs.records
        self.chance = random.Random(f"{fault.name}/{seed}")
        self.workers: list[Worker] = []
        self.restarts = 0
        self.wrong: list[str] = []
        redis = {"redis": proxy.url} if proxy else {}
        self._settings = {**SETTINGS, **fault.settings, **deciding(inputs), **redis}
        self._started = 0
        self._ended: dict[Worker, float] = {}
        self._paused = False

    @property
    def lateness_ms(self) -> int:
        """What all workers of the run allow."""
        return int(str(self._settings.get("allowed_lateness", HOUR_MS)))

    # ------------------------------------------------------------------ workers

    def add_worker(self, *words: str, **changed: object) -> Worker:
        """One more worker. `words`: what Python is to run instead of `-m streams work`, the first time it starts."""
        self._started += 1
        worker = self.world.worker(f"worker-{self._started}", *words, **{**self._settings, **changed})
        self.workers.append(worker)
        return worker

    def dismiss(self, worker: Worker) -> None:
        """SIGTERM, and it stays away; it must end with 0."""
        self.workers.remove(worker)
        worker.terminate()
        self._expect_0(worker)

    def _expect_0(self, worker: Worker) -> None:
        """A worker that was sent away ends with 0, unless it had hardly begun to start."""
        code = worker.wait(120)
        well = code == 0 or (code == -signal.SIGTERM and not worker.text_since_start)
        self.expect(well, f"{worker.name} ended with {code} on SIGTERM: {worker.tail(1)}")

    def restart(self, worker: Worker) -> None:
        """SIGTERM, exit code 0, and up again."""
        self.dismiss(worker)
        self.workers.append(worker)
        worker.start()

    def expect(self, true: bool, otherwise: str) -> None:
        """Note what is wrong if it is not true."""
        if not true:
            self.wrong.append(otherwise)

    def finish(self) -> None:
        """SIGTERM to all, which have nothing left to do."""
        working, self.workers = [worker for worker in self.workers if worker.alive], []
        for worker in working:
            worker.terminate()
        for worker in working:
            self._expect_0(worker)

    def supervise(self) -> None:
        """Start again whoever has ended, a second after it did. Every wait of a scene does this."""
        for worker in self.workers if not self._paused else ():
            if worker.alive:
                self._ended.pop(worker, None)
            elif time.monotonic() - self._ended.setdefault(worker, time.monotonic()) >= RESTART_S:
                self._ended.pop(worker)
                code = worker.wait()
                if code >= 0:  # killed by us is no fault of its own
                    self.restarts += 1
                    self.say(f"{worker.name} ended with {code}: {worker.tail(1)}")
                worker.start()

    def stop_supervising(self) -> None:
        """From now on who ends stays down."""
        self._paused = True

    def resume_supervising(self) -> None:
        """From now on who has ended is started again."""
        self._paused = False

    # ------------------------------------------------------------------ waiting

    def await_progress(self, fraction: float) -> None:
        """Until this part of the run's records is committed."""
        records = int(self.events * fraction)
        self.wait_until(lambda: self.applied() >= records, f"{records} records committed")

    def await_ready(self, worker: Worker) -> None:
        """Until it has taken over what it was given."""
        self.wait_until(lambda: worker.is_ready, f"{worker.name} ready")

    def await_frozen(self, worker: Worker) -> None:
        """Until it stands still by a signal it gave itself. `RuntimeError` when there is nothing left to do before."""
        self.wait_until(lambda: worker.is_frozen or self.applied() >= self.events, f"{worker.name} frozen")
        if not worker.is_frozen:
            raise RuntimeError(f"{worker.name} never came to its moment: too few events")

    def await_end(self, worker: Worker) -> None:
        """Until it has ended, or has been started again since."""
        pid = worker.pid
        self.wait_until(lambda: worker.pid != pid or not worker.alive, f"the end of {worker.name}")

    def freeze_for(self, worker: Worker, seconds: float) -> None:
        """Freeze it beyond its session, then let it go on, until it has found its place again or has left for good.

        A run may be over by then: who is told to end before it knows that it was replaced says so, and ends with 1.
        """
        pid = worker.pid  # before: one that has just ended cannot be frozen, and is started again while we wait
        worker.freeze()
        self.say(f"froze {worker.name} at {self.applied()} records")
        self.pause(seconds)
        known = worker.text.count(READY)  # not before: it may be saying so as it is frozen
        worker.thaw()
        self.wait_until(
            lambda: not worker.alive or worker.pid != pid or worker.text.count(READY) > known, f"{worker.name} back"
        )

    def await_moves(self, before: Mapping[int, Standing]) -> None:
        """Until every partition that has had work since `before` has committed some of it."""
        ends = self.world.ends()
        working = {
            number
            for number, end in ends.items()
            if number not in before or any(a < b for a, b in zip(before[number].offsets, end, strict=True))
        }

        def all_moved() -> bool:
            now = self.standings()
            working.difference_update(number for number in list(working) if self._moved(number, before, now, ends))
            # What an aborted transaction left at the end of a log is no work, and moves no mark.
            return not working or self.applied() >= self.events

        self.wait_until(all_moved, f"a commit on every partition that has work, of {len(working)}")

    def _moved(
        self,
        number: int,
        before: Mapping[int, Standing],
        now: Mapping[int, Standing],
        ends: Mapping[int, Sequence[int]],
    ) -> bool:
        if number not in now:
            return not any(ends[number])
        return number not in before or now[number].offsets != before[number].offsets

    def wait_until(self, true: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
        """Ask every 50 ms, and supervise; `TimeoutError` says what did not happen and what the workers said last."""

        def asked() -> bool:
            self.supervise()
            return true()

        try:
            wait_until(asked, what, seconds)
        except TimeoutError as problem:
            told = [f"{worker.name} (alive: {worker.alive}):\n{worker.tail(5)}" for worker in self.workers]
            raise TimeoutError("\n".join([f"{problem}; {self.applied()} of {self.events} committed", *told])) from None

    def pause(self, seconds: float) -> None:
        """Let time pass, and supervise."""
        end = time.monotonic() + seconds
        self.wait_until(lambda: time.monotonic() >= end, "time passing", seconds + 60)

    # ------------------------------------------------------------------ how far it is

    def applied(self) -> int:
        """Records committed, 0 while Redis does not say."""
        try:
            return self.world.applied()
        except (redis.RedisError, OSError):
            return 0

    def standings(self) -> dict[int, Standing]:
        """Where each partition's mark is, of those that ever had an owner; empty while Redis does not say."""
        numbers = range(self.world.partitions)
        try:
            with self.world.store.client() as client:
                found: list[Any] = client.mget([f"{{{number}}}:mark" for number in numbers])
        except (redis.RedisError, OSError):
            return {}
        marks = {number: json.loads(mark) for number, mark in zip(numbers, found, strict=True) if mark}
        return {number: Standing(mark["number"], tuple(mark["offsets"])) for number, mark in marks.items()}
