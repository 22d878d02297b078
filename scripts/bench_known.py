"""Known wallets by the million: the step makes some thousand, Redis gets them under all names."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from models.hashing import partitions_of
from models.observe import Digest, Overview, observe
from models.records import Record
from models.rows import unpack_rows
from models.rules import DAY_MS, Rules
from models.segments import EMPTY_CATALOGUE, Catalogue
from models.state import TOUCHES, TRANSACTIONS, Totals
from scripts.bench_stage import say
from scripts.bench_traffic import GAP_MS, START_MS, Traffic
from scripts.bench_traffic import TRANSACTIONS as TOPIC
from tests.kafka.world import World
from tests.partition import Arrival, Partition

#: Wallets that are computed, and their events: 25 each on average, over four days.
CHARACTERS, EVENTS, DAYS = 4000, 100_000, 4
#: Wallets whose records come GAP_MS apart.
USUAL = 10_000
#: Wallets of one MSET.
CHUNK = 1000
#: A row and, if the wallet has them, its journal and its fees, as Redis keeps them.
Stored = tuple[bytes, bytes | None, bytes | None]


@dataclass(frozen=True, slots=True)
class Crowd:
    """The computed wallets, placed by `catalogue`, which was learned from them; by character."""

    catalogue: Catalogue
    stored: list[Stored]
    codes: dict[bytes, bytes] = field(repr=False)

    @property
    def segments(self) -> list[int]:
        return [int(segment) for segment in unpack_rows([row for row, _, _ in self.stored])["segment"]]


def crowd(rules: Rules, characters: int = CHARACTERS, events: int = EVENTS) -> Crowd:
    """Four days of the benchmark's traffic before it begins, learned from, then placed by what was learned."""
    say(f"{characters} wallets computed by the step …")
    gap_ms = DAYS * DAY_MS // events
    before = Traffic(characters, start_ms=START_MS - DAYS * DAY_MS, gap_ms=gap_ms)
    arrivals: list[Arrival] = [
        (TRANSACTIONS if sent.topic == TOPIC else TOUCHES, Record(number, sent.at_ms, sent.key, sent.value))
        for number, sent in enumerate(before.records(events))
    ]
    learner = Partition(EMPTY_CATALOGUE, rules).take(arrivals)
    overview = Overview.restore(None, None)
    for number, rows in enumerate(learner.learning, 1):
        clock_ms = arrivals[min(number * 1000, events) - 1][1].timestamp
        overview, _ = observe(overview, [Digest(0, number, "0" * 16, clock_ms, rows)], rules)
    placed = Partition(overview.catalogue, rules).take(arrivals)
    keys = [b"w%d" % number for number in range(characters)]
    known = [(placed.rows[key], placed.journals.get(key), placed.fees.get(key)) for key in keys if key in placed.rows]
    return Crowd(overview.catalogue, known, placed.codes)


def settle(world: World, people: Crowd, wallets: int) -> Path:
    """Write `wallets` wallets and what goes with them; the file of their catalogue, for TIDEMARK_CATALOGUE.

    No mark is written: to a worker this is a log that begins now, with wallets that are there already.
    """
    say(f"{wallets} known wallets into Redis …")
    segments, counted = people.segments, {p: Totals() for p in range(world.partitions)}
    by_segment: dict[int, dict[int, int]] = {p: {} for p in counted}
    with world.store.client() as client:
        for start in range(0, wallets, CHUNK):
            numbers = range(start, min(start + CHUNK, wallets))
            keys = [b"w%d" % number for number in numbers]
            places = partitions_of(keys, world.partitions, "murmur2").tolist()
            words: list[bytes] = []
            for number, key, p in zip(numbers, keys, places, strict=True):
                who = number * len(people.stored) // wallets
                for kind, value in zip((b"w", b"j", b"f"), people.stored[who], strict=True):
                    if value is not None:
                        words += (b"{%d}:%b:%b" % (p, kind, key), value)
                by_segment[p][segments[who]] = by_segment[p].get(segments[who], 0) + 1
            client.execute_command("MSET", *words)
        for p, totals in counted.items():
            there = replace(totals, wallets=sum(by_segment[p].values()), wallets_by_segment=by_segment[p])
            client.set(f"{{{p}}}:totals", there.to_json())
            client.hset(f"{{{p}}}:codes", mapping=people.codes)
    file = world.folder / "catalogue.json"
    file.write_bytes(people.catalogue.to_json())
    return file


def traffic(wallets: int) -> Traffic:
    """The traffic of these wallets, from where the crowd's own ended.

    However many they are, each makes ten records a day: of a million that shared the records of ten thousand most would
    be dormant, and come back.
    """
    return Traffic(wallets, characters=CHARACTERS, start_ms=START_MS, gap_ms=max(1, round(GAP_MS * USUAL / wallets)))


def bytes_per_wallet(world: World, wallets: int, sample: int = 500) -> dict[str, float]:
    """What Redis says that rows and journals take (MEMORY USAGE, mean of a sample), and all it uses by wallets."""
    step = max(1, wallets // sample)
    keys = [b"w%d" % number for number in range(0, wallets, step)]
    places = partitions_of(keys, world.partitions, "murmur2").tolist()
    with world.store.client() as client:
        sizes = {
            kind: [client.memory_usage(b"{%d}:%b:%b" % (p, kind, key)) for key, p in zip(keys, places, strict=True)]
            for kind in (b"w", b"j")
        }
        used = client.info("memory")["used_memory"]
    mean = {kind: [size for size in found if size] for kind, found in sizes.items()}
    return {
        "row": round(sum(mean[b"w"]) / len(mean[b"w"])),
        "journal": round(sum(mean[b"j"]) / len(mean[b"j"])) if mean[b"j"] else 0,
        "with_journal": round(len(mean[b"j"]) / len(mean[b"w"]), 3),
        "used_memory": round(used / wallets),
    }
