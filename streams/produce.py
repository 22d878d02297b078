"""NDJSON lines onto the two input topics: the values as they are given, never validated, never reshaped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner import murmur2
from kafka.serializer import Serializer

from streams.access import entering
from streams.errors import Unavailable
from streams.lines import BadLine, Outgoing, read_line

#: Records and bytes on their way at most: kafka-python itself would buffer without end.
PENDING_RECORDS, PENDING_BYTES = 20_000, 64 << 20
#: The largest record sent; what the topic takes is the broker's decision.
LARGEST_RECORD = 32 << 20
PROGRESS_SECONDS = 1.0
#: Shorter waits cost more than they pace.
SHORTEST_WAIT_S = 0.005
#: Without a rate, lines from one look at the clock to the next.
UNPACED = 256


class NotDelivered(Unavailable):
    """The brokers cannot be reached, do not know the topic, or refused a record."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send. `topics`: name in the lines -> name on the broker; `security`: more arguments of KafkaProducer."""

    bootstrap: str
    topics: Mapping[str, str]
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Produced:
    """What was delivered: lines, and how long it took."""

    sent: int
    seconds: float


def produce(
    lines: Iterable[str],
    target: Target,
    *,
    rate: float | None = None,
    now: bool = False,
    progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Produced:
    """Send lines `{"topic", "key", "value" or "value_base64", "timestamp"?, "headers"?}` and wait for every ack.

    Record timestamp: `timestamp`, else the value's `occurred_at`, else the previous line's; `now`: the wall clock.
    `rate`: lines a second at most. `progress` is told the number sent, about once a second. `should_stop` is asked
    after each line. Empty lines are passed over. Raises `BadLine` and `NotDelivered`.
    """
    sender = Sender(target)
    try:
        pace = Pace(rate, progress)
        before: int | None = None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            outgoing = read_line(line, number, target.topics)
            before = int(time.time() * 1000) if now else stamp(outgoing, before, number)
            sender.send(outgoing, before, number)
            pace.step()
            if should_stop is not None and should_stop():
                break
        sender.settle()
    finally:
        sender.close()
    return Produced(pace.sent, time.monotonic() - pace.began)


def stamp(outgoing: Outgoing, before: int | None, number: int) -> int:
    """The record's timestamp, epoch milliseconds."""
    at_ms = before if outgoing.at_ms is None else outgoing.at_ms
    if at_ms is None:
        raise BadLine(f"line {number}: neither a timestamp nor a time in the value, nor a line before; or use --now")
    return at_ms


class Clock(Protocol):
    """What a pace goes by, in seconds; the module `time` is one."""

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...


class Pace:
    """Keeps a rate and tells the progress."""

    def __init__(self, rate: float | None, progress: Callable[[int], None] | None, clock: Clock = time) -> None:
        self.rate, self.progress, self._clock = rate, progress, clock
        self.sent = 0
        self.began = self.told = clock.monotonic()

    def step(self) -> None:
        """One line more: wait if that is too fast."""
        self.sent += 1
        if self.rate:
            ahead = self.began + self.sent / self.rate - self._clock.monotonic()
            if ahead > SHORTEST_WAIT_S:
                self._clock.sleep(ahead)
        elif self.sent % UNPACED:
            return
        if self.progress is not None and self._clock.monotonic() - self.told >= PROGRESS_SECONDS:
            self.told = self._clock.monotonic()
            self.progress(self.sent)


class Nothing:
    """Stands for a null value: kafka-python takes no None without a key, Kafka does."""


class Raw(Serializer):  # type: ignore[misc] # kafka-python has no types
    """Bytes as they are."""

    def serialize(self, _topic: str, _headers: list[tuple[str, bytes]], data: bytes | Nothing | None) -> bytes | None:
        return None if isinstance(data, Nothing) else data


NOTHING = Nothing()
#: A repeat by a retry would be a repeat in the counts; few large batches cost far less than many small ones.
PRODUCER: dict[str, Any] = {
    "enable_idempotence": True,
    "acks": "all",
    "linger_ms": 20,
    "batch_size": 256 << 10,
    "max_request_size": LARGEST_RECORD,
    "max_block_ms": 20_000,
    "bootstrap_timeout_ms": 10_000,
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
    "value_serializer": Raw(),
}


@lru_cache(maxsize=1 << 17)
def hashed(key: bytes) -> int:
    """Java's murmur2 of a key, not negative; kept, because in Python it costs as much as the rest of a record."""
    return int(murmur2(key)) & 0x7FFFFFFF


class Sender:
    """An idempotent producer that is told of every failure and never holds more than the bounds above."""

    def __init__(self, target: Target) -> None:
        ways = {"bootstrap_servers": target.bootstrap.split(","), **target.security}
        with entering(ways):
            self.producer = KafkaProducer(**PRODUCER | ways)
        self.partitions: dict[str, list[int]] = {}
        self.pending: deque[tuple[Any, int, int]] = deque()
        self.pending_bytes = 0

    def send(self, outgoing: Outgoing, at_ms: int, number: int) -> None:
        """Hand one record over; waits while too much is on its way."""
        topic, key, value = outgoing.topic, outgoing.key, outgoing.value
        try:
            partition = None if key is None else self._partition(topic, key)
            future = self.producer.send(
                topic,
                value=NOTHING if value is None else value,
                key=key,
                headers=outgoing.headers,
                partition=partition,
                timestamp_ms=at_ms,
            )
        except KafkaError as problem:
            raise self._refused(topic, number, problem) from None
        size = 100 if value is None else len(value) + 100
        self.pending.append((future, number, size))
        self.pending_bytes += size
        if len(self.pending) > PENDING_RECORDS or self.pending_bytes > PENDING_BYTES:
            self.settle(len(self.pending) // 2)

    def settle(self, leave: int = 0) -> None:
        """Wait until at most `leave` records are without their ack; raises `NotDelivered` for the first refused."""
        if self.pending and not leave:
            self.producer.flush()
        while len(self.pending) > leave:
            future, number, size = self.pending.popleft()
            self.pending_bytes -= size
            try:
                if not future.succeeded():
                    future.get(timeout=150)  # beyond the producer's own delivery timeout of 120 s
            except KafkaError as problem:
                raise self._refused("", number, problem) from None

    def close(self) -> None:
        """Deliver what is on its way, then end the producer's thread."""
        self.producer.close(timeout=30)

    def _partition(self, topic: str, key: bytes) -> int:
        if topic not in self.partitions:
            self.partitions[topic] = sorted(self.producer.partitions_for(topic))
        partitions = self.partitions[topic]
        return partitions[hashed(key) % len(partitions)]

    def _refused(self, topic: str, number: int, problem: KafkaError) -> NotDelivered:
        unknown = topic and topic not in self.partitions
        advice = f"; is there a topic {topic}? `tidemark topics create` makes it" if unknown else ""
        return NotDelivered(f"line {number} was not delivered: {_reason(problem)}{advice}")


def _reason(problem: Exception) -> str:
    """One line: the error's name, and what it says beyond that."""
    text = " ".join(str(part) for part in problem.args if part is not None)
    return f"{type(problem).__name__}: {text}".removesuffix(": ").replace("\n", " ")[:300]
