"""The overview's partition: digests in, model and catalogue out. One worker has it; the same commit as everywhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from models.names import read_given
from models.observe import Digest, Observed, Overview, observe
from models.rows import UnknownFormat
from models.segments import EMPTY_CATALOGUE, Catalogue, UnusableCatalogue
from streams.announce import Message
from streams.errors import Refused
from streams.intake import next_offsets
from streams.ledger import OVERVIEW, Writes
from streams.lessons import AHEAD_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from models.records import Record
    from streams.intake import Inbox, Taken
    from streams.partition import Surroundings
    from streams.tenure import Tenure

#: Digests of one commit at most, and the pause in which they gather: twenty are learned for little more than one, and
#: each commit writes the whole snapshot. While partitions wait for what they have sent, the pause is short.
DIGESTS, PAUSE_S, HURRIED_S = 200, 0.25, 0.01
#: Digests received and not yet learned; beyond it their topic is held back. One may have half a megabyte.
BUFFERED = 32
#: The compacted topic keeps the newest message of this key.
KEY = b"catalogue"

log = structlog.get_logger("tidemark.overview")


class OverviewPartition:
    """Everything this process knows of the overview while it owns it."""

    def __init__(self, tenure: Tenure, inbox: Inbox, around: Surroundings) -> None:
        self.inbox = inbox
        self._tenure, self._around = tenure, around

    async def run(self) -> None:
        """Learn until the inbox closes, then hand over."""
        overview = await self._begin()
        while (taken := await self.inbox.gather(DIGESTS)) is not None:
            before_ms = overview.learned_until_ms
            overview = await self._work(overview, taken)
            await self.inbox.rest(HURRIED_S if overview.learned_until_ms > before_ms + AHEAD_MS else PAUSE_S)
        await self._tenure.leave()

    async def _begin(self) -> Overview:
        model, catalogue = await self._around.ledger.read_strings(OVERVIEW, b"model", b"catalogue")
        try:
            return Overview.restore(model, catalogue).after(self._pinned())
        except (UnknownFormat, UnusableCatalogue) as problem:
            raise Refused(
                f"the model in Redis cannot be used ({problem}): run the version of Tidemark that wrote it, or delete "
                "the key {overview}:model to learn anew"
            ) from problem

    def _pinned(self) -> Catalogue:
        """The catalogue the settings pin, if any: its ids are in rows and counters and must not be given again."""
        watch = self._around.watch
        return watch.catalogue if watch.pinned else EMPTY_CATALOGUE

    async def _work(self, overview: Overview, taken: Taken) -> Overview:
        digests = list(_digests(taken.records))  # 1. what the partitions report, and the names users have given
        given = read_given(await self._around.ledger.read_hash(OVERVIEW, b"names"))
        # 2. learn: a pure function of frozen values, so a thread of its own is safe; a refit takes a while
        overview, observed = await asyncio.to_thread(observe, overview, digests, self._around.rules, given)
        clock_ms, catalogue = overview.learned_until_ms, overview.catalogue
        offsets = next_offsets(self._tenure.mark.offsets, taken)
        mark = self._tenure.next_mark(offsets, clock_ms, (catalogue.version, catalogue.hash))
        messages = self._messages(observed)
        await self._tenure.commit(mark, _writes(observed), messages)  # 3. all of it, or nothing
        if observed.catalogue:
            log.info("published", version=observed.version, segments=[each.name for each in catalogue.segments])
        self._tenure.announce(messages)  # 4. only what is committed
        await self._tenure.announced()
        self.inbox.ack(dict(enumerate(mark.offsets)))  # 5. a courtesy to Kafka's lag tools
        return overview

    def _messages(self, observed: Observed) -> Sequence[Message]:
        if observed.catalogue is None:
            return ()
        return (Message(self._around.settings.catalogue_topic, KEY, observed.catalogue),)


def _digests(records: Iterable[Record]) -> list[Digest]:
    """What can be read of the records; the topic is internal, so what cannot is skipped with a warning."""
    digests = []
    for record in records:
        try:
            digests.append(Digest.unpack(record.value or b""))
        except ValueError as problem:
            log.warning("a record is no digest, skipped", offset=record.offset, problem=str(problem))
    return digests


def _writes(observed: Observed) -> Writes:
    strings = {b"model": observed.snapshot, b"pointer": observed.pointer}
    if observed.catalogue is not None:
        strings[b"catalogue"] = observed.catalogue
    return Writes(strings)
