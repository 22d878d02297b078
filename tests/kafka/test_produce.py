"""Producing onto a real Kafka: the very bytes, the order, and every failure told."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import closing
from datetime import date
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from streams.lines import BadLine, read_line
from streams.produce import NotDelivered, Target, produce
from streams.simulate import SimulationPlan, simulate
from tests.kafka.world import World
from tests.oracle import murmur2


@pytest.fixture
def target(world: World) -> Target:
    names = {"wallet.transactions": world.transactions, "campaign.touches": world.touches}
    config = {"max.message.bytes": "2000000", "retention.ms": "-1"}
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.create_topics({name: {"num_partitions": 4, "configs": config} for name in names.values()})
    return Target(world.bootstrap, names)


def arrived(target: Target) -> list[Any]:
    """Everything on the topics, to their ends as they are now."""
    found: list[Any] = []
    with closing(KafkaConsumer(bootstrap_servers=target.bootstrap, group_id=None)) as consumer:
        partitions = [TopicPartition(name, number) for name in target.topics.values() for number in range(4)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for records in consumer.poll(timeout_ms=500).values():
                found.extend(records)
    return found


def test_every_record_arrives_once_as_it_was_given_on_javas_partition(target: Target) -> None:
    lines = list(simulate(SimulationPlan(3, 300, 30, date(2026, 3, 1), 0.1, 0.1, 0.3, 5000)))
    lines.insert(9, '{"topic":"campaign.touches","value":null}')
    lines.insert(20, "")
    told: list[int] = []
    assert produce(lines, target, progress=told.append).sent == 5001
    given = [read_line(line, 1, target.topics) for line in lines if line]
    before = 0
    sent: dict[tuple[str, bytes | None], list[tuple[bytes | None, int, list[tuple[str, bytes]]]]] = defaultdict(list)
    for outgoing in given:
        before = before if outgoing.at_ms is None else outgoing.at_ms
        sent[outgoing.topic, outgoing.key].append((outgoing.value, before, outgoing.headers))
    found: dict[tuple[str, bytes | None], list[tuple[bytes | None, int, list[tuple[str, bytes]]]]] = defaultdict(list)
    for record in arrived(target):
        found[record.topic, record.key].append((record.value, record.timestamp, list(record.headers)))
        assert record.key is None or record.partition == murmur2(record.key) % 4
    keyless = [(topic, None) for topic in target.topics.values()]
    for place in keyless:  # on any partition: no order between them
        assert sorted(sent.pop(place), key=str) == sorted(found.pop(place), key=str)
    assert found == sent


def test_a_malformed_line_ends_it_after_everything_before_was_delivered(target: Target) -> None:
    lines = list(simulate(SimulationPlan(1, 50, 5, date(2026, 3, 1), events=500)))
    with pytest.raises(BadLine, match=r"^line 301: "):
        produce([*lines[:300], "nonsense", *lines[300:]], target)
    assert len(arrived(target)) == 300


def test_a_record_the_topic_does_not_take_is_told_with_its_line(target: Target) -> None:
    large = {"topic": "campaign.touches", "key": "w", "value": "x" * 2_500_000, "timestamp": 1}
    with pytest.raises(NotDelivered, match=r"^line 2 was not delivered: MessageSizeTooLarge"):
        produce([json.dumps(large | {"value": "x"}), json.dumps(large)], target)


def test_a_topic_that_is_not_there_is_told_with_what_to_do(world: World) -> None:
    missing = {"campaign.touches": f"{world.prefix}missing"}
    line = '{"topic":"campaign.touches","key":"w","value":1,"timestamp":1}'
    with pytest.raises(NotDelivered, match=r"missing.*topics create"):
        produce([line], Target(world.bootstrap, missing, {"max_block_ms": 1500}))


def test_it_stops_when_asked_and_what_was_sent_is_delivered(target: Target) -> None:
    season = simulate(SimulationPlan(1, 50, 5, date(2026, 3, 1), events=500))
    asked = iter(range(1000))
    assert produce(season, target, should_stop=lambda: next(asked) >= 99).sent == 100
    assert len(arrived(target)) == 100
    assert len(list(season)) == 400  # not one line was taken and lost


def test_the_wall_clock_replaces_old_timestamps(target: Target) -> None:
    produce(simulate(SimulationPlan(1, 50, 5, date(2026, 3, 1), events=20)), target, now=True)
    moments = [record.timestamp for record in arrived(target)]
    assert min(moments) > 1_790_000_000_000
