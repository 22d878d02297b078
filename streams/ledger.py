"""What Redis holds of a partition, and how a worker reads and writes it; what commands read: ledger_reader.py.

Every call may be repeated: a claim writes the caller's own nonce, a commit that finds its own mark has succeeded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib import resources
from typing import Any, NamedTuple, Self

import structlog
from redis import exceptions as trouble

from streams.errors import Foreign, Refused, Unavailable
from streams.store import Address, Cluster, Server, refusal, untrusted

FORMAT = 1
#: The format of a mark while wallets leave or reach its partition: who does not know it can neither claim nor commit.
MOVING = "moving"
OVERVIEW = "overview"
#: The files of a commit; in a cluster `slot` comes before them.
COMMIT = ("rights", "commit")
#: How long an unreachable, full or read-only Redis is waited for before the worker gives up.
GIVE_UP_S = 600.0

log = structlog.get_logger("tidemark.ledger")
_as_word = json.JSONEncoder().encode


@dataclass(frozen=True, slots=True)
class Mark:
    """Everything a commit is based on, compared byte for byte.

    `number`: commits so far. `offsets`: next offset of each topic, in the order of the lanes; `topics`: their ids.
    `catalogue`: version and hash of the catalogue of the last batch. `clock_ms`: event time, 0 none yet.
    `nonce`: 16 hex digits, new for each claim and commit. `moving_to`: the partitions there will be when
    `tidemark repartition` is done, which is working here; 0 otherwise.
    """

    number: int
    offsets: tuple[int, ...]
    topics: tuple[str, ...]
    partitions: int
    nonce: str
    catalogue: tuple[int, str] = (0, "")
    clock_ms: int = 0
    moving_to: int = 0

    def pack(self) -> bytes:
        """One line of JSON with the nonce last: the claim script replaces its last 18 bytes."""
        return _packed(self)

    @classmethod
    def unpack(cls, packed: bytes, *, moving: bool = False) -> Self:
        """Raises `Refused` on a format this program does not know, and unless `moving` where wallets are moved."""
        try:
            fields = json.loads(packed)
            form = fields.pop("format")
            if form == MOVING and not moving:
                raise Refused("wallets move to new partitions: let `tidemark repartition` finish, or run it again")
            if form in {FORMAT, MOVING}:
                lists = {name: tuple(fields[name]) for name in ("offsets", "topics", "catalogue")}
                return cls(**fields | lists)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise unknown_mark(packed)


@lru_cache(maxsize=1024)  # each mark is written by one commit and quoted by the next
def _packed(mark: Mark) -> bytes:
    form = f'"{MOVING}"' if mark.moving_to else FORMAT
    offsets, topics = ",".join(map(str, mark.offsets)), ",".join(map(_as_word, mark.topics))
    version, digest = mark.catalogue
    moving = f',"moving_to":{mark.moving_to}' if mark.moving_to else ""
    return (
        f'{{"format":{form},"number":{mark.number},"offsets":[{offsets}],"topics":[{topics}],'
        f'"partitions":{mark.partitions},"catalogue":[{version},{_as_word(digest)}],"clock_ms":{mark.clock_ms}'
        f'{moving},"nonce":{_as_word(mark.nonce)}}}'
    ).encode()


def unknown_mark(packed: bytes) -> Refused:
    """What to raise for a mark in a form this program does not know."""
    return Refused(
        f"Redis holds a mark this version does not know ({packed[:80]!r}): "
        "run the version that wrote it, or use an empty Redis database"
    )


class Words(NamedTuple):
    """So many words of a command, as Redis reads them."""

    many: int
    packed: bytes | memoryview


NO_WORDS = Words(0, b"")


@dataclass(frozen=True, slots=True)
class Writes:
    """What a commit writes beside mark and pending slot; names are without the tag of the partition.

    `strings`: name -> value. `hashes`: name -> (field -> value). `due`: wallet -> when it is to be swept, epoch
    seconds, 0 no more. `parts`: name -> where in its value, and what is there from now on. Of wallets' rows, packed
    already, their keys with the tag: `whole`: key, row, ...; `patches`: key, where in its value, what is there, ...
    """

    strings: dict[bytes, bytes] = field(default_factory=dict)
    hashes: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    due: Mapping[bytes, int] = field(default_factory=dict)
    parts: Mapping[bytes, tuple[int, bytes]] = field(default_factory=dict)
    whole: Words = NO_WORDS
    patches: Words = NO_WORDS


def tag(owner: int | str) -> bytes:
    """The hash tag that all keys of one partition share: a Redis Cluster keeps them together."""
    return b"{%b}:" % str(owner).encode()


#: What goes before a word of so many bytes, up to those that are short.
_SHORT = 1024
_BEFORE = [b"$%d\r\n" % size for size in range(_SHORT)]


def pack_command(*words: bytes) -> bytes:
    """A command as Redis reads it: every byte is copied once.

    Of a commit's 2,000 words and 1.5 MB of rows redis-py's own packing takes six times as long.
    """
    return pack_runs(words)


def pack_runs(*runs: Sequence[bytes] | Words) -> bytes:
    """A command of several runs of words, some of them packed already."""
    many, packed = 0, list[bytes | memoryview]([b""])
    for run in runs:
        if isinstance(run, Words):
            many += run.many
            packed.append(run.packed)
            continue
        many += len(run)
        parts: list[bytes | memoryview] = [b"\r\n"] * (3 * len(run))
        parts[::3] = [_BEFORE[size] if size < _SHORT else b"$%d\r\n" % size for size in map(len, run)]
        parts[1::3] = run
        packed += parts
    packed[0] = b"*%d\r\n" % many
    return b"".join(packed)


class Script(NamedTuple):
    """A Lua text, the name Redis gives it, and the packed command that loads it."""

    text: bytes
    sha: bytes
    load: bytes


@cache
def script(*names: str) -> Script:
    """The files `<name>.lua` beside this one, one after the other."""
    folder = resources.files("streams")
    text = b"".join(folder.joinpath(f"{name}.lua").read_bytes() for name in names)
    sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    return Script(text, sha, pack_command(b"SCRIPT", b"LOAD", text))


class Ledger:
    """A worker's way to Redis: waits out an unreachable, full or read-only one by repeating the same call.

    Every call raises `Unavailable` after `give_up_s` and `Refused` on an answer no repeat makes better.
    """

    def __init__(self, address: Address | str, give_up_s: float = GIVE_UP_S) -> None:
        self.give_up_s = give_up_s
        self._waiting: list[float] = []  # when each command that is being repeated was given first
        address = Address(address) if isinstance(address, str) else address
        self._redis = Cluster(address) if address.cluster else Server(address)
        # While a slot of a cluster moves, a commit has to know before its first write that it can do all of them.
        self._commit = script("slot", *COMMIT) if address.cluster else script(*COMMIT)

    async def close(self) -> None:
        await self._redis.close()

    async def ping(self) -> None:
        await self._patiently(tag(OVERVIEW), pack_command(b"PING"))

    async def claim(self, owner: int | str, empty: Mark) -> tuple[Mark, bytes]:
        """Take a partition over: its mark, now with `empty.nonce`, and what its last owner may not have announced.

        Raises `Refused` for a mark in a form this program does not know; it is left as it is.
        """
        keys = [tag(owner) + b"mark", tag(owner) + b"pending"]
        packed, pending = await self._run(owner, script("rights", "claim"), keys, [empty.nonce.encode(), empty.pack()])
        mark = Mark.unpack(packed)
        if mark.nonce != empty.nonce:  # the script did not know it
            raise unknown_mark(packed)
        return mark, pending

    async def commit(self, owner: int | str, marks: tuple[Mark | None, Mark], pending: bytes, writes: Writes) -> None:
        """Write all or nothing. `marks`: the one that must be there (or None), the one that will be. Raises `Foreign`.

        A repeat after a lost reply finds its own mark: it had succeeded.
        """
        prefix = tag(owner)
        keys = [prefix + b"pending", *(prefix + name for name in writes.hashes)]
        strings = [word for name, value in writes.strings.items() for word in (prefix + name, value)]
        parts = [word for name, (at, what) in writes.parts.items() for word in (prefix + name, b"%d" % at, what)]
        counts = writes.whole.many, len(strings), len(parts) + writes.patches.many
        head, rest = [pending, *(b"%d" % count for count in counts)], []
        for fields in writes.hashes.values():
            rest.append(b"%d" % (2 * len(fields)))
            rest += [word for pair in fields.items() for word in pair]
        rest += [prefix + b"due", *_due_words(writes.due)]
        runs = head, writes.whole, strings, writes.patches, parts, rest
        await self._guarded(owner, self._commit, marks, keys, *runs)

    async def discard(self, owner: int, marks: tuple[Mark, Mark], wallets: Sequence[bytes], totals: bytes) -> None:
        """Delete wallets, all that is stored of each, and write the totals without them: guarded as a commit is."""
        prefix = tag(owner)
        gone = [prefix + kind + wallet for wallet in wallets for kind in (b"w:", b"j:", b"f:")]
        words = [totals, b"%d" % len(wallets), *wallets, *gone]
        await self._guarded(owner, script("rights", "discard"), marks, [prefix + b"totals", prefix + b"due"], words)

    async def _guarded(
        self,
        owner: int | str,
        text: Script,
        marks: tuple[Mark | None, Mark],
        keys: list[bytes],
        *runs: Sequence[bytes] | Words,
    ) -> None:
        known, new = (mark.pack() if mark else b"" for mark in marks)
        found = await self._run(owner, text, [tag(owner) + b"mark", *keys], [known, new], *runs)
        if found != new:
            log.error("foreign mark", partition=owner, expected=known.decode(), found=found.decode(errors="replace"))
            raise foreign(owner, found)

    async def read(self, owner: int | str, kind: bytes, names: Sequence[bytes]) -> list[bytes | None]:
        """Values of `kind:name` for every name, None where there is none."""
        prefix = tag(owner) + kind + b":"
        return await self._read(owner, b"MGET", [prefix + name for name in names])

    async def read_strings(self, owner: int | str, *names: bytes) -> list[bytes | None]:
        return await self._read(owner, b"MGET", [tag(owner) + name for name in names])

    async def read_fields(self, owner: int | str, name: bytes, fields: Sequence[bytes]) -> list[bytes | None]:
        return await self._read(owner, b"HMGET", [tag(owner) + name, *fields]) if fields else []

    async def read_hash(self, owner: int | str, name: bytes) -> dict[bytes, bytes]:
        found = await self._read(owner, b"HGETALL", [tag(owner) + name])
        return dict(zip(found[::2], found[1::2], strict=True))  # type: ignore[arg-type]  # a hash has no missing values

    async def read_due(self, owner: int | str, count: int) -> list[tuple[bytes, int]]:
        """The first wallets of the due index, in the order of (due, wallet), and when each is due, epoch seconds."""
        command = pack_command(b"ZRANGE", tag(owner) + b"due", b"0", b"%d" % (count - 1), b"WITHSCORES")
        found = await self._patiently(tag(owner), command)
        if found and isinstance(found[0], list):  # RESP 3
            return [(wallet, int(due)) for wallet, due in found]
        return [(wallet, int(due)) for wallet, due in zip(found[::2], found[1::2], strict=True)]

    async def _read(self, owner: int | str, command: bytes, words: list[bytes]) -> list[bytes | None]:
        if not words:
            return []
        found: list[bytes | None] = await self._patiently(tag(owner), pack_command(command, *words))
        return found

    async def _run(self, owner: int | str, text: Script, keys: list[bytes], *runs: Sequence[bytes] | Words) -> Any:
        command = pack_runs([b"EVALSHA", text.sha, b"%d" % len(keys), *keys], *runs)
        return await self._patiently(tag(owner), command, text.load)

    @property
    def down_since(self) -> float | None:
        """Since when (monotonic seconds) a command is being repeated; None: Redis does all it is asked.

        A full Redis answers reads and takes no writes, so that another command succeeds says nothing.
        """
        return min(self._waiting, default=None)

    async def _patiently(self, its_tag: bytes, command: bytes, load: bytes = b"") -> Any:
        pause, began, waiting = 0.05, time.monotonic(), False
        reply: Any = None
        try:
            while True:
                try:
                    reply = await self._redis.ask(its_tag, command, load)
                    break
                except (trouble.RedisError, OSError) as problem:
                    self._weigh(problem, began)
                    if not waiting:
                        self._wait(problem, began)
                        waiting = True
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
        finally:
            if waiting:
                self._waiting.remove(began)
        if waiting and not self._waiting:
            log.warning("redis is back", after_s=round(time.monotonic() - began, 1))
        return reply

    def _weigh(self, problem: Exception, began: float) -> None:
        """Whether to go on trying."""
        if not transient(problem):
            raise refusal(problem) from problem
        if time.monotonic() - began > self.give_up_s:
            raise Unavailable(
                f"Redis has not taken a command for {self.give_up_s:.0f} s ({problem}): bring it back, then start again"
            ) from problem

    def _wait(self, problem: Exception, began: float) -> None:
        if not self._waiting:
            log.warning("redis unavailable, the same command will be repeated", problem=str(problem))
        self._waiting.append(began)


def _due_words(due: Mapping[bytes, int]) -> list[bytes]:
    """Who is queued, and who is no more: each list with its length before it."""
    queued = [word for wallet, when_s in due.items() if when_s for word in (b"%d" % when_s, wallet)]
    gone = [wallet for wallet, when_s in due.items() if not when_s]
    return [b"%d" % len(queued), *queued, b"%d" % len(gone), *gone]


def foreign(owner: int | str, found: bytes) -> Foreign:
    """What to raise when the mark in Redis is `found` (empty: there is none) and not the one this owner has written."""
    gone = "" if found else " (its mark is gone: Redis was emptied)"
    return Foreign(f"partition {owner} has another owner{gone}: this worker leaves, start it again")


#: What a script says when a part of its slot is on another node, or when too many nodes are away.
_OF_A_CLUSTER = ("access a non local key", "while the cluster is down")


def transient(problem: Exception) -> bool:
    """Whether the same command can succeed later: the server is away, starting, full, frozen or read-only."""
    kinds = (
        trouble.ConnectionError,
        trouble.TimeoutError,
        trouble.ReadOnlyError,
        trouble.OutOfMemoryError,
        trouble.BusyLoadingError,
        trouble.ClusterDownError,
        trouble.TryAgainError,
        OSError,
    )
    if isinstance(problem, trouble.AuthenticationError) or untrusted(problem):
        return False
    words = ("MISCONF", "READONLY", "OOM", "LOADING", "NOREPLICAS", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "BUSY")
    return isinstance(problem, kinds) or any(word in str(problem) for word in (*words, *_OF_A_CLUSTER))
