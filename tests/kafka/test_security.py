"""Kafka and Redis that let in only whom they know: it works with the rights we document, and fails in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kafka.exactness import Trial, run_trial
from tests.kafka.processes import REPOSITORY, Missing
from tests.kafka.secured import ADMINISTRATOR, PASSWORD, USER, Authority, SecureKafka, SecureRedis, SecureWorld
from tests.kafka.test_quarantine import EVENT

RULES = re.findall(r"^ {4}(ACL SETUSER .*)$", (REPOSITORY / "docs" / "operations.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def house(machine: None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tidemark-secure-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def authority(house: Path) -> Authority:
    try:
        return Authority(house)
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def guarded(house: Path, authority: Authority) -> Iterator[SecureKafka]:
    with SecureKafka(house, authority) as server:
        yield server.start()


@pytest.fixture
def vault(authority: Authority, tmp_path: Path) -> Iterator[SecureRedis]:
    with SecureRedis(tmp_path, authority, RULES) as server:
        yield server.start()


@pytest.fixture
def locked(guarded: SecureKafka, vault: SecureRedis, authority: Authority, tmp_path: Path) -> Iterator[SecureWorld]:
    """Topics are made by the administrator; `USER` may do what `topics create --print` says."""
    world = SecureWorld(guarded, vault, tmp_path, authority.ca)
    try:
        world.run("topics", "create", kafka_user=ADMINISTRATOR)
        guarded.allow(printed(world))
        yield world
    finally:
        world.close()


def printed(world: SecureWorld) -> list[str]:
    return world.run("topics", "create", "--print").decode().splitlines()


def ends(commands: list[subprocess.Popen[bytes]]) -> list[str]:
    """The one line each of them ends with, exit code 1; no secret is in what they say."""
    try:
        return [end(command) for command in commands]
    finally:
        for command in commands:
            command.kill()
            command.communicate()


def end(command: subprocess.Popen[bytes]) -> str:
    out, err = command.communicate(timeout=120)
    said = err.decode()
    assert command.returncode == 1, said
    assert PASSWORD not in said + out.decode()
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if not line.startswith(("{", "DEBUG", "INFO"))]
    return line


def begun(world: SecureWorld, *words: str, **changed: object) -> subprocess.Popen[bytes]:
    """A command of `tidemark` that is running."""
    return subprocess.Popen(
        [sys.executable, "-m", "streams", *words],
        cwd=REPOSITORY,
        env=world.environment(**changed),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_all_of_it_works_with_the_rights_we_document_and_counts_exactly(locked: SecureWorld) -> None:
    assert b"as they should be" in locked.run("topics", "check")
    finding = run_trial(locked, Trial(events=6000, wallets=150, kills=0, workers=2))
    assert finding.wrong == []
    assert finding.facts["changes"] > 0
    wallet = locked.lines("wallets")[0]["wallet_id"]
    assert locked.ask("wallet", wallet)["wallet_id"] == wallet
    assert locked.ask("segments")
    watching = begun(locked, "watch", "--json", "--from-start")
    assert watching.stdout
    assert "wallet_id" in json.loads(watching.stdout.readline())
    watching.kill()
    watching.communicate()
    for log in locked.folder.glob("*.log"):  # of workers that log at DEBUG, and of Redis
        assert PASSWORD not in log.read_text(errors="replace"), log
    assert PASSWORD.encode() not in locked.run("settings")


def test_whoever_kafka_does_not_let_in_says_why_at_once(locked: SecureWorld, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").ca
    wrong_name = locked.settings()["TIDEMARK_KAFKA"].replace("localhost", "127.0.0.1")
    cases: dict[str, dict[str, Any]] = {
        "does not let this user in": {"kafka_password_file": "", "kafka_password": "wrong"},
        "does not take PLAIN but SCRAM-SHA-": {"kafka_sasl_mechanism": "PLAIN"},
        "is not trusted .unable to get local issuer": {"kafka_ca": stranger},
        "is not trusted .IP address mismatch": {"kafka": wrong_name},
        "does not speak TLS": {"kafka": locked.bootstrap},
    }
    running = [begun(locked, "work", **changed) for changed in cases.values()]
    first, *_ = cases
    running += [begun(locked, *words, **cases[first]) for words in (("produce",), ("topics", "check"))]
    for line, expected in zip(ends(running), [*cases, first, first], strict=True):
        assert re.match(rf"tidemark: Kafka at [\w.]+:\d+ {expected}", line)


def test_whoever_redis_does_not_let_in_says_why_at_once(
    locked: SecureWorld, vault: SecureRedis, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").ca
    cases: dict[str, dict[str, Any]] = {
        "Redis does not let us in": {"redis": vault.url.replace(PASSWORD, "wrong")},
        "Redis is not trusted .*certificate verify failed": {"redis_ca": stranger},
        "Redis is not trusted .*IP address mismatch": {"redis": vault.url_of("tidemark", "127.0.0.1")},
    }
    cases["the user of Redis may not do what is needed"] = {"redis": vault.url_of("tidemark-reader")}
    running = [begun(locked, "work", **changed) for changed in cases.values()]
    first, *_ = cases
    running.append(begun(locked, "totals", **cases[first]))
    for line, expected in zip(ends(running), [*cases, first], strict=True):
        assert re.match(f"tidemark: {expected}", line)


def test_a_certificate_of_ours_is_a_way_in(locked: SecureWorld, authority: Authority, guarded: SecureKafka) -> None:
    ours = authority.issue(USER)
    access: dict[str, Any] = {
        "kafka": guarded.mutual,
        "kafka_security": "SSL",
        "kafka_password_file": "",
        "kafka_certificate": ours.certificate,
        "kafka_key": ours.key,
    }
    locked.run("produce", stdin=EVENT, **access)
    worker = locked.worker("worker", **access)
    locked.await_applied(1)
    worker.terminate()
    assert worker.wait() == 0
    (said,) = ends([begun(locked, "topics", "check", **access | {"kafka_certificate": "", "kafka_key": ""})])
    assert "TIDEMARK_KAFKA_CERTIFICATE" in said


def test_rights_that_are_missing_are_named_before_anything_is_owned(locked: SecureWorld, guarded: SecureKafka) -> None:
    lines = printed(locked)
    group = [line for line in lines if "--group" in line]
    guarded.forbid(group)
    (said,) = ends([begun(locked, "work")])
    assert "GroupAuthorizationFailedError" in said
    assert "topics create --print" in said
    guarded.allow(group)
    writes = [line for line in lines if "--operation Write --topic" in line and "rejected" in line]
    reads = [line for line in lines if "--operation Read" in line and line.endswith(locked.touches)]
    guarded.forbid([*writes, *reads])
    (said,) = ends([begun(locked, "work")])
    for right in (f"READ on {locked.touches}", f"WRITE on {locked.prefix}events.rejected"):
        assert right in said
