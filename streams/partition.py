"""One partition from claim to hand-over: gather, load, step, commit, announce, acknowledge; strictly in turn.

The rules of this file:
 1. A partition's state lives in Redis under one mark. Who wants to change it must quote the whole mark.
 2. Caches belong to a `Partition`, and it dies with every revocation, that of a partition which comes back included.
 3. Commit, then announce, then acknowledge. Each may be repeated, none may be skipped. Of two batches only this
    overlaps: while the first is being announced the second is loaded and stepped. It is committed after that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from models.cells import encode_cells
from models.counters import Codes
from models.effects import with_whole
from models.lifecycle import NEVER_MS
from models.state import Batch, State, Totals
from models.sweep import sweep
from streams.announce import Message, quarantine
from streams.cache import WalletCache
from streams.cells import CellCache
from streams.errors import Refused, readable
from streams.intake import next_offsets
from streams.ledger import Words, Writes, tag
from streams.lessons import NO_ROWS, Lessons
from streams.steps import Steps
from streams.sweeping import PAGE, Horizon, first_page
from streams.tally import Tally, phases_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from models.effects import Effects, Quarantined
    from models.records import Record
    from models.rules import Rules
    from models.segments import Catalogue
    from models.state import Wallets
    from streams.cache import Changed, Lookup
    from streams.catalogue import CatalogueWatch
    from streams.intake import Inbox, Taken
    from streams.ledger import Ledger, Mark
    from streams.settings import Settings
    from streams.sweeping import Page
    from streams.tally import Times
    from streams.tenure import Tenure

#: ROI cells remembered; beyond it all are forgotten and read again as they are needed.
CELLS_KEPT = 100_000

log = structlog.get_logger("tidemark.partition")


@dataclass(slots=True)
class Surroundings:
    """What all partitions of a worker share. `largest`: bytes of the largest message the producer sends."""

    settings: Settings
    rules: Rules
    ledger: Ledger
    watch: CatalogueWatch
    largest: int
    tally: Tally = field(default_factory=Tally)
    steps: Steps = field(init=False)

    def __post_init__(self) -> None:
        self.steps = Steps(self.rules, self.watch)


class Partition:
    """Everything this process knows of partition `number` while it owns it."""

    def __init__(self, number: int, tenure: Tenure, inbox: Inbox, around: Surroundings, cache_wallets: int) -> None:
        self.number, self.inbox = number, inbox
        self._row_prefix = tag(number) + b"w:"
        self._tenure, self._around = tenure, around
        self._cache = WalletCache(cache_wallets)
        self._totals, self._codes = Totals(), Codes()
        self._cells = CellCache(CELLS_KEPT)
        self._horizon = Horizon()
        self._loading = self._settling = False
        self._tells = log.is_enabled_for(logging.DEBUG)  # asked here, as structlog makes a logger for every question
        self._lessons = Lessons(number, around.settings.digests_topic, around.watch)

    async def run(self) -> None:
        """Work until the inbox closes, then hand over."""
        await self._begin()
        members = self._around.steps.members
        members.add(self)
        try:
            await self._work_on()
        except asyncio.CancelledError:
            self._tenure.drop()
            raise
        finally:
            members.discard(self)
        await self._leave()

    @property
    def coming(self) -> bool:
        """Whether it has records and will soon bring them to a step."""
        return self._loading or self.inbox.filling or (self._settling and self.inbox.has_records)

    async def _work_on(self) -> None:
        limit, lessons = self._around.settings.batch_records, self._lessons
        while (taken := await self.inbox.gather(limit, lessons.span_ms, lessons.due_in_s)) is not None:
            if not taken.records:
                await self._tell_lessons()
                continue
            await self._work(taken)
            await self._keep_pace(taken)

    async def _begin(self) -> None:
        ledger = self._around.ledger
        (totals,) = await ledger.read_strings(self.number, b"totals")
        codes = await ledger.read_hash(self.number, b"codes")
        with readable(self.number):
            self._totals, self._codes = Totals.from_json(totals), Codes.of(codes)
        self._cache.elsewhere = self._totals.wallets
        for _, due_s in await ledger.read_due(self.number, 1):
            self._horizon.next_ms = due_s * 1000

    async def _work(self, taken: Taken) -> None:
        """A batch, and the sweeps that come before some of its records."""
        at = 0
        while True:
            done, until_ms = await self._fold(taken.part(at, len(taken.records)))
            at += done
            if at == len(taken.records):
                return
            await self._sweep(until_ms, (taken.lanes[at], taken.records[at]))

    async def _fold(self, taken: Taken) -> tuple[int, int]:
        """Take records up to the first that has to wait for a sweep; how many that were, and up to when to sweep."""
        tally, began = self._around.tally, time.perf_counter()
        self._loading = True
        # 1. the wallets the step needs and the cache lacks
        lookup = await self._load(self._cache.look_up(taken.records))
        loaded, self._loading = time.perf_counter(), False
        state, effects, catalogue = await self._step(taken, lookup)  # 2. decide; nothing has happened yet
        taken = taken.part(0, effects.taken)
        if not taken.records:
            return 0, state.until_ms
        self._settling = True
        stepped, before = time.perf_counter(), self._totals
        offsets = next_offsets(self._tenure.mark.offsets, taken)
        mark = self._tenure.next_mark(offsets, state.clock_ms, (catalogue.version, catalogue.hash))

        def announced(committed: float) -> None:
            self.inbox.ack(dict(enumerate(mark.offsets)))  # 7. a courtesy to Kafka's lag tools
            self._tell(mark, taken, effects, (began, loaded, stepped, committed, time.perf_counter()))

        await self._settle((mark, taken.newest_ms), lookup, state, effects, announced)
        self._settling = False
        tally.committed(taken.lanes, (before, state.totals), effects)
        return effects.taken, state.until_ms

    async def _settle(
        self,
        asked: tuple[Mark, int],
        lookup: Lookup,
        state: State,
        effects: Effects,
        announced: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Make true what a step or a sweep asks for.

        `asked`: mark, timestamp of the record. `announced`: called when it is, with when it was committed.
        """
        mark, newest_ms = asked
        cells = await self._count(effects)  # 3. the counters, absolute
        messages = self._messages(mark, newest_ms, effects)
        effects = self._renewed(state, effects)
        changed = self._cache.changed(lookup, effects.keys, effects.rows, self._row_prefix)
        writes = _writes(state, effects, cells, changed)
        await self._tenure.announced()  # as the commit does; here, so that what it takes is its own
        began = time.perf_counter()
        await self._tenure.commit(mark, writes, messages)  # 4. all of it, or nothing
        committed = time.perf_counter()
        self._around.tally.commits.note(committed - began)
        self._remember(lookup, state, changed)  # 5. what is in Redis now
        self._cells.keep(effects.cells.names, cells)
        self._horizon.queued(effects.due)
        self._lessons.committed(mark, effects.learning, sent=self._has_digest(messages), flow=effects.flow)
        announcing = self._tenure.announce(messages)  # 6. only what is committed; the next batch begins meanwhile
        if announcing:
            announcing.add_done_callback(partial(self._announced, partial(announced, committed)))
        else:
            announced(committed)

    def _announced(self, then: Callable[[], None], announcing: asyncio.Task[None]) -> None:
        """What was to be announced is in Kafka, or never will be: then this partition ends, and says why."""
        if announcing.cancelled() or announcing.exception():
            self.inbox.close()
        else:
            then()

    async def _sweep(self, until_ms: int, cause: tuple[int, Record]) -> None:
        """Sweep those who are due by `until_ms`: the record that is the cause moves the clock to it or beyond."""
        while self._horizon.next_ms <= until_ms:
            page = first_page(await self._around.ledger.read_due(self.number, PAGE + 1))
            if page is None:  # Redis was emptied: the next commit finds it out
                self._horizon.next_ms = NEVER_MS
                break
            await self._sweep_page(page, cause)
        self._horizon.swept_ms = until_ms

    async def _sweep_page(self, page: Page, cause: tuple[int, Record]) -> None:
        lookup = await self._load(self._cache.look_up_keys(page.wallets))
        before = self._state(self._cache.copy(lookup)[0])
        with readable(self.number):
            if not before.wallets.rows["version"].all():
                raise LookupError("a wallet is due that has no row")
        catalogue = self._around.watch.catalogue
        state, effects = sweep(before, page.at_ms, cause, self._around.rules, catalogue)
        mark = self._tenure.next_mark(self._tenure.mark.offsets, catalogue=(catalogue.version, catalogue.hash))
        await self._settle((mark, cause[1].timestamp), lookup, state, effects)
        self._horizon.swept(page, effects.due)
        self._around.tally.swept(effects)

    async def _load(self, lookup: Lookup) -> Lookup:
        """The same, with all its wallets in the cache."""
        tally, missing = self._around.tally, len(lookup.missing)
        tally.found_wallets += len(lookup.keys) - missing
        tally.missed_wallets += missing
        if self._cache.has_all:
            self._cache.admit(lookup, [None] * missing)
        elif missing:
            try:
                await self._read(lookup)
            except Refused as problem:  # Redis may have been emptied or rolled back between two reads
                raise await self._tenure.lost() or problem from problem
        return lookup

    async def _read(self, lookup: Lookup) -> None:
        """The wallets that the cache lacks."""
        ledger = self._around.ledger
        rows = await ledger.read(self.number, b"w", lookup.missing)
        with readable(self.number):
            with_journal, with_fees = self._cache.admit(lookup, rows)
        more = [b"j:" + key for key in with_journal] + [b"f:" + key for key in with_fees]
        found = await ledger.read_strings(self.number, *more)
        with readable(self.number):
            self._cache.admit_journals(with_journal, found[: len(with_journal)], len(self._codes.names))
            self._cache.admit_fees(with_fees, found[len(with_journal) :])

    async def _step(self, taken: Taken, lookup: Lookup) -> tuple[State, Effects, Catalogue]:
        wallets, wallet_of = self._cache.copy(lookup)
        batch = Batch(taken.records, taken.lanes, wallet_of)
        return await self._around.steps.step(self._state(wallets), batch)

    def _state(self, wallets: Wallets) -> State:
        """What a step of this partition may read."""
        mark = self._tenure.mark
        until_ms = self._horizon.until_ms(mark.clock_ms)
        return State(self.number, mark.partitions, mark.clock_ms, self._totals, self._codes, wallets, until_ms)

    async def _count(self, effects: Effects) -> NDArray[Any]:
        """The new absolute values of the cells this batch adds to (m, 11)."""
        missing = self._cells.missing(effects.cells.names)
        if missing:
            self._cells.admit(missing, await self._around.ledger.read_fields(self.number, b"roi", missing))
        return self._cells.added(effects.cells)

    def _renewed(self, state: State, effects: Effects) -> Effects:
        """The same, with all that is stored of wallets that lie in Redis as an older version had them."""
        older = self._cache.older(effects.keys)
        return with_whole(effects, state.wallets, frozenset(older)) if older else effects

    def _messages(self, mark: Mark, newest_ms: int, effects: Effects) -> list[Message]:
        settings = self._around.settings
        changes = [Message(settings.changes_topic, each.key, each.value, each.headers) for each in effects.changes]
        rejected = [self._quarantine(each) for each in effects.rejected]
        ahead = self._lessons.ahead(mark.clock_ms, newest_ms)
        digest = self._lessons.digest(mark, effects.learning, ahead=ahead, flow=effects.flow)
        return [*changes, *rejected, *([digest] if digest else [])]

    def _quarantine(self, found: Quarantined) -> Message:
        settings = self._around.settings
        source = settings.inputs[found.lane]
        return quarantine(found, (source, self.number), settings.rejected_topic, self._around.largest)

    def _has_digest(self, messages: Sequence[Message]) -> bool:
        return bool(messages) and messages[-1].topic == self._around.settings.digests_topic

    def _remember(self, lookup: Lookup, state: State, changed: Changed) -> None:
        self._cache.keep(lookup, state.wallets)
        self._cache.stored(changed)
        self._totals, self._codes = state.totals, state.codes

    def _tell(self, mark: Mark, taken: Taken, effects: Effects, times: Times) -> None:
        """The one line of a batch. `times`: when its four phases began, and the end of the last."""
        self._around.tally.took(times)
        if not self._tells:
            return
        log.debug(
            "batch",
            partition=self.number,
            commit=mark.number,
            offsets=mark.offsets,
            clock_ms=mark.clock_ms,
            records=len(taken.records),
            changes=len(effects.changes),
            rejected=len(effects.rejected),
            catalogue=mark.catalogue[0],
            **phases_of(times),
        )

    async def _keep_pace(self, taken: Taken) -> None:
        before = self._lessons.waits
        await self._lessons.keep_pace(self._tenure.mark.clock_ms, taken.newest_ms, lambda: self.inbox.closing)
        self._around.tally.waits += self._lessons.waits - before

    async def _leave(self) -> None:
        """Learning rows that no digest has taken go with a last commit; then nothing is left pending."""
        if self._lessons.waiting:
            await self._tell_lessons()
        await self._tenure.leave()

    async def _tell_lessons(self) -> None:
        """A commit of nothing but the learning rows that no digest has taken."""
        mark = self._tenure.next_mark(self._tenure.mark.offsets)
        digest = self._lessons.digest(mark, NO_ROWS, ahead=True)
        messages = [digest] if digest else []
        await self._tenure.commit(mark, Writes(), messages)
        self._lessons.committed(mark, NO_ROWS, sent=True)
        self._tenure.announce(messages)
        await self._tenure.announced()


def _writes(state: State, effects: Effects, cells: NDArray[Any], changed: Changed) -> Writes:
    """Everything a batch changes, as Redis stores it; every value absolute, or absolute what is in its place in one."""
    strings = {b"j:" + key: journal for key, journal in effects.journals.items()}
    strings |= {b"f:" + key: fees for key, fees in effects.fees.items()}
    parts = {b"f:" + key: part for key, part in effects.spilled.items()}
    strings[b"totals"] = state.totals.to_json()
    hashes = {b"roi": dict(zip(effects.cells.names, encode_cells(cells), strict=True))} if len(cells) else {}
    if effects.codes:
        hashes[b"codes"] = {name: b"%d" % code for name, code in effects.codes.items()}
    rows = changed.stored
    whole, patches = Words(2 * rows.wholes, rows.whole.data), Words(3 * rows.patched, rows.parts.data)
    return Writes(strings, hashes, effects.due, parts, whole, patches)
