"""The figures on real data: what they count, and that they are passed over where the data is absent."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from models.rules import DAY_MS, Rules
from models.timeline import histories
from scripts import prism_weeks
from scripts.prism_weeks import Season
from streams.prism import convert
from streams.replay import Replay
from tests.kafka.processes import REPOSITORY
from tests.test_compare import told


def test_without_the_data_it_says_so_and_ends_well(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.prism_weeks", "--data", str(tmp_path), "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"skipped: the PRISM data are not at {tmp_path}\n"


def test_segments_are_those_at_the_end_of_each_week_and_of_the_stream() -> None:
    changes = [*told("a", (1, 1), (8, 2)), *told("b", (6.5, 1))]
    season = Season(Replay(Rules()), histories(changes), Counter(), 0, 16 * DAY_MS)
    assert [at_ms // DAY_MS for at_ms in season.ends_ms] == [7, 14, 16]
    weeks = [prism_weeks.week(season, at_ms) for at_ms in season.ends_ms]
    assert [each["ends"] for each in weeks] == ["1970-01-07", "1970-01-14", "1970-01-16"]
    assert [{one["segment"]: one["wallets"] for one in each["segments"]} for each in weeks] == [
        {"s1": 2}, {"s1": 1, "s2": 1}, {"s1": 1, "s2": 1},
    ]  # fmt: skip


def test_whales_are_as_concentrated_as_published(shared: Path) -> None:
    usd: Counter[str] = Counter()
    lines = sum(1 for _ in prism_weeks._weighed(convert(shared / "data" / "prism-terra"), usd))
    assert lines == 111_974
    assert prism_weeks.concentration(usd, prism_weeks.top(usd)) == pytest.approx(prism_weeks.PUBLISHED, abs=0.005)
