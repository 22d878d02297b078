"""What is wrong with the topics: configuration, partitions, and the keys of the newest records."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from models.hashing import partitions_of
from streams.errors import TidemarkError, repartitioned
from streams.ledger_reader import LedgerReader
from streams.store import Address
from streams.topics import ENVELOPE, in_force, largest_of, reading, topics, wrong_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from streams.settings import Settings
    from streams.topics import Topic

#: Newest records looked at in each input.
SAMPLE = 1000


class Findings(NamedTuple):
    """`wrong`: everything that is wrong, one line each with what to do. `notes`: what only looks as if it were."""

    wrong: list[str]
    notes: list[str]


class Counted(NamedTuple):
    """What Redis says of the inputs. `partitions`: how many they had when they were counted, 0 unknown.

    `offsets`: partition -> up to which offset each input was counted.
    """

    partitions: int
    offsets: Mapping[int, tuple[int, ...]]

    def holds(self, one: Seen, lane: int) -> bool:
        """Whether this record of this input was counted."""
        return one.partition in self.offsets and one.offset < self.offsets[one.partition][lane]


class Seen(NamedTuple):
    """A record of the sample."""

    partition: int
    offset: int
    key: bytes | None


def check(settings: Settings) -> Findings:
    """Look at the topics of the contract. Redis is asked only what was counted, and need not answer."""
    wanted = topics(settings)
    found, configs = in_force(settings)
    largest = max((largest_of(configs[name]) for name in settings.inputs if name in found), default=0)
    wrong = [f"{topic.name} is missing: run `tidemark topics create`" for topic in wanted if topic.name not in found]
    wrong += wrong_partitions(settings, found)
    for topic in wanted:
        if topic.name in found:
            wrong += _wrong_config(topic, configs[topic.name], largest)
    counted = _counted(settings)
    here = {found.get(name, 0) for name in settings.inputs}
    if counted.partitions and len(here) == 1 and here != {counted.partitions}:
        wrong.append(str(repartitioned(here.pop(), counted.partitions)))
    notes: list[str] = []
    for name in settings.inputs:
        if name in found:
            of_lane = _wrong_keys(settings, name, found[name], counted)
            wrong, notes = wrong + of_lane.wrong, notes + of_lane.notes
    return Findings(wrong, notes)


def _wrong_config(topic: Topic, config: Mapping[str, str], largest: int) -> list[str]:
    """Where the topic's configuration breaks the contract: at least the size and retention, exactly the rest.

    `largest`: max.message.bytes of the inputs, which is their owner's choice.
    """
    wrong = []
    for name, value in topic.config.items():
        needed = str(largest + ENVELOPE) if name == "max.message.bytes" else value
        given = config.get(name, "")
        if not _satisfies(name, given, needed):
            wrong.append(
                f"{topic.name} has {name}={given or 'nothing'} and needs {needed}: "
                f"kafka-configs.sh --alter --entity-type topics --entity-name {topic.name} --add-config {name}={needed}"
            )
    return wrong


def _satisfies(name: str, given: str, needed: str) -> bool:
    if name == "max.message.bytes":
        return given.isdigit() and int(given) >= int(needed)
    if name == "retention.ms" and needed != "-1":
        return given == "-1" or (given.isdigit() and int(given) >= int(needed))
    if name == "message.timestamp.type" and not given:
        return True  # the embedded broker knows no other
    return given == needed


def _counted(settings: Settings) -> Counted:
    try:
        with closing(LedgerReader(Address.of(settings))) as reader:
            marks = reader.marks()
    except TidemarkError:
        return Counted(0, {})
    partitions = max((mark.partitions for mark in marks.values()), default=0)
    return Counted(partitions, {number: mark.offsets for number, mark in marks.items()})


def _wrong_keys(settings: Settings, name: str, partitions: int, counted: Counted) -> Findings:
    """Look at the newest records: a wallet's key must be there and lead to the partition it is in."""
    sample = list(_sampled(settings, name, partitions))
    placed = [(one, one.key) for one in sample if one.key is not None]
    wrong: list[str] = []
    notes: list[str] = []
    if len(placed) < len(sample):
        without = f"{len(sample) - len(placed)} of {len(sample)}"
        wrong.append(f"{name}: {without} newest records have no key: the key must be the wallet_id")
    if settings.partitioner == "off":
        return Findings(wrong, notes)
    misplaced = _misplaced(placed, partitions, settings.partitioner)
    moved = counted.partitions == partitions  # else `tidemark repartition` counts what the old number has put there
    older = [each for each in misplaced if not moved or counted.holds(each[0], settings.inputs.index(name))]
    former = _by_fewer(older, _divisors(counted.partitions), settings.partitioner)
    if former:
        among = "fewer partitions, and are counted" if moved else f"{counted.partitions} partitions"
        notes.append(
            f"{name}: {len(former)} of {len(sample)} newest records are where {settings.partitioner} puts them among "
            f"{among}: as it should be where they were sent before some were added"
        )
    if len(misplaced) > len(former):
        other = "murmur2" if settings.partitioner == "crc32" else "crc32"
        advice = "set partitioner=murmur2_random in librdkafka producers"
        if not _misplaced(placed, partitions, other):
            advice += f", or TIDEMARK_PARTITIONER={other}"
        count = f"{len(misplaced) - len(former)} of {len(sample)}"
        wrong.append(f"{name}: {count} newest records are not where {settings.partitioner} puts them: {advice}")
    return Findings(wrong, notes)


def _misplaced(placed: Sequence[tuple[Seen, bytes]], partitions: int, partitioner: str) -> list[tuple[Seen, bytes]]:
    """Those that are not where the partitioner puts their key."""
    if not placed:
        return []
    expected = partitions_of([key for _, key in placed], partitions, partitioner)
    return [each for each, right in zip(placed, expected, strict=True) if each[0].partition != right]


def _divisors(number: int) -> list[int]:
    """So many partitions there may have been once, where there are or were this many: a number is only multiplied."""
    return [each for each in range(1, number + 1) if number % each == 0]


def _by_fewer(misplaced: Sequence[tuple[Seen, bytes]], numbers: Sequence[int], partitioner: str) -> set[Seen]:
    """Those that are right by one of these numbers of partitions."""
    left = misplaced
    for number in numbers:
        left = _misplaced(left, number, partitioner)
    return {one for one, _ in misplaced} - {one for one, _ in left}


def _sampled(settings: Settings, name: str, partitions: int) -> Iterator[Seen]:
    """The newest records, `SAMPLE` in all, spread over the partitions."""
    with reading(settings, name, max_poll_records=SAMPLE) as consumer:
        places = sorted(consumer.assignment())
        begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
        share = -(-SAMPLE // partitions)
        for place in places:
            consumer.seek(place, max(begins[place], ends[place] - share))
        left = sum(min(share, ends[place] - begins[place]) for place in places)
        quiet_at = time.monotonic() + 5
        while left > 0 and time.monotonic() < quiet_at:
            for place, records in consumer.poll(timeout_ms=500).items():
                left -= len(records)
                quiet_at = time.monotonic() + 1
                yield from (Seen(place.partition, record.offset, record.key) for record in records)
