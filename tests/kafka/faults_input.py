"""Harm from upstream: bad records, a hot wallet, aborted transactions, topics that are not what they were."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from itertools import count

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from streams.spoil import SPOILERS
from tests.kafka.inputs import HOT_WALLET, part_of, produce, produce_in_transactions
from tests.kafka.processes import wait_until
from tests.kafka.scene import LIVE, Fault, Scene, Stream
from tests.oracle import murmur2
from tests.partition import transaction

#: The contract's closed list of reasons to reject a record.
REASONS = {*SPOILERS, "wrong_partition"}
#: How long the transactional producer takes for its records, and how long another one's transaction stays open.
UPSTREAM_S, OPEN_S = 40.0, 10.0
#: How wallets are called that only a refilled topic has, and by how many records its partitions are longer at most.
STRANGER, FURTHER = "0xrefill-", 200


def kill_one(scene: Scene) -> None:
    """kill -9 of one worker, somewhere in the middle."""
    scene.await_progress(scene.chance.uniform(0.3, 0.6))
    kill(scene)


def kill(scene: Scene) -> None:
    """kill -9 of one worker, now."""
    victim = scene.chance.choice(scene.workers)
    victim.kill()
    scene.say(f"killed {victim.name} at {scene.applied()} records")


def poisoned(scene: Scene) -> None:
    """Nothing stops, nothing vanishes, and every reason is there."""
    scene.expect({*scene.inputs.expected["totals"]["rejected"]} == REASONS, "a reason is missing among the events")
    kill_one(scene)


# ------------------------------------------------------------------ transactions


def open_transaction(scene: Scene) -> None:
    """One producer leaves a transaction open while another goes on, both onto every partition; then it is aborted."""
    began, failed = time.monotonic(), []

    def pace(sent: int) -> None:
        time.sleep(max(0.0, began + UPSTREAM_S * sent / scene.events - time.monotonic()))

    def upstream() -> None:
        try:
            produce_in_transactions(scene.world, part_of(scene.inputs, 0, 1), 0.3, scene.chance, pace)
        except Exception as problem:  # noqa: BLE001 -- whatever it is, the thread that waits must hear of it
            failed.append(problem)

    thread = threading.Thread(target=upstream)
    thread.start()
    scene.await_progress(0.2)
    options = {"bootstrap_servers": scene.world.bootstrap, "transactional_id": f"{scene.world.name}-slow"}
    with closing(KafkaProducer(**options)) as slow:
        slow.init_transactions()
        slow.begin_transaction()
        for partition in range(scene.world.partitions):
            for topic in (scene.world.touches, scene.world.transactions):
                slow.send(topic, b"{}", key=HOT_WALLET.encode(), partition=partition)
        slow.flush()
        scene.say(f"a transaction is open on every partition at {scene.applied()} records")
        scene.pause(OPEN_S / 2)  # nothing behind it can be read, so there is no progress to gate on
        kill(scene)
        scene.pause(OPEN_S / 2)
        before = scene.applied()
        slow.abort_transaction()
    scene.say(f"and is aborted at {before} records")
    scene.expect(before < scene.events, "nothing was behind the open transaction: too few events")
    scene.wait_until(lambda: not thread.is_alive(), "the producer's end")
    scene.expect(not failed, f"the producer failed: {failed}")


# ------------------------------------------------------------------ topics


def topic_recreated(scene: Scene) -> None:
    """Every worker refuses, a new one too, and nothing of the new topic is counted beside what the old one came to."""
    scene.await_progress(scene.chance.uniform(0.2, 0.6))
    scene.stop_supervising()
    _recreate(scene)
    _all_refuse(scene, "deleted and created again")
    _count_anew(scene)


def topic_refilled(scene: Scene) -> None:
    """Nothing is counted of a topic that goes on beyond where the old one ended when frozen workers look again."""
    world = scene.world
    scene.await_progress(1.0)  # they have read all there is: what comes next is taken at once
    scene.stop_supervising()
    for worker in scene.workers:
        worker.freeze()
    longer = {number: end[0] + scene.chance.randint(1, FURTHER) for number, end in world.ends().items()}
    _recreate(scene)
    _refill(scene, longer)
    scene.say("refilled while all workers stood still")
    for worker in scene.workers:
        worker.thaw()
    _all_refuse(scene, "deleted and created again")
    with world.store.client() as client:
        strangers = list(client.scan_iter(f"*:w:{STRANGER}*", count=10_000))
    scene.expect(not strangers, f"records of the new topic were counted: {strangers[:3]}")
    _recreate(scene)  # of the true events, to be counted from its start
    _count_anew(scene)


def _recreate(scene: Scene) -> None:
    topic = scene.world.transactions
    with closing(KafkaAdminClient(bootstrap_servers=scene.world.bootstrap)) as admin:
        admin.delete_topics([topic])
        wait_until(lambda: topic not in admin.list_topics(), f"{topic} gone")
    scene.world.run("topics", "create")


def _refill(scene: Scene, ends: Mapping[int, int]) -> None:
    """Each partition up to this end: trades of a wallet nobody has heard of, in its own partition."""
    names = (f"{STRANGER}{number}".encode() for number in count())
    homes: dict[int, bytes] = {}
    while len(homes) < scene.world.partitions:
        name = next(names)
        homes.setdefault(murmur2(name) % scene.world.partitions, name)
    now_ms = time.time_ns() // 1_000_000
    with closing(KafkaProducer(bootstrap_servers=scene.world.bootstrap, acks="all")) as producer:
        for partition, name in homes.items():
            value = json.dumps(transaction(f"refill-{partition}", name.decode(), now_ms, fee_usd="1")).encode()
            for _ in range(ends[partition]):
                producer.send(scene.world.transactions, value, key=name, partition=partition, timestamp_ms=now_ms)
        producer.flush()


def _count_anew(scene: Scene) -> None:
    """What the workers advise: an empty database, and the events on the new topic."""
    world = scene.world
    scene.say(f"all workers have refused at {scene.applied()} records; now what they advise")
    with world.store.client() as client:
        client.flushall()
    lines = [line for line in part_of(scene.inputs, 0, 1) if line.startswith('{"topic":"wallet.transactions"')]
    world.run("produce", stdin="".join(lines).encode(), seconds=600)
    scene.resume_supervising()


def partitions_added(scene: Scene) -> None:
    """Every worker refuses; the offline command moves the wallets, is killed meanwhile, and run again."""
    world = scene.world
    scene.await_progress(scene.chance.uniform(0.3, 1.0) * scene.fault.first)
    scene.stop_supervising()
    more = 2 * world.partitions
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        admin.create_partitions({world.transactions: more, world.touches: more})
    produce(world, scene.inputs, scene.fault.stream, seed=0, start=scene.fault.first)
    _all_refuse(scene, f"{more} partitions")
    scene.say(f"all workers have refused at {scene.applied()} records")
    _killed_command(scene, "repartition")
    world.run("repartition", seconds=600, allowed_lateness=LIVE["allowed_lateness"])
    world.partitions = more
    scene.say("repartitioned")
    scene.resume_supervising()


def _killed_command(scene: Scene, *words: str) -> None:
    """Start it and kill it in the middle of its work, more or less."""
    environment = scene.world.environment(**scene.fault.settings)
    try:
        subprocess.run(
            scene.world.words(*words),
            env=environment,
            capture_output=True,
            check=False,
            timeout=scene.chance.uniform(2, 9),
        )
    except subprocess.TimeoutExpired:
        scene.say(f"{' '.join(words)} was killed")


def _all_refuse(scene: Scene, why: str) -> None:
    """Every worker ends with 1 and one line; started again it does the same, says why, and nothing is counted.

    A new log may first be noticed because it does not reach as far as the old one did.
    """
    _await_refusals(scene, why, "no longer holds the record to be read next")
    counted = scene.applied()
    for worker in scene.workers:
        worker.start()
    _await_refusals(scene, why)
    scene.expect(scene.applied() == counted, "a worker counted on after it was started again")


def _await_refusals(scene: Scene, *reasons: str) -> None:
    scene.wait_until(lambda: not any(worker.alive for worker in scene.workers), "all workers refusing")
    for worker in scene.workers:
        said = [line for line in worker.text_since_start.splitlines() if not line.startswith("{")]
        well = worker.wait() == 1 and len(said) == 1 and any(why in said[0] for why in reasons)
        scene.expect(well, f"{worker.name} ended with {worker.wait()}, saying {said}")


FAULTS: tuple[Fault, ...] = (
    Fault(
        "poison",
        "5 % of the records are bad, for every reason of the contract; a worker is killed meanwhile.",
        poisoned,
        stream=Stream(bad=0.05, poisoned=True),
    ),
    Fault(
        "hot-wallet",
        "30 % of the records belong to one wallet; a worker is killed meanwhile.",
        kill_one,
        stream=Stream(hot=0.3, days=120),
    ),
    Fault(
        "aborted-transactions",
        "The producer is transactional and aborts a third of all it began; a worker is killed meanwhile.",
        kill_one,
        stream=Stream(aborted=0.5),
    ),
    Fault(
        "open-transaction",
        f"A transaction stays open on every partition for {OPEN_S:g} s while others go on, and is aborted.",
        open_transaction,
        # Both topics stop and go on apart: of few days nothing can be later than it may be.
        stream=Stream(days=4),
        first=0.0,
        settings=LIVE,
    ),
    Fault(
        "topic-recreated",
        "The topic of transactions is deleted and created again under live workers.",
        topic_recreated,
        stream=Stream(bad=0.0),
        own_topics=True,
    ),
    Fault(
        "topic-refilled",
        "The same while workers are frozen (SIGSTOP), and the new topic is longer than the old one when they go on.",
        topic_refilled,
        stream=Stream(bad=0.0),
        own_topics=True,
        settings={"session_timeout_ms": 120_000},  # they keep their partitions: nothing but the topic's id tells them
    ),
    Fault(
        "partitions-added",
        "Both topics are given twice as many partitions under live workers; then `tidemark repartition`.",
        partitions_added,
        first=0.5,
        settings=LIVE,  # the second half is sent while the workers still work
    ),
)
