"""The overview's partition on a real Redis: what is learned is stored, published, followed, and taken up again."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.names import GivenName, give, read_given
from models.observe import Digest
from models.records import Record
from models.rules import DAY_MS
from models.segments import EMPTY_CATALOGUE, Catalogue
from streams import drifting, overview
from streams.announce import Outbox
from streams.catalogue import CatalogueWatch, pinned_catalogue
from streams.errors import Refused, WrongSettings
from streams.intake import Alone, Inbox, Lane, clock
from streams.ledger import OVERVIEW, Ledger, Mark
from streams.ledger_reader import LedgerReader
from streams.lessons import AHEAD_MS
from streams.overview import KEY, OverviewPartition
from streams.tenure import Tenure, nonce
from tests.kafka.cluster import RedisServer
from tests.test_intake import Arrival
from tests.test_ledger import redis_server, store
from tests.test_partition import Gates, House, Kafka, at_home, two_segments, until

__all__ = ["redis_server", "store"]  # fixtures


def digests(count: int) -> list[Record]:
    """A few event-days of wallets of three kinds, and one record that is no digest."""
    draw = np.random.default_rng(4)
    kinds = np.eye(3, 16, 4, dtype=np.float32) * 5
    records = []
    for number in range(1, count + 1):
        rows = kinds[draw.integers(0, 3, 60)] + draw.normal(0, 0.1, (60, 16)).astype(np.float32)
        digest = Digest(0, number, f"{number:016x}", number * DAY_MS // 2, rows.astype(np.float32))
        records.append(Record(number - 1, 0, b"0", digest.pack()))
    records[2] = Record(2, 0, b"0", b"no digest")
    return records


async def learn(house: House, records: list[Record]) -> Mark:
    mark, pending = await house.ledger.claim(OVERVIEW, Mark(0, (0,), ("id-d",), 1, nonce()))
    tenure = Tenure(OVERVIEW, house.ledger, Outbox(house.kafka.send, lambda _: False), mark)
    await tenure.inherit(pending)
    inbox = Inbox(Alone(Lane(0, mark.offsets[0], clock())), Gates(), 1000)
    if rest := records[mark.offsets[0] :]:
        inbox.put(0, Arrival(rest, mark.offsets[0]))
    running = asyncio.create_task(OverviewPartition(tenure, inbox, house.around).run())
    await until(lambda: running.done() or tenure.mark.offsets == (len(records),))
    inbox.close()
    await running
    return tenure.mark


def test_what_is_learned_is_published_and_workers_follow_it(store: RedisServer) -> None:
    async def scenario(house: House) -> None:
        watch = CatalogueWatch(house.ledger)
        await watch.look()
        assert (watch.catalogue, watch.learned_until_ms) == (EMPTY_CATALOGUE, 0)
        mark = await learn(house, digests(20))
        await watch.look()
        assert len(watch.catalogue.segments) >= 3
        assert mark.catalogue == (watch.catalogue.version, watch.catalogue.hash)
        assert watch.learned_until_ms == mark.clock_ms == 10 * DAY_MS
        assert watch.heard == {0: 20}

    kafka = at_home(store, scenario)
    with closing(LedgerReader(store.url)) as reader:
        published = Catalogue.from_json(reader.overview().catalogue or b"")
    newest = kafka.of("segments.catalogue")[-1]
    assert (newest.key, Catalogue.from_json(newest.value or b"").hash) == (KEY, published.hash)


def has_learned(tenure: Tenure, digests: int) -> bool:
    return tenure.mark.offsets == (digests,)


def test_who_waits_for_the_overview_is_not_kept_waiting(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "PAUSE_S", 600.0)

    async def scenario(house: House) -> None:
        mark, _ = await house.ledger.claim(OVERVIEW, Mark(0, (0,), ("id-d",), 1, nonce()))
        tenure = Tenure(OVERVIEW, house.ledger, Outbox(house.kafka.send, lambda _: False), mark)
        inbox = Inbox(Alone(Lane(0, 0, clock())), Gates(), 1000)
        running = asyncio.create_task(OverviewPartition(tenure, inbox, house.around).run())
        rows = np.zeros((1, 16), np.float32)
        for number in range(1, 5):  # every one so far ahead of what was learned that its sender waits
            digest = Digest(0, number, f"{number:016x}", number * (AHEAD_MS + 1), rows)
            inbox.put(0, Arrival([Record(number - 1, 0, b"0", digest.pack())], number - 1))
            await until(partial(has_learned, tenure, number))
        inbox.close()
        await running

    at_home(store, scenario)


def test_the_next_owner_goes_on_where_the_last_one_was(store: RedisServer) -> None:
    def published() -> Any:
        with closing(LedgerReader(store.url)) as reader:
            found = reader.overview()
        return json.loads(found.pointer or b"")

    at_home(store, lambda house: learn(house, digests(20)))
    at_once = published()
    with closing(store.client()) as client:
        client.flushall()
    for count in (6, 13, 20):
        some = digests(20)[:count]
        at_home(store, partial(learn, records=some))
    assert published()["heard"] == at_once["heard"]
    assert published()["learned_until_ms"] == at_once["learned_until_ms"]


def test_an_overview_that_was_rolled_back_learns_the_same_again(store: RedisServer) -> None:
    def left() -> list[Any]:
        with closing(store.client()) as client:
            return client.mget("{overview}:model", "{overview}:pointer", "{overview}:catalogue")

    at_home(store, partial(learn, records=digests(8)))
    with closing(store.client()) as client:
        snapshot = {key: client.get(key) or b"" for key in client.scan_iter("{overview}:*")}
    at_home(store, partial(learn, records=digests(20)))
    before = left()
    with closing(store.client()) as client:
        client.mset(snapshot)
    assert left() != before
    at_home(store, partial(learn, records=digests(20)))
    assert left() == before  # the same numbers for the same segments, in the same versions


def test_what_the_overview_keeps_does_not_grow_with_its_versions(store: RedisServer) -> None:
    at_home(store, lambda house: learn(house, digests(30)))
    with closing(store.client()) as client:
        assert json.loads(client.get("{overview}:pointer") or b"")["version"] > 1
        names = {bytes(key).partition(b":")[2] for key in client.scan_iter("{overview}:*")}
    assert names == {b"mark", b"pending", b"model", b"pointer", b"catalogue"}


def test_a_name_by_a_user_reaches_workers_with_the_next_digests(store: RedisServer) -> None:
    async def scenario(house: House) -> None:
        await learn(house, digests(20)[:18])
        watch = CatalogueWatch(house.ledger)
        await watch.look()
        number, version = watch.catalogue.segments[0].number, watch.catalogue.version
        with closing(LedgerReader(store.url)) as reader:
            reader.give_name(number, give(watch.catalogue, number, GivenName("the usual", "as ever"), {}))
            assert read_given(reader.names()) == {number: GivenName("the usual", "as ever")}
        await learn(house, digests(20))
        await watch.look()
        assert watch.catalogue.name_of(number) == "the usual"
        assert watch.catalogue.version > version
        with closing(LedgerReader(store.url)) as reader:
            reader.give_name(number, None)
            assert reader.names() == {}

    at_home(store, scenario)


@pytest.mark.parametrize("pinned", [False, True])
def test_workers_hear_of_a_crash_by_the_pointer_unless_their_catalogue_is_pinned(
    store: RedisServer, pinned: bool
) -> None:
    async def scenario(house: House) -> None:
        await learn(house, digests(20))
        watch = CatalogueWatch(house.ledger, two_segments() if pinned else None)
        await watch.look()
        before = watch.catalogue
        with closing(store.client()) as client:
            pointer = json.loads(client.get("{overview}:pointer") or b"")
            assert pointer["regime"] == "normal"
            pointer |= {"regime": "crash", "regime_from_ms": 1000, "regime_until_ms": 2000}
            client.set("{overview}:pointer", json.dumps(pointer))
            await watch.look()
            assert watch.catalogue.regime_at(1500) == ("normal" if pinned else "crash")
            assert watch.catalogue.hash == before.hash
            held = watch.catalogue
            client.set("{overview}:pointer", json.dumps(pointer | {"learned_until_ms": 7}))
            await watch.look()
            assert watch.catalogue is held

    at_home(store, scenario)


class OneAtATime(Ledger):
    """The ledger, and how many reads were under way at once at most."""

    now = most = 0

    async def read_strings(self, owner: int | str, *names: bytes) -> list[bytes | None]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().read_strings(owner, *names)
        finally:
            self.now -= 1


def test_the_watch_looks_once_at_a_time_and_never_goes_back_to_an_older_answer(store: RedisServer) -> None:
    async def scenario(house: House) -> None:
        await learn(house, digests(20))
        ledger = OneAtATime(store.url)
        watch = CatalogueWatch(ledger)
        await asyncio.gather(*(watch.look() for _ in range(5)))
        assert len(watch.catalogue.segments) >= 3
        assert ledger.most == 1
        await ledger.close()

    at_home(store, scenario)


def test_nothing_is_known_of_an_overview_that_is_gone(store: RedisServer) -> None:
    async def scenario(house: House) -> None:
        await learn(house, digests(20))
        watch = CatalogueWatch(house.ledger)
        await watch.look()
        with closing(store.client()) as client:
            client.flushall()
        await watch.look()
        assert (watch.catalogue, watch.learned_until_ms, watch.heard) == (EMPTY_CATALOGUE, 0, {})

    at_home(store, scenario)


def test_a_catalogue_that_is_not_the_published_one_is_refused(store: RedisServer) -> None:
    async def scenario(house: House) -> None:
        await learn(house, digests(20))
        with closing(store.client()) as client:
            client.set("{overview}:catalogue", two_segments().to_json())
            with pytest.raises(Refused, match="is not the one published"):
                await CatalogueWatch(house.ledger).look()
            client.delete("{overview}:catalogue")
            with pytest.raises(Refused, match="cannot be used"):
                await CatalogueWatch(house.ledger).look()

    at_home(store, scenario)


#: What somebody or something may have made of the pointer: no JSON, no object, pieces missing, other kinds of values.
DAMAGED = [
    b"{",
    b"\xff",
    b"[]",
    b"7",
    b'{"version":1}',
    b'{"version":1,"hash":"x","learned_until_ms":null,"heard":{}}',
    b'{"version":1,"hash":"x","learned_until_ms":0,"heard":["a"]}',
    b'{"version":1,"hash":"x","learned_until_ms":0,"heard":{"a":1}}',
    b'{"version":0,"learned_until_ms":0,"heard":{},"regime_until_ms":"soon"}',
]


@pytest.mark.parametrize("damaged", DAMAGED)
@pytest.mark.parametrize("pinned", [False, True])
def test_a_damaged_pointer_is_one_line_that_says_what_to_do(store: RedisServer, damaged: bytes, pinned: bool) -> None:
    async def scenario(house: House) -> None:
        with closing(store.client()) as client:
            client.set("{overview}:pointer", damaged)
        with pytest.raises(Refused, match=r"^what Redis holds of the overview cannot be read \([^\n]+ restore Redis$"):
            await CatalogueWatch(house.ledger, two_segments() if pinned else None).look()

    at_home(store, scenario)
    with pytest.raises(Refused, match=r"^what Redis holds of the overview cannot be read \([^\n]+ restore Redis$"):
        drifting.crash_of(damaged)


def test_a_pinned_catalogue_stays_while_learning_goes_on(store: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.json"
    path.write_bytes(two_segments().to_json())
    pinned = pinned_catalogue(path)

    async def scenario(house: House) -> None:
        await learn(house, digests(20))
        watch = CatalogueWatch(house.ledger, pinned)
        await watch.look()
        assert watch.catalogue.hash == two_segments().hash
        assert watch.learned_until_ms

    at_home(store, scenario)
    path.write_text("{}")
    with pytest.raises(WrongSettings, match="is no catalogue"):
        pinned_catalogue(path)
    assert Kafka().sent == []
