"""What the tests on a real broker stand on: processes that come back on the same port with the same data."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from tests.kafka.cluster import KafkaServer, RedisServer
from tests.kafka.processes import REPOSITORY, Child, wait_until


def _topics(server: KafkaServer) -> list[str]:
    with closing(KafkaAdminClient(bootstrap_servers=server.bootstrap)) as admin:
        return list(admin.list_topics())


def test_a_killed_broker_comes_back_with_its_topics(machine: None, tmp_path: Path) -> None:
    with KafkaServer(tmp_path) as server:
        server.start()
        with closing(KafkaAdminClient(bootstrap_servers=server.bootstrap)) as admin:
            admin.create_topics([NewTopic(name="kept", num_partitions=3, replication_factor=1)])
        wait_until(lambda: _topics(server) == ["kept"], "the topic in the list")
        server.kill()
        assert not server.alive
        server.start()
        wait_until(lambda: _topics(server) == ["kept"], "the topic in the list again")


def test_a_killed_redis_has_lost_nothing_it_answered(store: RedisServer) -> None:
    with store.client() as client:
        client.set("kept", "1")
    store.kill()
    store.start()
    with store.client() as client:
        assert client.get("kept") == b"1"


def test_a_child_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    child = Child("shell", tmp_path / "shell.log")
    child.launch(["sh", "-c", "echo no good; exit 3"])
    with pytest.raises(RuntimeError, match=r"ended with 3(.|\n)*no good"):
        child.await_words("ready", 10)


def test_a_frozen_child_can_still_be_stopped(tmp_path: Path) -> None:
    with Child("sleep", tmp_path / "sleep.log") as child:
        child.launch(["sleep", "60"])
        child.freeze()
        child.stop()
        assert child.wait() == -signal.SIGTERM


#: Starts a child, says its process id, and waits.
PARENT = """
import sys, time
from pathlib import Path
from tests.kafka.processes import Child
child = Child("sleep", Path(sys.argv[1]))
child.launch(["sleep", "60"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_child_ends_with_who_started_it_even_if_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "sleep.log")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(lambda: _command(child) == "sleep 60", "the child sleeps", 10)
        parent.kill()
        wait_until(lambda: _command(child) == "", "the child is gone", 10)


def _command(process: int) -> str:
    """The command line of a process; empty for one that has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ").strip()
    except FileNotFoundError:
        return ""
