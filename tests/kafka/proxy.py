"""A wire between workers and Redis that can be cut, go silent, or be nowhere.

It runs in a thread of the test. One connection carries one request at a time, as Tidemark's ledger does.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self

from streams import ledger

COMMIT = ledger.script(*ledger.COMMIT).sha
CHUNK = 1 << 16
#: A request names its script in its first bytes.
HEAD = 200


class Proxy:
    """Listens on `port` of the loopback address and carries what it gets to the server at `target`.

    `commits`: commit requests that came by. `cuts`: connections cut instead of a commit's reply.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.commits = 0
        self.cuts = 0
        self._to_cut, self._share, self._chance = 0, 1.0, random.Random(0)
        self._silent = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._wires: set[Wire] = set()

    @property
    def url(self) -> str:
        """Database 0 of the Redis behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Listen on a port of its own; the port stays the same over `refuse` and `carry`."""
        self._thread.start()
        self._do(self._listen())
        return self

    def carry(self) -> None:
        """Pass everything on. What came in silence is passed on late, as a network does with what it still holds."""
        self._do(self._carry())

    def refuse(self) -> None:
        """Nobody listens here, and whoever was connected is cut off."""
        self._do(self._refuse())

    def silence(self) -> None:
        """Accept, take every request, and answer nothing."""
        self._call(lambda: setattr(self, "_silent", True))

    def cut_replies(self, count: int, share: float = 1.0, seed: int = 0) -> None:
        """Cut `count` connections, each after a commit was carried to Redis and before its reply is returned.

        `share`: of the commits that come by, how many are chosen (at random, by `seed`) until `count` is reached.
        """

        def order() -> None:
            self._to_cut, self._share, self._chance = self.cuts + count, share, random.Random(seed)

        self._call(order)

    def close(self) -> None:
        """Cut everything and end the thread."""
        if self._thread.is_alive():
            self.refuse()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ in the thread

    @property
    def is_silent(self) -> bool:
        return self._silent

    def cuts_now(self) -> bool:
        """Whether the reply to this commit is one of those to be lost."""
        self.commits += 1
        if self.cuts >= self._to_cut or self._chance.random() >= self._share:
            return False
        self.cuts += 1
        return True

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _call(self, work: Callable[[], None]) -> None:
        async def now() -> None:
            work()

        self._do(now())

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _carry(self) -> None:
        self._silent = False
        await self._listen()
        for wire in self._wires:
            wire.wake()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for wire in list(self._wires):
            wire.cut()
        await asyncio.gather(*(wire.ended.wait() for wire in list(self._wires)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(self, reader, writer)
        self._wires.add(wire)
        try:
            await wire.run()
        finally:
            self._wires.discard(wire)
            wire.ended.set()


class Wire:
    """One connection, and the one to Redis that belongs to it. `ended`: neither is there any more."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = asyncio.Event()
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._head = b""  # how the request on its way begins
        self._awake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def wake(self) -> None:
        """Go on after a silence."""
        self._awake.set()

    def cut(self) -> None:
        """End both sides at once, mid-word if need be."""
        self._writer.transport.abort()
        for task in self._tasks:
            task.cancel()

    async def run(self) -> None:
        """Carry until one side has enough."""
        with suppress(OSError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._proxy.target)
            self._tasks = [asyncio.create_task(self._ask(up_writer)), asyncio.create_task(self._answer(up_reader))]
            try:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                up_writer.close()
        self.cut()

    async def _ask(self, up: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while some := await self._reader.read(CHUNK):
                self._head = (self._head + some)[:HEAD]
                await self._while_silent()
                up.write(some)
                await up.drain()

    async def _answer(self, up: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while some := await up.read(CHUNK):
                head, self._head = self._head, b""
                if COMMIT in head and not some.startswith(b"-") and self._proxy.cuts_now():
                    return  # done, and the worker does not hear of it
                await self._while_silent()
                self._writer.write(some)
                await self._writer.drain()

    async def _while_silent(self) -> None:
        while self._proxy.is_silent:
            self._awake.clear()
            await self._awake.wait()
