"""What Redis holds of a partition, and the only door to it.

Every call may be repeated: a claim writes the caller's own nonce, a commit that finds its own mark has succeeded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from importlib import resources
from typing import Any, NamedTuple, Self

import redis
import redis.asyncio
import structlog
from redis import exceptions as trouble
from redis.asyncio.retry import Retry as PatientRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from streams.errors import Foreign, Refused, Unavailable

FORMAT = 1
OVERVIEW = "overview"
#: How long an unreachable, full or read-only Redis is waited for before the worker gives up.
GIVE_UP_S = 600.0
#: A commit of 4 MiB with its fsync fits in easily; a frozen Redis is noticed soon.
REPLY_S = 5.0
CONNECTIONS = 32

log = structlog.get_logger("tidemark.ledger")


@dataclass(frozen=True, slots=True)
class Mark:
    """Everything a commit is based on, compared byte for byte.

    `number`: commits so far. `offsets`: next offset of each topic, in the order of the lanes; `topics`: their ids.
    `catalogue`: version and hash of the catalogue of the last batch. `clock_ms`: event time, 0 none yet.
    `nonce`: 16 hex digits, new for each claim and commit.
    """

    number: int
    offsets: tuple[int, ...]
    topics: tuple[str, ...]
    partitions: int
    nonce: str
    catalogue: tuple[int, str] = (0, "")
    clock_ms: int = 0

    def pack(self) -> bytes:
        """One line of JSON with the nonce last: the claim script replaces its last 18 bytes."""
        fields = {"format": FORMAT, **asdict(self)}
        fields["nonce"] = fields.pop("nonce")
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Raises `Refused` on a format this program does not know."""
        try:
            fields = json.loads(packed)
            if fields.pop("format") == FORMAT:
                lists = {name: tuple(fields[name]) for name in ("offsets", "topics", "catalogue")}
                return cls(**fields | lists)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise Refused(
            f"Redis holds a mark this version does not know ({packed[:80]!r}): "
            "run the version that wrote it, or use an empty Redis database"
        )


@dataclass(frozen=True, slots=True)
class Writes:
    """What a commit writes beside mark and pending slot; names are without the tag of the partition.

    `strings`: name -> value. `hashes`: name -> (field -> value).
    """

    strings: dict[bytes, bytes] = field(default_factory=dict)
    hashes: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)


def tag(owner: int | str) -> bytes:
    """The hash tag that all keys of one partition share: a Redis Cluster keeps them together."""
    return b"{%b}:" % str(owner).encode()


def pack_command(*words: bytes) -> bytes:
    """A command as Redis reads it. redis-py's own packing takes twice as long for a commit's 2,000 words."""
    return b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words]))


class Script(NamedTuple):
    """A Lua file and the name Redis gives it."""

    text: bytes
    sha: bytes


@cache
def script(name: str) -> Script:
    """The file `<name>.lua` beside this one."""
    text = resources.files("streams").joinpath(f"{name}.lua").read_bytes()
    return Script(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


class Ledger:
    """A worker's way to Redis: waits out an unreachable, full or read-only one by repeating the same call.

    `down_since`: when Redis stopped answering (monotonic seconds), None while it answers.
    Every call raises `Unavailable` after `give_up_s` and `Refused` on an answer no repeat makes better.
    """

    def __init__(self, url: str, give_up_s: float = GIVE_UP_S) -> None:
        self.give_up_s = give_up_s
        self.down_since: float | None = None
        self._pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=None,
            socket_timeout=REPLY_S,
            socket_connect_timeout=2,
            protocol=2,
            retry=PatientRetry(NoBackoff(), 0),  # repeating is decided here, where the same call can be repeated
        )

    async def close(self) -> None:
        await self._pool.disconnect()

    async def ping(self) -> None:
        await self._patiently(pack_command(b"PING"))

    async def claim(self, owner: int | str, empty: Mark) -> tuple[Mark, bytes]:
        """Take a partition over: its mark, now with `empty.nonce`, and what its last owner may not have announced."""
        keys = [tag(owner) + b"mark", tag(owner) + b"pending"]
        packed, pending = await self._run("claim", keys, [empty.nonce.encode(), empty.pack()])
        return Mark.unpack(packed), pending

    async def commit(self, owner: int | str, marks: tuple[Mark, Mark], pending: bytes, writes: Writes) -> None:
        """Write all or nothing. `marks`: the one that must be there, the one that will be. Raises `Foreign`.

        A repeat after a lost reply finds its own mark: it had succeeded.
        """
        prefix = tag(owner)
        known, new = (mark.pack() for mark in marks)
        keys = [prefix + b"mark", prefix + b"pending", *(prefix + name for name in writes.hashes)]
        strings = [word for name, value in writes.strings.items() for word in (prefix + name, value)]
        words = [known, new, pending, b"%d" % len(strings), *strings]
        for fields in writes.hashes.values():
            words.append(b"%d" % (2 * len(fields)))
            words += [word for pair in fields.items() for word in pair]
        found = await self._run("commit", keys, words)
        if found != new:
            log.error("foreign mark", partition=owner, expected=known.decode(), found=found.decode())
            gone = "" if found else " (its mark is gone: Redis was emptied)"
            raise Foreign(f"partition {owner} has another owner{gone}: this worker leaves, start it again")

    async def read(self, owner: int | str, kind: bytes, names: Sequence[bytes]) -> list[bytes | None]:
        """Values of `kind:name` for every name, None where there is none."""
        prefix = tag(owner) + kind + b":"
        return await self._read(b"MGET", [prefix + name for name in names])

    async def read_strings(self, owner: int | str, *names: bytes) -> list[bytes | None]:
        return await self._read(b"MGET", [tag(owner) + name for name in names])

    async def read_fields(self, owner: int | str, name: bytes, fields: Sequence[bytes]) -> list[bytes | None]:
        return await self._read(b"HMGET", [tag(owner) + name, *fields]) if fields else []

    async def read_hash(self, owner: int | str, name: bytes) -> dict[bytes, bytes]:
        found = await self._read(b"HGETALL", [tag(owner) + name])
        return dict(zip(found[::2], found[1::2], strict=True))  # type: ignore[arg-type]  # a hash has no missing values

    async def _read(self, command: bytes, words: list[bytes]) -> list[bytes | None]:
        if not words:
            return []
        found: list[bytes | None] = await self._patiently(pack_command(command, *words))
        return found

    async def _run(self, name: str, keys: list[bytes], words: list[bytes]) -> Any:
        found = script(name)
        command = pack_command(b"EVALSHA", found.sha, b"%d" % len(keys), *keys, *words)
        return await self._patiently(command, found)

    async def _patiently(self, command: bytes, needs: Script | None = None) -> Any:
        pause, started = 0.05, time.monotonic()
        while True:
            try:
                reply = await self._call(command)
            except trouble.NoScriptError:
                assert needs
                await self._patiently(pack_command(b"SCRIPT", b"LOAD", needs.text))
                continue
            except (trouble.RedisError, OSError) as problem:
                self._weigh(problem, started)
            else:
                self._answers()
                return reply
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _call(self, command: bytes) -> Any:
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's
        try:
            await connection.send_packed_command(command)
            return await connection.read_response()  # cut off, it closes the connection: no late reply for the next one
        finally:
            await self._pool.release(connection)

    def _weigh(self, problem: Exception, started: float) -> None:
        """Whether to go on trying; says so once."""
        if not transient(problem):
            raise Refused(f"Redis refuses ({problem}): check TIDEMARK_REDIS and the server's settings") from problem
        if time.monotonic() - started > self.give_up_s:
            raise Unavailable(
                f"Redis has not taken a command for {self.give_up_s:.0f} s ({problem}): bring it back, then start again"
            ) from problem
        if self.down_since is None:
            self.down_since = time.monotonic()
            log.warning("redis unavailable, the same command will be repeated", problem=str(problem))

    def _answers(self) -> None:
        if self.down_since is not None:
            log.warning("redis is back", after_s=round(time.monotonic() - self.down_since, 1))
            self.down_since = None


def transient(problem: Exception) -> bool:
    """Whether the same command can succeed later: the server is away, starting, full, frozen or read-only."""
    kinds = (
        trouble.ConnectionError,
        trouble.TimeoutError,
        trouble.ReadOnlyError,
        trouble.OutOfMemoryError,
        trouble.BusyLoadingError,
        OSError,
    )
    if isinstance(problem, trouble.AuthenticationError):
        return False
    words = ("MISCONF", "READONLY", "OOM", "LOADING", "NOREPLICAS", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "BUSY")
    return isinstance(problem, kinds) or any(word in str(problem) for word in words)


class Snapshot(NamedTuple):
    """A partition as one commit left it. `roi`, `codes`: fields and values as stored."""

    mark: Mark | None
    totals: bytes | None
    roi: dict[bytes, bytes]
    codes: dict[bytes, bytes]


class StoredWallet(NamedTuple):
    """One wallet as one commit left it; `row` None: unknown."""

    row: bytes | None
    journal: bytes | None
    codes: dict[bytes, bytes]


class StoredOverview(NamedTuple):
    """What the overview side has published; all None before its first commit."""

    mark: Mark | None
    pointer: bytes | None
    catalogue: bytes | None


class LedgerReader:
    """Blocking read-outs for commands: every method reads what it returns in one consistent step.

    Methods raise `Unavailable` when Redis does not answer, `Refused` when its content is unknown.
    """

    def __init__(self, url: str) -> None:
        self._redis: redis.Redis = redis.Redis.from_url(
            url, socket_timeout=REPLY_S, socket_connect_timeout=2, protocol=2, retry=Retry(NoBackoff(), 0)
        )

    def close(self) -> None:
        self._redis.close()

    def marks(self) -> dict[int, Mark]:
        """The marks of all partitions that ever had an owner; empty before the first claim."""
        first = next(iter(self._marks(range(64)).values()), None)
        return self._marks(range(first.partitions)) if first else {}

    def snapshot(self, partition: int) -> Snapshot:
        prefix = tag(partition)
        mark, totals, roi, codes = self._at_once(
            ("GET", prefix + b"mark"),
            ("GET", prefix + b"totals"),
            ("HGETALL", prefix + b"roi"),
            ("HGETALL", prefix + b"codes"),
        )
        return Snapshot(Mark.unpack(mark) if mark else None, totals, _pairs(roi), _pairs(codes))

    def wallet(self, partition: int, wallet: bytes) -> StoredWallet:
        prefix = tag(partition)
        row, journal, codes = self._at_once(
            ("GET", prefix + b"w:" + wallet), ("GET", prefix + b"j:" + wallet), ("HGETALL", prefix + b"codes")
        )
        return StoredWallet(row, journal, _pairs(codes))

    def overview(self) -> StoredOverview:
        prefix = tag(OVERVIEW)
        mark, pointer, catalogue = self._at_once(
            ("GET", prefix + b"mark"), ("GET", prefix + b"pointer"), ("GET", prefix + b"catalogue")
        )
        return StoredOverview(Mark.unpack(mark) if mark else None, pointer, catalogue)

    def wallets(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Partition, wallet and row of every stored wallet, in no order: a long scan, not one consistent step.

        A wallet stored while the scan runs may be missing; Redis may name one twice while it grows its table.
        """
        cursor = 0
        while True:
            cursor, keys = _answer(partial(self._redis.scan, cursor, match=b"{*}:w:*", count=1000))
            rows = _answer(partial(self._redis.mget, keys)) if keys else []
            for key, row in zip(keys, rows, strict=True):
                partition, _, name = key[1:].partition(b"}:")
                if row is not None and name.startswith(b"w:"):
                    yield int(partition), name[2:], row
            if cursor == 0:
                return

    def _marks(self, partitions: range) -> dict[int, Mark]:
        found = self._at_once(*(("GET", tag(partition) + b"mark") for partition in partitions))
        return {p: Mark.unpack(mark) for p, mark in zip(partitions, found, strict=True) if mark}

    def _at_once(self, *commands: tuple[str, bytes]) -> list[Any]:
        with self._redis.pipeline(transaction=True) as several:
            for command in commands:
                several.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's
            found: list[Any] = _answer(several.execute)
            return found


def _answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (trouble.AuthenticationError, trouble.ResponseError) as problem:
        raise Refused(f"Redis refuses ({problem}): check TIDEMARK_REDIS and the server's settings") from problem
    except (trouble.RedisError, OSError) as problem:
        raise Unavailable(f"Redis does not answer ({problem}): check TIDEMARK_REDIS, is it running?") from problem


def _pairs(found: Any) -> dict[bytes, bytes]:
    """A hash's reply as a dict, whichever protocol redis-py speaks."""
    return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
