"""A transactional producer upstream: what it aborts is never counted, and its markers are no lag."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from kafka import KafkaProducer

from models.rules import HOUR_MS
from tests.kafka.world import World
from tests.partition import NOON_MS, touch, transaction


@contextmanager
def transactional(world: World) -> Iterator[KafkaProducer]:
    with closing(KafkaProducer(bootstrap_servers=world.bootstrap, transactional_id=world.name)) as producer:
        producer.init_transactions()
        yield producer


def send(world: World, producer: KafkaProducer, numbers: Iterable[int], *, commit: bool) -> None:
    """One transaction over both topics: for each number a transaction of 1 USD, and a touch."""
    producer.begin_transaction()
    for number in numbers:
        wallet, at_ms = f"w{number % 16}", NOON_MS + number * HOUR_MS
        for topic, value in (
            (world.touches, touch(f"t{number}", wallet, at_ms)),
            (world.transactions, transaction(f"e{number}", wallet, at_ms + 1, fee_usd="1")),
        ):
            producer.send(topic, json.dumps(value).encode(), key=wallet.encode(), timestamp_ms=at_ms)
    producer.flush()
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()


def behind(world: World) -> int:
    rows = world.ask("lag")
    assert all(row["lag"] == row["end"] - row["position"] for row in rows)
    return sum(row["lag"] for row in rows)


def test_aborted_records_are_not_counted_and_lag_returns_to_0(world: World) -> None:
    world.run("topics", "create")
    with transactional(world) as producer:
        for turn in range(6):  # the tail of every log is an aborted transaction
            send(world, producer, range(turn * 20, turn * 20 + 20), commit=turn % 2 == 0)
        assert behind(world) >= 120  # 3 x 20 of both topics, and what lies between
        worker = world.worker("first")
        world.await_applied(120)
        world.await_no_lag()
        worker.terminate()
        assert worker.wait() == 0
        assert behind(world) == 0
        send(world, producer, range(1000, 1020), commit=False)
        assert behind(world) == 0
        send(world, producer, range(2000, 2020), commit=True)
        assert behind(world) >= 40
        again = world.worker("second")
        world.await_applied(160)
        world.await_no_lag()
        again.terminate()
        assert again.wait() == 0
    totals = world.ask("totals")
    assert (totals["transactions"], totals["touches"], totals["duplicates"], totals["rejected"]) == (80, 80, 0, {})
    assert totals["revenue_micros"] == 80_000_000


def test_records_behind_an_open_transaction_wait_for_its_end(world: World) -> None:
    world.run("topics", "create")
    worker = world.worker("worker")
    worker.await_words('"event": "ready"')
    with transactional(world) as producer:
        send(world, producer, range(20), commit=True)
        world.await_applied(40)
        producer.begin_transaction()
        producer.send(world.transactions, b"{}", key=b"w1").get(30)
        world.run("produce", stdin=line(world, 500))
        world.await_no_lag()  # against the last stable offset
        assert world.applied() == 40
        producer.abort_transaction()
    world.await_applied(41)
    world.await_no_lag()
    worker.terminate()
    assert worker.wait() == 0
    assert world.ask("totals")["rejected"] == {}


def line(world: World, number: int) -> bytes:
    value = transaction(f"e{number}", "w1", NOON_MS + number * HOUR_MS, fee_usd="1")
    return json.dumps({"topic": "wallet.transactions", "key": "w1", "value": value}).encode() + b"\n"
