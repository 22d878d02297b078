"""The command line from outside: what it prints where, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaProducer

from models.events import json_schema
from streams.embedded import Embedded
from streams.settings import Settings
from tests.kafka.processes import PATIENCE_S, REPOSITORY

NOWHERE = {"TIDEMARK_KAFKA": "127.0.0.1:1", "TIDEMARK_REDIS": "redis://127.0.0.1:1/0"}
COMMANDS = [
    ["demo"], ["topics"], ["topics", "create"], ["topics", "check"], ["work"], ["produce"], ["simulate"],
    ["convert", "prism-terra"], ["watch"], ["totals"], ["roi"], ["segments"], ["wallet"], ["wallets"], ["lag"],
    ["contract", "json-schema"], ["settings"], ["segments", "rename"], ["map"], ["drift"], ["compare"], ["backtest"],
]  # fmt: skip


@pytest.fixture(scope="module")
def here(embedded: Embedded) -> dict[str, str]:
    """A broker without topics and an empty Redis."""
    return {"TIDEMARK_KAFKA": embedded.kafka, "TIDEMARK_REDIS": embedded.redis}


def tidemark(
    *words: str, env: dict[str, str] | None = None, stdin: str = "", timeout_s: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams", *words],
        cwd=REPOSITORY,
        env=Settings.model_construct().environment() | {"TIDEMARK_GROUP": "tests"} | (env or {}),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_of_the_contract_explains_itself(command: list[str]) -> None:
    done = tidemark(*command, "--help")
    assert done.returncode == 0
    assert "Usage: " in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command",
    [
        "totals", "roi", "segments", "wallets", "wallet w1", "lag", "watch", "topics check", "segments rename s1 x",
        "map --json", "drift --json",
    ],
)  # fmt: skip
def test_without_kafka_and_redis_one_line_says_what_to_do(command: str) -> None:
    done = tidemark(*command.split(), env=NOWHERE)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "TIDEMARK_REDIS" in line or "TIDEMARK_KAFKA" in line


@pytest.mark.parametrize("command", ["totals", "roi", "segments", "wallets"])
def test_read_outs_before_the_first_commit_end_with_0(command: str, here: dict[str, str]) -> None:
    shown, as_json = tidemark(command, env=here), tidemark(command, "--json", env=here)
    assert (shown.returncode, as_json.returncode) == (0, 0)
    assert (shown.stderr, as_json.stderr) == ("", "")
    if command == "totals":
        assert json.loads(as_json.stdout)["wallets"] == 0
    else:
        assert as_json.stdout in {"[]\n", ""}


def test_topics_are_missing_then_created_then_fine(here: dict[str, str]) -> None:
    env = here | {"TIDEMARK_PREFIX": "cli.", "TIDEMARK_TOPIC_TRANSACTIONS": "cli.t", "TIDEMARK_TOPIC_TOUCHES": "cli.c"}
    missing = tidemark("topics", "check", env=env)
    assert missing.returncode == 1
    assert "cli.t is missing: run `tidemark topics create`" in missing.stdout
    assert len(missing.stderr.splitlines()) == 1
    assert tidemark("lag", env=env).returncode == 1
    assert tidemark("topics", "create", env=env).returncode == 0
    assert tidemark("topics", "check", env=env).returncode == 0
    assert len(json.loads(tidemark("lag", "--json", env=env).stdout)) == 24


def test_an_unknown_wallet_ends_with_1_and_one_line(here: dict[str, str]) -> None:
    done = tidemark("wallet", "nobody", env=here)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tidemark: no wallet 'nobody'")


def test_all_wrong_settings_are_named_at_once_and_end_with_2() -> None:
    done = tidemark("totals", env={"TIDEMARK_KAFKA": "x", "TIDEMARK_PARTITIONS": "none", "TIDEMARK_REDDIS": "y"})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3


@pytest.mark.parametrize(
    "command",
    [
        "nonsense",
        "wallet",
        "produce --rate 0",
        "simulate --days 0",
        "simulate --start tomorrow",
        "convert prism-terra x --fee-bps y",
    ],
)
def test_wrong_usage_ends_with_2(command: str) -> None:
    done = tidemark(*command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_season_that_ends_in_the_future_is_refused() -> None:
    done = tidemark("simulate", "--start", "2999-01-01", "--days", "1")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_not_there_or_a_bad_line_ends_with_1_and_one_line(here: dict[str, str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.ndjson"
    bad.write_text("{no json\n")
    nothing = tmp_path / "nothing"
    wrong = [
        ("produce", str(nothing)), ("produce", str(bad)), ("convert", "prism-terra", str(nothing)),
        ("segments", "--export", str(nothing / "x.json")),
    ]  # fmt: skip
    for words in wrong:
        done = tidemark(*words, env=here)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("tidemark: ")


def test_a_truth_that_cannot_be_written_ends_with_1_and_one_line(tmp_path: Path) -> None:
    done = tidemark("simulate", "--wallets", "5", "--days", "1", "--truth", str(tmp_path / "nowhere" / "truth.json"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "truth.json" in done.stderr


def test_simulated_lines_arrive_where_the_settings_say(here: dict[str, str], tmp_path: Path) -> None:
    env = here | {"TIDEMARK_PREFIX": "p.", "TIDEMARK_TOPIC_TRANSACTIONS": "p.t", "TIDEMARK_TOPIC_TOUCHES": "p.c"}
    tidemark("topics", "create", env=env)
    season = tidemark("simulate", "--seed", "3", "--wallets", "20", "--days", "3", "--truth", str(tmp_path / "truth"))
    lines = season.stdout.splitlines()
    assert json.loads((tmp_path / "truth").read_text())["lines"] == len(lines) > 0
    done = tidemark("produce", env=env, stdin=season.stdout)
    assert done.returncode == 0, done.stderr
    assert f"{len(lines):,} records sent" in done.stderr
    assert done.stdout == ""


def test_watch_follows_the_changes_until_it_is_interrupted(here: dict[str, str]) -> None:
    env = here | {"TIDEMARK_PREFIX": "w.", "TIDEMARK_TOPIC_TRANSACTIONS": "w.t", "TIDEMARK_TOPIC_TOUCHES": "w.c"}
    tidemark("topics", "create", env=env)
    producer = KafkaProducer(bootstrap_servers=here["TIDEMARK_KAFKA"], enable_idempotence=False)
    for sequence in (1, 2):
        change = {"wallet_id": "w1", "sequence": sequence, "name": "süß"}
        producer.send("w.segment.changes", key=b"w1", value=json.dumps(change).encode()).get(10)
    producer.close()
    watching = subprocess.Popen(
        [sys.executable, "-m", "streams", "watch", "--json", "--from-start"],
        cwd=REPOSITORY,
        env=Settings.model_construct().environment() | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout
        assert [json.loads(watching.stdout.readline())["sequence"] for _ in range(2)] == [1, 2]
        watching.send_signal(signal.SIGINT)
        assert watching.communicate(timeout=PATIENCE_S) == ("", "")
    finally:
        watching.kill()
    assert watching.returncode == 130


def test_settings_lists_every_variable_and_masks_secrets() -> None:
    done = tidemark("settings", env={"TIDEMARK_REDIS": "redis://u:hunter2@h/0", "TIDEMARK_KAFKA_PASSWORD": "hunter2"})
    assert done.returncode == 0
    assert "hunter2" not in done.stdout + done.stderr
    for name in Settings.model_fields:
        assert f"TIDEMARK_{name.upper()}=" in done.stdout
    assert json.loads(tidemark("settings", "--json").stdout)[0]["name"] == "TIDEMARK_KAFKA"


def test_the_contract_is_the_generated_one() -> None:
    assert json.loads(tidemark("contract", "json-schema").stdout) == json_schema()


@pytest.mark.parametrize(
    ("command", "reader"), [("simulate --wallets 2000 --days 30", "head -n 1"), ("topics create --print", "true")]
)
def test_a_reader_that_has_seen_enough_is_no_failure_to_talk_about(command: str, reader: str) -> None:
    line = f"env -u PYTHONUNBUFFERED {sys.executable} -m streams {command} | {reader}"
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.stderr == ""


@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.0, 1.5, 2.0])
def test_a_worker_that_still_starts_ends_at_once_when_it_is_told_to(seconds: float) -> None:
    # While it imports, an exception of a signal handler may be swallowed, and it would look for Kafka for 15 s.
    with subprocess.Popen(
        [sys.executable, "-m", "streams", "work"], cwd=REPOSITORY, env=os.environ | NOWHERE, stderr=subprocess.DEVNULL
    ) as worker:
        time.sleep(seconds)
        worker.terminate()
        assert worker.wait(5) in {0, -signal.SIGTERM}
