"""The topics Tidemark needs: what they must be, made, described for the engine, and read by commands."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import for_code
from kafka.record import memory_records

from models.rules import DAY_MS, LARGEST_VALUE
from streams.access import connection, entering
from streams.errors import Denied, Refused, TidemarkError, Unavailable
from streams.lenient import Lenient

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from streams.settings import Settings

WEEK_MS = 7 * DAY_MS
#: A rejected record travels with its own headers and ours.
ENVELOPE = 64 * 1024
#: Inputs made here take values a little over the largest we accept, so that one too large is seen and quarantined.
#: Kafka's default does not even take the largest accepted one with its headers.
DEFAULT_LARGEST = LARGEST_VALUE + ENVELOPE
#: To see whether more than markers of transactions is left, so many bytes of a partition are looked at, for so long.
GLANCE, GLANCE_S = 64 * 1024, 10.0
_KAFKAS_LARGEST = 1_048_588
_TOPIC_EXISTS = 36
_UNKNOWN_TOPIC = 3

memory_records.DefaultRecordBatch = Lenient  # kafka-python has no other place to say it


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it must be. `partitions` 0: as many as the inputs have. `given`: set at creation, not checked."""

    name: str
    partitions: int
    config: Mapping[str, str]
    given: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What the cluster says of topics, by name. `ids`: topic ids as text; a recreated topic gets a new one.

    `rights`: what we may do, where the cluster says so: such as DESCRIBE_CONFIGS.
    """

    ids: Mapping[str, str]
    partitions: Mapping[str, int]
    rights: Mapping[str, Collection[str]] = field(default_factory=dict)


def topics(settings: Settings, largest: int = DEFAULT_LARGEST) -> list[Topic]:
    """All topics of the contract. `largest`: max.message.bytes of the inputs."""
    history = {"retention.ms": "-1", "message.timestamp.type": "CreateTime", "cleanup.policy": "delete"}
    roomy = {"max.message.bytes": str(largest + ENVELOPE), "cleanup.policy": "delete"}
    week = {"retention.ms": str(WEEK_MS), "cleanup.policy": "delete"}
    return [
        *(Topic(name, 0, history, {"max.message.bytes": str(largest)}) for name in settings.inputs),
        Topic(settings.changes_topic, 0, roomy),
        Topic(settings.rejected_topic, 0, roomy),
        Topic(settings.catalogue_topic, 1, {"cleanup.policy": "compact"}),
        Topic(settings.alerts_topic, 1, {"cleanup.policy": "delete"}),
        Topic(settings.digests_topic, 1, week),
    ]


def create(settings: Settings) -> list[str]:
    """Make what is missing and leave what exists as it is; one line per topic says which."""
    with _admin(settings) as admin:
        wanted = topics(settings)
        existing = _facts(admin, [topic.name for topic in wanted]).partitions
        inputs = [name for name in settings.inputs if name in existing]
        made_here = DEFAULT_LARGEST if len(inputs) < len(settings.inputs) else 0
        largest = max(made_here, *map(largest_of, _configs(admin, inputs).values()), 0)
        shared = max((existing[name] for name in settings.inputs if name in existing), default=settings.partitions)
        missing = [topic for topic in topics(settings, largest) if topic.name not in existing]
        if missing:
            _create(admin, missing, shared)
    made = {topic.name for topic in missing}
    return [
        f"created {topic.name}, partitions: {topic.partitions or shared}"
        if topic.name in made
        else f"exists  {topic.name}, left as it is"
        for topic in wanted
    ]


def printed(settings: Settings) -> list[str]:
    """The same as shell lines for whoever administers the cluster: topics, then access for workers and producers."""
    server = f"--bootstrap-server {settings.kafka}"
    lines = []
    for topic in topics(settings):
        config = " ".join(f"--config {name}={value}" for name, value in {**topic.config, **topic.given}.items())
        partitions = topic.partitions or settings.partitions
        lines.append(
            f"kafka-topics.sh {server} --create --if-not-exists --topic {topic.name} --partitions {partitions} {config}"
        )
    user = f"User:{settings.kafka_user or 'tidemark'}"
    allow = f"kafka-acls.sh {server} --add --allow-principal {user}"
    every = [topic.name for topic in topics(settings)]
    lines += [f"{allow} --operation Read --operation DescribeConfigs --topic {name}" for name in every]
    lines += [f"{allow} --operation Write --topic {name}" for name in every]  # the inputs: for `tidemark produce`
    lines.append(f"{allow} --operation Read --operation Describe --group {settings.group}")
    lines.append(f"{allow} --operation IdempotentWrite --cluster")
    return lines


def largest_input(settings: Settings) -> int:
    """The largest message either input takes, in bytes: what the worker's consumer and producer have to cope with."""
    with _admin(settings) as admin:
        found = _configs(admin, list(settings.inputs))
    return max(largest_of(config) for config in found.values())


def largest_rejected(settings: Settings) -> int:
    """The largest message the topic of rejected records takes, in bytes.

    What the broker refuses costs the producer its sequence of numbers, so it must not be sent at all.
    """
    with _admin(settings) as admin:
        (config,) = _configs(admin, [settings.rejected_topic]).values()
    return largest_of(config)


def describe(settings: Settings, patience_s: float = 20.0) -> TopicFacts:
    """Ids and partition counts of every topic of the contract, asked again for up to `patience_s` seconds.

    Right after a broker's restart the first answer fails, and a topic just created is not known everywhere.
    Raises `Unavailable` (no broker), `TidemarkError` (topics missing); at once `Denied` and `Refused` (unequal
    partition counts).
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _described(settings)
        except TidemarkError as error:
            if isinstance(error, (Denied, Refused)) or time.monotonic() >= deadline:
                raise
        time.sleep(0.5)


def standing(settings: Settings, name: str, offsets: Mapping[int, int]) -> list[tuple[int, int]]:
    """Of each partition of a topic: the offset of its next record from `offsets` on, and its last stable offset.

    `offsets`: partition -> where to read on; without one, the start of the log. Markers of transactions and what
    aborted ones wrote take offsets too and are no records: where nothing else is left, both numbers are the same.
    """
    with reading(settings, name, max_partition_fetch_bytes=GLANCE) as consumer:
        places = sorted(consumer.assignment())
        begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
        found = {place: max(begins[place], offsets.get(place.partition, 0)) for place in places}
        _pass_markers(consumer, found, ends)
        return [(found[place], ends[place]) for place in places]


def _pass_markers(consumer: KafkaConsumer, found: dict[Any, int], ends: Mapping[Any, int]) -> None:
    """Move every offset of `found` that is before its end to the next record; left as it is if Kafka is too slow."""
    looking = {place for place, offset in found.items() if offset < ends[place]}
    if not looking:
        return
    consumer.assign(looking)
    for place in looking:
        consumer.seek(place, found[place])
    deadline = time.monotonic() + GLANCE_S
    while looking and time.monotonic() < deadline:
        for place, records in consumer.poll(timeout_ms=200).items():
            found[place] = min(records[0].offset, ends[place])  # later ones may have come meanwhile
            consumer.pause(place)
            looking.discard(place)
        for place in [place for place in looking if consumer.position(place) >= ends[place]]:
            found[place] = ends[place]
            looking.discard(place)


def in_force(settings: Settings) -> tuple[dict[str, int], dict[str, dict[str, str]]]:
    """Partition counts and configuration of those topics of the contract that exist, by name."""
    with _admin(settings) as admin:
        partitions = dict(_facts(admin, [topic.name for topic in topics(settings)]).partitions)
        return partitions, _configs(admin, list(partitions))


def members(settings: Settings, patience_s: float = 20.0) -> int:
    """How many workers are in the group; one that was killed is, until its session times out.

    Asked again for up to `patience_s` seconds: a broker that has never had a group first makes a topic for them.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with _admin(settings) as admin:
                return len(admin.describe_groups([settings.group])[settings.group]["members"])
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.5)


def unfinished(settings: Settings) -> list[str]:
    """The input partitions with a transaction that has not ended: its records, and all after it, cannot be read yet."""
    open_in = []
    for name in settings.inputs:
        stable = ends_of(settings, name, isolation_level="read_committed")
        last = ends_of(settings, name, isolation_level="read_uncommitted")
        open_in += [f"{name}[{partition}]" for partition, end in enumerate(stable) if end < last[partition]]
    return open_in


def ends_of(settings: Settings, name: str, **options: Any) -> list[int]:
    """Where the log of each partition of a topic ends for a consumer with these options."""
    with reading(settings, name, **options) as consumer:
        ends = consumer.end_offsets(sorted(consumer.assignment()))
        return [ends[place] for place in sorted(ends)]


def begins_of(settings: Settings, name: str) -> list[int]:
    """Where the log of each partition of a topic begins."""
    with reading(settings, name) as consumer:
        begins = consumer.beginning_offsets(sorted(consumer.assignment()))
        return [begins[place] for place in sorted(begins)]


@contextmanager
def reading(settings: Settings, name: str, **options: Any) -> Iterator[KafkaConsumer]:
    """A consumer of all partitions of a topic, outside any group; it sees committed records only, unless told so."""
    ways = connection(settings)
    with entering(ways):
        consumer = KafkaConsumer(
            **ways,
            group_id=None,
            enable_auto_commit=False,
            bootstrap_timeout_ms=5000,
            **{"isolation_level": "read_committed"} | options,
        )
        try:
            partitions = consumer.partitions_for_topic(name)
            if not partitions:
                raise TidemarkError(f"Kafka at {settings.kafka} has no topic {name}: run `tidemark topics create`")
            consumer.assign([TopicPartition(name, partition) for partition in partitions])
            yield consumer
        finally:
            consumer.close()


@contextmanager
def _admin(settings: Settings) -> Iterator[KafkaAdminClient]:
    ways = connection(settings)
    with entering(ways):
        admin = KafkaAdminClient(**ways, bootstrap_timeout_ms=5000, request_timeout_ms=10_000)
        try:
            yield admin
        finally:
            admin.close()


def _facts(admin: KafkaAdminClient, names: list[str]) -> TopicFacts:
    """What exists of `names`."""
    ids, partitions, rights = {}, {}, {}
    for topic in admin.describe_topics(names):
        if topic["error_code"] == _UNKNOWN_TOPIC:
            continue
        if topic["error_code"]:
            raise for_code(topic["error_code"])(topic["name"])
        ids[topic["name"]] = str(topic["topic_id"])
        partitions[topic["name"]] = len(topic["partitions"])
        if topic.get("authorized_operations"):
            rights[topic["name"]] = topic["authorized_operations"]
    return TopicFacts(ids, partitions, rights)


def _described(settings: Settings) -> TopicFacts:
    with _admin(settings) as admin:
        wanted = [topic.name for topic in topics(settings)]
        facts = _facts(admin, wanted)
    if missing := [name for name in wanted if name not in facts.ids]:
        names = ", ".join(missing)
        raise TidemarkError(f"Kafka at {settings.kafka} has no topic {names}: run `tidemark topics create`")
    if wrong := wrong_partitions(settings, facts.partitions):
        raise Refused(wrong[0])
    if lacking := _lacking(settings, facts.rights):
        raise Denied(f"Kafka does not allow us {', '.join(lacking)}: see `tidemark topics create --print`")
    return facts


def _lacking(settings: Settings, rights: Mapping[str, Collection[str]]) -> list[str]:
    """What a worker has to do and may not; found before it owns anything instead of at its first message."""
    needed = {
        **dict.fromkeys(settings.inputs, ("READ", "DESCRIBE_CONFIGS")),
        settings.rejected_topic: ("WRITE", "DESCRIBE_CONFIGS"),
        settings.changes_topic: ("WRITE",),
        settings.catalogue_topic: ("WRITE",),
        settings.digests_topic: ("READ", "WRITE"),
    }
    return [f"{right} on {name}" for name, its in needed.items() for right in its if right not in rights.get(name, its)]


def _create(admin: KafkaAdminClient, missing: Iterable[Topic], shared: int) -> None:
    """Replication is the broker's default (-1). A topic that somebody else made meanwhile is fine."""
    answer = admin.create_topics(
        {
            topic.name: {"num_partitions": topic.partitions or shared, "configs": {**topic.config, **topic.given}}
            for topic in missing
        },
        raise_errors=False,
    )
    for topic in answer["topics"]:
        if topic["error_code"] not in {0, _TOPIC_EXISTS}:
            raise for_code(topic["error_code"])(f"{topic['name']}: {topic['error_message']}")


def _configs(admin: KafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """Every configuration value in force, by topic."""
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found = admin.describe_configs(resources, config_filter="all")["topic"]
    if hidden := [topic for topic, values in found.items() if not values]:  # kafka-python passes over the refusal
        raise Denied(
            f"Kafka does not allow us DESCRIBE_CONFIGS on {', '.join(hidden)}: see `tidemark topics create --print`"
        )
    return {topic: {name: entry["value"] for name, entry in values.items()} for topic, values in found.items()}


def largest_of(config: Mapping[str, str]) -> int:
    """The largest message a topic of this configuration takes, in bytes."""
    return int(config.get("max.message.bytes", _KAFKAS_LARGEST))


def wrong_partitions(settings: Settings, found: Mapping[str, int]) -> list[str]:
    """Where the partition counts of topics, by name, break the contract."""
    wrong = []
    transactions, touches = (found.get(name) for name in settings.inputs)
    if transactions and touches and transactions != touches:
        most, fewer = max(transactions, touches), min(settings.inputs, key=lambda name: found[name])
        wrong.append(
            f"{settings.topic_transactions} has {transactions} partitions and {settings.topic_touches} {touches}: "
            f"both need the same number; give {fewer} {most} too (kafka-topics.sh --alter --partitions {most}), and if "
            "they were counted already, run `tidemark repartition`"
        )
    digests = found.get(settings.digests_topic, 1)
    if digests != 1:
        name = settings.digests_topic
        wrong.append(f"{name} has {digests} partitions and must have 1: delete it, then `tidemark topics create`")
    return wrong
