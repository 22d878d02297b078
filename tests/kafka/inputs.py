"""The events of a run: simulated, counted offline by the oracle, and the catalogue that all its workers place with."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from models.observe import Digest, Overview, observe
from models.records import Record
from models.rules import Rules
from models.segments import Catalogue
from models.state import TOUCHES, TRANSACTIONS
from streams.dice import Dice
from streams.lines import Outgoing, read_line
from streams.simulate import SimulationPlan, simulate
from streams.spoil import SPOILERS, Draft, spoil
from tests.kafka.scene import Stream
from tests.kafka.world import World
from tests.oracle import murmur2, oracle
from tests.partition import learned, transaction

LANES = {"wallet.transactions": TRANSACTIONS, "campaign.touches": TOUCHES}
NAMES = dict(zip(LANES, LANES, strict=True))
#: The wallet of `Stream.hot`.
HOT_WALLET = "0xhot"
#: Learning rows in one digest when the catalogue is made.
ROWS = 2000
#: Records of one upstream transaction.
TOGETHER = 200
#: Each reason to reject a record comes at least so often in a poisoned stream.
POISONED = 3


@dataclass(frozen=True, slots=True)
class Inputs:
    """`file`: NDJSON for `tidemark produce`. `strays`: records to be laid on partitions where they do not belong.

    `expected`: what the oracle counts of both. `catalogue`: file for TIDEMARK_CATALOGUE. `records`: lines and strays.
    """

    file: Path
    strays: Sequence[Outgoing]
    expected: dict[str, Any]
    catalogue: Path
    records: int


def make_inputs(folder: Path, stream: Stream, *, seed: int, events: int, partitions: int) -> Inputs:
    """The same for the same arguments on the same day: the season ends yesterday."""
    lines = list(season(stream, seed, events))
    strays = list(stray_records(lines)) if stream.poisoned else []
    expected = oracle(lines, partitions)
    if strays:
        expected["totals"]["rejected"]["wrong_partition"] = len(strays)
    file, catalogue = folder / "events.ndjson", folder / "catalogue.json"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    catalogue.write_bytes(learned_catalogue(lines).to_json())
    return Inputs(file, strays, expected, catalogue, len(lines) + len(strays))


def season(stream: Stream, seed: int, events: int) -> Iterator[str]:
    """The lines, in order of arrival."""
    ordinary = int(events * (1 - stream.hot))
    plan = SimulationPlan(
        seed=seed,
        wallets=max(100, events // 30),
        days=stream.days,
        start=datetime.now(UTC).date() - timedelta(days=stream.days + 1),
        late=stream.late,
        duplicates=stream.duplicates,
        bad=stream.bad,
        events=ordinary,
    )
    lines: Iterable[str] = simulate(plan)
    if stream.hot:
        lines = heated(lines, events - ordinary, ordinary, seed)
    if stream.poisoned:
        lines = poisoned(lines, ordinary, seed)
    return iter(lines)


def heated(lines: Iterable[str], hot: int, ordinary: int, seed: int) -> Iterator[str]:
    """Between the lines, `hot` transactions of one wallet that changes its ways now and then, so that it moves."""
    chance, written = random.Random(seed), 0
    for number, line in enumerate(lines, 1):
        yield line
        at_ms = json.loads(line)["timestamp"]
        while written < hot * number // ordinary:
            written += 1
            yield hot_line(f"hot-{written}", at_ms, (4 * number // ordinary) % 2 == 0, chance)


def hot_line(event_id: str, at_ms: int, calm: bool, chance: random.Random) -> str:
    """A small trade on the spot market, or a large one in derivatives."""
    more: dict[str, Any] = {"product": "spot", "asset": "BTC", "usd_value": f"{chance.uniform(10, 90):.2f}"}
    if not calm:
        more = {
            "product": "derivatives",
            "asset": "ETH",
            "leverage": 20,
            "usd_value": f"{chance.uniform(5e4, 9e4):.2f}",
        }
    value = transaction(event_id, HOT_WALLET, at_ms, fee_usd=f"{chance.uniform(0.1, 3):.6f}", **more)
    return Draft(TRANSACTIONS, HOT_WALLET, value, at_ms).line()


def poisoned(lines: Iterable[str], ordinary: int, seed: int) -> Iterator[str]:
    """Between the lines, each reason a few times, those too that the simulator makes seldom."""
    dice, reasons = Dice(seed), [reason for reason in SPOILERS for _ in range(POISONED)]
    every = max(1, ordinary // (len(reasons) + 1))
    for number, line in enumerate(lines, 1):
        yield line
        if number % every == 0 and reasons:
            reason, at_ms = reasons.pop(), json.loads(line)["timestamp"]
            event_id = f"poison-{number}"
            draft = Draft(TRANSACTIONS, "0xpoison", transaction(event_id, "0xpoison", at_ms), at_ms)
            spoil(draft, reason, dice)
            yield draft.line()


def stray_records(lines: Sequence[str]) -> Iterator[Outgoing]:
    """Good events of wallets nobody knows and of one that is known, to be laid where they do not belong."""
    last = next(found for line in reversed(lines) if (found := json.loads(line)).get("key") and found.get("value"))
    for number, wallet in enumerate(("0xstray", "0xastray", last["key"])):
        value = transaction(f"stray-{number}", wallet, last["timestamp"], fee_usd="1")
        yield read_line(Draft(TRANSACTIONS, wallet, value, last["timestamp"]).line(), number, NAMES)


def learned_catalogue(lines: Iterable[str]) -> Catalogue:
    """What the model learns from the events when one partition takes them all at once."""
    arrivals = []
    for number, line in enumerate(lines):
        sent = read_line(line, number, NAMES)
        record = Record(number, sent.at_ms or 0, sent.key, sent.value, tuple(sent.headers))
        arrivals.append((LANES[sent.topic], record))
    rows = learned(arrivals)
    overview, clock_ms = Overview.restore(None, None), 0
    for number, start in enumerate(range(0, len(rows), ROWS), 1):
        clock_ms += 86_400_000
        digest = Digest(0, number, f"{number:016x}", clock_ms, rows[start : start + ROWS])
        overview, _ = observe(overview, [digest], Rules())
    assert overview.catalogue.segments, "too few events to learn segments from"
    return overview.catalogue


# ------------------------------------------------------------------ onto the topics


def produce(world: World, inputs: Inputs, stream: Stream, *, seed: int, start: float = 0.0, stop: float = 1.0) -> None:
    """The lines from one share of them to another onto the input topics; with the last ones the strays."""
    lines = part_of(inputs, start, stop)
    if stream.aborted:
        produce_in_transactions(world, lines, stream.aborted, random.Random(seed))
    elif lines:
        world.run("produce", stdin="".join(lines).encode(), seconds=600)
    if stop == 1.0 and inputs.strays:
        lay_astray(world, inputs.strays)


def part_of(inputs: Inputs, start: float, stop: float) -> list[str]:
    """The lines from one share of all to another, with their ends."""
    with inputs.file.open(encoding="utf-8") as file:
        lines = file.readlines()
    return lines[int(start * len(lines)) : int(stop * len(lines))]


def lay_astray(world: World, strays: Iterable[Outgoing]) -> None:
    """Each on the partition after its own."""
    with closing(KafkaProducer(bootstrap_servers=world.bootstrap, acks="all")) as producer:
        for stray in strays:
            wrong = (murmur2(stray.key or b"") + 1) % world.partitions
            producer.send(
                world.topic(stray.topic), stray.value, key=stray.key, partition=wrong, timestamp_ms=stray.at_ms
            )
        producer.flush()


def produce_in_transactions(
    world: World,
    lines: Iterable[str],
    aborted: float,
    chance: random.Random,
    between: Callable[[int], None] = lambda _: None,
) -> None:
    """Some lines to a transaction; before it, sometimes, one like it with other ids and amounts that is aborted.

    `between`: called with the number of lines sent after each of them.
    """
    options = {"acks": "all", "max_request_size": 4 << 20, "transactional_id": f"{world.name}-upstream"}
    with closing(KafkaProducer(bootstrap_servers=world.bootstrap, **options)) as producer:
        producer.init_transactions()
        sent, numbered = 0, enumerate(lines)
        while some := [read_line(line, number, NAMES) for number, line in islice(numbered, TOGETHER)]:
            if chance.random() < aborted:
                _send(producer, world, [false_copy(each) for each in some])
                producer.abort_transaction()
            _send(producer, world, some)
            producer.commit_transaction()
            sent += len(some)
            between(sent)


def false_copy(true: Outgoing) -> Outgoing:
    """The same event under another id: it would count if somebody read it."""
    value = (true.value or b"{}").replace(b'"event_id":"', b'"event_id":"false-', 1)
    return replace(true, value=value)


def _send(producer: KafkaProducer, world: World, some: Iterable[Outgoing]) -> None:
    producer.begin_transaction()
    for each in some:
        producer.send(world.topic(each.topic), each.value, key=each.key, headers=each.headers, timestamp_ms=each.at_ms)
    producer.flush()
