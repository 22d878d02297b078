"""Records on their way to a broker, one request for all partitions at a time.

A client library sends what it has for each partition by itself (librdkafka) or takes a third of a core at 20,000
records a second (those in Python): broker and sender then used half the CPU of a machine whose worker was measured.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import closing
from typing import TYPE_CHECKING

from kafka import KafkaConsumer

from scripts.bench_packing import Batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.bench_packing import Source

_PRODUCE, _VERSION, _ALL_REPLICAS = 0, 3, -1
_PATIENCE_S, _PATIENCE_MS = 60.0, 60_000
_NAME = b"bench"
#: Of a request: size of what follows, kind, version, number, client, no transaction, how safe, patience, topics.
_START = struct.Struct(f">ihhih{len(_NAME)}shhii")
#: Of an answer: partition, error, first offset, time.
_TAKEN = struct.Struct(">ihqq")


class Wire:
    """A connection for a source's records to the only broker there is, which therefore leads every partition.

    Produce requests of version 3, the oldest that Kafka 4 takes; acknowledged by all replicas, several in flight, in
    their order. A request that fails ends the program: one record that is lost makes every figure of the run wrong.
    """

    def __init__(self, bootstrap: str, topics: Sequence[str], source: Source) -> None:
        with closing(KafkaConsumer(bootstrap_servers=bootstrap)) as asked:
            transactions, touches = (len(asked.partitions_for_topic(topic) or ()) for topic in topics)
        host, _, port = bootstrap.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), _PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        self._topics = [_string(topic.encode()) for topic in topics]
        self._batches = Batches(source, (transactions, touches))
        self._shipped = self._answered = 0

    @property
    def waiting(self) -> int:
        """Records that have been taken and not been shipped."""
        return self._batches.waiting

    def take(self, many: int, at_ms: int) -> None:
        """The next records of the source, for the next request: this is their time."""
        self._batches.take(many, at_ms)

    def ship(self) -> None:
        """Send what has been taken."""
        if not self.waiting:
            return
        parts: list[bytes | memoryview] = [b""]
        for topic, (many, batches) in zip(self._topics, self._batches.packed(), strict=True):
            if many:
                parts += topic, struct.pack(">i", many), batches
        self._shipped += 1
        size = _START.size - 4 + sum(map(len, parts))
        start = size, _PRODUCE, _VERSION, self._shipped, len(_NAME), _NAME, -1, _ALL_REPLICAS, _PATIENCE_MS
        parts[0] = _START.pack(*start, len(parts) // 3)
        self._socket.sendall(b"".join(parts))
        if select.select([self._socket], [], [], 0)[0]:  # as many answers come as requests leave
            self._read()

    def settle(self) -> None:
        """Send the rest and wait for every answer."""
        with self._socket, self._answers:
            self.ship()
            while self._answered < self._shipped:
                self._read()

    def _read(self) -> None:
        """One answer; the next one answers the next request."""
        (size,) = struct.unpack(">i", self._exactly(4))
        answer = self._exactly(size)
        self._answered += 1
        if problems := failures(answer):
            raise SystemExit(f"records were not delivered: {problems}")

    def _exactly(self, size: int) -> bytes:
        found = self._answers.read(size)
        if len(found) < size:
            raise SystemExit("the broker hung up: records may not have been delivered")
        return found


def failures(answer: bytes) -> list[tuple[str, int, int]]:
    """Topic, partition and error code of every partition of an answer (version 3) that took nothing."""
    found, at = [], 8
    for _ in range(*struct.unpack_from(">i", answer, 4)):
        (length,) = struct.unpack_from(">h", answer, at)
        topic = answer[at + 2 : at + 2 + length].decode()
        (partitions,) = struct.unpack_from(">i", answer, at + 2 + length)
        at += 6 + length
        taken = answer[at : at + partitions * _TAKEN.size]
        found += [(topic, partition, error) for partition, error, _, _ in _TAKEN.iter_unpack(taken) if error]
        at += len(taken)
    return found


def _string(text: bytes) -> bytes:
    return struct.pack(">h", len(text)) + text
