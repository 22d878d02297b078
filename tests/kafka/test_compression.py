"""Records compressed by their producers or by the broker: workers and commands read all of them."""

from __future__ import annotations

import json
from contextlib import closing

from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from models.rules import HOUR_MS
from tests.answers import Bytes
from tests.kafka.test_refusals import count_one_event
from tests.kafka.test_repartition import add_partitions, count_all
from tests.kafka.world import World
from tests.partition import NOON_MS, touch, transaction

CODECS = ("gzip", "snappy", "lz4", "zstd")
#: Transactions of each codec, and touches.
EACH = 40
#: The second has a name that is no UTF-8.
HEADERS = [("trace", b"1"), (Bytes(b"tr\xffce"), b"\xff")]


def send_compressed(world: World) -> None:
    """Transactions of 1 USD that kafka-python compresses, touches that the broker does, with all codecs."""
    for turn, codec in enumerate(CODECS):
        let_the_broker_compress(world, codec)
        send(world, world.transactions, turn, codec)
        send(world, world.touches, turn, None)


def let_the_broker_compress(world: World, codec: str) -> None:
    """Write touches with this codec from now on, whatever their producer does."""
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        config = {"compression.type": codec, "retention.ms": "-1"}
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, world.touches, configs=config)])


def send(world: World, topic: str, turn: int, codec: str | None) -> None:
    with closing(KafkaProducer(bootstrap_servers=world.bootstrap, compression_type=codec, linger_ms=500)) as producer:
        for number in range(turn * EACH, turn * EACH + EACH):
            wallet, at_ms = f"w{number % 16}", NOON_MS + number * HOUR_MS
            value = (
                touch(f"t{number}", wallet, at_ms)
                if topic == world.touches
                else transaction(f"c{number}", wallet, at_ms + 1, fee_usd="1")
            )
            producer.send(topic, json.dumps(value).encode(), wallet.encode(), HEADERS, timestamp_ms=at_ms)


def test_a_worker_counts_what_is_compressed_with_any_codec(world: World) -> None:
    world.run("topics", "create")
    send_compressed(world)
    count_all(world, 2 * EACH * len(CODECS))
    totals = world.ask("totals")
    assert (totals["transactions"], totals["touches"], totals["rejected"]) == (160, 160, {})
    assert totals["revenue_micros"] == 160_000_000


def test_commands_read_any_codec_and_headers_whose_names_are_no_utf_8(world: World) -> None:
    count_one_event(world)
    send_compressed(world)
    assert sum(row["lag"] for row in world.ask("lag")) == 320
    add_partitions(world, 8, 8)
    # The records that are not where they belong among eight: it has looked at all.
    assert b"newest records are where murmur2 puts them among 4 partitions" in world.command("topics", "check").stdout
    assert b"320 records" in world.run("repartition")
    world.partitions = 8
    count_all(world, 321)
    totals = world.ask("totals")
    assert (totals["transactions"], totals["touches"], totals["rejected"]) == (161, 160, {})
    assert totals["revenue_micros"] == 161_000_000
