"""What the benchmark's sender puts on a real Kafka is what any client would have put there."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing

import pytest
from kafka.admin import KafkaAdminClient

from scripts.bench_wire import Wire
from tests.kafka.reading import read_topic
from tests.kafka.world import World
from tests.oracle import murmur2

NOW_MS = 1_775_000_000_000


def made(world: World, **config: str) -> tuple[str, str]:
    topics = (world.transactions, world.touches)
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.create_topics({name: {"num_partitions": 4, "configs": config} for name in topics})
    return topics


def test_every_record_arrives_once_in_its_order_on_its_keys_partition(world: World) -> None:
    topics = made(world)
    wire = Wire(world.bootstrap, topics)
    sent = defaultdict(list)
    for number in range(1000):
        topic, key, value = topics[number % 3 == 0], b"w%d" % (number % 37), b"%d" % number
        wire.add(topic, key, value, NOW_MS + number)
        sent[topic, murmur2(key) % 4].append((key, value, NOW_MS + number))
        if number % 64 == 0:
            assert wire.waiting
            wire.ship()
            assert not wire.waiting
    wire.settle()
    found = defaultdict(list)
    for topic in topics:
        for record in read_topic(world.bootstrap, topic):
            found[topic, record.partition].append((record.key, record.value, record.timestamp))
    assert found == sent


def test_a_record_that_the_broker_does_not_take_ends_the_program(world: World) -> None:
    topics = made(world, **{"max.message.bytes": "1000"})
    wire = Wire(world.bootstrap, topics)
    wire.add(topics[0], b"w", b"x" * 2000, NOW_MS)
    with pytest.raises(SystemExit, match="not delivered") as ended:
        wire.settle()
    assert f"('{topics[0]}', {murmur2(b'w') % 4}, 10)" in str(ended.value)  # MESSAGE_TOO_LARGE
