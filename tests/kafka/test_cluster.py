"""What the tests on a real broker stand on: processes that come back on the same port with the same data."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient, NewTopic

from tests.kafka.cluster import KafkaServer, RedisServer
from tests.kafka.processes import Child, wait_until


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
