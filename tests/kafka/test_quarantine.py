"""Records that are no events: they go on byte for byte, whatever they are, and stop nobody."""

from __future__ import annotations

import hashlib
from contextlib import closing

from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from tests.answers import Bytes
from tests.kafka.processes import wait_until
from tests.kafka.reading import read_topic
from tests.kafka.world import World

EVENT = (
    b'{"topic":"wallet.transactions","key":"w1","value":{"event_id":"e1","wallet_id":"w1",'
    b'"occurred_at":"2026-04-01T00:00:00Z","kind":"trade","product":"spot","asset":"BTC","fee_usd":"1"}}\n'
)


def test_a_record_without_key_and_value_passes_through_quarantine(world: World) -> None:
    world.run("topics", "create")
    world.run(
        "produce", stdin=b'{"topic":"wallet.transactions","key":null,"value":null,"timestamp":1775000000000}\n' + EVENT
    )
    worker = world.worker("worker")
    world.await_applied(2)
    worker.terminate()
    assert worker.wait() == 0
    assert world.ask("totals")["rejected"] == {"null_value": 1}
    (rejected,) = read_topic(world.bootstrap, f"{world.prefix}events.rejected")
    assert (rejected.key, rejected.value) == (None, b"")
    assert ("tidemark.rejected.null_value", b"true") in list(rejected.headers)


def test_compressed_records_are_read_and_what_is_wrong_in_a_headers_name_is_replaced(world: World) -> None:
    world.run("topics", "create")
    _, event = EVENT.split(b'"value":', 1)
    headers = [("trace", b"1"), (Bytes(b"tr\xffce"), b"\xff"), ("größe", b"")]
    with closing(KafkaProducer(bootstrap_servers=world.bootstrap, compression_type="gzip", linger_ms=500)) as producer:
        for value in (event.rstrip()[:-1], *[b"{bad %d" % number for number in range(50)]):
            producer.send(world.transactions, value, key=b"w1", headers=headers)
    worker = world.worker("worker")
    world.await_applied(51)
    worker.terminate()
    assert worker.wait() == 0
    totals = world.ask("totals")
    assert (totals["transactions"], totals["rejected"]) == (1, {"not_json": 50})
    found = list(read_topic(world.bootstrap, f"{world.prefix}events.rejected"))
    assert [record.value for record in found] == [b"{bad %d" % number for number in range(50)]
    for record in found:
        assert list(record.headers)[-3:] == [("trace", b"1"), ("tr\ufffdce", b"\xff"), ("größe", b"")]


def test_records_larger_than_the_topic_of_rejected_ones_go_without_their_value(world: World) -> None:
    # Two of them in one commit: a message the broker refuses would cost the idempotent producer its sequence.
    world.run("topics", "create")
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        limits = {"max.message.bytes": "5000000", "retention.ms": "-1"}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, world.transactions, configs=limits)])
    large = [b'{"big":"' + letter * 3_000_000 + b'"}' for letter in (b"x", b"y")]
    with closing(KafkaProducer(bootstrap_servers=world.bootstrap, max_request_size=6_000_000)) as producer:
        for value in (*large, b"{}"):
            producer.send(world.transactions, value, key=b"w1").get(30)
    worker = world.worker("worker")
    world.await_applied(3)
    worker.terminate()
    assert worker.wait() == 0
    found = list(read_topic(world.bootstrap, f"{world.prefix}events.rejected"))
    assert [record.value for record in found] == [b"", b"", b"{}"]
    digests = [dict(record.headers).get("tidemark.rejected.sha256", b"").decode() for record in found]
    assert digests == [*(hashlib.sha256(value).hexdigest() for value in large), ""]


def test_a_limit_lowered_under_a_worker_costs_one_restart_and_no_record(world: World) -> None:
    # A message the broker refuses costs the idempotent producer its sequence, and it never finds it again: the worker
    # must not wait for that, and the next one sends what is pending.
    world.run("topics", "create")
    worker = world.worker("worker")
    with closing(KafkaProducer(bootstrap_servers=world.bootstrap, max_request_size=2_000_000)) as producer:
        producer.send(world.transactions, b"{", key=b"w1").get(30)
        world.await_applied(1)
        wait_until(lambda: len(list(read_topic(world.bootstrap, f"{world.prefix}events.rejected"))) == 1, "announced")
        with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
            limit = {"max.message.bytes": "100000"}
            rejected = ConfigResource(ConfigResourceType.TOPIC, f"{world.prefix}events.rejected", configs=limit)
            admin.alter_configs([rejected])
        large = b'{"big":"' + b"x" * 500_000 + b'"}'
        for value in (large, b"{}"):
            producer.send(world.transactions, value, key=b"w1").get(30)
    assert worker.wait(120) == 1
    assert "can send nothing more" in worker.tail(1)
    worker.start()
    world.await_applied(3)
    worker.terminate()
    assert worker.wait() == 0
    found = [record.value for record in read_topic(world.bootstrap, f"{world.prefix}events.rejected")]
    assert found == [b"{", b"", b"{}"]
