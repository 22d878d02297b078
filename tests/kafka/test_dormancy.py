"""A wallet that goes quiet is announced dormant without an event of its own, through a worker, Kafka and Redis."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np

from models.hashing import partitions_of
from models.lifecycle import surprise_ms
from models.rows import unpack_rows
from models.rules import DAY_MS, HOUR_MS
from models.segments import Catalogue, Segment
from tests.kafka.reading import read_topic
from tests.kafka.world import World
from tests.partition import touch, transaction


def one_segment() -> Catalogue:
    ones = np.ones(16)
    return Catalogue(
        version=1,
        mean=0 * ones,
        sd=ones,
        centres=np.zeros((1, 16)),
        variances=np.ones((1, 16)),
        shares=np.ones(1),
        segments=(Segment(1, 0, "everybody", 1.0, 1),),
    )


def line(topic: str, value: dict[str, object]) -> bytes:
    return json.dumps({"topic": topic, "key": value["wallet_id"], "value": value}).encode()


def lines_of(partitions: int) -> list[bytes]:
    """Ten days of a busy wallet, and then ten of touches to others in every partition, for the clocks."""
    start_ms = int((datetime.now(UTC) - timedelta(days=30)).timestamp() * 1000)
    others = [f"other{n}" for n in range(40)]
    homes = partitions_of([name.encode() for name in others], partitions, "murmur2").tolist()
    others = [others[homes.index(p)] for p in range(partitions)]
    trades = [transaction(f"e{n}", "quiet", start_ms + n * 3 * HOUR_MS, usd_value="100") for n in range(80)]
    beats = [
        touch(f"{other}/{n}", other, start_ms + 10 * DAY_MS + n * 6 * HOUR_MS) for n in range(40) for other in others
    ]
    return [line("wallet.transactions", each) for each in trades] + [line("campaign.touches", each) for each in beats]


def test_a_quiet_wallet_is_announced_dormant_by_a_worker(world: World) -> None:
    pinned = world.folder / "catalogue.json"
    pinned.write_bytes(one_segment().to_json())
    lines = lines_of(world.partitions)
    world.run("topics", "create")
    world.run("produce", stdin=b"\n".join(lines))
    worker = world.worker("worker", catalogue=pinned)
    world.await_applied(len(lines), seconds=300)
    world.await_no_lag()
    worker.terminate()
    assert worker.wait() == 0
    entered, left = (
        json.loads(record.value) for record in read_topic(world.bootstrap, f"{world.prefix}segment.changes")
    )
    assert (entered["status"], entered["origin"]) == ("entered", "live")
    assert (left["status"], left["origin"], left["lifecycle"], left["to"]) == ("left", "sweep", "dormant", None)
    assert left["reasons"][0]["feature"] == "idle_days"
    shown = world.ask("wallet", "quiet")
    assert (shown["segment"], shown["lifecycle"], shown["sequence"]) == ("unassigned", "dormant", 2)
    home = int(partitions_of([b"quiet"], world.partitions, "murmur2")[0])
    with world.store.client() as client:
        row = unpack_rows([client.get(f"{{{home}}}:w:quiet")])[0]
        queued = client.zcard(f"{{{home}}}:due")
    assert row["due_s"] == queued == 0  # it is looked at no more, and who only has touches never is
    silent_ms = datetime.fromisoformat(left["occurred_at"]).timestamp() * 1000 - int(row["last_at_ms"])
    assert surprise_ms(row, 1e-3) <= silent_ms <= 3 * DAY_MS
