"""The demo from outside: it tells the truth, and whatever ends it, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from streams.demo import STANDSTILL_S, Season, _plan, _refuse_standstill
from streams.errors import Unavailable
from streams.health import COMPILED_S
from streams.settings import Settings
from streams.simulate import Simulation
from tests.kafka.processes import PATIENCE_S, REPOSITORY, wait_until

#: Long enough for a worker that compiles on a crowded machine: 265 s before it counted were seen, ten others at work.
SEASON_S = 500


@contextmanager
def started(*words: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo in a session of its own whose temporary files go to `folder`."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "streams", "demo", *words],
        cwd=REPOSITORY,
        env=Settings.model_construct().environment() | {"TMPDIR": str(folder), "TIDEMARK_KAFKA": "ignored"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield demo
    finally:
        for pid in alive(demo):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        demo.communicate()


def alive(demo: subprocess.Popen[str]) -> dict[int, str]:
    """Processes of the demo's session that still run, with their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, session = entry.joinpath("stat").read_text().rpartition(") ")[2].split()[0::3][:2]
            if int(session) == demo.pid and state != "Z":
                found[int(entry.name)] = entry.joinpath("cmdline").read_text().replace("\0", " ")
    return found


def worker_once_it_runs(demo: subprocess.Popen[str]) -> int:
    found: list[int] = []

    def runs() -> bool:
        found.extend(pid for pid, command in alive(demo).items() if "streams work" in command)
        return bool(found)

    wait_until(runs, "the worker runs")
    return found[0]


def nothing_is_left(demo: subprocess.Popen[str], folder: Path) -> bool:
    return alive(demo) == {} and list(folder.iterdir()) == []


def test_a_headless_season_ends_with_every_total_as_simulated(tmp_path: Path) -> None:
    with started("--headless", "--events", "5000", folder=tmp_path) as demo:
        out, err = demo.communicate(timeout=SEASON_S)
        assert demo.returncode == 0, err
        assert nothing_is_left(demo, tmp_path)
    outcome = json.loads(out)
    assert list(outcome) == ["events", "totals", "expected", "matches", "segments", "changes", "seconds"]
    assert outcome["events"] == 5000
    assert outcome["matches"] is True
    assert outcome["totals"]["duplicates"] > 0
    assert sum(outcome["totals"]["rejected"].values()) > 0
    assert {name: outcome["totals"][name] for name in outcome["expected"]} == outcome["expected"]
    assert "counted" in err


def test_a_season_with_the_view_plays_to_its_end(tmp_path: Path) -> None:
    with started("--events", "2000", folder=tmp_path) as demo:
        out, err = demo.communicate(timeout=SEASON_S)
        assert demo.returncode == 0, err
        assert nothing_is_left(demo, tmp_path)
    for title in ("Tidemark", "segments", "return by campaign", "last segment changes", "every total as simulated"):
        assert title in out


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(end: signal.Signals, tmp_path: Path) -> None:
    with started("--headless", "--events", "1000000", folder=tmp_path) as demo:
        worker_once_it_runs(demo)
        demo.send_signal(end)
        out, err = demo.communicate(timeout=PATIENCE_S)
        assert demo.returncode != 0
        assert out == ""
        assert "Traceback" not in err
        # Not at once: interrupted while it starts the worker it does not know it yet, and Linux ends it a moment later.
        wait_until(lambda: nothing_is_left(demo, tmp_path), "nothing is left", 10)


def test_a_killed_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    with started("--headless", "--events", "1000000", folder=tmp_path) as demo:
        worker_once_it_runs(demo)
        assert len(alive(demo)) == 4  # with the broker and Redis
        demo.kill()
        wait_until(lambda: alive(demo) == {}, "everything it started ends", 10)


def test_a_demo_whose_worker_dies_says_so_in_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with started("--headless", "--events", "1000000", folder=tmp_path) as demo:
        os.kill(worker_once_it_runs(demo), signal.SIGKILL)
        out, err = demo.communicate(timeout=PATIENCE_S)
        assert (demo.returncode, out) == (1, "")
        assert "tidemark: the demo's worker ended (-9)" in err
        assert "Traceback" not in err
        assert nothing_is_left(demo, tmp_path)


def test_a_worker_that_may_still_compile_is_given_more_time_than_one_that_has_counted(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as worker:
        try:
            season = Season(Settings.model_construct(), worker, tmp_path / "worker.log", Simulation(_plan(1000)))
            _refuse_standstill(season, 0, COMPILED_S)
            _refuse_standstill(season, 1, STANDSTILL_S)
            for counted, quiet_s in ((0, COMPILED_S + 1), (1, STANDSTILL_S + 1)):
                with pytest.raises(Unavailable, match=f"counts nothing for {quiet_s:.0f} s"):
                    _refuse_standstill(season, counted, quiet_s)
        finally:
            worker.kill()
