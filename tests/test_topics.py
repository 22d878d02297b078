"""Topics on the embedded broker; what only a real Kafka knows is in tests/kafka/test_topics.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
import redis
from kafka import KafkaProducer
from pydantic import SecretStr

from models.hashing import partitions_of
from streams import topics
from streams.embedded import Embedded
from streams.errors import Refused, TidemarkError, Unavailable
from streams.ledger import Mark
from streams.settings import Settings
from streams.topics_check import Findings, check

ALL_WELL = Findings([], [])


@pytest.fixture
def settings(embedded: Embedded) -> Settings:
    """Names nobody else uses."""
    name = uuid4().hex[:8]
    return Settings(
        kafka=embedded.kafka,
        redis=SecretStr("redis://127.0.0.1:1/0"),  # it need not answer
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
    assert any("both need the same number" in line for line in check(other).wrong)


def test_a_missing_input_gets_the_partitions_of_the_other(settings: Settings) -> None:
    topics.create(settings)
    renamed = settings.model_copy(update={"topic_touches": f"{settings.prefix}late", "partitions": 9})
    topics.create(renamed)
    assert topics.describe(renamed).partitions[renamed.topic_touches] == 4


def test_records_without_key_or_in_the_wrong_partition_are_found(settings: Settings) -> None:
    topics.create(settings)
    assert check(settings) == ALL_WELL
    keys = [f"w{number}".encode() for number in range(50)]
    send(settings, list(keys))
    assert check(settings) == ALL_WELL
    send(settings, [None], partition=0)
    assert "1 of 51 newest records have no key" in check(settings).wrong[0]
    send(settings, list(keys), partition=2)
    misplaced = int((partitions_of(keys, 4, "murmur2") != 2).sum())
    assert f"{misplaced} of 101 newest records are not where murmur2 puts them" in check(settings).wrong[1]


def test_records_of_a_former_number_of_partitions_are_right_where_they_are_counted_with_the_one_of_today(
    settings: Settings, embedded: Embedded
) -> None:
    topics.create(settings)
    keys = [f"w{number}".encode() for number in range(60)]
    for partition in range(2):  # as a producer does that knows two partitions
        send(settings, [k for k in keys if partitions_of([k], 2, "murmur2") == partition], partition=partition)
    late = int((partitions_of(keys, 4, "murmur2") != partitions_of(keys, 2, "murmur2")).sum())
    assert f"{late} of 60 newest records are not where" in check(settings).wrong[0]
    asked = settings.model_copy(update={"redis": SecretStr(embedded.redis)})
    first = [key for key in keys if partitions_of([key], 2, "murmur2") == 0]
    count(asked, 4, [len(first), 60])
    found = check(asked)
    assert (found.wrong, len(found.notes)) == ([], 1)
    assert f"{late} of 60 newest records are where murmur2 puts them among fewer partitions" in found.notes[0]
    count(asked, 4, [len(first), 0])  # sent after they have
    missed = int((partitions_of(keys, 4, "murmur2") == 3).sum())
    assert f"{missed} of 60 newest records are not where" in check(asked).wrong[0]
    send(settings, list(keys), partition=3)  # by no number at all
    count(asked, 4, [len(first), 60, 0, 60])
    assert "of 120 newest records are not where" in check(asked).wrong[0]


def test_before_wallets_have_moved_the_advice_is_to_move_them_and_not_to_change_the_producers(
    settings: Settings, embedded: Embedded
) -> None:
    topics.create(settings)
    keys = [f"w{number}".encode() for number in range(60)]
    for partition in range(2):
        send(settings, [k for k in keys if partitions_of([k], 2, "murmur2") == partition], partition=partition)
    late = int((partitions_of(keys, 4, "murmur2") != partitions_of(keys, 2, "murmur2")).sum())
    asked = settings.model_copy(update={"redis": SecretStr(embedded.redis)})
    count(asked, 2, [5, 0])  # most of it is counted by `tidemark repartition` itself
    found = check(asked)
    advice = "the topics have 4 partitions, what is in Redis was counted with 2: stop all workers, then run"
    assert [line[: len(advice)] for line in found.wrong] == [advice]
    assert len(found.notes) == 1
    assert f"{late} of 60 newest records are where murmur2 puts them among 2 partitions" in found.notes[0]
    send(settings, list(keys), partition=3)  # by no number at all: that is another matter
    assert "newest records are not where murmur2 puts them" in check(asked).wrong[1]
    count(asked, 3, [5, 0, 0])
    assert "add partitions up to 6, a multiple" in check(asked).wrong[0]
    count(asked, 8, [0] * 8)
    assert "recreate them with 8" in check(asked).wrong[0]


def count(settings: Settings, partitions: int, offsets: list[int]) -> None:
    """Marks as workers leave them; `offsets`: of the transactions, by partition."""
    with redis.Redis.from_url(settings.redis_url) as store:
        store.flushdb()
        for partition, offset in enumerate(offsets):
            store.set(f"{{{partition}}}:mark", Mark(1, (offset, 0), ("t", "c"), partitions, "0" * 16).pack())


def test_the_other_partitioner_is_suggested_where_it_fits(settings: Settings) -> None:
    topics.create(settings)
    keys = [f"w{number}".encode() for number in range(40)]
    for partition in range(4):
        there = [key for key in keys if partitions_of([key], 4, "crc32") == partition]
        send(settings, list(there), partition=partition)
    (line,) = check(settings).wrong
    assert line.endswith("or TIDEMARK_PARTITIONER=crc32")
    assert check(settings.model_copy(update={"partitioner": "crc32"})) == ALL_WELL
    assert check(settings.model_copy(update={"partitioner": "off"})) == ALL_WELL


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
