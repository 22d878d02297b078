"""The topics Tidemark needs: what they must be, made, described for the engine, and read by commands."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import (
    AuthorizationError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    for_code,
)

from models.rules import DAY_MS, LARGEST_VALUE
from streams.errors import Refused, TidemarkError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from streams.settings import Settings

WEEK_MS = 7 * DAY_MS
#: A rejected record travels with its own headers and ours.
ENVELOPE = 64 * 1024
#: Inputs made here take values a little over the largest we accept, so that one too large is seen and quarantined.
#: Kafka's default does not even take the largest accepted one with its headers.
DEFAULT_LARGEST = LARGEST_VALUE + ENVELOPE
_KAFKAS_LARGEST = 1_048_588
_TOPIC_EXISTS = 36
_UNKNOWN_TOPIC = 3


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it must be. `partitions` 0: as many as the inputs have. `given`: set at creation, not checked."""

    name: str
    partitions: int
    config: Mapping[str, str]
    given: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What the cluster says of topics, by name. `ids`: topic ids as text; a recreated topic gets a new one."""

    ids: Mapping[str, str]
    partitions: Mapping[str, int]


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


def connection(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of every kafka-python client: where the brokers are and how to speak with them."""
    found: dict[str, Any] = {"bootstrap_servers": settings.kafka.split(",")}
    if settings.kafka_security == "PLAINTEXT":
        return found
    found["security_protocol"] = settings.kafka_security
    if settings.kafka_ca:
        found["ssl_cafile"] = str(settings.kafka_ca)
    if settings.kafka_security.startswith("SASL") and settings.kafka_password:
        found["sasl_mechanism"] = settings.kafka_sasl_mechanism
        found["sasl_plain_username"] = settings.kafka_user
        found["sasl_plain_password"] = settings.kafka_password.get_secret_value()
    return found


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
    Raises `Unavailable` (no broker), `TidemarkError` (topics missing) and `Refused` (unequal partition counts).
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _described(settings)
        except TidemarkError as error:
            if isinstance(error, Refused) or time.monotonic() >= deadline:
                raise
        time.sleep(0.5)


def bounds(settings: Settings, name: str) -> list[tuple[int, int]]:
    """First offset and last stable offset of each partition of a topic, by partition."""
    with reading(settings, name) as consumer:
        places = sorted(consumer.assignment())
        begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
        return [(begins[place], ends[place]) for place in places]


def in_force(settings: Settings) -> tuple[dict[str, int], dict[str, dict[str, str]]]:
    """Partition counts and configuration of those topics of the contract that exist, by name."""
    with _admin(settings) as admin:
        partitions = dict(_facts(admin, [topic.name for topic in topics(settings)]).partitions)
        return partitions, _configs(admin, list(partitions))


@contextmanager
def reading(settings: Settings, name: str, **options: Any) -> Iterator[KafkaConsumer]:
    """A consumer of all partitions of a topic, outside any group, that sees committed records only."""
    with _foreseen(settings):
        consumer = KafkaConsumer(
            **connection(settings),
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            bootstrap_timeout_ms=5000,
            **options,
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
    with _foreseen(settings):
        admin = KafkaAdminClient(**connection(settings), bootstrap_timeout_ms=5000, request_timeout_ms=10_000)
        try:
            yield admin
        finally:
            admin.close()


@contextmanager
def _foreseen(settings: Settings) -> Iterator[None]:
    """Turn what can be foreseen into one line.

    kafka-python leaves a thread and a socket behind when its first connection fails, and takes long to say so:
    whether anybody listens is asked beforehand.
    """
    if not any(map(_listens, settings.kafka.split(","))):
        raise Unavailable(f"no Kafka broker answers at {settings.kafka}: start it, or set TIDEMARK_KAFKA")
    try:
        yield
    except (KafkaConnectionError, KafkaTimeoutError) as error:
        raise Unavailable(
            f"Kafka at {settings.kafka} does not answer ({type(error).__name__}): "
            "is it a broker, and is TIDEMARK_KAFKA_SECURITY right?"
        ) from error
    except AuthorizationError as error:
        raise TidemarkError(f"Kafka refuses access ({error}): see `tidemark topics create --print`") from error
    except KafkaError as error:
        said = f"{type(error).__name__}: {_first_line(error)}"
        raise Unavailable(f"Kafka at {settings.kafka} answers with {said}") from error


def _listens(host_and_port: str) -> bool:
    host, _, port = host_and_port.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except (OSError, OverflowError):
        return False


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _facts(admin: KafkaAdminClient, names: list[str]) -> TopicFacts:
    """What exists of `names`."""
    ids, partitions = {}, {}
    for topic in admin.describe_topics(names):
        if topic["error_code"] == _UNKNOWN_TOPIC:
            continue
        if topic["error_code"]:
            raise for_code(topic["error_code"])(topic["name"])
        ids[topic["name"]] = str(topic["topic_id"])
        partitions[topic["name"]] = len(topic["partitions"])
    return TopicFacts(ids, partitions)


def _described(settings: Settings) -> TopicFacts:
    with _admin(settings) as admin:
        wanted = [topic.name for topic in topics(settings)]
        facts = _facts(admin, wanted)
    if missing := [name for name in wanted if name not in facts.ids]:
        names = ", ".join(missing)
        raise TidemarkError(f"Kafka at {settings.kafka} has no topic {names}: run `tidemark topics create`")
    if wrong := wrong_partitions(settings, facts.partitions):
        raise Refused(wrong[0])
    return facts


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
    return {topic: {name: entry["value"] for name, entry in values.items()} for topic, values in found.items()}


def largest_of(config: Mapping[str, str]) -> int:
    """The largest message a topic of this configuration takes, in bytes."""
    return int(config.get("max.message.bytes", _KAFKAS_LARGEST))


def wrong_partitions(settings: Settings, found: Mapping[str, int]) -> list[str]:
    """Where the partition counts of topics, by name, break the contract."""
    wrong = []
    transactions, touches = (found.get(name) for name in settings.inputs)
    if transactions and touches and transactions != touches:
        wrong.append(
            f"{settings.topic_transactions} has {transactions} partitions and {settings.topic_touches} {touches}: "
            "both need the same number; recreate one, or produce into a new topic"
        )
    digests = found.get(settings.digests_topic, 1)
    if digests != 1:
        name = settings.digests_topic
        wrong.append(f"{name} has {digests} partitions and must have 1: delete it, then `tidemark topics create`")
    return wrong
