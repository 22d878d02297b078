"""The demo: a broker and a Redis of its own, a simulated tax season, one worker, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from rich.console import Console
from rich.live import Live

from streams import readouts, topics, view, watch
from streams.embedded import Embedded, end, last_line, running, servers
from streams.errors import TidemarkError, Unavailable
from streams.health import COMPILED_S
from streams.produce import Produced, Target, produce
from streams.settings import Settings, defaults
from streams.simulate import Simulation, SimulationPlan, default_start

SEED, DAYS = 2026, 60
EVENTS_PER_WALLET = 100
#: The live view plays the season in about this time, a short one faster; without a view it runs as fast as it can.
PLAY_S, LEAST_PER_S = 100.0, 500.0
#: A worker that counts nothing for this long stands still. One that has never counted may still compile, which takes
#: half a minute of a core at its first start on a machine, and minutes where others want the core: `COMPILED_S`.
STANDSTILL_S = 60.0
FRAME_S, PROGRESS_S, GOODBYE_S = 0.5, 5.0, 20.0
CHANGES_SHOWN = 8


@dataclass(slots=True)
class Season:
    """A demo that runs. `sent`: records produced so far; `sending`: ends when all are."""

    settings: Settings
    worker: subprocess.Popen[bytes]
    log: Path
    simulated: Simulation
    sending: Future[Produced] = field(init=False)
    sent: int = 0
    started_s: float = field(default_factory=time.monotonic)

    def progress(self, sent: int) -> None:
        """Told by the producer."""
        self.sent = sent


def run(events: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run a season to its end without a view; `say` is told the progress. Returns the outcome of the contract."""
    with _season(events, rate=None) as season:
        told_s = 0.0
        for overall, per_second in _moments(season):
            if time.monotonic() - told_s >= PROGRESS_S:
                told_s = time.monotonic()
                counted = readouts.records_read(overall.totals)
                say(f"sent {season.sent:,}, counted {counted:,} of {events:,}, {per_second:,.0f}/s")
        return _outcome(season)


def show(events: int) -> None:
    """Play a season with the live view, and say at the end whether every total is as simulated."""
    changes: deque[dict[str, Any]] = deque(maxlen=CHANGES_SHOWN)
    console = Console()
    console.print("starting a broker, a Redis and a worker of its own …", style="dim")
    with _season(events, rate=max(LEAST_PER_S, events / PLAY_S)) as season, _listening(season.settings, changes):
        with Live(console=console, screen=console.is_terminal, refresh_per_second=4) as live:
            for overall, per_second in _moments(season):
                moment = view.Moment(overall, season.sent, events, per_second, list(changes))
                live.update(view.screen(moment, console.width))
        outcome, last = _outcome(season), readouts.overall(season.settings)
    whole_season = events / outcome["seconds"]
    console.print(view.summary(view.Moment(last, events, events, whole_season, list(changes))))
    if not outcome["matches"]:
        raise TidemarkError("the totals differ from the simulator's truth: run `tidemark demo --headless` to see both")
    console.print(f"all {outcome['events']:,} events are counted, every total as simulated", style="bold")


@contextmanager
def _season(events: int, rate: float | None) -> Iterator[Season]:
    """Everything started, the producer sending; everything ended on the way out, whatever the reason."""
    with servers() as embedded:
        settings = _settings(embedded)
        topics.create(settings)
        log = embedded.folder / "worker.log"
        environment = settings.environment()
        places = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        command = [sys.executable, "-m", "streams", "work"]
        stop = Event()
        with running(command, log, environment) as worker, ThreadPoolExecutor(1) as pool:
            season = Season(settings, worker, log, Simulation(_plan(events)))
            season.sending = pool.submit(_send, season, rate, stop)
            try:
                yield season
            finally:
                stop.set()


def _settings(embedded: Embedded) -> Settings:
    """The defaults, whatever the environment says: the demo is the same for everybody.

    A group of its own and a short session: the embedded broker holds a join for half of the session.
    """
    return defaults(
        embedded.kafka,
        embedded.redis,
        group=f"tidemark-demo-{uuid.uuid4().hex[:8]}",
        session_timeout_ms=6000,
        embedded=True,
        log_level="INFO",
    )


def _plan(events: int) -> SimulationPlan:
    """A season that ended yesterday, with every kind of trouble in it."""
    start = default_start(datetime.now(UTC).date(), DAYS)
    wallets = max(20, events // EVENTS_PER_WALLET)
    return SimulationPlan(SEED, wallets, DAYS, start, late=0.01, duplicates=0.01, bad=0.01, events=events)


def _send(season: Season, rate: float | None, stop: Event) -> Produced:
    target = Target(season.settings.kafka, season.settings.topic_names)
    lines = season.simulated.lines()
    return produce(lines, target, rate=rate, progress=season.progress, should_stop=stop.is_set)


def _moments(season: Season) -> Iterator[tuple[readouts.Overall, float]]:
    """What has been counted, twice a second until everything is, with the records counted per second."""
    recent: deque[tuple[float, int]] = deque(maxlen=10)
    moved_s = time.monotonic()
    while True:
        overall = readouts.overall(season.settings)
        now_s, counted = time.monotonic(), readouts.records_read(overall.totals)
        if not recent or counted > recent[-1][1]:
            moved_s = now_s
        recent.append((now_s, counted))
        span_s = max(FRAME_S, now_s - recent[0][0])
        yield overall, (counted - recent[0][1]) / span_s
        if season.sending.done() and counted >= season.sending.result().sent:
            return
        _refuse_standstill(season, counted, now_s - moved_s)
        time.sleep(FRAME_S)


def _refuse_standstill(season: Season, counted: int, quiet_s: float) -> None:
    code = season.worker.poll()
    if code is not None:
        raise TidemarkError(f"the demo's worker ended ({code}): {last_line(season.log)}")
    if quiet_s > (STANDSTILL_S if counted else COMPILED_S):
        raise Unavailable(f"the demo's worker counts nothing for {quiet_s:.0f} s: {last_line(season.log)}")


def _outcome(season: Season) -> dict[str, Any]:
    """Stop the worker, then compare what is in Redis with the truth."""
    code = end(season.worker, GOODBYE_S)
    if code:
        raise TidemarkError(f"the demo's worker ended with {code} on SIGTERM: {last_line(season.log)}")
    overall = readouts.overall(season.settings)
    expected = season.simulated.totals()
    return {
        "events": season.sending.result().sent,
        "totals": overall.totals,
        "expected": expected,
        "matches": all(overall.totals[name] == value for name, value in expected.items()),
        "segments": sum(row["segment"] != "unassigned" for row in overall.segments),
        "changes": overall.totals["segment_changes"],
        "seconds": round(time.monotonic() - season.started_s, 1),
    }


@contextmanager
def _listening(settings: Settings, changes: deque[dict[str, Any]]) -> Iterator[None]:
    """Collect the newest segment changes in the background."""
    stop = Event()

    def collect() -> None:
        for change in watch.follow(settings, from_start=True, should_stop=stop.is_set):
            changes.append(change)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(collect)
        try:
            yield
        finally:
            stop.set()
