"""Whole topics, read plainly: no group, no product code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from kafka import KafkaConsumer, TopicPartition


def read_topic(bootstrap: str, topic: str) -> Iterator[Any]:
    """Every record of a topic up to its present end, partition by partition in offset order."""
    settings = {"bootstrap_servers": bootstrap, "enable_auto_commit": False, "isolation_level": "read_committed"}
    with closing(KafkaConsumer(**settings)) as consumer:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        ends = consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.assign([partition])
            consumer.seek(partition, 0)
            while consumer.position(partition) < ends[partition]:
                for records in consumer.poll(timeout_ms=1000).values():
                    yield from (record for record in records if record.offset < ends[partition])
