"""Which partitions this worker owns: it takes them over, hands them over, and checks that they are still the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from streams import topics
from streams.errors import CutLog, Refused, TidemarkError, repartitioned
from streams.intake import Alone, Inbox, Lane, Merge, Place, clock, lanes_of
from streams.ledger import OVERVIEW, Mark
from streams.overview import BUFFERED, OverviewPartition
from streams.partition import Partition, Surroundings
from streams.tenure import Tenure, nonce

if TYPE_CHECKING:
    from streams.announce import Outbox
    from streams.intake import Arrived, KnownEnd
    from streams.topics import TopicFacts

#: A hand-over waits this long for the commit in flight; the next owner's claim refuses what is later.
HAND_OVER_S = 2.0
CHECK_S = 30.0
#: And so often whether Kafka has refused a topic by its id: then it is compared at once.
GLANCE_S = 1.0
#: A worker that ends because its log was cut asks Kafka this long whether the topic is still the same.
EXPLAIN_S = 5.0
#: Brokers learn of added partitions one after the other; one that is asked may be behind by so much.
METADATA_S = 20.0
FEWEST_CACHED = 1000

log = structlog.get_logger("tidemark.owner")


class Kafka(Protocol):
    """What the owner asks of the consumer; see `streams.app`."""

    @property
    def generation(self) -> object: ...
    def hold(self, place: Place) -> None: ...
    def release(self, place: Place) -> None: ...
    def end(self, place: Place) -> KnownEnd | None: ...
    def read_only(self, ids: Mapping[str, str]) -> None:
        """From now on read the topics with these ids and no others, whatever their names are."""

    @property
    def refused(self) -> int:
        """How many times Kafka said that a topic is not there by its id."""

    def log_bounds(self, places: Iterable[Place]) -> Awaitable[Mapping[Place, tuple[int, int]]]: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """A partition that has just become ours. `pending`: what its last owner may not have sent.

    `held`: the mark as it is in Redis. `mark`: the one to go on from, which is another if the log begins later.
    """

    name: int | str
    places: tuple[Place, ...]
    mark: Mark
    held: Mark
    pending: bytes


@dataclass(frozen=True, slots=True)
class Owned:
    """A partition at work. `lanes`: its topics and their lanes."""

    tenure: Tenure
    inbox: Inbox
    task: asyncio.Task[None]
    lanes: Mapping[str, int]


class Owner:
    """The partitions of one worker. The first problem of any of them ends up in `failed`."""

    def __init__(self, around: Surroundings, outbox: Outbox, kafka: Kafka) -> None:
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self.owned: dict[int | str, Owned] = {}
        #: why Kafka could not be asked about its topics, empty while it can
        self.kafka_problem = ""
        self._around, self._outbox, self._kafka = around, outbox, kafka
        self._working: Surroundings | None = None
        self._taking: asyncio.Task[dict[Place, int]] | None = None
        self._facts: TopicFacts | None = None
        self._leaving = False

    @property
    def partitions(self) -> list[int | str]:
        return _in_order(self.owned)

    async def take_over(self, places: set[Place]) -> Mapping[Place, int]:
        """Claim everything assigned and start its work; the offsets to read on from.

        Nothing, when another rebalance begins meanwhile or when something is wrong: then `failed` says what.
        """
        if self._leaving:  # a stopping client may still be given an assignment; claiming it would throw others out
            return {}
        self._taking = taking = asyncio.create_task(self._take_over(places))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            if not taking.cancelled():
                taking.cancel()  # Faust itself has given this assignment up
                raise
            return {}
        except Exception as problem:  # noqa: BLE001 -- whatever it is, it ends this worker, in an orderly way
            self.fail(problem)
            return {}
        finally:
            self._taking = None

    async def hand_over(self) -> bool:
        """Before every rebalance and at the end: finish what is in flight, then forget everything.

        Whether it was clean; a partition that could not finish in time is cut off, its next owner claims it anyway.
        """
        if self._taking:
            self._taking.cancel()  # a claim that comes after the next owner's would throw that one out
        owned, self.owned = self.owned, {}
        if not owned:
            return True
        began = time.monotonic()
        for each in owned.values():
            each.inbox.close()
        _, late = await asyncio.wait([each.task for each in owned.values()], timeout=HAND_OVER_S)
        for task in late:
            task.cancel()
        took = round(time.monotonic() - began, 3)
        log.info("handed over", partitions=_in_order(owned), seconds=took, cut_off=len(late))
        return not late

    def abandon(self) -> None:
        """Stop all work at once and for good, committing and claiming nothing more."""
        self._leaving = True
        if self._taking:
            self._taking.cancel()
        owned, self.owned = self.owned, {}
        for each in owned.values():
            each.task.cancel()

    def deliver(self, place: Place, generation: object, batch: Arrived) -> None:
        """Leave an arrival with its partition; one of a former assignment is dropped, it will come again."""
        settings = self._around.settings
        name = OVERVIEW if place.topic == settings.digests_topic else place.partition
        owned = self.owned.get(name)
        if owned is None or generation != self._kafka.generation:
            return
        try:
            owned.inbox.put(owned.lanes[place.topic], batch)
        except TidemarkError as problem:
            self.fail(problem)

    def fail(self, problem: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_result(problem)

    async def watch_topics(self) -> None:
        """Are these still the topics the marks are about, and are the marks still there? Never returns.

        Looks every 30 s, and when Kafka has refused a topic by its id.
        """
        while True:
            await self._until_due()
            try:
                facts = await asyncio.to_thread(topics.describe, self._around.settings, 0.0)
                self._compare(facts, {topic for owned in self.owned.values() for topic in owned.lanes})
                self.kafka_problem = ""
                await self._look_at_marks()
            except Refused as problem:
                self.fail(problem)
            except TidemarkError as problem:
                self.kafka_problem = str(problem)
                log.warning("topics not checked", problem=str(problem))

    async def _until_due(self) -> None:
        """Until 30 s are over, or a fetch was told that its topic is not there: no record of another one is read."""
        refused, due_s = self._kafka.refused, time.monotonic() + CHECK_S
        while time.monotonic() < due_s and self._kafka.refused == refused:  # noqa: ASYNC110 -- another thread counts
            await asyncio.sleep(GLANCE_S)

    async def _look_at_marks(self) -> None:
        """A partition without traffic would not notice that Redis was rolled back."""
        for name, owned in list(self.owned.items()):
            problem = await owned.tenure.lost()
            if problem and self.owned.get(name) is owned:  # else it was handed over meanwhile
                self.fail(problem)

    async def explained(self, problem: CutLog) -> TidemarkError:
        """Why the next record is not in the log: that the topic was created anew if so, else what Kafka itself said."""
        try:
            facts = await asyncio.to_thread(topics.describe, self._around.settings, EXPLAIN_S)
            self._compare(facts, self._around.settings.inputs)
        except Refused as found:
            return found
        except TidemarkError as unknown:
            log.warning("topics not checked", problem=str(unknown))
        return problem

    # ------------------------------------------------------------------ taking over

    async def _take_over(self, places: set[Place]) -> dict[Place, int]:
        facts = await self._described(places)
        self._compare(facts, self._around.settings.inputs)  # a topic that is gone has left its partitions without it
        self._facts = facts
        bounds = await self._kafka.log_bounds(places)
        wanted = self._grouped(places)
        await self._check_marks(wanted, facts)
        claims = await asyncio.gather(*(self._claim(name, its, facts, bounds) for name, its in wanted.items()))
        claims = [fitting(claim, facts, bounds) for claim in claims]
        self._kafka.read_only(facts.ids)
        await self._around.watch.look()
        tenures = {
            each.name: Tenure(each.name, self._around.ledger, self._outbox, each.mark, each.held) for each in claims
        }
        await asyncio.gather(*(tenures[each.name].inherit(each.pending) for each in claims))
        for each in claims:
            self._start(each, tenures[each.name], facts, sum(claim.name != OVERVIEW for claim in claims))
        log.info("ready", partitions=self.partitions)
        return {place: offset for each in claims for place, offset in zip(each.places, each.mark.offsets, strict=True)}

    async def _described(self, places: Iterable[Place]) -> TopicFacts:
        """What Kafka says of the topics, not older than the assignment.

        With a mark of the former number of partitions every wallet of a new one would be rejected.
        """
        until = time.monotonic() + METADATA_S
        while True:
            facts = await asyncio.to_thread(topics.describe, self._around.settings)
            beyond = [place for place in places if place.partition >= facts.partitions[place.topic]]
            if not beyond:
                return facts
            if time.monotonic() >= until:
                raise _unknown(min(beyond), facts)
            await asyncio.sleep(0.5)

    def _grouped(self, places: set[Place]) -> dict[int | str, tuple[Place, ...]]:
        """The topic-partitions of each partition in the order of its lanes."""
        settings = self._around.settings
        wanted: dict[int | str, tuple[Place, ...]] = {
            number: tuple(Place(topic, number) for topic in settings.inputs)
            for number in {place.partition for place in places if place.topic in settings.inputs}
        }
        if any(place.topic == settings.digests_topic for place in places):
            wanted[OVERVIEW] = (Place(settings.digests_topic, 0),)
        if missing := {place for its in wanted.values() for place in its} - {Place(*place) for place in places}:
            raise Refused(
                f"Kafka gave this worker one topic of a partition without the other ({min(missing)} is missing): "
                "no other program may use the group, and all workers must run the same version"
            )
        return wanted

    async def _check_marks(self, wanted: Iterable[int | str], facts: TopicFacts) -> None:
        """Before anything is claimed: no mark here, nor that of partition 0, is about another number of partitions."""
        settings = self._around.settings
        partitions = facts.partitions[settings.topic_transactions]
        for name in {0, *wanted} - {OVERVIEW}:
            (packed,) = await self._around.ledger.read_strings(name, b"mark")
            if packed and (found := Mark.unpack(packed)).partitions != partitions:
                raise repartitioned(partitions, found.partitions)

    async def _claim(
        self, name: int | str, places: tuple[Place, ...], facts: TopicFacts, bounds: Mapping[Place, tuple[int, int]]
    ) -> Claim:
        begin = tuple(bounds[place][0] for place in places)
        ids = tuple(facts.ids[place.topic] for place in places)
        empty = Mark(0, begin, ids, facts.partitions[places[0].topic], nonce())
        mark, pending = await self._around.ledger.claim(name, empty)
        return Claim(name, places, mark, mark, pending)

    def _shared(self, facts: TopicFacts) -> Surroundings:
        """What the partitions share; the same for all of them, so that they are stepped together."""
        source = f"{self._around.rules.source}/{facts.ids[self._around.settings.topic_transactions]}"
        if self._working is None or self._working.rules.source != source:
            self._working = replace(self._around, rules=replace(self._around.rules, source=source))
        return self._working

    def _start(self, claim: Claim, tenure: Tenure, facts: TopicFacts, partitions: int) -> None:
        settings = self._around.settings
        flow = _Flow(self._kafka, claim.places)
        order = self._order(claim)
        inbox = Inbox(order, flow, BUFFERED if claim.name == OVERVIEW else settings.buffer_records)
        work: Coroutine[Any, Any, None]
        if isinstance(claim.name, int):
            cached = max(FEWEST_CACHED, settings.cache_wallets // partitions)
            work = Partition(claim.name, tenure, inbox, self._shared(facts), cached).run()
        else:
            work = OverviewPartition(tenure, inbox, self._around).run()
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        lanes = {place.topic: number for number, place in enumerate(claim.places)}
        self.owned[claim.name] = Owned(tenure, inbox, task, lanes)

    def _order(self, claim: Claim) -> Merge | Alone:
        if len(claim.places) == 1:
            return Alone(Lane(0, claim.mark.offsets[0], clock()))
        return Merge(*lanes_of(claim.mark.offsets), lambda lane: self._kafka.end(claim.places[lane]))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()):
            self.fail(problem)

    def _compare(self, facts: TopicFacts, names: Iterable[str]) -> None:
        """Raises `Refused` when a topic is no longer the one that was taken over."""
        topic, known = self._around.settings.topic_transactions, self._facts
        if known is None:
            return
        for name in sorted(names):
            if facts.ids[name] != known.ids[name]:
                raise recreated(name)
        if facts.partitions[topic] != known.partitions[topic]:
            raise repartitioned(facts.partitions[topic], known.partitions[topic])


def fitting(claim: Claim, facts: TopicFacts, bounds: Mapping[Place, tuple[int, int]]) -> Claim:
    """The claim with offsets that are in the logs, or `Refused`: reading on elsewhere would count wrongly.

    A partition that has counted nothing begins at the log's start. So does the overview whose digests are gone: it goes
    on learning from what is there.
    """
    mark, begin = claim.mark, tuple(bounds[place][0] for place in claim.places)
    ids = tuple(facts.ids[place.topic] for place in claim.places)
    inside = all(bounds[p][0] <= offset <= bounds[p][1] for p, offset in zip(claim.places, mark.offsets, strict=True))
    if mark.topics == ids and inside:
        return claim
    if claim.name == OVERVIEW:
        return replace(claim, mark=replace(mark, topics=ids, offsets=begin))
    for place, known, offset in zip(claim.places, mark.topics, mark.offsets, strict=True):
        if facts.ids[place.topic] != known:
            raise recreated(place.topic)
        first, end = bounds[place]
        if mark.number and not first <= offset <= end:
            raise _outside(place, offset, (first, end))
    return replace(claim, mark=replace(mark, offsets=begin))


def recreated(topic: str) -> Refused:
    """What to raise for a topic that is not the one that was counted."""
    return Refused(
        f"{topic} is not the topic that was counted (it was deleted and created again): "
        "use an empty Redis database to count the new one from its start"
    )


def _in_order(names: Iterable[int | str]) -> list[int | str]:
    """Partitions by number, the overview last."""
    return sorted(names, key=lambda name: (isinstance(name, str), name))


def _unknown(place: Place, facts: TopicFacts) -> Refused:
    return Refused(
        f"Kafka gave this worker {place.topic}[{place.partition}] and says that the topic has "
        f"{facts.partitions[place.topic]} partitions: its brokers do not agree, start the worker again when they do"
    )


def _outside(place: Place, offset: int, bounds: tuple[int, int]) -> Refused:
    first, end = bounds
    why = "its older records were deleted before they were read" if offset < first else "it has lost records"
    return Refused(
        f"{place.topic}[{place.partition}] goes from {first} to {end} and is to be read on from {offset}: {why}; "
        "restore it (retention.ms must be -1), or replay into an empty Redis database"
    )


class _Flow:
    """Holds back and lets go the lanes of one partition."""

    def __init__(self, kafka: Kafka, places: tuple[Place, ...]) -> None:
        self._kafka, self._places = kafka, places

    def hold(self, lane: int) -> None:
        self._kafka.hold(self._places[lane])

    def release(self, lane: int) -> None:
        self._kafka.release(self._places[lane])
