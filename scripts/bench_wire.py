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

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from kafka import KafkaConsumer

from models.hashing import partitions_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_PRODUCE, _VERSION, _ALL_REPLICAS = 0, 3, -1
_PATIENCE_S = 60.0
_MOST_BYTES = 1 << 20
_NAME = b"bench"


class Wire:
    """A connection to the only broker there is, which therefore leads every partition.

    Produce requests of version 3, the oldest that Kafka 4 takes; acknowledged by all replicas, several in flight, in
    their order. A request that fails ends the program: one record that is lost makes every figure of the run wrong.
    """

    def __init__(self, bootstrap: str, topics: Sequence[str]) -> None:
        with closing(KafkaConsumer(bootstrap_servers=bootstrap)) as asked:
            self._partitions = {topic: len(asked.partitions_for_topic(topic) or ()) for topic in topics}
        host, _, port = bootstrap.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), _PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._places: dict[tuple[str, bytes], int] = {}
        self._batches: dict[tuple[str, int], tuple[DefaultRecordBatchBuilder, int]] = {}
        self._shipped = self._answered = 0
        #: records that have been added and not been shipped
        self.waiting = 0

    def add(self, topic: str, key: bytes, value: bytes, at_ms: int) -> None:
        """A record for the next request, to the partition that the key has with every client (murmur2)."""
        place = self._places.get((topic, key))
        if place is None:
            place = int(partitions_of([key], self._partitions[topic], "murmur2")[0])
            self._places[topic, key] = place
        batch, offset = self._batches.get((topic, place)) or (
            DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, _MOST_BYTES),
            0,
        )
        if batch.append(offset, at_ms, key, value, []) is None:
            raise SystemExit(f"more than {_MOST_BYTES} bytes for one partition at once")
        self._batches[topic, place] = batch, offset + 1
        self.waiting += 1

    def ship(self) -> None:
        """Send what has been added."""
        if not self._batches:
            return
        named: dict[str, list[bytes]] = {}
        for (topic, partition), (batch, _) in self._batches.items():
            packed = bytes(batch.build())
            named.setdefault(topic, []).append(struct.pack(">ii", partition, len(packed)) + packed)
        self._batches, self.waiting = {}, 0
        self._shipped += 1
        head = struct.pack(">hhi", _PRODUCE, _VERSION, self._shipped) + _string(_NAME)
        body = struct.pack(">hhii", -1, _ALL_REPLICAS, int(_PATIENCE_S * 1000), len(named))
        topics = [_string(topic.encode()) + struct.pack(">i", len(of)) + b"".join(of) for topic, of in named.items()]
        request = head + body + b"".join(topics)
        self._socket.sendall(struct.pack(">i", len(request)) + request)
        while select.select([self._socket], [], [], 0)[0]:
            self._read()

    def settle(self) -> None:
        """Send the rest and wait for every answer."""
        with closing(self._socket):
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
        parts = []
        while size:
            part = self._socket.recv(size)
            if not part:
                raise SystemExit("the broker hung up: records may not have been delivered")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def failures(answer: bytes) -> list[tuple[str, int, int]]:
    """Topic, partition and error code of every partition of an answer (version 3) that took nothing."""
    found, at = [], 8
    for _ in range(*struct.unpack_from(">i", answer, 4)):
        (length,) = struct.unpack_from(">h", answer, at)
        topic = answer[at + 2 : at + 2 + length].decode()
        (partitions,) = struct.unpack_from(">i", answer, at + 2 + length)
        at += 6 + length
        for _ in range(partitions):
            partition, error, _offset, _at_ms = struct.unpack_from(">ihqq", answer, at)
            at += 22
            if error:
                found.append((topic, partition, error))
    return found


def _string(text: bytes) -> bytes:
    return struct.pack(">h", len(text)) + text
