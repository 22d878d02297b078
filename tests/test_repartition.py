"""Wallets move to new partitions: nothing is lost, doubled or changed, wherever it is killed and begun again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from models.counters import Codes, decode_cell
from models.hashing import partitions_of
from models.rows import unpack_rows
from models.state import Totals
from streams import moving, readouts
from streams.errors import Foreign, Refused, Unavailable, repartitioned
from streams.ledger import Ledger, Mark, Writes
from streams.moving import Moving, Places, Split, read_marks
from streams.settings import Settings
from streams.store import Address
from streams.tenure import nonce
from tests.kafka.cluster import RedisServer, redis_binary
from tests.kafka.processes import Missing
from tests.partition import NOON_MS, Arrival, Partition, Season, drawn_catalogue, learned
from tests.test_ledger import all_due

T = TypeVar("T")
SPLIT = Split(2, 6)
BEGINS = [(0, 0), (0, 0), (3, 0), (0, 0), (0, 5), (0, 0)]
#: In order but for what comes within the hour: then nothing depends on the clock of a partition.
ARRIVALS = Season(events=1600, wallets=90, hot=0.05, late=0, repeats=0.02, seed=5).arrivals()
CATALOGUE = drawn_catalogue(learned(ARRIVALS))
HALF = len(ARRIVALS) // 2


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    try:
        redis_binary()
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.start()


@pytest.fixture
def store(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """Two partitions that have counted half of the arrivals; commits are small, so that there are many."""
    monkeypatch.setattr(moving, "CHUNK", 4)
    monkeypatch.setattr(moving, "PAGE", 16)
    with closing(redis_server.client()) as client:
        client.flushall()
    with_ledger(redis_server, lambda ledger: write(ledger, counted(ARRIVALS[:HALF], 2)))
    return redis_server


def with_ledger(store: RedisServer, scenario: Callable[[Ledger], Awaitable[T]], give_up_s: float = 20) -> T:
    async def run() -> T:
        ledger = Ledger(store.url, give_up_s)
        try:
            return await scenario(ledger)
        finally:
            await ledger.close()

    return asyncio.run(run())


# ------------------------------------------------------------------ partitions, counted and stored


def home(key: bytes | None, partitions: int) -> int:
    return int(partitions_of([key], partitions, "murmur2")[0]) if key else 0


def counted(
    arrivals: list[Arrival], partitions: int, before: dict[int, Partition] | None = None
) -> dict[int, Partition]:
    """Partitions that have taken what is theirs of some arrivals."""
    told = before or {p: Partition(CATALOGUE) for p in range(partitions)}
    for p, partition in told.items():
        partition.take([arrival for arrival in arrivals if home(arrival[1].key, partitions) == p], 50)
    return told


async def write(ledger: Ledger, told: dict[int, Partition]) -> None:
    for p, partition in told.items():
        mark, _ = await ledger.claim(p, Mark(0, (0, 0), ("x", "t"), len(told), nonce()))
        new = replace(mark, number=7, offsets=(10 + p, 20 + p), nonce=nonce(), clock_ms=partition.clock_ms)
        strings = {b"w:" + key: row for key, row in partition.rows.items()}
        strings |= {b"j:" + key: journal for key, journal in partition.journals.items()}
        strings |= {b"f:" + key: fees for key, fees in partition.fees.items()}
        strings[b"totals"] = partition.totals or b""
        await ledger.commit(
            p,
            (mark, new),
            b"",
            Writes(strings, {b"roi": partition.cells, b"codes": partition.codes}, due=partition.agenda.due),
        )


def read(store: RedisServer, partitions: int) -> dict[int, Partition]:
    """Partitions that go on from what is stored, as new owners do."""
    told = {}
    with closing(store.client()) as found:
        client: Any = found
        for p in range(partitions):
            told[p] = one = Partition(CATALOGUE)
            for kind, into in ((b"w", one.rows), (b"j", one.journals), (b"f", one.fees)):
                prefix = b"{%d}:%b:" % (p, kind)
                into |= {key.removeprefix(prefix): client.get(key) for key in client.scan_iter(prefix + b"*", 1000)}
            one.cells, one.codes = (client.hgetall(f"{{{p}}}:{name}") for name in ("roi", "codes"))
            one.totals = client.get(f"{{{p}}}:totals")
            one.agenda.keep({wallet: int(due) for wallet, due in all_due(client)(f"{{{p}}}:due")})
            one.clock_ms = Mark.unpack(client.get(f"{{{p}}}:mark") or b"").clock_ms
            one.restart()
    return told


def everything(store: RedisServer) -> dict[str, Any]:
    """All that Redis holds, but for what differs from run to run: nonces, and the numbers of commits."""
    found: dict[str, Any] = {}
    with closing(store.client()) as client:
        for key in client.scan_iter(count=1000):
            reads: Any = {b"string": client.get, b"hash": client.hgetall, b"zset": all_due(client)}
            read = reads[client.type(key)]
            found[key.decode()] = read(key)
    for key in [key for key in found if key.endswith(":mark")]:
        found[key] = replace(Mark.unpack(found[key], moving=True), nonce="", number=0)
    return found


# ------------------------------------------------------------------ moving


async def move(ledger: Ledger, url: str) -> Moving:
    """Begin, or go on: what `tidemark repartition` does once the logs are counted to their end."""
    found = await read_marks(ledger, range(SPLIT.new))
    marks = {p: mark for p, mark in found.items() if mark and mark.moving_to}
    for p in range(SPLIT.old):
        mark = found[p]
        if mark and not mark.moving_to and mark.partitions == SPLIT.old:
            marks[p], _ = await ledger.claim(p, replace(mark, nonce=nonce()))
    work = Moving(ledger, SPLIT, marks, lambda _: None)
    await work.run(Places(Address(url), "murmur2", SPLIT), BEGINS)
    return work


def read_outs(store: RedisServer) -> dict[str, Any]:
    settings = Settings(redis=SecretStr(store.url))
    names = sorted(str(row["wallet_id"]) for row in readouts.wallets(settings))
    return {
        "totals": readouts.totals(settings),
        "roi": readouts.roi(settings),
        "segments": readouts.segments(settings),
        "wallets": [readouts.wallet(settings, name) for name in names],
    }


def test_a_move_changes_no_read_out(store: RedisServer) -> None:
    before = read_outs(store)
    assert len(before["wallets"]) == before["totals"]["wallets"] > 50
    done = with_ledger(store, lambda ledger: move(ledger, store.url))
    assert read_outs(store) == before
    assert 0 < done.moved < len(before["wallets"])


def test_every_wallet_is_where_its_records_go_and_nowhere_else_and_totals_count_those_there(store: RedisServer) -> None:
    rows = {key: row for one in read(store, 2).values() for key, row in one.rows.items()}
    with_ledger(store, lambda ledger: move(ledger, store.url))
    after = read(store, 6)
    assert sum(len(one.rows) for one in after.values()) == len(rows)
    for p, one in after.items():
        assert {home(key, 6) for key in one.rows} <= {p}
        assert all(rows[key] == row for key, row in one.rows.items())
        assert set(one.journals) <= set(one.rows)
        assert one.codes == after[p % 2].codes
        totals = one.counted
        assert totals.wallets == len(one.rows) == sum(totals.wallets_by_segment.values())
        assert totals.wallets_by_segment == by_segment(one)
    marks = with_ledger(store, lambda ledger: read_marks(ledger, range(6)))
    for p, mark in marks.items():
        source = marks[p % 2]
        assert mark
        assert source
        newest_ms = max(unpack_rows(list(after[p].rows.values()))["last_at_ms"].tolist(), default=0)
        # Not that of the old partition, which has been counted to its end: what the new log holds would all be late.
        assert mark.clock_ms == (source.clock_ms if p < 2 else newest_ms) <= source.clock_ms
        assert (mark.partitions, mark.moving_to) == (6, 0)
        assert mark.offsets == ((10 + p, 20 + p) if p < 2 else BEGINS[p])


def by_segment(one: Partition) -> dict[int, int]:
    segments = unpack_rows(list(one.rows.values()))["segment"].tolist()
    return {number: segments.count(number) for number in sorted(set(segments))}


def test_a_stream_goes_on_after_a_move_as_if_there_had_been_none(store: RedisServer) -> None:
    with_ledger(store, lambda ledger: move(ledger, store.url))
    with_move = counted(ARRIVALS[HALF:], 6, read(store, 6))
    without = counted(ARRIVALS, 2)
    assert together(with_move) == together(without)


def together(told: dict[int, Partition]) -> dict[str, Any]:
    """What the partitions are together."""
    cells: dict[bytes, list[int]] = {}
    for one in told.values():
        for name, stored in one.cells.items():
            sums = cells.setdefault(name, [0] * 11)
            sums[:] = map(int.__add__, sums, decode_cell(stored))
    totals = [one.counted for one in told.values()]
    counts = {name: sum(getattr(each, name) for each in totals) for name in ("transactions", "touches", "duplicates",
              "beyond_memory", "revenue_micros", "cost_micros", "segment_changes", "wallets")}  # fmt: skip
    return {
        "rows": {key: row for one in told.values() for key, row in one.rows.items()},
        "cells": {name: sums for name, sums in cells.items() if any(sums)},
        "counts": counts,
        "rejected": sum(sum(each.rejected.values()) for each in totals),
        "touches": {
            key: [(touch.occurred_at_ms, touch.event_id, Codes.of(one.codes).names[touch.code]) for touch in journal]
            for one in told.values()
            for key, journal in touches_of(one).items()
        },
    }


def touches_of(one: Partition) -> dict[bytes, Any]:
    from models.journeys import touches_of, unpack_journal

    oldest = NOON_MS  # how much older ones are kept depends on the clock, and matters to nobody
    return {
        key: [touch for touch in touches_of(unpack_journal(journal)) if touch.occurred_at_ms >= oldest]
        for key, journal in one.journals.items()
    }


# ------------------------------------------------------------------ killed, frozen, twice


class Cut:
    """A proxy to Redis that breaks off for good after so many requests, before or after Redis has got the last one."""

    def __init__(self, port: int, requests: int, *, delivered: bool) -> None:
        self.port, self.left, self.delivered = port, requests, delivered
        self.seen = 0
        self.carrying: set[asyncio.Task[None]] = set()

    async def serve(self) -> tuple[asyncio.Server, str]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return server, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.carrying.add(task)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.port)
        while self.left > 0 and (some := await reader.read(1 << 20)):
            self.left, self.seen = self.left - 1, self.seen + 1
            if self.left or self.delivered:
                up_writer.write(some)
                reply = await up_reader.read(1 << 20)
                if self.left:
                    writer.write(reply)
        for each in (writer, up_writer):
            each.close()
            await each.wait_closed()


def killed_after(store: RedisServer, requests: int, *, delivered: bool) -> int:
    """Move until the connection breaks; the requests Redis had by then."""

    async def run() -> int:
        cut = Cut(store.port, requests, delivered=delivered)
        server, url = await cut.serve()
        ledger = Ledger(url, give_up_s=0)
        try:
            await move(ledger, url)
        except (Unavailable, Refused):
            pass
        finally:
            await ledger.close()
            server.close()
            await asyncio.gather(*cut.carrying)  # with its clients closed each has come to its end
        return cut.seen

    return asyncio.run(run())


def again(store: RedisServer) -> None:
    """Two counted partitions, as at the beginning."""
    with closing(store.client()) as client:
        client.flushall()
    with_ledger(store, lambda ledger: write(ledger, counted(ARRIVALS[:HALF], 2)))


def test_killed_anywhere_and_begun_again_it_ends_the_same(store: RedisServer) -> None:
    requests = killed_after(store, 10**9, delivered=True)
    expected = everything(store)
    assert requests > 100
    for cut in range(1, requests, requests // 17):
        again(store)
        killed_after(store, cut, delivered=cut % 2 == 0)
        killed_after(store, max(1, cut // 2), delivered=cut % 3 == 0)
        with_ledger(store, lambda ledger: move(ledger, store.url))
        assert everything(store) == expected, cut


def test_nobody_can_claim_what_is_being_moved_and_a_worker_sees_it_before_it_claims(store: RedisServer) -> None:
    async def claim(ledger: Ledger, partition: int) -> None:
        await ledger.claim(partition, Mark(0, (0, 0), ("x", "t"), 6, nonce()))

    killed_after(store, 60, delivered=True)
    before = everything(store)
    marks = with_ledger(store, lambda ledger: read_marks(ledger, range(6)))
    moving_now = [p for p, mark in marks.items() if mark and mark.moving_to]
    assert 0 in moving_now
    assert len(moving_now) > 2
    for partition in moving_now:
        with pytest.raises(Refused, match="let `tidemark repartition` finish"):
            with_ledger(store, lambda ledger, p=partition: claim(ledger, p))  # type: ignore[misc]  # bound now
    assert everything(store) == before
    with pytest.raises(Refused, match="tidemark repartition"):
        readouts.totals(Settings(redis=SecretStr(store.url)))


def test_partition_0_is_let_go_last(store: RedisServer) -> None:
    requests, seen = killed_after(store, 10**9, delivered=True), set()
    for cut in range(requests - 8, requests):
        again(store)
        killed_after(store, cut, delivered=True)
        marks = with_ledger(store, lambda ledger: read_marks(ledger, range(6)))
        done = {p for p, mark in marks.items() if mark and mark.partitions == 6}
        assert 0 not in done or len(done) == 6
        seen.add(len(done))
    assert len(seen) > 3  # it was killed between the marks


def test_a_run_that_was_frozen_writes_nothing_after_another_has_gone_on(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        marks = {p: mark for p, mark in (await read_marks(ledger, range(6))).items() if mark}
        frozen = Moving(ledger, SPLIT, marks, lambda _: None)
        await move(ledger, store.url)
        before = everything(store)
        for partition, mark in marks.items():
            with pytest.raises(Foreign):
                await ledger.commit(partition, (mark, replace(mark, nonce=nonce())), b"", Writes({b"w:a": b"old"}))
            with pytest.raises(Foreign):
                await ledger.discard(partition, (mark, replace(mark, nonce=nonce())), [b"w1"], Totals().to_json())
        with pytest.raises(Foreign):
            await frozen.run(Places(Address(store.url), "murmur2", SPLIT), BEGINS)
        assert everything(store) == before

    killed_after(store, 60, delivered=True)
    with_ledger(store, scenario)


def test_a_wallet_that_the_partitioner_did_not_put_there_is_refused(store: RedisServer) -> None:
    for partitioner in ("crc32", "murmur2"):
        places = Places(Address(store.url), partitioner, SPLIT)
        if partitioner == "crc32":
            with pytest.raises(Refused, match="TIDEMARK_PARTITIONER"):
                places.check(begun=False)
        else:
            places.check(begun=False)


@pytest.mark.parametrize(
    ("now", "words"),
    [(8, "run `tidemark repartition`"), (6, "up to 8"), (5, "up to 8"), (9, "up to 12"), (3, "recreate them with 4")],
)
def test_another_number_of_partitions_is_refused_with_what_to_do(now: int, words: str) -> None:
    said = str(repartitioned(now, 4))
    assert said.startswith(f"the topics have {now} partitions, what is in Redis was counted with 4: ")
    assert words in said
