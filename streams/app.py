"""The Faust app a worker is made of: its settings, its consumer as the owner sees it, and what its errors mean."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any, cast

import faust
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InvalidProducerEpoch,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    TopicAuthorizationFailedError,
    UnknownProducerId,
)
from faust.exceptions import ProducerSendError
from mode.threads import WorkerThread

from streams.access import kafka_tls
from streams.announce import Message
from streams.errors import Denied, Unavailable
from streams.intake import Place
from streams.settings import Settings
from streams.transport import TP, BatchApp, BatchConsumer, End, TakeOver, Tuning

#: A claim may wait for Redis longer than Faust allows a seek, and than any Kafka request should take.
PATIENT_S = 660.0


def app_of(settings: Settings, take_over: TakeOver, largest: int) -> BatchApp:
    """The app; `largest`: bytes of the largest message it sends, and a little more than the largest it reads."""
    tuning = Tuning(settings.batch_records, settings.fetch_wait_ms, settings.fetch_min_bytes, settings.embedded)
    session_s = settings.session_timeout_ms / 1000
    return BatchApp(
        settings.group,
        tuning,
        take_over,
        broker=";".join(f"kafka://{host}" for host in settings.kafka.split(",")),
        broker_credentials=_credentials(settings),
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 12,
        broker_rebalance_timeout=max(10.0, session_s),
        broker_request_timeout=PATIENT_S,
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.instance_id,
        consumer_max_fetch_size=largest,
        consumer_metadata_max_age_ms=30_000,  # added partitions are noticed soon
        producer_max_request_size=largest,
        value_serializer="raw",
        store="memory://",
        web_enabled=False,  # stock Faust opens port 6066 to everybody
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=1,  # 0 would change the assignor: the inputs would no longer be co-partitioned
        stream_wait_empty=False,
        stream_buffer_maxsize=8,
        agent_supervisor="mode.supervisors.CrashingSupervisor",  # the default one restarts an agent and skips its batch
    )


def _credentials(settings: Settings) -> Any:
    security, context = settings.kafka_security, kafka_tls(settings)
    if security == "PLAINTEXT":
        return None
    if security == "SSL":
        return faust.SSLCredentials(context)
    user, password, mechanism = settings.kafka_user, settings.kafka_secret, settings.kafka_sasl_mechanism
    return faust.SASLCredentials(username=user, password=password, mechanism=mechanism, ssl_context=context)


async def post(app: BatchApp, message: Message) -> Any:
    """Hand a message to the producer: a future, done when Kafka has acknowledged it."""
    headers = list(message.headers)
    return await app.producer.send(message.topic, message.key, message.value, None, None, headers)


class Consumer:
    """Faust's consumer as the owner and the lookout see it."""

    def __init__(self, app: BatchApp) -> None:
        self._app = app

    @property
    def rebalances(self) -> int:
        return int(self._app.rebalancing_count)

    @property
    def rebalancing(self) -> bool:
        return bool(self._app.rebalancing)

    @property
    def rejoining(self) -> bool:
        return self._consumer.rejoining

    @property
    def ended(self) -> list[str]:
        return self._consumer.ended

    @property
    def assigned(self) -> set[Place]:
        return {Place(*tp) for tp in self._consumer.assignment()}

    @property
    def generation(self) -> object:
        return self._app.consumer_generation_id

    @property
    def _consumer(self) -> BatchConsumer:
        return cast("BatchConsumer", self._app.consumer)

    def hold(self, place: Place) -> None:
        self._consumer.hold(TP(*place))

    def release(self, place: Place) -> None:
        self._consumer.release(TP(*place))

    def end(self, place: Place) -> End | None:
        return self._consumer.end(TP(*place))

    def read_only(self, ids: Mapping[str, str]) -> None:
        self._consumer.aim.at(ids)

    @property
    def refused(self) -> int:
        return self._consumer.aim.refused

    async def log_bounds(self, places: Iterable[Place]) -> dict[Place, tuple[int, int]]:
        if self._app.tuning.embedded:  # its answers are wrong, and its logs are never cut
            return dict.fromkeys(places, (0, sys.maxsize))
        found = await self._consumer.log_bounds(TP(*place) for place in places)
        return {Place(*tp): bounds for tp, bounds in found.items()}


def too_large(problem: BaseException) -> bool:
    """Whether a message was not sent because it is larger than its topic takes."""
    found = problem.__cause__ if isinstance(problem, ProducerSendError) else problem
    return isinstance(found, MessageSizeTooLargeError)


def stuck(problem: BaseException) -> bool:
    """Whether the idempotent producer has lost its place: aiokafka never finds it again, a new producer has its own."""
    found = problem.__cause__ if isinstance(problem, ProducerSendError) else problem
    return isinstance(found, OutOfOrderSequenceNumber | UnknownProducerId | InvalidProducerEpoch | ProducerFenced)


def explained(problem: BaseException) -> BaseException:
    """Kafka's own errors in one line; ours have one, and wrong code keeps its traceback."""
    if isinstance(problem, (TopicAuthorizationFailedError, GroupAuthorizationFailedError)):
        return Denied(f"Kafka refuses access ({problem!r}): see `tidemark topics create --print`")
    if isinstance(problem, KafkaError):
        return Unavailable(f"Kafka's client gave up ({problem!r}): start the worker again")
    return problem


async def threads_end() -> None:
    """Returns when no thread of Kafka's client runs any more."""
    for thread in threading.enumerate():
        if isinstance(thread, WorkerThread):
            await asyncio.to_thread(thread.join)
