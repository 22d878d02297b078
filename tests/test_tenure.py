"""An owner that writes nothing notices too that its mark is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import closing

from streams.announce import Message, Outbox
from streams.ledger import Ledger, Writes
from streams.tenure import Tenure
from tests.kafka.cluster import RedisServer
from tests.kafka.proxy import Proxy
from tests.test_ledger import fresh, redis_server, store, with_ledger

__all__ = ["redis_server", "store"]  # fixtures


async def nobody(_: Message) -> Awaitable[object]:
    raise AssertionError


async def tenure_of(ledger: Ledger) -> Tenure:
    mark, _ = await ledger.claim(0, fresh())
    return Tenure(0, ledger, Outbox(nobody, bool), mark)


def test_an_idle_owner_whose_mark_was_rolled_back_or_is_gone_has_lost_it(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        tenure = await tenure_of(ledger)
        assert await tenure.lost() is None
        with closing(store.client()) as client:
            older = client.get("{0}:mark") or b""
            await tenure.commit(tenure.next_mark((5, 5)), Writes(), ())
            assert await tenure.lost() is None
            client.set("{0}:mark", older)
            assert "partition 0 has another owner" in str(await tenure.lost())
            client.flushall()
            assert "its mark is gone" in str(await tenure.lost())

    with_ledger(store, scenario)


def test_an_owner_whose_commit_is_under_way_has_lost_nothing(store: RedisServer) -> None:
    async def scenario() -> None:
        slow, quick = Ledger(proxy.url), Ledger(store.url)
        tenure = await tenure_of(slow)
        await tenure.commit(tenure.next_mark((5, 5)), Writes(), ())  # a script that Redis knows
        tenure._ledger = slow
        proxy.silence()
        looking = asyncio.create_task(tenure.lost())
        await asyncio.sleep(0.1)
        tenure._ledger = quick
        await tenure.commit(tenure.next_mark((6, 6)), Writes(), ())
        proxy.carry()
        assert await looking is None  # what it asked for has changed meanwhile
        tenure._ledger = slow
        proxy.cut_replies(1)
        committing = asyncio.create_task(tenure.commit(tenure.next_mark((7, 7)), Writes(), ()))
        while not proxy.cuts:  # noqa: ASYNC110 -- the proxy lives in another thread
            await asyncio.sleep(0.001)
        tenure._ledger = quick
        assert await tenure.lost() is None  # in Redis is the new mark, and the owner does not know it yet
        await committing
        assert await tenure.lost() is None
        await slow.close()
        await quick.close()

    with Proxy(store.port).start() as proxy:
        asyncio.run(scenario())
