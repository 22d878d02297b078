"""Whether what is claimed fits the topics: going on from a wrong place would count wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace

import pytest

from streams import topics
from streams.announce import Outbox
from streams.catalogue import CatalogueWatch
from streams.errors import Refused, Unavailable
from streams.intake import Place
from streams.ledger import OVERVIEW, Ledger, Mark
from streams.owner import Claim, Owner, fitting
from streams.partition import Surroundings
from streams.settings import Settings
from streams.topics import TopicFacts

PLACES = (Place("x", 2), Place("t", 2))
INPUTS = ("wallet.transactions", "campaign.touches")
FACTS = TopicFacts(
    {"x": "id-x", "t": "id-t", "d": "id-d", **{name: f"id-{name}" for name in INPUTS}},
    {"x": 4, "t": 4, "d": 1, **dict.fromkeys(INPUTS, 4)},
)
BOUNDS = {PLACES[0]: (0, 100), PLACES[1]: (0, 50)}
MARK = Mark(9, (80, 50), ("id-x", "id-t"), 4, "0" * 16)
CLAIM = Claim(2, PLACES, MARK, MARK, b"")


def with_mark(**changed: object) -> Claim:
    return replace(CLAIM, mark=replace(CLAIM.mark, **changed))  # type: ignore[arg-type]  # each test names fields of a mark


def test_a_mark_inside_its_logs_is_taken_as_it_is() -> None:
    assert fitting(CLAIM, FACTS, BOUNDS) is CLAIM


@pytest.mark.parametrize(
    ("claim", "bounds", "why"),
    [
        (with_mark(topics=("id-x", "former")), BOUNDS, "t is not the topic that was counted"),
        (with_mark(offsets=(101, 50)), BOUNDS, r"x\[2\] goes from 0 to 100 .* 101: it has lost records"),
        (CLAIM, BOUNDS | {PLACES[0]: (81, 100)}, "older records were deleted before they were read"),
        (with_mark(number=0, topics=("former", "id-t")), BOUNDS, "x is not the topic that was counted"),
    ],
    ids=["recreated", "cut at its end", "cut at its start", "recreated before anything was counted"],
)
def test_a_mark_that_does_not_fit_is_refused_in_one_line(
    claim: Claim, bounds: dict[Place, tuple[int, int]], why: str
) -> None:
    with pytest.raises(Refused, match=why) as caught:
        fitting(claim, FACTS, bounds)
    assert "\n" not in str(caught.value)


def test_where_nothing_was_counted_reading_begins_at_the_start_of_the_logs() -> None:
    bounds = {PLACES[0]: (7, 100), PLACES[1]: (3, 50)}
    assert fitting(with_mark(number=0, offsets=(0, 0)), FACTS, bounds).mark.offsets == (7, 3)


@pytest.mark.parametrize(("offset", "topic_id"), [(5, "id-d"), (900, "id-d"), (50, "former")])
def test_the_overview_goes_on_with_the_digests_there_are(offset: int, topic_id: str) -> None:
    place = Place("d", 0)
    held = Mark(9, (offset,), (topic_id,), 1, "0" * 16)
    claim = fitting(Claim(OVERVIEW, (place,), held, held, b""), FACTS, {place: (40, 60)})
    assert (claim.mark.number, claim.mark.offsets, claim.mark.topics) == (9, (40,), ("id-d",))
    assert claim.held == held  # what Redis holds is what the first commit has to quote


class Consumer:
    """Kafka's consumer that does not know where the logs begin and end, or knows it never."""

    generation = 1
    refused = 0

    def __init__(self, answer: Callable[[], Awaitable[Mapping[Place, tuple[int, int]]]]) -> None:
        self._answer = answer

    def hold(self, place: Place) -> None: ...
    def release(self, place: Place) -> None: ...
    def end(self, place: Place) -> None: ...
    def read_only(self, ids: Mapping[str, str]) -> None: ...

    async def log_bounds(self, places: Iterable[Place]) -> Mapping[Place, tuple[int, int]]:
        assert {place.topic for place in places} <= set(INPUTS)
        return await self._answer()


def owner(answer: Callable[[], Awaitable[Mapping[Place, tuple[int, int]]]]) -> Owner:
    async def nowhere(_: object) -> Awaitable[object]:
        raise AssertionError

    settings, ledger = Settings(), Ledger("redis://127.0.0.1:1/0")
    around = Surroundings(settings, settings.rules(), ledger, CatalogueWatch(ledger), 1 << 20)
    return Owner(around, Outbox(nowhere, lambda _: False), Consumer(answer))


@pytest.fixture
def known_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "describe", lambda *_: FACTS)


ASSIGNED = {Place("wallet.transactions", 0), Place("campaign.touches", 0)}


def test_another_rebalance_ends_a_taking_over_that_waits(known_topics: None) -> None:
    async def scenario() -> None:
        waiting = asyncio.Event()

        async def never() -> Mapping[Place, tuple[int, int]]:
            waiting.set()
            await asyncio.Event().wait()
            return {}

        mine = owner(never)
        taking = asyncio.create_task(mine.take_over(ASSIGNED))
        await waiting.wait()
        await mine.hand_over()
        assert await taking == {}
        assert not mine.failed.done()  # nothing is wrong: the next assignment comes
        waiting.clear()
        taking = asyncio.create_task(mine.take_over(ASSIGNED))
        await waiting.wait()
        others = asyncio.all_tasks() - {asyncio.current_task(), taking}
        taking.cancel()  # Faust gives the assignment up: no claim of ours may follow
        await asyncio.gather(taking, *others, return_exceptions=True)
        assert others
        assert all(task.cancelled() for task in others)

    asyncio.run(scenario())


def test_what_goes_wrong_while_taking_over_ends_the_worker(known_topics: None) -> None:
    async def scenario() -> None:
        async def unknown() -> Mapping[Place, tuple[int, int]]:
            raise Unavailable("no offsets")

        mine = owner(unknown)
        assert await mine.take_over(ASSIGNED) == {}
        assert str(mine.failed.result()) == "no offsets"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (replace(FACTS, ids={**FACTS.ids, INPUTS[1]: "another"}), "campaign.touches is not the topic that was counted"),
        (replace(FACTS, partitions={**FACTS.partitions, **dict.fromkeys(INPUTS, 8)}), "run `tidemark repartition`"),
    ],
)
def test_topics_that_changed_are_refused_even_where_one_has_left_its_partitions(
    monkeypatch: pytest.MonkeyPatch, now: TopicFacts, words: str
) -> None:
    async def scenario() -> None:
        async def cut() -> Mapping[Place, tuple[int, int]]:
            raise Unavailable("no offsets")

        first = owner(cut)
        monkeypatch.setattr(topics, "describe", lambda *_: FACTS)
        await first.take_over(ASSIGNED)
        first.failed = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(topics, "describe", lambda *_: now)
        await first.take_over({Place(INPUTS[0], 0)})
        assert words in str(first.failed.result())

    asyncio.run(scenario())


@pytest.mark.parametrize("catches_up", [True, False])
def test_a_partition_beyond_what_the_broker_asked_knows_is_not_claimed(
    monkeypatch: pytest.MonkeyPatch, catches_up: bool
) -> None:
    # The group's leader knows 8 partitions already, the broker that this worker asks still 4, as the marks do.
    newer = replace(FACTS, partitions={**FACTS.partitions, **dict.fromkeys(INPUTS, 8)})

    async def scenario() -> None:
        asked = asyncio.Event()

        async def bounds() -> Mapping[Place, tuple[int, int]]:
            asked.set()
            raise Unavailable("no offsets")

        answers = iter([FACTS, newer])
        monkeypatch.setattr(topics, "describe", lambda *_: next(answers) if catches_up else FACTS)
        monkeypatch.setattr("streams.owner.METADATA_S", 20.0 if catches_up else 0.0)
        mine = owner(bounds)
        assert await mine.take_over({Place(topic, 0) for topic in INPUTS} | {Place(topic, 5) for topic in INPUTS}) == {}
        assert asked.is_set() == catches_up
        assert (next(answers, None) is None) == catches_up
        words = "no offsets" if catches_up else r"campaign.touches[5] and says that the topic has 4 partitions"
        assert words in str(mine.failed.result())

    asyncio.run(scenario())


def test_one_topic_of_a_partition_without_the_other_is_refused(known_topics: None) -> None:
    async def scenario() -> None:
        async def bounds() -> Mapping[Place, tuple[int, int]]:
            return {}

        mine = owner(bounds)
        await mine.take_over({Place("wallet.transactions", 0)})
        assert "without the other" in str(mine.failed.result())

    asyncio.run(scenario())


def test_a_worker_that_leaves_claims_nothing_whatever_kafka_still_gives_it(known_topics: None) -> None:
    async def scenario() -> None:
        asked = asyncio.Event()

        async def bounds() -> Mapping[Place, tuple[int, int]]:
            asked.set()
            return {}

        mine = owner(bounds)
        mine.abandon()
        assert await mine.take_over(ASSIGNED) == {}
        assert not asked.is_set()

    asyncio.run(scenario())
