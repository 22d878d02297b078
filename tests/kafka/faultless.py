"""What a run leaves behind, and how it differs from what a run without faults left over the same topics.

That is compared byte by byte: with a pinned catalogue and topics that were full before the first worker started, the
logs alone decide everything, wherever batches were cut and whoever did the work.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kafka.admin import KafkaAdminClient

from models.rows import unpack_rows
from tests.kafka.inputs import Inputs
from tests.kafka.reading import read_topic
from tests.kafka.world import World

#: At most so many differences of a kind are told.
TOLD = 5
#: What names the group and the topic, so it differs between two runs.
SOURCE = "ce_source"

#: Value and headers of an announcement.
Content = tuple[bytes, tuple[tuple[str, bytes], ...]]
#: Wallet and sequence of an announcement -> how often it came with each content.
Announced = Mapping[tuple[str, int], Counter[Content]]


@dataclass(frozen=True, slots=True)
class Trace:
    """What a run left: key -> value of all partitions in Redis, ROI rows by segment, and what was announced."""

    stored: Mapping[bytes, object]
    roi: list[dict[str, Any]]
    announced: Announced


def trace(world: World) -> Trace:
    """Everything that must not depend on faults."""
    return Trace(stored(world), world.ask("roi"), announced(world))


def run_faultless(world: World, inputs: Inputs, settings: Mapping[str, object]) -> Trace:
    """One worker that nobody disturbs."""
    worker = world.worker("faultless", **settings)
    world.await_applied(inputs.records, seconds=600)
    world.await_no_lag()
    worker.terminate()
    if code := worker.wait():
        raise RuntimeError(f"without any fault a worker ended with {code}:\n{worker.tail()}")
    return trace(world)


def stored(world: World) -> dict[bytes, object]:
    """Wallets, journals, counters and totals of all partitions; not the marks, whose nonces are drawn.

    Rows as they are: how much of one is stored in patches depends on where batches were cut.
    """
    found: dict[bytes, object] = {}
    with world.store.client() as client:
        for key in client.scan_iter(match="{*}:*", count=1000):
            name = key.partition(b"}:")[2]
            if key.startswith(b"{overview}") or name in {b"mark", b"pending"}:
                continue
            if name.startswith(b"w:"):
                found[key] = unpack_rows([client.get(key)]).tobytes()
            elif name == b"due":
                found[key] = client.zrange(key, 0, -1, withscores=True)
            else:
                found[key] = client.hgetall(key) if name in {b"roi", b"codes"} else client.get(key)
    return found


def announced(world: World) -> Announced:
    """The changes of the input topics as they are now, without those of topics that were deleted."""
    found: dict[tuple[str, int], Counter[Content]] = {}
    for record in current_changes(world):
        headers = tuple((name, value) for name, value in record.headers if name != SOURCE)
        change = json.loads(record.value)
        found.setdefault((change["wallet_id"], change["sequence"]), Counter())[record.value, headers] += 1
    return found


def current_changes(world: World) -> Iterator[Any]:
    """Records of `segment.changes` whose source is the topic that is there now."""
    with closing(KafkaAdminClient(bootstrap_servers=world.bootstrap)) as admin:
        (topic,) = admin.describe_topics([world.transactions])
    source = f"/tidemark/{world.group}/{topic['topic_id']}".encode()
    for record in read_topic(world.bootstrap, f"{world.prefix}segment.changes"):
        if dict(record.headers)[SOURCE] == source:
            yield record


def announced_too_early(world: World) -> Iterator[tuple[str, int]]:
    """Wallet and sequence of changes that were announced and are not committed. True only while nobody works."""
    committed = {row["wallet_id"]: row["sequence"] for row in world.lines("wallets")}
    for wallet, sequence in announced(world):
        if sequence > committed.get(wallet, 0):
            yield wallet, sequence


def differences(found: Trace, faultless: Trace) -> Iterator[str]:
    """Sentences about everything that is not as without faults."""
    yield from _told("in Redis", found.stored, faultless.stored)
    by_row = [{_row(row): _numbers(row) for row in rows} for rows in (found.roi, faultless.roi)]
    yield from _told("roi by segment", *by_row)
    yield from _told(
        "announced", *({key: set(of) for key, of in each.announced.items()} for each in (found, faultless))
    )


def missing(found: Trace, faultless: Trace) -> int:
    """Announcements that never came."""
    return sum(set(of) != set(found.announced.get(key, ())) for key, of in faultless.announced.items())


def repeats(found: Announced) -> tuple[int, int]:
    """Announcements that came again: with the same id and content, and with the same place but another content."""
    same = sum(times - 1 for of in found.values() for times in of.values())
    return same, sum(len(of) - 1 for of in found.values())


def _row(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["segment"], row["campaign_id"], row["channel"], row["rule"]


def _numbers(row: Mapping[str, Any]) -> tuple[int, ...]:
    return row["revenue_micros"], row["cost_micros"], row["conversions_micros"]


def _told(where: str, found: Mapping[Any, object], want: Mapping[Any, object]) -> Iterator[str]:
    wrong = [key for key in {**found, **want} if found.get(key) != want.get(key)]
    for key in sorted(wrong, key=str)[:TOLD]:
        yield f"{where}: {key} is {_short(found.get(key))}, without faults it is {_short(want.get(key))}"
    if len(wrong) > TOLD:
        yield f"{where}: and {len(wrong) - TOLD} more"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:150]} … {text[-150:]}"
