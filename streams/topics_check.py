"""What is wrong with the topics: configuration, partitions, and the keys of the newest records."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from models.hashing import partitions_of
from streams.topics import ENVELOPE, in_force, largest_of, reading, topics, wrong_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streams.settings import Settings
    from streams.topics import Topic

#: Newest records looked at in each input.
SAMPLE = 1000


def check(settings: Settings) -> list[str]:
    """Everything that is wrong with the topics, one line each with what to do; empty when all is well."""
    wanted = topics(settings)
    found, configs = in_force(settings)
    largest = max((largest_of(configs[name]) for name in settings.inputs if name in found), default=0)
    wrong = [f"{topic.name} is missing: run `tidemark topics create`" for topic in wanted if topic.name not in found]
    wrong += wrong_partitions(settings, found)
    for topic in wanted:
        if topic.name in found:
            wrong += _wrong_config(topic, configs[topic.name], largest)
    for name in settings.inputs:
        if name in found:
            wrong += _wrong_keys(settings, name, found[name])
    return wrong


def _wrong_config(topic: Topic, config: Mapping[str, str], largest: int) -> list[str]:
    """Where the topic's configuration breaks the contract: at least the size and retention, exactly the rest.

    `largest`: max.message.bytes of the inputs, which is their owner's choice.
    """
    wrong = []
    for name, value in topic.config.items():
        needed = str(largest + ENVELOPE) if name == "max.message.bytes" else value
        given = config.get(name, "")
        if not _satisfies(name, given, needed):
            wrong.append(
                f"{topic.name} has {name}={given or 'nothing'} and needs {needed}: "
                f"kafka-configs.sh --alter --entity-type topics --entity-name {topic.name} --add-config {name}={needed}"
            )
    return wrong


def _satisfies(name: str, given: str, needed: str) -> bool:
    if name == "max.message.bytes":
        return given.isdigit() and int(given) >= int(needed)
    if name == "retention.ms" and needed != "-1":
        return given == "-1" or (given.isdigit() and int(given) >= int(needed))
    if name == "message.timestamp.type" and not given:
        return True  # the embedded broker knows no other
    return given == needed


def _wrong_keys(settings: Settings, name: str, partitions: int) -> list[str]:
    """Look at the newest records: a wallet's key must be there and lead to the partition it is in."""
    sample = list(_sampled(settings, name, partitions))
    placed = [(partition, key) for partition, key in sample if key is not None]
    wrong = []
    if len(placed) < len(sample):
        without = f"{len(sample) - len(placed)} of {len(sample)}"
        wrong.append(f"{name}: {without} newest records have no key: the key must be the wallet_id")
    if settings.partitioner != "off" and (misplaced := _misplaced(placed, partitions, settings.partitioner)):
        other = "murmur2" if settings.partitioner == "crc32" else "crc32"
        advice = "set partitioner=murmur2_random in librdkafka producers"
        if not _misplaced(placed, partitions, other):
            advice += f", or TIDEMARK_PARTITIONER={other}"
        count = f"{misplaced} of {len(sample)}"
        wrong.append(f"{name}: {count} newest records are not where {settings.partitioner} puts them: {advice}")
    return wrong


def _misplaced(placed: list[tuple[int, bytes]], partitions: int, partitioner: str) -> int:
    """How many of (partition, key) are not where the partitioner puts them."""
    if not placed:
        return 0
    expected = partitions_of([key for _, key in placed], partitions, partitioner)
    return sum(partition != right for (partition, _), right in zip(placed, expected, strict=True))


def _sampled(settings: Settings, name: str, partitions: int) -> Iterator[tuple[int, bytes | None]]:
    """Partition and key of the newest records, `SAMPLE` in all, spread over the partitions."""
    with reading(settings, name, max_poll_records=SAMPLE) as consumer:
        places = sorted(consumer.assignment())
        begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
        share = -(-SAMPLE // partitions)
        for place in places:
            consumer.seek(place, max(begins[place], ends[place] - share))
        left = sum(min(share, ends[place] - begins[place]) for place in places)
        quiet_at = time.monotonic() + 5
        while left > 0 and time.monotonic() < quiet_at:
            for place, records in consumer.poll(timeout_ms=500).items():
                left -= len(records)
                quiet_at = time.monotonic() + 1
                yield from ((place.partition, record.key) for record in records)
