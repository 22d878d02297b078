"""Topics on the embedded broker; what only a real Kafka knows is in tests/kafka/test_topics.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from kafka import KafkaProducer

from models.hashing import partitions_of
from streams import topics
from streams.embedded import Embedded
from streams.errors import Refused, TidemarkError, Unavailable
from streams.settings import Settings
from streams.topics_check import check


@pytest.fixture
def settings(embedded: Embedded) -> Settings:
    """Names nobody else uses."""
    name = uuid4().hex[:8]
    return Settings(
        kafka=embedded.kafka,
        prefix=f"{name}.",
        topic_transactions=f"{name}.wallet.transactions",
        topic_touches=f"{name}.campaign.touches",
        partitions=4,
    )


def send(settings: Settings, keys: list[bytes | None], *, partition: int | None = None) -> None:
    producer = KafkaProducer(bootstrap_servers=settings.kafka, enable_idempotence=False)
    for key in keys:
        producer.send(settings.topic_transactions, key=key, value=b"{}", partition=partition)
    producer.flush()
    producer.close()


def test_create_makes_every_topic_and_the_second_time_leaves_them_as_they_are(settings: Settings) -> None:
    assert all(line.startswith("created") for line in topics.create(settings))
    ids = topics.describe(settings).ids
    assert all(line.startswith("exists") for line in topics.create(settings))
    assert topics.describe(settings).ids == ids


def test_a_topic_that_somebody_else_makes_at_the_same_time_is_fine(settings: Settings) -> None:
    with ThreadPoolExecutor(3) as pool:
        several = [pool.submit(topics.create, settings) for _ in range(3)]
    assert all(one.result() for one in several)
    with topics._admin(settings) as admin:
        topics._create(admin, topics.topics(settings), 4)


def test_describe_gives_an_id_and_the_partitions_of_every_topic(settings: Settings) -> None:
    topics.create(settings)
    found = topics.describe(settings)
    assert len(set(found.ids.values())) == len(topics.topics(settings)) == 7
    assert [found.partitions[name] for name in settings.inputs] == [4, 4]
    assert found.partitions[settings.digests_topic] == 1


def test_describe_names_what_is_missing_and_what_to_do(settings: Settings) -> None:
    with pytest.raises(TidemarkError, match=r"has no topic .*campaign\.touches.*run `tidemark topics create`"):
        topics.describe(settings, patience_s=0)


def test_inputs_of_different_partition_counts_are_refused_at_once(settings: Settings) -> None:
    topics.create(settings)
    other = settings.model_copy(update={"topic_touches": settings.digests_topic, "prefix": f"{settings.prefix}x."})
    topics.create(other)
    with pytest.raises(Refused, match=r"4 partitions and .* 1: both need the same number"):
        topics.describe(other)
    assert any("both need the same number" in line for line in check(other))


def test_a_missing_input_gets_the_partitions_of_the_other(settings: Settings) -> None:
    topics.create(settings)
    renamed = settings.model_copy(update={"topic_touches": f"{settings.prefix}late", "partitions": 9})
    topics.create(renamed)
    assert topics.describe(renamed).partitions[renamed.topic_touches] == 4


def test_records_without_key_or_in_the_wrong_partition_are_found(settings: Settings) -> None:
    topics.create(settings)
    assert check(settings) == []
    keys = [f"w{number}".encode() for number in range(50)]
    send(settings, list(keys))
    assert check(settings) == []
    send(settings, [None], partition=0)
    assert "1 of 51 newest records have no key" in check(settings)[0]
    send(settings, list(keys), partition=2)
    misplaced = int((partitions_of(keys, 4, "murmur2") != 2).sum())
    assert f"{misplaced} of 101 newest records are not where murmur2 puts them" in check(settings)[1]


def test_the_other_partitioner_is_suggested_where_it_fits(settings: Settings) -> None:
    topics.create(settings)
    keys = [f"w{number}".encode() for number in range(40)]
    for partition in range(4):
        there = [key for key in keys if partitions_of([key], 4, "crc32") == partition]
        send(settings, list(there), partition=partition)
    (line,) = check(settings)
    assert line.endswith("or TIDEMARK_PARTITIONER=crc32")
    assert check(settings.model_copy(update={"partitioner": "crc32"})) == []
    assert check(settings.model_copy(update={"partitioner": "off"})) == []


def test_printed_lines_make_every_topic_and_allow_every_access(settings: Settings) -> None:
    lines = topics.printed(settings)
    for topic in topics.topics(settings):
        assert any(line.startswith("kafka-topics.sh") and f"--topic {topic.name} " in line for line in lines)
        assert any("--operation Read" in line and line.endswith(topic.name) for line in lines)
        assert any("--operation Write" in line and line.endswith(topic.name) for line in lines)
    (inputs,) = (line for line in lines if f"--topic {settings.topic_touches} --partitions" in line)
    assert "--config retention.ms=-1 --config message.timestamp.type=CreateTime" in inputs


def test_without_a_broker_one_line_says_so() -> None:
    with pytest.raises(
        Unavailable, match=r"no Kafka broker answers at 127\.0\.0\.1:1: start it, or set TIDEMARK_KAFKA"
    ):
        topics.create(Settings(kafka="127.0.0.1:1"))
