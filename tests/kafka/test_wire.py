"""What the benchmark's sender puts on a real Kafka is what any client would have put there."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing

import pytest
from kafka.admin import KafkaAdminClient

from scripts.bench_packing import Body, Source
from scripts.bench_sender import bodies
from scripts.bench_wire import Wire
from tests.kafka.reading import read_topic
from tests.kafka.world import World
from tests.live import expected
from tests.oracle import murmur2

RUN, NOW_MS = 1_775_000_000_123, 1_775_000_000_000


def made(world: World, **config: str) -> tuple[str, str]:
    topics = (world.transactions, world.touches)
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.create_topics({name: {"num_partitions": 4, "configs": config} for name in topics})
    return topics


def test_every_record_arrives_once_in_its_order_on_its_keys_partition(world: World) -> None:
    topics, pool = made(world), bodies(37)[:100]
    wire = Wire(world.bootstrap, topics, Source(pool, 0.25, 1000, RUN))
    turns = [(number % 7, NOW_MS + number) for number in range(300)]
    for number, turn in enumerate(turns):
        wire.take(*turn)
        if number % 16 == 15:
            assert wire.waiting
            wire.ship()
            assert not wire.waiting
    wire.settle()
    sent = defaultdict(list)
    for record in expected(pool, 0.25, 1000, RUN, turns):
        place = topics[record.lane], murmur2(record.key) % 4
        sent[place].append((record.key, record.value, record.at_ms))
    found = defaultdict(list)
    for topic in topics:
        for record in read_topic(world.bootstrap, topic):
            found[topic, record.partition].append((record.key, record.value, record.timestamp))
    assert found == sent


def test_a_record_that_the_broker_does_not_take_ends_the_program(world: World) -> None:
    topics = made(world, **{"max.message.bytes": "1000"})
    wire = Wire(world.bootstrap, topics, Source([Body(0, 1, b'"a":"%b"}' % (b"x" * 2000), 0)], 0.0, 1, RUN))
    wire.take(1, NOW_MS)
    with pytest.raises(SystemExit, match="not delivered") as ended:
        wire.settle()
    assert f"('{topics[0]}', {murmur2(b'w1') % 4}, 10)" in str(ended.value)  # MESSAGE_TOO_LARGE
