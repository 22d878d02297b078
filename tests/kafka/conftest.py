"""The broker and the Redis of the session, and a world of its own for each test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.cluster import KafkaServer, RedisServer, kafka_jars, redis_binary
from tests.kafka.processes import Missing
from tests.kafka.world import World


@pytest.fixture(scope="session")
def machine() -> None:
    """Java, Maven and Redis are here. Where they are not, tests skip; on CI they fail, or it would be green."""
    try:
        kafka_jars()
        redis_binary()
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def kafka(machine: None) -> Iterator[KafkaServer]:
    """One broker for all tests that leave it alone; a test that stops its broker starts its own."""
    with tempfile.TemporaryDirectory(prefix="tidemark-kafka-") as folder, KafkaServer(Path(folder)) as server:
        yield server.start()


@pytest.fixture
def store(machine: None, tmp_path: Path) -> Iterator[RedisServer]:
    """A fresh Redis of this test alone: it may be killed and started again."""
    with RedisServer(tmp_path) as server:
        yield server.start()


@pytest.fixture
def world(kafka: KafkaServer, store: RedisServer, tmp_path: Path) -> Iterator[World]:
    """Fresh names and a fresh Redis on the broker of the session; 4 partitions; no topic exists yet."""
    fresh = World(kafka, store, tmp_path)
    try:
        yield fresh
    finally:
        fresh.close()
