"""What a look sees: everything that holds, since when, and nothing while it leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from streams.announce import Message, Outbox
from streams.catalogue import CatalogueWatch
from streams.health import Sign, live, ready
from streams.intake import Alone, Inbox, Lane, Place, clock
from streams.ledger import OVERVIEW, Ledger, Mark
from streams.lookout import Lookout, Work
from streams.owner import Owned, Owner
from streams.partition import Surroundings
from streams.settings import Settings
from streams.tally import Tally
from streams.tenure import Tenure

X, T, D = "wallet.transactions", "campaign.touches", "tidemark.batch.digests"


class End(NamedTuple):
    position: int
    stable: int
    polled_ms: int
    taken: int


@dataclass
class Group:
    """Kafka's client as the lookout sees it."""

    rebalances: int = 1
    rebalancing: bool = False
    rejoining: bool = False
    ended: list[str] = field(default_factory=list)
    assigned: set[Place] = field(default_factory=set)
    ends: dict[Place, End] = field(default_factory=dict)
    generation: int = 1
    refused: int = 0

    def read_only(self, ids: Mapping[str, str]) -> None: ...
    def hold(self, place: Place) -> None: ...
    def release(self, place: Place) -> None: ...

    def end(self, place: Place) -> End | None:
        return self.ends.get(place)

    async def log_bounds(self, places: Iterable[Place]) -> Mapping[Place, tuple[int, int]]:
        return dict.fromkeys(places, (0, 0))


@dataclass
class Watched:
    """A worker to look at, its clock in the test's hand."""

    group: Group
    work: Work
    lookout: Lookout
    now_s: float = field(default_factory=time.monotonic)

    def look(self, after_s: float = 1.0) -> dict[str, float]:
        """Look so many seconds later; which kinds of sign hold, and for how long."""
        self.now_s += after_s
        self.lookout.look(self.now_s)
        return {sign.kind: round(self.now_s - since_s, 3) for sign, since_s in self.lookout.vitals.since.items()}

    def own(self, name: int | str, *topics: str, offset: int = 10) -> None:
        number = name if isinstance(name, int) else 0
        mark = Mark(3, (offset,) * len(topics), topics, 4, "0" * 16, clock_ms=1_700_000_000_000)
        tenure = Tenure(name, self.work.ledger, self.work.outbox, mark)
        inbox = Inbox(Alone(Lane(0, 0, clock())), Gates(), 1000)
        task = asyncio.create_task(asyncio.sleep(0))
        self.work.owner.owned[name] = Owned(tenure, inbox, task, {topic: at for at, topic in enumerate(topics)})
        self.group.assigned |= {Place(topic, number) for topic in topics}
        self.group.ends |= {Place(topic, number): End(offset, offset, 1, offset) for topic in topics}

    def answered(self, behind: int = 0) -> None:
        """Kafka answers every fetch."""
        for place, end in self.group.ends.items():
            self.group.ends[place] = end._replace(polled_ms=end.polled_ms + 1, stable=end.position + behind)


class Gates:
    """Nothing is held back here."""

    def hold(self, lane: int) -> None: ...
    def release(self, lane: int) -> None: ...


async def never_answered(_: Message) -> Awaitable[object]:
    return asyncio.get_running_loop().create_future()


@contextmanager
def watched() -> Iterator[Watched]:
    ledger, group = Ledger("redis://127.0.0.1:1/0"), Group()
    settings, watch, outbox = Settings(), CatalogueWatch(ledger), Outbox(never_answered, lambda _: False)
    owner = Owner(Surroundings(settings, settings.rules(), ledger, watch, 1 << 20), outbox, group)
    lookout = Lookout(Tally())
    yield Watched(group, Work(owner, group, ledger, outbox, watch), lookout)


@asynccontextmanager
async def away(ledger: Ledger) -> AsyncIterator[None]:
    """A command is given to a Redis that is not there."""
    asking = asyncio.create_task(ledger.ping())
    while ledger.down_since is None:  # noqa: ASYNC110 -- nothing tells of it
        await asyncio.sleep(0.01)
    yield
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


def test_a_start_is_a_sign_until_there_is_work_to_look_at() -> None:
    async def scenario() -> None:
        with watched() as seen:
            assert seen.look() == {"starting": 1}
            assert seen.look() == {"starting": 2}
            seen.lookout.watch(seen.work)
            assert seen.look() == {}
            assert ready(seen.lookout.vitals, seen.now_s).good

    asyncio.run(scenario())


def test_who_compiles_is_not_taken_for_one_who_finds_no_kafka() -> None:
    """On a slow machine it takes minutes; a restart would begin it anew, for ever."""

    async def scenario() -> None:
        with watched() as seen:
            seen.look(20)
            with seen.lookout.compiling():
                assert seen.look(2) == {"compiling": 0}
                for _ in range(600):
                    seen.look()
                    assert live(seen.lookout.vitals, seen.now_s).good
                assert ready(seen.lookout.vitals, seen.now_s) == (False, "it has compiled the step for 600 s")
                seen.look()
                assert live(seen.lookout.vitals, seen.now_s) == (False, "it has compiled the step for 601 s")
            assert seen.look() == {"starting": 0}

    asyncio.run(scenario())


def test_partitions_are_told_by_number_and_the_overview_last() -> None:
    async def scenario() -> None:
        with watched() as seen:
            seen.lookout.watch(seen.work)
            for name in (10, OVERVIEW, 2, 0, 11):
                seen.own(name, X)
            seen.look()
            told = ready(seen.lookout.vitals, seen.now_s).why
            assert told == "it works on partition 0, partition 2, partition 10, partition 11, the overview"

    asyncio.run(scenario())


def test_partitions_are_seen_with_lag_catalogue_and_rebalances() -> None:
    async def scenario() -> None:
        with watched() as seen:
            seen.lookout.watch(seen.work)
            seen.own(2, X, T)
            seen.own(OVERVIEW, D)
            seen.answered(behind=3)
            assert seen.look() == {}
            vitals = seen.lookout.vitals
            assert [(pulse.name, pulse.lag) for pulse in vitals.pulses] == [(2, 6), (OVERVIEW, 3)]
            assert [lane.topic for lane in vitals.pulses[0].lanes] == [X, T]
            assert (vitals.rebalances, vitals.catalogue) == (1, 0)

    asyncio.run(scenario())


def test_what_is_waited_for_is_a_sign_with_the_moment_it_began() -> None:
    async def scenario() -> None:
        with watched() as seen:
            seen.lookout.watch(seen.work)
            async with away(seen.work.ledger):
                assert 7 < seen.look(8)["redis"] < 8.5
            seen.work.owner.kafka_problem = "no Kafka broker answers at a:1: start it"
            assert seen.look() == {"kafka": 0}
            assert ready(seen.lookout.vitals, seen.now_s).why.startswith("no Kafka broker answers")
            seen.work.owner.kafka_problem = ""
            sending = asyncio.create_task(seen.work.outbox.announce([Message(X, b"k", b"v")]))
            await asyncio.sleep(0)
            seen.now_s = time.monotonic()
            assert seen.look() == {}  # a moment is no trouble
            assert 10 < seen.look(10)["unsent"] < 13
            sending.cancel()

    asyncio.run(scenario())


def test_what_is_wrong_with_the_group_is_a_sign() -> None:
    async def scenario() -> None:
        with watched() as seen:
            seen.lookout.watch(seen.work)
            seen.group.rebalances = 0
            assert seen.look() == {"joining": 0}
            seen.group.rebalances, seen.group.rebalancing = 1, True
            seen.group.rejoining, seen.group.ended = True, ["the thread"]
            assert seen.look() == {"rebalancing": 0, "rejoining": 0, "ended": 0}
            assert seen.look() == {"rebalancing": 1, "rejoining": 1, "ended": 1}

    asyncio.run(scenario())


def test_a_partition_that_nobody_works_on_is_a_sign() -> None:
    async def scenario() -> None:
        with watched() as seen:
            seen.lookout.watch(seen.work)
            seen.group.assigned = {Place(X, 1), Place(T, 1)}
            assert seen.look() == {"unclaimed": 0}
            assert {sign.about for sign in seen.lookout.vitals.since} == {f"{X}[1]", f"{T}[1]"}
            seen.group.rebalancing = True  # it is about to be claimed
            assert seen.look() == {"rebalancing": 0}
            seen.group.rebalancing = False
            seen.own(1, X, T)
            assert seen.look() == {}

    asyncio.run(scenario())


def test_a_partition_that_stands_dies_after_a_minute_and_not_while_redis_is_away() -> None:
    async def scenario() -> None:
        with watched() as seen:
            seen.lookout.watch(seen.work)
            seen.own(1, X, T)
            for second in range(59):
                seen.answered(behind=5)
                assert seen.look().get("still", second - 1) == second - 1
            assert live(seen.lookout.vitals, seen.now_s).good
            async with away(seen.work.ledger):
                for _ in range(120):
                    seen.answered(behind=5)
                    seen.look()
                    assert live(seen.lookout.vitals, seen.now_s).good
            for _ in range(61):
                assert live(seen.lookout.vitals, seen.now_s).good
                seen.answered(behind=5)
                seen.look()
            verdict = live(seen.lookout.vitals, seen.now_s)
            assert verdict == (False, "partition 1 has work to do and has not moved for 61 s")

    asyncio.run(scenario())


def test_who_hands_over_is_not_ready_and_alive() -> None:
    async def scenario() -> None:
        with watched() as seen:
            seen.lookout.watch(seen.work)
            seen.own(1, X, T)
            seen.look()
            seen.lookout.leave()
            assert seen.look() == {"leaving": 0}
            assert seen.lookout.vitals.pulses == ()
            assert live(seen.lookout.vitals, seen.now_s).good
            assert not ready(seen.lookout.vitals, seen.now_s).good
            assert Sign("leaving") in seen.lookout.vitals.since

    asyncio.run(scenario())
