"""How a worker reaches Redis: one server or a cluster, over TLS, with a password; how a command does: shelf.py.

A caller says which partition a command is about, by the tag all keys of it share (`{3}:`); here that becomes a server.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

import redis.asyncio
from redis import exceptions as trouble
from redis.asyncio.connection import parse_url as parse_url_async
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

from streams.errors import Refused
from streams.trust import tls

if TYPE_CHECKING:
    from streams.settings import Settings

#: A commit of 4 MiB with its fsync fits in easily; a frozen Redis is noticed soon.
REPLY_S, CONNECT_S = 5.0, 2.0
CONNECTIONS = 32
#: What is asked in one moment travels together up to this many bytes: beyond it nothing is gained.
TOGETHER = 1 << 18
#: So often a cluster may send us on to another node before we wait.
REDIRECTS = 5
_SLOTS = 16_384
_ASKING = b"*1\r\n$6\r\nASKING\r\n"
_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"
_CLUSTER_SLOTS = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"

#: Host and port.
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is and how to get in. `password`: one that is not in the URL. `cluster`: the URL names any node."""

    url: str = field(repr=False)
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    cluster: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Raises `WrongSettings` for certificates and passwords that cannot be read."""
        ca, certificate, key = settings.redis_ca, settings.redis_certificate, settings.redis_key
        if ca or certificate:
            tls(ca, certificate, key, "TIDEMARK_REDIS")  # redis-py makes its own and would say less when it cannot
        return cls(settings.redis_url, settings.redis_secret, ca, certificate, key, settings.redis_cluster)

    @property
    def place(self) -> Place:
        """The server the URL names."""
        parts = urlsplit(self.url)
        return parts.hostname or "localhost", parts.port or 6379

    def options(self, url_options: Mapping[str, Any], place: Place | None) -> dict[str, Any]:
        """Keyword arguments of a connection pool. `url_options`: what the URL says. `place`: another node."""
        given = {
            "password": self.password,
            "ssl_ca_certs": self.ca and str(self.ca),
            "ssl_certfile": self.certificate and str(self.certificate),
            "ssl_keyfile": (self.key or self.certificate) and str(self.key or self.certificate),
        }
        ours = {name: value for name, value in given.items() if value is not None}
        there = dict(zip(("host", "port"), place, strict=True)) if place else {}
        known = {"socket_timeout": REPLY_S, "socket_connect_timeout": CONNECT_S, "protocol": 2}
        return known | ours | dict(url_options) | there


class Turn(NamedTuple):
    """A packed command on its way. `load`: the command that loads its script, should Redis not know it yet."""

    command: bytes
    load: bytes
    reply: asyncio.Future[Any]


class Server:
    """One Redis server, for a worker.

    What is asked in the same moment goes over one connection together, what is asked later over another: sending and
    receiving cost nearly the same for one command as for twelve. `joins`: several scripts go as one transaction, for
    Redis reads a few of them at a time, and would wait for its disk after each time.
    """

    def __init__(self, address: Address, place: Place | None = None, *, joins: bool = True) -> None:
        self._joins = joins
        self._pool = redis.asyncio.BlockingConnectionPool(
            max_connections=CONNECTIONS,
            timeout=None,
            retry=AsyncRetry(NoBackoff(), 0),  # repeating is the ledger's, where the same call can be repeated
            **address.options(parse_url_async(address.url), place),
        )
        self._turns: list[Turn] = []
        self._size = 0
        self._trips: set[asyncio.Task[None]] = set()

    async def ask(self, _tag: bytes, command: bytes, load: bytes = b"") -> Any:
        """The reply to a packed command. `load`: the command that loads its script, should Redis not know it yet.

        Who is cancelled before the command is sent has not sent it; later its reply is read and dropped.
        """
        loop = asyncio.get_running_loop()
        turn = Turn(command, load, loop.create_future())
        if not self._turns:
            loop.call_soon(self._depart)
        self._turns.append(turn)
        self._size += len(command)
        if self._size > TOGETHER:
            self._depart()
        return await turn.reply

    def _depart(self) -> None:
        """Send what has been asked."""
        turns, self._turns, self._size = self._turns, [], 0
        if turns:
            trip = asyncio.create_task(self._travel(turns))
            self._trips.add(trip)
            trip.add_done_callback(self._trips.discard)

    async def _travel(self, turns: list[Turn]) -> None:
        """Every turn gets its own reply or error; a connection that breaks is an error for all that have none yet."""
        try:
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's
            try:
                await self._there_and_back(connection, [turn for turn in turns if not turn.reply.done()])
            finally:
                await self._pool.release(connection)
        except Exception as problem:  # noqa: BLE001 -- whatever it is, those who asked must hear of it
            for turn in turns:
                if not turn.reply.done():
                    turn.reply.set_exception(problem)
        finally:
            for turn in turns:
                turn.reply.cancel()  # nothing, unless this trip itself was cancelled: then nobody waits for it for ever

    async def _there_and_back(self, connection: Any, turns: list[Turn]) -> None:
        """Send the commands at once, and hand every one its reply. Cut off, redis-py closes the connection."""
        if not turns:
            return
        commands, joined = [turn.command for turn in turns], self._joins and sum(1 for turn in turns if turn.load) > 1
        await connection.send_packed_command(b"".join([_MULTI, *commands, _EXEC] if joined else commands))
        if joined:
            replies = await self._of_transaction(connection, commands)
        else:
            replies = [await _reply(connection) for _ in turns]
        for turn, reply in zip(turns, replies, strict=True):
            if isinstance(reply, trouble.NoScriptError):
                _hand(turn, await _alone(connection, turn.load, turn.command))
            else:
                _hand(turn, reply)

    async def _of_transaction(self, connection: Any, commands: list[bytes]) -> list[Any]:
        """The replies to commands that went as a transaction; one by one where this user or Redis takes none."""
        begun, *queued, done = [await _reply(connection) for _ in range(len(commands) + 2)]
        if isinstance(begun, Exception):  # no transaction: these are the replies
            self._joins = not isinstance(begun, trouble.NoPermissionError)
            return queued
        if not isinstance(done, Exception):
            return list(done)
        # Redis has let go of all of them: a transaction that is refused is over.
        self._joins = not isinstance(done, trouble.NoPermissionError)
        return [await _alone(connection, command) for command in commands]

    async def ask_importing(self, command: bytes, load: bytes) -> Any:
        """The same of a node that is still being given the slot: it refuses whoever does not know that."""
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's
        try:
            return await _one_by_one(connection, *filter(None, (load, _ASKING, command)))
        finally:
            await self._pool.release(connection)

    async def close(self) -> None:
        for trip in self._trips:
            trip.cancel()
        await self._pool.disconnect()


async def _reply(connection: Any) -> Any:
    """The next reply, or Redis' error as a value."""
    try:
        return await connection.read_response()
    except trouble.ResponseError as problem:
        return problem


async def _alone(connection: Any, *commands: bytes) -> Any:
    """The reply to the last command, or Redis' error as a value."""
    try:
        return await _one_by_one(connection, *commands)
    except trouble.ResponseError as problem:
        return problem


def _hand(turn: Turn, reply: Any) -> None:
    if turn.reply.done():  # cancelled
        return
    if isinstance(reply, Exception):
        turn.reply.set_exception(reply)
    else:
        turn.reply.set_result(reply)


async def _one_by_one(connection: Any, *commands: bytes) -> Any:
    """The reply to the last command."""
    reply = None
    for command in commands:
        await connection.send_packed_command(command)
        reply = await connection.read_response()
    return reply


class Cluster:
    """A Redis Cluster, for a worker: every command goes to the node that has its partition's slot."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._servers: dict[Place, Server] = {address.place: Server(address, joins=False)}
        self._slots: Slots | None = None

    async def ask(self, tag: bytes, command: bytes, load: bytes = b"") -> Any:
        """As `Server.ask`; `tag`: what all keys of the command begin with."""
        for _ in range(REDIRECTS):
            server = self._server((await self._known()).place_of(tag))
            try:
                return await server.ask(tag, command, load)
            except trouble.MovedError:
                self._slots = None
            except trouble.AskError as problem:
                return await self._server((problem.host, problem.port)).ask_importing(command, load)
            except (trouble.ConnectionError, trouble.TimeoutError, OSError):
                self._slots = None  # its replica may have taken over
                raise
        raise trouble.ConnectionError("the nodes of the cluster do not agree where the slot is")

    async def _known(self) -> Slots:
        """Which node has which slot, asked of any that answers."""
        if self._slots is None:
            self._slots = await self._asked()
        return self._slots

    async def _asked(self) -> Slots:
        problem: Exception | None = None
        for place, server in list(self._servers.items()):
            try:
                return Slots.read(await server.ask(b"", _CLUSTER_SLOTS), place)
            except (trouble.ConnectionError, trouble.TimeoutError, OSError) as error:
                problem = error
                self._servers[place] = self._servers.pop(place)  # next time the others first
        assert problem
        raise problem

    def _server(self, place: Place) -> Server:
        if place not in self._servers:
            self._servers[place] = Server(self._address, place, joins=False)
        return self._servers[place]

    async def close(self) -> None:
        for server in self._servers.values():
            await server.close()


class Slots:
    """Which node has which slots. The same node again and again for the same tag: that is looked up once."""

    def __init__(self, ranges: Sequence[tuple[int, int, Place]]) -> None:
        self.ranges = ranges
        self._by_tag: dict[bytes, Place] = {}

    @classmethod
    def read(cls, reply: Iterable[Any], asked: Place) -> Self:
        """The reply to CLUSTER SLOTS; a node that does not know its own name is the one that was `asked`."""
        ranges = []
        for first, last, (host, port, *_), *_ in reply:
            name = host.decode() if isinstance(host, bytes) else host
            ranges.append((int(first), int(last), (name or asked[0], int(port))))
        return cls(ranges)

    def place_of(self, tag: bytes) -> Place:
        """The node of the keys that begin with `tag`. Raises redis-py's error for a slot that nobody has."""
        if tag not in self._by_tag:
            slot = slot_of(tag)
            owner = next((place for first, last, place in self.ranges if first <= slot <= last), None)
            if owner is None:
                raise trouble.ClusterDownError(f"CLUSTERDOWN no node has slot {slot}")
            self._by_tag[tag] = owner
        return self._by_tag[tag]

    @property
    def places(self) -> list[Place]:
        """Every node that has slots."""
        return sorted({place for _, _, place in self.ranges})


def slot_of(tag: bytes) -> int:
    """The slot of all keys that begin with `tag`, such as `{3}:`: the CRC16 (XMODEM) of what is in its braces."""
    return binascii.crc_hqx(tag[1 : tag.index(b"}")], 0) % _SLOTS


def refusal(problem: Exception) -> Refused:
    """One line for an answer that no repeat makes better, with what to do."""
    if isinstance(problem, trouble.MovedError):
        return Refused("Redis is a cluster: set TIDEMARK_REDIS_CLUSTER=true")
    if "cluster support disabled" in str(problem):
        return Refused("Redis is no cluster: leave TIDEMARK_REDIS_CLUSTER away")
    if untrusted(problem):
        return Refused(
            f"Redis is not trusted ({problem}): TIDEMARK_REDIS must have the name in its certificate, "
            "TIDEMARK_REDIS_CA the authority that issued it"
        )
    if isinstance(problem, trouble.AuthenticationError):
        return Refused(f"Redis does not let us in ({problem}): check user and password in TIDEMARK_REDIS")
    if isinstance(problem, trouble.NoPermissionError) or "The user executing the script" in str(problem):
        return Refused(f"the user of Redis may not do what is needed ({problem}): docs/operations.md has what it needs")
    return Refused(f"Redis refuses ({problem}): check TIDEMARK_REDIS and the server's settings")


def untrusted(problem: BaseException) -> bool:
    """Whether a connection failed because of the server's certificate."""
    return "CERTIFICATE_VERIFY_FAILED" in str(problem)
