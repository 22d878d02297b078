"""What knocking at Kafka says of servers that are no Kafka; a real one is in tests/kafka/test_security.py."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streams.errors import Denied, Unavailable
from streams.knock import knock

SASL = {"sasl_mechanism": "PLAIN", "sasl_plain_username": "user", "sasl_plain_password": "SECRET"}


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that gives one answer to each request and then ends the connection."""

    def serve() -> None:
        wire, _ = listener.accept()
        with wire:
            wire.settimeout(10)
            for answer in answers:
                wire.recv(1 << 16)
                wire.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def framed(body: bytes) -> bytes:
    return struct.pack(">ii", len(body) + 4, 1) + body


WELCOME = framed(struct.pack(">hih", 0, 1, 5) + b"PLAIN")


def said(broker: str, **ways: object) -> str:
    with pytest.raises((Denied, Unavailable)) as caught:
        knock({"bootstrap_servers": [broker], **ways})
    assert "\n" not in str(caught.value)
    assert "SECRET" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}".replace(broker, "HERE")


def test_nobody_there() -> None:
    assert said("127.0.0.1:1") == "Unavailable: no Kafka broker answers at HERE: start it, or set TIDEMARK_KAFKA"
    assert "no Kafka broker answers" in said("127.0.0.1:99999")


def test_one_that_opens_is_enough() -> None:
    with answering() as broker:
        knock({"bootstrap_servers": ["127.0.0.1:1", broker]})


def test_one_that_speaks_no_tls() -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n") as broker:
        line = said(broker, ssl_context=ssl.create_default_context())
    assert line.startswith("Unavailable: Kafka at HERE does not speak TLS as we do (")


def test_a_user_who_is_let_in() -> None:
    with answering(WELCOME, framed(struct.pack(">hhi", 0, -1, 0))) as broker:
        knock({"bootstrap_servers": [broker], **SASL})


def test_a_user_who_is_not() -> None:
    with answering(WELCOME, framed(struct.pack(">hh", 58, 2) + b"no" + struct.pack(">i", 0))) as broker:
        assert said(broker, **SASL).startswith("Denied: Kafka at HERE does not let this user in (no): check ")


def test_a_mechanism_that_is_not_known() -> None:
    with answering(framed(struct.pack(">hih", 33, 1, 13) + b"SCRAM-SHA-256")) as broker:
        line = said(broker, **SASL)
    assert line == "Denied: Kafka at HERE does not take PLAIN but SCRAM-SHA-256: set TIDEMARK_KAFKA_SASL_MECHANISM"


@pytest.mark.parametrize("answer", [b"", b"\x00\x00", b"HTTP/1.1 400 Bad Request\r\n", struct.pack(">i", 2) + b"ab"])
def test_one_that_speaks_something_else(answer: bytes) -> None:
    with answering(answer) as broker:
        line = said(broker, **SASL)
    assert line == "Unavailable: Kafka at HERE ends the connection while we sign in: is TIDEMARK_KAFKA_SECURITY right?"
