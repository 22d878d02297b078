"""How settings become a Faust app, and what a worker says when it cannot work."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import ssl
from typing import Any

import pytest
import structlog
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError, MessageSizeTooLargeError
from faust.exceptions import ProducerSendError
from faust.transport.drivers import aiokafka as stock
from pydantic import SecretStr

from streams import app, logs, worker
from streams.errors import Denied, Foreign, Unavailable
from streams.settings import Settings
from streams.transport import TP, BatchApp


async def nothing(_: set[TP]) -> dict[TP, int]:
    return {}


def an_app(**settings: Any) -> BatchApp:
    return app.app_of(Settings(**settings), nothing, 2_000_000)


def test_the_settings_arrive_in_the_app() -> None:
    found = an_app(kafka="a:1,b:2", group="g", session_timeout_ms=6000, fetch_min_bytes=99, instance_id="w7")
    assert [str(url) for url in found.conf.broker] == ["kafka://a:1", "kafka://b:2"]
    assert (found.conf.id, found.conf.broker_session_timeout, found.conf.broker_heartbeat_interval) == ("g", 6, 0.5)
    assert (found.tuning.fetch_min_bytes, found.tuning.embedded) == (99, False)
    assert found.conf.consumer_group_instance_id == "w7"
    assert found.conf.consumer_max_fetch_size == found.conf.producer_max_request_size == 2_000_000
    producer: Any = an_app(embedded=True).producer
    assert producer._settings_extra()["enable_idempotence"] is False


def test_what_would_break_the_engine_is_off() -> None:
    conf = an_app().conf
    assert not conf.web_enabled
    assert not conf.stream_wait_empty
    assert conf.topic_disable_leader
    assert not conf.topic_allow_declare
    # the assignor that keeps the inputs co-partitioned; 0 replicas silently choose another
    assert conf.table_standby_replicas == 1
    chooses = "self.app.assignor\n            if self.app.conf.table_standby_replicas > 0"
    assert chooses in inspect.getsource(stock.AIOKafkaConsumerThread._create_worker_consumer)


@pytest.mark.parametrize(
    ("settings", "protocol", "mechanism"),
    [
        ({"kafka_security": "PLAINTEXT"}, "PLAINTEXT", None),
        ({"kafka_security": "SSL"}, "SSL", None),
        ({"kafka_security": "SASL_PLAINTEXT"}, "SASL_PLAINTEXT", "PLAIN"),
        ({"kafka_security": "SASL_SSL", "kafka_sasl_mechanism": "SCRAM-SHA-512"}, "SASL_SSL", "SCRAM-SHA-512"),
    ],
)
def test_credentials_arrive_in_the_client(settings: dict[str, Any], protocol: str, mechanism: str | None) -> None:
    credentials = app._credentials(Settings(kafka_user="u", kafka_password=SecretStr("p"), **settings))
    found = stock.credentials_to_aiokafka_auth(credentials)
    assert found["security_protocol"] == protocol
    assert found.get("sasl_mechanism") == mechanism
    assert isinstance(found.get("ssl_context"), ssl.SSLContext) == protocol.endswith("SSL")


def test_a_message_too_large_is_known_however_it_is_said() -> None:
    wrapped = ProducerSendError("no")
    wrapped.__cause__ = MessageSizeTooLargeError("no")
    assert app.too_large(wrapped)
    assert app.too_large(MessageSizeTooLargeError("no"))
    assert not app.too_large(ProducerSendError("no"))


def test_kafkas_errors_are_explained_and_wrong_code_is_not() -> None:
    assert isinstance(app.explained(GroupAuthorizationFailedError("g")), Denied)
    assert isinstance(app.explained(KafkaConnectionError("g")), Unavailable)
    for problem in (Foreign("x"), ZeroDivisionError()):
        assert app.explained(problem) is problem


def test_no_broker_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(worker, "START_S", 0.1)
    with pytest.raises(Unavailable, match="no Kafka broker answers"):
        worker.run(Settings(kafka="127.0.0.1:1"))
    assert capsys.readouterr().err == ""


def test_a_line_is_json_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:]
    try:
        logs.configure("INFO")
        problem = OSError("two\nlines")
        logging.getLogger("aiokafka.consumer").error("failed: %r\nmore", problem, exc_info=problem)
        logging.getLogger("faust").warning("chatty")
        structlog.get_logger("tidemark.worker").info("ready", partitions=[1])
    finally:
        logging.getLogger().handlers[:] = before
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["failed: OSError('two\\nlines')", "ready"]
    assert lines[1]["partitions"] == [1]
    assert set(lines[1]) == {"event", "partitions", "level", "timestamp"}


def test_the_loop_is_not_needed_to_make_an_app() -> None:
    assert asyncio.iscoroutinefunction(an_app().start)
