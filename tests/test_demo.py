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

from streams.settings import Settings
from tests.kafka.processes import REPOSITORY, wait_until


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


def worker_of(demo: subprocess.Popen[str]) -> int | None:
    return next((pid for pid, command in alive(demo).items() if "streams work" in command), None)


def nothing_is_left(demo: subprocess.Popen[str], folder: Path) -> bool:
    return alive(demo) == {} and list(folder.iterdir()) == []


def test_a_headless_season_ends_with_every_total_as_simulated(tmp_path: Path) -> None:
    with started("--headless", "--events", "5000", folder=tmp_path) as demo:
        out, err = demo.communicate(timeout=150)
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
        out, err = demo.communicate(timeout=150)
        assert demo.returncode == 0, err
        assert nothing_is_left(demo, tmp_path)
    for title in ("Tidemark", "segments", "return by campaign", "last segment changes", "every total as simulated"):
        assert title in out


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(end: signal.Signals, tmp_path: Path) -> None:
    with started("--headless", "--events", "1000000", folder=tmp_path) as demo:
        wait_until(lambda: worker_of(demo) is not None, "the worker runs", 60)
        demo.send_signal(end)
        out, err = demo.communicate(timeout=60)
        assert demo.returncode != 0
        assert out == ""
        assert "Traceback" not in err
        assert nothing_is_left(demo, tmp_path)


def test_a_killed_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    with started("--headless", "--events", "1000000", folder=tmp_path) as demo:
        wait_until(lambda: worker_of(demo) is not None, "the worker runs", 60)
        assert len(alive(demo)) == 4  # with the broker and Redis
        demo.kill()
        wait_until(lambda: alive(demo) == {}, "everything it started ends", 10)


def test_a_demo_whose_worker_dies_says_so_in_one_line_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with started("--headless", "--events", "1000000", folder=tmp_path) as demo:
        wait_until(lambda: worker_of(demo) is not None, "the worker runs", 60)
        os.kill(worker_of(demo) or 0, signal.SIGKILL)
        out, err = demo.communicate(timeout=60)
        assert (demo.returncode, out) == (1, "")
        assert "tidemark: the demo's worker ended (-9)" in err
        assert "Traceback" not in err
        assert nothing_is_left(demo, tmp_path)
