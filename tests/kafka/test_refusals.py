"""What cannot work says so in one line that tells what to do, with the exit code of the contract."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from models.hashing import murmur2
from tests.kafka.processes import free_port
from tests.kafka.world import World

EVENT = (
    b'{"topic":"wallet.transactions","key":"w1","value":{"event_id":"e1","wallet_id":"w1",'
    b'"occurred_at":"2026-04-01T00:00:00Z","kind":"trade","product":"spot","asset":"BTC","fee_usd":"1"}}\n'
)


def refusal(world: World, *words: str, code: int = 1, **changed: str) -> str:
    """The one line a command ends with."""
    done = world.command(*words, stdin=b"", seconds=90, **changed)
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("{")]
    assert done.returncode == code, done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert len(lines) == 1, lines
    return lines[0]


def create(world: World, transactions: int, touches: int) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        for topic, partitions in ((world.transactions, transactions), (world.touches, touches)):
            admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1}})


def count_one_event(world: World) -> None:
    world.run("topics", "create")
    world.run("produce", stdin=EVENT)
    worker = world.worker("first")
    world.await_applied(1)
    worker.terminate()
    assert worker.wait() == 0


def test_no_broker(world: World) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    for words in (("work",), ("topics", "check")):
        assert nobody in refusal(world, *words, kafka=nobody)


def test_no_redis(world: World) -> None:
    world.run("topics", "create")
    nobody = f"redis://:secret@127.0.0.1:{free_port()}/0"
    for words in (("work",), ("totals",)):
        said = refusal(world, *words, redis=nobody)
        assert "Redis" in said
        assert "secret" not in said


def test_topics_that_are_missing(world: World) -> None:
    assert "tidemark topics create" in refusal(world, "work")


def test_topics_with_different_numbers_of_partitions(world: World) -> None:
    create(world, 4, 2)
    for words in (("work",), ("topics", "check")):
        done = world.command(*words, seconds=90)
        said = done.stderr.decode() + done.stdout.decode()
        assert done.returncode == 1
        assert "the same number" in said or "has no topic" in said  # our own topics are missing here, too


def test_another_number_of_partitions_than_was_counted(world: World) -> None:
    count_one_event(world)
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.create_partitions({world.transactions: 8, world.touches: 8})
    said = refusal(world, "work")
    assert "8 partitions" in said
    assert "counted with 4" in said


def test_a_topic_that_was_recreated(world: World) -> None:
    count_one_event(world)
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.delete_topics([world.transactions])
    world.run("topics", "create")
    assert "deleted and created again" in refusal(world, "work")


@pytest.mark.parametrize(("topic", "events"), [("transactions", 5), ("transactions", 0), ("touches", 5)])
def test_a_topic_that_is_recreated_under_running_workers(world: World, topic: str, events: int) -> None:
    count_one_event(world)
    workers = [world.worker(f"worker-{number}") for number in range(2)]
    for worker in workers:
        worker.await_words('"event": "ready"')
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.delete_topics([world.transactions if topic == "transactions" else world.touches])
    world.run("topics", "create")
    if events:  # more than was there: the mark is inside the new log; with none it is outside
        world.run("produce", stdin=EVENT * events)
    for worker in workers:
        assert worker.wait(180) == 1, worker.tail()
        (line,) = [line for line in worker.text.splitlines() if not line.startswith("{")]
        assert "deleted and created again" in line
    assert world.applied() == 1


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "live"])
def test_nothing_is_counted_of_a_topic_that_was_refilled_beyond_what_was_counted(world: World, frozen: bool) -> None:
    count_one_event(world)
    worker = world.worker("worker", session_timeout_ms=120_000)  # it keeps its partitions whatever happens meanwhile
    worker.await_words('"event": "ready"')
    if frozen:
        worker.freeze()
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.delete_topics([world.transactions])
    world.run("topics", "create")
    world.run("produce", stdin=EVENT * 500)
    worker.thaw()
    assert worker.wait(60) == 1, worker.tail()
    (line,) = [line for line in worker.text.splitlines() if not line.startswith("{")]
    assert "deleted and created again" in line
    assert world.applied() == 1


def test_every_wrong_setting_is_named_at_once(world: World) -> None:
    done = world.command("work", partitions=0, kafka="nonsense", no_such_setting=1)
    assert done.returncode == 2
    for name in ("TIDEMARK_PARTITIONS", "TIDEMARK_KAFKA", "TIDEMARK_NO_SUCH_SETTING"):
        assert name in done.stderr.decode()


def test_a_catalogue_that_is_none(world: World, tmp_path: Path) -> None:
    file = tmp_path / "catalogue.json"
    file.write_text("[]")
    assert "TIDEMARK_CATALOGUE" in refusal(world, "work", code=2, catalogue=str(file))


def test_a_log_that_is_cut_under_a_running_worker_is_refused_and_not_jumped_over(world: World) -> None:
    count_one_event(world)
    worker = world.worker("second")
    worker.await_words('"event": "ready"')
    worker.freeze()
    world.run("produce", stdin=EVENT * 200)
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        partition = TopicPartition(world.transactions, int(murmur2([b"w1"])[0]) % world.partitions)
        admin.delete_records({partition: 150})
    worker.thaw()
    assert worker.wait(60) == 1
    assert "no longer holds the record to be read next" in worker.tail()
    assert "Traceback" not in worker.text
