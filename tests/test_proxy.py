"""The wire that tests cut: what it does to a ledger is what each name says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest

from streams.errors import Unavailable
from streams.ledger import Ledger, Mark, Writes
from tests.kafka.cluster import RedisServer
from tests.kafka.proxy import Proxy
from tests.test_ledger import after, fresh, redis_server, store

__all__ = ["redis_server", "store"]  # fixtures


def through(proxy: Proxy, scenario: Callable[[Ledger], Awaitable[None]], give_up_s: float = 30) -> None:
    async def run() -> None:
        ledger = Ledger(proxy.url, give_up_s)
        try:
            await scenario(ledger)
        finally:
            await ledger.close()

    asyncio.run(run())


async def commit(ledger: Ledger, mark: Mark) -> Mark:
    new = after(mark)
    await ledger.commit(0, (mark, new), b"", Writes({b"w:a": b"%d" % new.number}))
    return new


def test_commits_whose_replies_are_cut_off_have_happened_once(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        mark, _ = await ledger.claim(0, fresh())
        proxy.cut_replies(5, share=0.5, seed=3)
        for _ in range(20):
            mark = await commit(ledger, mark)
        assert await ledger.read(0, b"w", [b"a"]) == [b"20"]

    with Proxy(store.port).start() as proxy:
        through(proxy, scenario)
        assert proxy.cuts == 5
        assert proxy.commits == 25


def test_refused_is_refused_at_once_and_the_port_comes_back(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        mark, _ = await ledger.claim(0, fresh())
        proxy.refuse()
        committing = asyncio.create_task(commit(ledger, mark))
        await asyncio.sleep(0.3)
        assert ledger.down_since is not None
        proxy.carry()
        await committing
        assert ledger.down_since is None

    with Proxy(store.port).start() as proxy:
        through(proxy, scenario)


def test_requests_of_a_silence_arrive_late_and_change_nothing_more(
    store: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.store.REPLY_S", 0.2)

    async def scenario(ledger: Ledger) -> None:
        mark = await commit(ledger, (await ledger.claim(0, fresh()))[0])
        proxy.silence()
        before = scripts_run(store)
        committing = asyncio.create_task(commit(ledger, mark))
        await asyncio.sleep(1)
        assert not committing.done()
        assert scripts_run(store) == before
        proxy.carry()
        mark = await committing
        await commit(ledger, mark)
        assert await ledger.read(0, b"w", [b"a"]) == [b"%d" % (mark.number + 1)]
        assert scripts_run(store) > before + 2  # those given up by the ledger came too

    with Proxy(store.port).start() as proxy:
        through(proxy, scenario)


def scripts_run(store: RedisServer) -> int:
    with closing(store.client()) as client:
        return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_silence_that_lasts_is_unavailable(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.store.REPLY_S", 0.1)

    async def scenario(ledger: Ledger) -> None:
        await ledger.ping()
        proxy.silence()
        with pytest.raises(Unavailable):
            await ledger.ping()

    with Proxy(store.port).start() as proxy:
        through(proxy, scenario, give_up_s=0.5)
