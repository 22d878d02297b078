"""Topics on a real Kafka: the configuration in force, and what happens when somebody changes it."""

from __future__ import annotations

from contextlib import closing

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from tests.kafka.world import World


def alter(world: World, topic: str, **config: str) -> None:
    changed = {name.replace("_", "."): value for name, value in config.items()}
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=changed)])


def test_created_topics_pass_the_check_and_every_later_change_is_found(world: World) -> None:
    world.run("topics", "create")
    world.run("topics", "check")
    alter(world, world.transactions, retention_ms="604800000", message_timestamp_type="LogAppendTime")
    alter(world, f"{world.prefix}segments.catalogue", cleanup_policy="delete")
    alter(world, f"{world.prefix}batch.digests", retention_ms="60000")
    alter(world, world.touches, max_message_bytes="5000000")
    done = world.command("topics", "check")
    wrong = done.stdout.decode()
    assert done.returncode == 1
    assert f"{world.transactions} has retention.ms=604800000 and needs -1" in wrong
    assert f"{world.transactions} has message.timestamp.type=LogAppendTime and needs CreateTime" in wrong
    assert "segments.catalogue has cleanup.policy=delete and needs compact" in wrong
    assert "batch.digests has retention.ms=60000 and needs 604800000" in wrong
    assert "events.rejected has max.message.bytes=1179648 and needs 5065536" in wrong


def test_topics_made_beside_larger_inputs_are_larger_too(world: World) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        config = {"max.message.bytes": "3000000", "retention.ms": "-1"}
        admin.create_topics({world.transactions: {"num_partitions": 3, "configs": config}})
    world.run("topics", "create")
    world.run("topics", "check")
