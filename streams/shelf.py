"""Redis as a command asks it: blocking, one call at a time, over one server or all nodes of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import redis
from redis import exceptions as trouble
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from streams.store import REDIRECTS, Slots

if TYPE_CHECKING:
    from streams.store import Address, Place

#: A command, its key, and what else it takes.
Request = tuple[str, bytes] | tuple[str, bytes, bytes] | tuple[str, bytes, bytes, bytes]


class Shelf:
    """Redis for a command: blocking, one call at a time, over one server or all nodes of a cluster."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._servers: dict[Place, redis.Redis] = {}
        self._slots: Slots | None = None

    def at_once(self, *commands: Request) -> list[Any]:
        """The replies to `(command, key, …)`, those of one partition in one consistent step; without a cluster, all."""
        if not self._address.cluster:
            return _in_one_step(self._server(self._address.place), commands)
        found: dict[Request, Any] = {}
        for tag in dict.fromkeys(_tag_of(command[1]) for command in commands):
            its = tuple(command for command in commands if _tag_of(command[1]) == tag)
            found |= zip(its, self._of_partition(tag, its), strict=True)
        return [found[command] for command in commands]

    def scan(self, pattern: bytes) -> Iterator[list[tuple[bytes, Any]]]:
        """Keys that match with their values, page by page, node after node: no consistent step."""
        for server in self._all():
            cursor = 0
            while True:
                cursor, keys = server.scan(cursor, match=pattern, count=1000)
                page = self._together(keys)
                yield [pair for some in page for pair in zip(some, server.mget(some), strict=True)]
                if cursor == 0:
                    break

    def close(self) -> None:
        for server in self._servers.values():
            server.close()

    def _of_partition(self, tag: bytes, commands: Sequence[Request]) -> list[Any]:
        for _ in range(REDIRECTS):
            if self._slots is None:
                self._slots = self._asked()
            try:
                return _in_one_step(self._server(self._slots.place_of(tag)), commands)
            except trouble.MovedError:
                self._slots = None
        raise trouble.ConnectionError("the nodes of the cluster do not agree where the slot is")

    def _together(self, keys: list[Any]) -> list[list[bytes]]:
        """Keys that one command may ask for: in a cluster those of one partition."""
        if not self._address.cluster:
            return [keys] if keys else []
        by_tag: dict[bytes, list[bytes]] = {}
        for key in keys:
            by_tag.setdefault(_tag_of(key), []).append(key)
        return list(by_tag.values())

    def _all(self) -> list[redis.Redis]:
        places = self._asked().places if self._address.cluster else [self._address.place]
        return [self._server(place) for place in places]

    def _asked(self) -> Slots:
        problem: Exception | None = None
        for place in [self._address.place, *self._servers]:
            try:
                return Slots.read(self._server(place).execute_command("CLUSTER", "SLOTS"), place)  # type: ignore[no-untyped-call]  # redis-py's
            except (trouble.ConnectionError, trouble.TimeoutError, OSError) as error:
                problem = error
        assert problem
        raise problem

    def _server(self, place: Place) -> redis.Redis:
        if place not in self._servers:
            named = place == self._address.place
            options = self._address.options(parse_url(self._address.url), None if named else place)  # type: ignore[no-untyped-call]  # redis-py's
            pool = redis.ConnectionPool(retry=Retry(NoBackoff(), 0), **options)
            self._servers[place] = redis.Redis.from_pool(pool)
        return self._servers[place]


def _in_one_step(server: redis.Redis, commands: Sequence[Request]) -> list[Any]:
    with server.pipeline(transaction=True) as several:
        for command in commands:
            several.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's
        found: list[Any] = several.execute()
        return found


def _tag_of(key: bytes) -> bytes:
    return key[: key.index(b"}") + 1]
