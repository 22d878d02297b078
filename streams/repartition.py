"""Partitions were added to the inputs: every wallet moves to the partition its records go to from now on.

First the old partitions are counted to the end of their logs by the old number, for what was sent to p by it belongs
to p still; only then wallets leave (`streams.moving`). So a wallet has one row at any time, and its records one order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.hashing import partitions_of
from streams import logs, topics
from streams.cache import LONGEST_KEY
from streams.drain import Drain, both_logs
from streams.errors import Foreign, Refused, TidemarkError, repartitioned
from streams.moving import Moving, Places, Split, read_marks
from streams.owner import recreated
from streams.store import Address
from streams.worker import outside_the_group

if TYPE_CHECKING:
    from streams.announce import Outbox
    from streams.ledger import Mark
    from streams.partition import Surroundings
    from streams.settings import Settings
    from streams.topics import TopicFacts

#: The old partitions have to bring no more records of wallets that leave for so long.
QUIET_S = 5.0
#: A producer that goes on sending by the old number, or a transaction that does not end, is waited for so long.
WAIT_S = 600.0
#: Two looks at the marks so far apart tell whether somebody commits.
STILL_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done. `counted`: records that workers had left; `moved`: wallets."""

    before: int
    after: int
    counted: int
    moved: int


def repartition(settings: Settings, say: Callable[[str], None]) -> Outcome:
    """Move every wallet to its partition of today; nothing is done where all are. `say` is told how far it is.

    Raises `Refused` while workers work, and where it could not be exact.
    """
    logs.configure(settings.log_level)
    return asyncio.run(_repartition(settings, say))


async def _repartition(settings: Settings, say: Callable[[str], None]) -> Outcome:
    if settings.partitioner == "off":
        raise Refused("TIDEMARK_PARTITIONER is off: nobody knows where the records of a wallet will go")
    async with outside_the_group(settings) as (around, outbox):
        facts = await asyncio.to_thread(topics.describe, settings)
        try:
            return await Repartition(around, outbox, facts, say).run()
        except Foreign as problem:
            raise Refused(
                f"{str(problem).partition(':')[0]}: stop all workers and every other `tidemark repartition`, then run "
                "it again"
            ) from problem


class Repartition:
    """One run."""

    def __init__(self, around: Surroundings, outbox: Outbox, facts: TopicFacts, say: Callable[[str], None]) -> None:
        self._around, self._outbox, self._facts, self._say = around, outbox, facts, say
        self._settings, self._ledger = around.settings, around.ledger
        self._counted = self._moved = 0

    async def run(self) -> Outcome:
        now, before = self._facts.partitions[self._settings.topic_transactions], 0
        if await self._next(now):
            await self._nobody_works(now)
        while split := await self._next(now):
            before = before or split.old
            await self._split(split)
        return Outcome(before or now, now, self._counted, self._moved)

    async def _nobody_works(self, partitions: int) -> None:
        group, session_s = self._settings.group, self._settings.session_timeout_ms / 1000
        if many := await asyncio.to_thread(topics.members, self._settings):
            raise Refused(
                f"{many} workers are in the group {group}: stop them all, then run `tidemark repartition` (one that "
                f"was killed leaves after {session_s:.0f} s)"
            )
        before = await read_marks(self._ledger, range(partitions))
        await asyncio.sleep(STILL_S)
        if await read_marks(self._ledger, range(partitions)) != before:
            raise Refused("somebody commits although the group is empty: stop all workers, those of other groups too")

    async def _next(self, now: int) -> Split | None:
        """What has to be done: first what was begun, then what the topics ask for; None when they fit."""
        mark = (await read_marks(self._ledger, [0]))[0]
        if mark is None:
            raise TidemarkError("nothing has been counted yet: start the workers, `tidemark work`")
        if mark.moving_to:
            return Split(mark.partitions, mark.moving_to)
        if mark.partitions == now:
            return None
        if now < mark.partitions or now % mark.partitions:
            raise repartitioned(now, mark.partitions)
        return Split(mark.partitions, now)

    async def _split(self, split: Split) -> None:
        found = await read_marks(self._ledger, range(split.new))
        self._check_topics(found)
        begun = found[0] is not None and found[0].moving_to > 0
        if not begun and (stray := [q for q in range(split.old, split.new) if found[q]]):
            raise Refused(f"Redis holds a partition {stray[0]} that nobody can have counted: restore Redis")
        places = Places(Address.of(self._settings), self._settings.partitioner, split)
        await asyncio.to_thread(places.check, begun=begun)
        marks = {p: mark for p, mark in found.items() if mark and mark.moving_to}
        done = {p for p, mark in found.items() if mark and not mark.moving_to and mark.partitions == split.new}
        marks |= await self._count_the_rest(split, [p for p in range(split.old) if p not in marks and p not in done])
        moving = Moving(self._ledger, split, marks, self._say)
        begins = [await asyncio.to_thread(topics.begins_of, self._settings, topic) for topic in self._settings.inputs]
        await moving.run(places, [*zip(*begins, strict=True)])
        self._moved += moving.moved

    def _check_topics(self, found: dict[int, Mark | None]) -> None:
        for mark in filter(None, found.values()):
            for topic, known in zip(self._settings.inputs, mark.topics, strict=True):
                if known != self._facts.ids[topic]:
                    raise recreated(topic)

    # ------------------------------------------------------------------ what workers have left in the logs

    async def _count_the_rest(self, split: Split, left: Sequence[int]) -> dict[int, Mark]:
        """Count these partitions to the end of their logs until they are quiet; their marks then."""
        if not left:
            return {}
        strangers = Strangers(split.new, self._settings.partitioner)
        drain = Drain(self._around, self._outbox, self._facts, strangers.look)
        give_up_s = time.monotonic() + WAIT_S
        await self._count_once(drain, split.old, left)
        while True:
            strangers.seen = 0  # what workers had not come to is no sign that a producer goes on
            await asyncio.sleep(QUIET_S)
            open_in = await asyncio.to_thread(topics.unfinished, self._settings)
            marks = await self._count_once(drain, split.old, left)
            if not (strangers.seen or open_in):
                return marks
            self._complain(strangers.seen, open_in, give_up_s)

    def _complain(self, strangers: int, open_in: Sequence[str], give_up_s: float) -> None:
        what = (
            f"a transaction is open in {open_in[0]}: end it"
            if open_in
            else f"{strangers:,} more records were sent by the old number of partitions: restart the producers"
        )
        if time.monotonic() > give_up_s:
            raise Refused(f"{what}, then run `tidemark repartition` again")
        self._say(f"waiting: {what}")

    async def _count_once(self, drain: Drain, partitions: int, left: Sequence[int]) -> dict[int, Mark]:
        marks = {}
        with both_logs(self._settings) as opened:
            for number in left:
                drained = await drain.partition(number, partitions, await asyncio.to_thread(opened, number))
                marks[number] = drained.mark
                self._counted += drained.records
                if drained.records:
                    self._say(f"partition {number}: {drained.records:,} records counted")
        return marks


class Strangers:
    """Counts records in a partition that their wallets are about to leave."""

    def __init__(self, partitions: int, partitioner: str) -> None:
        self.seen = 0
        self._partitions, self._partitioner = partitions, partitioner

    def look(self, partition: int, keys: Iterable[bytes]) -> None:
        known = [key for key in keys if len(key) <= LONGEST_KEY]
        if known:
            self.seen += int((partitions_of(known, self._partitions, self._partitioner) != partition).sum())
