"""What commands read of Redis, and the little they write: blocking, each read-out as one commit left it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import exceptions as trouble

from streams.errors import Unavailable
from streams.ledger import OVERVIEW, Mark, tag
from streams.shelf import Shelf
from streams.store import Address, refusal, untrusted

if TYPE_CHECKING:
    from streams.shelf import Request


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

    def __init__(self, address: Address | str) -> None:
        self._redis = Shelf(Address(address) if isinstance(address, str) else address)

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

    def string(self, owner: int | str, name: bytes) -> bytes | None:
        """One value that is no result of the stream; None where there is none."""
        (found,) = self._at_once(("GET", tag(owner) + name))
        return bytes(found) if found is not None else None

    def put(self, owner: int | str, name: bytes, value: bytes) -> None:
        """Keep such a value. No mark guards it: no commit may depend on it."""
        self._at_once(("SET", tag(owner) + name, value))

    def names(self) -> dict[bytes, bytes]:
        """The names users have given to segments: number -> what `models.names.give` made."""
        (found,) = self._at_once(("HGETALL", tag(OVERVIEW) + b"names"))
        return _pairs(found)

    def give_name(self, number: int, value: bytes | None) -> None:
        """Store a user's name for a segment, or with None take it away. No mark guards it: no stream made it."""
        key, field = tag(OVERVIEW) + b"names", b"%d" % number
        self._at_once(("HDEL", key, field) if value is None else ("HSET", key, field, value))

    def wallets(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Partition, wallet and row of every stored wallet, in no order: a long scan, not one consistent step.

        A wallet stored while the scan runs may be missing; Redis may name one twice while it grows its table.
        """
        pages = self._redis.scan(b"{*}:w:*")
        while (page := _answer(partial(next, pages, None))) is not None:
            for key, row in page:
                partition, _, name = key[1:].partition(b"}:")
                if row is not None and name.startswith(b"w:"):
                    yield int(partition), name[2:], row

    def _marks(self, partitions: range) -> dict[int, Mark]:
        found = self._at_once(*(("GET", tag(partition) + b"mark") for partition in partitions))
        return {p: Mark.unpack(mark) for p, mark in zip(partitions, found, strict=True) if mark}

    def _at_once(self, *commands: Request) -> list[Any]:
        found: list[Any] = _answer(partial(self._redis.at_once, *commands))
        return found


def _answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (trouble.RedisError, OSError) as problem:
        if _moving(problem):
            raise Unavailable("a part of Redis Cluster is away or moves to another node: try again") from problem
        if isinstance(problem, (trouble.AuthenticationError, trouble.ResponseError)) or untrusted(problem):
            raise refusal(problem) from problem
        raise Unavailable(f"Redis does not answer ({problem}): check TIDEMARK_REDIS, is it running?") from problem


def _moving(problem: Exception) -> bool:
    """Whether a cluster cannot answer just now."""
    asks = isinstance(problem, trouble.AskError) and not isinstance(problem, trouble.MovedError)
    return asks or isinstance(problem, (trouble.TryAgainError, trouble.ClusterDownError))


def _pairs(found: Any) -> dict[bytes, bytes]:
    """A hash's reply as a dict, whichever protocol redis-py speaks."""
    return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
