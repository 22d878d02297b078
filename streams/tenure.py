"""The time in which one worker owns one partition: its mark, and the way of a commit."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streams.announce import Message, Outbox, pack, unpack
from streams.ledger import Mark, Writes, foreign

if TYPE_CHECKING:
    from streams.errors import Foreign
    from streams.ledger import Ledger


def nonce() -> str:
    """64 random bits: no two claims or commits carry the same mark."""
    return secrets.token_hex(8)


class Tenure:
    """What the owner of a partition writes with: every commit quotes the whole mark of the one before.

    `name`: number of the partition, or `overview`. `mark`: where this owner stands. `held`: the mark as it is in Redis,
    where that is another one until the first commit (a log that begins later than the mark says).
    """

    def __init__(self, name: int | str, ledger: Ledger, outbox: Outbox, mark: Mark, held: Mark | None = None) -> None:
        self.name, self.mark = name, mark
        self._held = held or mark
        self._ledger, self._outbox = ledger, outbox
        self._pending = False
        self._committing = False
        self._announcing: asyncio.Task[None] | None = None

    async def inherit(self, pending: bytes) -> None:
        """Send what the last owner may not have sent; it leaves the slot with the next commit."""
        await self._outbox.announce(unpack(pending))
        self._pending = bool(pending)

    def next_mark(
        self, offsets: tuple[int, ...], clock_ms: int | None = None, catalogue: tuple[int, str] | None = None
    ) -> Mark:
        """The mark of the next commit."""
        mark = self.mark
        return Mark(
            number=mark.number + 1,
            offsets=offsets,
            topics=mark.topics,
            partitions=mark.partitions,
            nonce=nonce(),
            catalogue=mark.catalogue if catalogue is None else catalogue,
            clock_ms=mark.clock_ms if clock_ms is None else clock_ms,
            moving_to=mark.moving_to,
        )

    async def commit(self, mark: Mark, writes: Writes, messages: Sequence[Message]) -> None:
        """Write everything or nothing; the messages are in the pending slot and not yet sent.

        What was there before has been sent by then.
        """
        await self.announced()
        self._committing = True
        await self._ledger.commit(self.name, (self._held, mark), pack(messages), writes)
        self.mark, self._held, self._pending = mark, mark, bool(messages)
        self._committing = False

    async def lost(self) -> Foreign | None:
        """Why this owner has to go although it writes nothing: its mark is no longer in Redis (rolled back, emptied).

        None while all is well, and while a commit is under way: that one finds out by itself.
        """
        held = self._held
        (found,) = await self._ledger.read_strings(self.name, b"mark")
        idle = not self._committing and self._held is held
        return foreign(self.name, found or b"") if idle and found != held.pack() else None

    def announce(self, messages: Sequence[Message]) -> asyncio.Task[None] | None:
        """Begin to send what was committed; None: it is nothing. Ends when Kafka has it."""
        self._announcing = asyncio.create_task(self._outbox.announce(messages)) if messages else None
        return self._announcing

    async def announced(self) -> None:
        """Until Kafka has what was committed; raises why it never will."""
        if self._announcing is not None:
            await self._announcing

    def drop(self) -> None:
        """Announce no more: the next owner will."""
        if self._announcing is not None:
            self._announcing.cancel()

    async def leave(self) -> None:
        """A clean hand-over leaves nothing pending: everything is announced, an empty commit says so."""
        await self.announced()
        if self._pending:
            await self.commit(self.next_mark(self.mark.offsets), Writes(), ())
