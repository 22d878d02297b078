"""Claims and commits on a real Redis: all or nothing, refused to everybody but the owner, safe to repeat."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import Connection

from streams.announce import Message, Outbox
from streams.errors import Foreign, Refused, Unavailable
from streams.ledger import OVERVIEW, Ledger, Mark, Writes, pack_command, tag, transient
from streams.ledger_reader import LedgerReader
from streams.tenure import Tenure, nonce
from tests.commands import words
from tests.kafka.cluster import RedisServer, redis_binary
from tests.kafka.processes import Missing

T = TypeVar("T")
EMPTY = Mark(0, (0, 0), ("id-of-transactions", "id-of-touches"), 4, "0" * 16)


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
def store(redis_server: RedisServer) -> RedisServer:
    with closing(redis_server.client()) as client:
        client.flushall()
        client.script_flush()
    return redis_server


def with_ledger(store: RedisServer, scenario: Callable[[Ledger], Awaitable[T]], give_up_s: float = 20) -> T:
    async def run() -> T:
        ledger = Ledger(store.url, give_up_s)
        try:
            return await scenario(ledger)
        finally:
            await ledger.close()

    return asyncio.run(run())


def fresh() -> Mark:
    return replace(EMPTY, nonce=nonce())


def after(mark: Mark, *offsets: int) -> Mark:
    return replace(mark, number=mark.number + 1, offsets=offsets or mark.offsets, nonce=nonce())


def all_due(client: Any) -> Any:
    """Reads a sorted set: its members with their scores, in order."""
    return lambda key: client.zrange(key, 0, -1, withscores=True)


def stored(store: RedisServer) -> dict[bytes, Any]:
    """Everything in Redis."""
    with closing(store.client()) as client:
        found: Any = {}
        for key in client.scan_iter():
            reads: Any = {b"string": client.get, b"hash": client.hgetall, b"zset": all_due(client)}
            read = reads[client.type(key)]
            found[key] = read(key)
        return dict(found)


marks = st.builds(
    Mark,
    st.integers(0, 2**53),
    st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)),
    st.tuples(st.text(), st.text()),
    st.integers(1, 10_000),
    st.integers(0, 2**64 - 1).map(lambda bits: f"{bits:016x}"),
    st.tuples(st.integers(0), st.text(max_size=16)),
    st.integers(),
    st.just(0) | st.integers(1, 10_000),
)


@given(marks)
def test_a_mark_survives_its_packing_and_ends_in_its_nonce(mark: Mark) -> None:
    packed = mark.pack()
    assert Mark.unpack(packed, moving=True) == mark
    fields = {"format": 1} | asdict(mark)
    if mark.moving_to:
        fields["format"] = "moving"
    else:
        del fields["moving_to"]
    fields["nonce"] = fields.pop("nonce")
    assert packed == json.dumps(fields, separators=(",", ":")).encode()
    assert packed[-18:] == mark.nonce.encode() + b'"}'
    assert b"\n" not in packed


@pytest.mark.parametrize("packed", [b"", b"0 1 2", b"[]", b"{}", b'{"format":2,"nonce":"x"}', b'{"format":1}', b"\xff"])
def test_a_mark_of_another_format_is_refused(packed: bytes) -> None:
    with pytest.raises(Refused, match="run the version that wrote it"):
        Mark.unpack(packed)


@pytest.mark.parametrize(
    "mark",
    [
        b'{"format":2,"number":3,"nonce":"0123456789abcdef"}',
        EMPTY.pack().replace(b'"format":1', b'"format":10'),
        EMPTY.pack() + b"\n",
        EMPTY.pack().replace(b'"nonce":"', b'"nonce":"x'),
        json.dumps(json.loads(EMPTY.pack())).encode(),  # with blanks: readable, but not where the script looks
        b"17 04",
    ],
)
def test_a_claim_leaves_a_mark_of_another_form_as_it_is(store: RedisServer, mark: bytes) -> None:
    async def scenario(ledger: Ledger) -> None:
        with closing(store.client()) as client:
            client.mset({"{0}:mark": mark, "{0}:pending": b"theirs"})
        with pytest.raises(Refused, match="run the version that wrote it"):
            await ledger.claim(0, fresh())
        assert stored(store) == {b"{0}:mark": mark, b"{0}:pending": b"theirs"}

    with_ledger(store, scenario)


@given(st.lists(st.binary()))
def test_a_command_is_packed_as_redis_py_packs_it(words: list[bytes]) -> None:
    assert pack_command(b"GET", *words) == b"".join(Connection(protocol=2).pack_command("GET", *words))


def test_the_first_claim_writes_the_mark_so_that_a_flushed_redis_is_refused(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        empty = fresh()
        assert await ledger.claim(0, empty) == (empty, b"")
        assert stored(store) == {b"{0}:mark": empty.pack()}
        with closing(store.client()) as client:
            client.flushall()
        with pytest.raises(Foreign, match="gone"):
            await ledger.commit(0, (empty, after(empty, 5, 5)), b"", Writes({b"w:a": b"1"}))
        assert stored(store) == {}

    with_ledger(store, scenario)


def test_a_log_that_begins_later_than_the_mark_says_is_gone_on_with(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        held, _ = await ledger.claim(0, fresh())
        tenure = Tenure(0, ledger, Outbox(nobody, bool), replace(held, offsets=(40, 40)), held)
        for offset in (41, 42):  # the first commit quotes what Redis holds, the second what the first has written
            await tenure.commit(tenure.next_mark((offset, 40)), Writes({b"w:a": b"1"}), ())
        assert tenure.mark.offsets == (42, 40)

    async def nobody(_: Message) -> Awaitable[object]:
        raise AssertionError

    with_ledger(store, scenario)


def test_a_commit_writes_everything_and_the_next_owner_finds_it(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        mark, _ = await ledger.claim(3, fresh())
        new = replace(after(mark, 7, 9), catalogue=(2, "abc"), clock_ms=55)
        writes = Writes(
            {b"w:a": b"row", b"w:\xff {}": b"", b"totals": b"{}"},
            {b"roi": {b"s1|c|email": b"1 2"}, b"codes": {b"c|email": b"1"}},
        )
        await ledger.commit(3, (mark, new), b"pending", writes)
        assert stored(store) == {
            b"{3}:mark": new.pack(),
            b"{3}:pending": b"pending",
            b"{3}:totals": b"{}",
            b"{3}:w:a": b"row",
            b"{3}:w:\xff {}": b"",
            b"{3}:roi": {b"s1|c|email": b"1 2"},
            b"{3}:codes": {b"c|email": b"1"},
        }
        assert await ledger.read(3, b"w", [b"a", b"b", b"\xff {}"]) == [b"row", None, b""]
        assert await ledger.read(3, b"w", []) == []
        assert await ledger.read_fields(3, b"roi", [b"s2||", b"s1|c|email"]) == [None, b"1 2"]
        assert await ledger.read_fields(3, b"roi", []) == []
        assert await ledger.read_strings(3, b"totals", b"nothing") == [b"{}", None]
        assert await ledger.read_hash(3, b"codes") == {b"c|email": b"1"}
        assert await ledger.read_hash(2, b"codes") == {}
        theirs = fresh()
        assert await ledger.claim(3, theirs) == (replace(new, nonce=theirs.nonce), b"pending")

    with_ledger(store, scenario)


def test_what_a_former_owner_has_in_flight_is_refused_from_the_claim_on(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        old, _ = await ledger.claim(0, fresh())
        new, _ = await ledger.claim(0, fresh())
        before = stored(store)
        with pytest.raises(Foreign, match="partition 0 has another owner"):
            await ledger.commit(0, (old, after(old, 1, 1)), b"x", Writes({b"w:a": b"1"}, {b"roi": {b"f": b"1"}}))
        assert stored(store) == before
        await ledger.commit(0, (new, after(new, 2, 2)), b"", Writes())

    with_ledger(store, scenario)


def test_the_same_number_of_another_history_is_refused(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        mark, _ = await ledger.claim(0, fresh())
        one, other = after(mark, 5, 5), after(mark, 5, 5)
        await ledger.commit(0, (mark, one), b"", Writes())
        with closing(store.client()) as client:  # rolled back, then another owner reaches the same number and offsets
            client.set("{0}:mark", other.pack())
        with pytest.raises(Foreign):
            await ledger.commit(0, (one, after(one, 9, 9)), b"", Writes())

    with_ledger(store, scenario)


def test_a_repeated_commit_finds_its_own_mark_and_has_succeeded(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        mark, _ = await ledger.claim(0, fresh())
        new = after(mark, 5, 5)
        for _ in range(2):
            await ledger.commit(0, (mark, new), b"", Writes({b"w:a": b"1"}))
        assert stored(store)[b"{0}:mark"] == new.pack()

    with_ledger(store, scenario)


@pytest.mark.parametrize("count", [999, 1000, 1001, 2000, 5001])
def test_a_large_commit_goes_in_whole(store: RedisServer, count: int) -> None:
    async def scenario(ledger: Ledger) -> None:
        mark, _ = await ledger.claim(0, fresh())
        rows = {b"w:%d" % n: b"%0764d" % n for n in range(count)}
        cells = {b"s1|%d|x" % n: b"%d" % n for n in range(count)}
        codes = {b"%d|x" % n: b"%d" % n for n in range(count)}
        await ledger.commit(
            0, (mark, after(mark, 1, 1)), bytes(4 << 20), Writes(rows, {b"roi": cells, b"codes": codes})
        )
        found = stored(store)
        assert {key: found[b"{0}:" + key] for key in rows} == rows
        assert (found[b"{0}:roi"], found[b"{0}:codes"]) == (cells, codes)
        assert await ledger.read(0, b"w", [b"%d" % n for n in range(count)]) == list(rows.values())

    with_ledger(store, scenario)


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 5001])
def test_rows_are_stored_beside_all_else(store: RedisServer, count: int) -> None:
    async def scenario(ledger: Ledger) -> None:
        mark, _ = await ledger.claim(7, fresh())
        wallets = [b"\xff %d" % n for n in range(count)]
        rows = [b"%064d" % n for n in range(count)]
        strings = {b"j:a": b"journal", b"totals": b"{}"}
        named = words(*(word for wallet, row in zip(wallets, rows, strict=True) for word in (b"{7}:w:" + wallet, row)))
        writes = Writes(strings, {b"roi": {b"f": b"1"}}, whole=named)
        await ledger.commit(7, (mark, after(mark, 1, 1)), b"pending", writes)
        assert await ledger.read(7, b"w", wallets) == rows
        assert await ledger.read_strings(7, b"j:a", b"totals", b"pending") == [b"journal", b"{}", b"pending"]
        assert len(stored(store)) == count + 5

    with_ledger(store, scenario)


@pytest.mark.parametrize("count", [1, 999, 2500])
def test_parts_of_values_are_written_with_all_else(store: RedisServer, count: int) -> None:
    async def scenario(ledger: Ledger) -> None:
        mark, _ = await ledger.claim(7, fresh())
        names = [b"w:%d" % n for n in range(count)]
        first, second = after(mark, 1, 1), after(mark, 2, 2)
        begun = Writes(dict.fromkeys(names, b"row"), {b"roi": {b"f": b"1"}}, due={b"a": 5})
        await ledger.commit(7, (mark, first), b"", begun)
        parts = {name: (3, b"|%d" % n) for n, name in enumerate(names)} | {b"new": (0, b"x")}
        more = words(*(word for name in names for word in (b"{7}:" + name, b"2", b".")))
        writes = Writes({b"totals": b"{}"}, parts=parts, whole=words(b"{7}:w:a", b"row"), patches=more)
        for _ in range(2):
            await ledger.commit(7, (first, second), b"", writes)
        found = stored(store)
        assert [found[b"{7}:" + name] for name in names] == [b"ro.|%d" % n for n in range(count)]
        assert found[b"{7}:w:a"] == b"row"
        assert (found[b"{7}:new"], found[b"{7}:mark"]) == (b"x", second.pack())
        with pytest.raises(Foreign):
            await ledger.commit(7, (first, after(first, 3, 3)), b"", Writes(parts=dict.fromkeys(names, (0, b"no"))))
        assert stored(store) == found

    with_ledger(store, scenario)


def test_what_is_asked_in_one_moment_travels_together_and_each_gets_its_own_answer(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        with closing(store.client()) as client:
            client.set("{1}:roi", b"not a hash")
            client.hset("{2}:roi", "f", b"2")
            await ledger.ping()
            before = client.info("stats")["total_connections_received"]
            asked = [asyncio.create_task(ledger.read_fields(owner, b"roi", [b"f"])) for owner in range(12)]
            await asyncio.sleep(0)
            asked[5].cancel()
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert client.info("stats")["total_connections_received"] <= before
        assert isinstance(found[1], Refused)
        assert isinstance(found[5], asyncio.CancelledError)
        assert [found[owner] for owner in (0, 2, 11)] == [[None], [b"2"], [None]]

    with_ledger(store, scenario)


def test_a_redis_that_has_forgotten_the_scripts_is_given_them_by_each_who_needs_one(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        held = [(await ledger.claim(owner, fresh()))[0] for owner in range(4)]
        with closing(store.client()) as client:
            client.script_flush()
        new = [after(mark, 1, 1) for mark in held]
        commits = [ledger.commit(owner, (held[owner], new[owner]), b"", Writes({b"w:a": b"1"})) for owner in range(4)]
        found = await asyncio.gather(ledger.read_strings(0, b"nothing"), *commits)
        assert found[0] == [None]
        assert all(stored(store)[b"{%d}:mark" % owner] == new[owner].pack() for owner in range(4))

    with_ledger(store, scenario)


def test_commits_of_one_moment_are_one_transaction_and_each_is_guarded_by_its_own_mark(store: RedisServer) -> None:
    """One wait for the disk instead of one for each; the partition of another owner refuses, the others do not."""

    async def scenario(ledger: Ledger) -> None:
        held = [(await ledger.claim(owner, fresh()))[0] for owner in range(4)]
        other, _ = await ledger.claim(2, fresh())
        new = [after(mark, 1, 1) for mark in held]
        with closing(store.client()) as client:
            client.config_resetstat()
            found = await asyncio.gather(
                *(ledger.commit(owner, (held[owner], new[owner]), b"", Writes({b"j:a": b"1"})) for owner in range(4)),
                return_exceptions=True,
            )
            assert client.info("commandstats")["cmdstat_exec"]["calls"] == 1
        assert isinstance(found.pop(2), Foreign)
        assert found == [None, None, None]
        marks = {owner: stored(store)[b"{%d}:mark" % owner] for owner in range(4)}
        assert marks == {owner: (other if owner == 2 else new[owner]).pack() for owner in range(4)}
        assert b"{2}:j:a" not in stored(store)

    with_ledger(store, scenario)


class CutWire:
    """A proxy to Redis that carries requests and, while `deaf`, cuts the connection instead of the reply."""

    def __init__(self, port: int) -> None:
        self.port, self.deaf, self.cuts = port, 0, 0

    async def serve(self) -> tuple[asyncio.Server, int]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return server, server.sockets[0].getsockname()[1]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.port)

        async def requests() -> None:
            while some := await reader.read(1 << 16):
                up_writer.write(some)
            up_writer.close()

        asking = asyncio.create_task(requests())
        while some := await up_reader.read(1 << 16):
            if self.deaf and self.cuts < self.deaf and b'"nonce"' in some:
                self.cuts += 1
                break
            writer.write(some)
        asking.cancel()
        for each in (writer, up_writer):
            each.close()


def test_a_commit_whose_reply_is_lost_is_repeated_and_has_happened_once(store: RedisServer) -> None:
    async def scenario() -> None:
        wire = CutWire(store.port)
        server, port = await wire.serve()
        ledger = Ledger(f"redis://127.0.0.1:{port}/0", give_up_s=20)
        mark, _ = await ledger.claim(0, fresh())
        wire.deaf = 2
        new = after(mark, 5, 5)
        await ledger.commit(0, (mark, new), b"", Writes({b"w:a": b"1"}))
        assert wire.cuts == 2
        assert ledger.down_since is None
        assert stored(store)[b"{0}:mark"] == new.pack()
        await ledger.close()
        server.close()

    asyncio.run(scenario())


def test_a_redis_that_comes_back_is_waited_for(tmp_path: Path, redis_server: RedisServer) -> None:
    async def scenario(server: RedisServer) -> None:
        ledger = Ledger(server.url, give_up_s=30)
        mark, _ = await ledger.claim(0, fresh())
        server.kill()
        committing = asyncio.create_task(ledger.commit(0, (mark, after(mark, 5, 5)), b"", Writes({b"w:a": b"1"})))
        await asyncio.sleep(0.3)
        assert ledger.down_since is not None
        await asyncio.to_thread(server.start)
        await committing
        assert await ledger.read(0, b"w", [b"a"]) == [b"1"]
        await ledger.close()

    with RedisServer(tmp_path) as server:
        asyncio.run(scenario(server.start()))


def test_a_full_redis_is_down_although_it_answers_reads(tmp_path: Path, redis_server: RedisServer) -> None:
    async def scenario(server: RedisServer) -> None:
        ledger = Ledger(server.url, give_up_s=30)
        mark, _ = await ledger.claim(0, fresh())
        with closing(server.client()) as client:
            client.config_set("maxmemory", 1)
            committing = asyncio.create_task(ledger.commit(0, (mark, after(mark, 5, 5)), b"", Writes({b"w:a": b"1"})))
            await asyncio.sleep(0.3)
            downs = [ledger.down_since]
            assert await ledger.read(0, b"w", [b"a"]) == [None]
            downs.append(ledger.down_since)
            client.config_set("maxmemory", 0)
        await committing
        assert downs[0] is not None
        assert downs == [downs[0], downs[0]]
        assert ledger.down_since is None
        assert await ledger.read(0, b"w", [b"a"]) == [b"1"]
        await ledger.close()

    with RedisServer(tmp_path) as server:
        asyncio.run(scenario(server.start()))


def test_a_redis_that_stays_away_is_unavailable_in_one_line() -> None:
    async def scenario() -> None:
        ledger = Ledger("redis://127.0.0.1:1/0", give_up_s=0.2)
        with pytest.raises(Unavailable, match="bring it back") as caught:
            await ledger.ping()
        assert "\n" not in str(caught.value)
        await ledger.close()

    asyncio.run(scenario())


def test_a_cancelled_command_leaves_no_reply_for_the_next_one(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        with closing(store.client()) as client:
            client.set("{0}:w:a", b"a" * (8 << 20))
            client.set("{0}:w:b", b"b")
        for pause in (0, 0.001, 0.005, 0.02):
            reading = asyncio.create_task(ledger.read(0, b"w", [b"a"]))
            await asyncio.sleep(pause)
            reading.cancel()
            assert await ledger.read(0, b"w", [b"b"]) == [b"b"]
            await asyncio.gather(reading, return_exceptions=True)

    with_ledger(store, scenario)


def test_an_answer_no_repeat_makes_better_is_refused(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        with closing(store.client()) as client:
            client.set("{0}:roi", b"not a hash")
        with pytest.raises(Refused, match="WRONGTYPE"):
            await ledger.read_fields(0, b"roi", [b"f"])

    with_ledger(store, scenario)


def test_what_can_pass_is_told_from_what_cannot() -> None:
    from redis import exceptions

    passing = [OSError(), exceptions.ConnectionError(), exceptions.ResponseError("MISCONF no disk"), TimeoutError()]
    lasting = [exceptions.ResponseError("WRONGTYPE"), exceptions.AuthenticationError("WRONGPASS"), ValueError()]
    assert [transient(problem) for problem in passing + lasting] == [True] * len(passing) + [False] * len(lasting)


def test_a_reader_sees_nothing_before_the_first_claim(store: RedisServer) -> None:
    with closing(LedgerReader(store.url)) as reader:
        assert reader.marks() == {}
        assert reader.snapshot(0) == (None, None, {}, {})
        assert reader.wallet(0, b"a") == (None, None, {})
        assert reader.overview() == (None, None, None)
        assert list(reader.wallets()) == []


def test_a_reader_sees_what_was_committed(store: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> Mark:
        mark, _ = await ledger.claim(2, fresh())
        new = after(mark, 5, 5)
        writes = Writes(
            {b"w:a}:w:": b"row", b"j:a}:w:": b"j", b"totals": b"{}"}, {b"roi": {b"f": b"1"}, b"codes": {b"c|": b"1"}}
        )
        await ledger.commit(2, (mark, new), b"", writes)
        own = replace(EMPTY, offsets=(0,), topics=("d",), partitions=1, nonce=nonce())
        overview, _ = await ledger.claim(OVERVIEW, own)
        await ledger.commit(
            OVERVIEW, (overview, after(overview, 1)), b"", Writes({b"pointer": b"p", b"catalogue": b"c"})
        )
        return new

    mark = with_ledger(store, scenario)
    with closing(LedgerReader(store.url)) as reader:
        assert reader.marks() == {2: mark}
        assert reader.snapshot(2) == (mark, b"{}", {b"f": b"1"}, {b"c|": b"1"})
        assert reader.wallet(2, b"a}:w:") == (b"row", b"j", {b"c|": b"1"})
        assert reader.overview()[1:] == (b"p", b"c")
        assert list(reader.wallets()) == [(2, b"a}:w:", b"row")]


def test_keys_of_a_partition_share_a_hash_tag() -> None:
    assert (tag(11), tag(OVERVIEW)) == (b"{11}:", b"{overview}:")
