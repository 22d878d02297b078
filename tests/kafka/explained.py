"""Why the counters of a run are not the oracle's: by the order in which its workers took the records, event by event.

The oracle knows the logs alone. A touch that came later than the allowed lateness is credited by what was known, so a
run may differ from it and be right; then it is what `tests.arrival` makes of the same order, to the last integer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.state import TOUCHES, TRANSACTIONS
from tests.arrival import Arrivals, Arrived, TooLate, count_arrivals
from tests.kafka.exactness import rows_of
from tests.kafka.reading import read_topic
from tests.kafka.witness import Commit, witnessed
from tests.kafka.world import World
from tests.oracle import LANES, Sent

#: How many touches that came too late are named.
NAMED = 5
#: Totals that follow from the order of arrival.
BY_ARRIVAL = ("transactions", "touches", "duplicates", "late")

#: Campaign, channel and rule -> revenue, cost, conversions.
Rows = Mapping[tuple[str, ...], Sequence[int]]
#: Where a record lies: lane, partition, offset.
Logs = Mapping[tuple[int, int, int], Sent]


def explain(world: World, ends: Mapping[int, tuple[int, ...]], lateness_ms: int) -> list[str]:
    """Sentences about a run whose counters are not the oracle's; all that is known of it goes to `explained.json`.

    `ends`: next offsets of each partition, as in Redis. `lateness_ms`: what its workers allowed.
    """
    totals, found = world.ask("totals"), rows_of(world.ask("roi"))
    logs = both_logs(world)
    told = [f"its totals: {json.dumps(totals)}"]
    try:
        commits = seen_of(world, ends)
    except (LookupError, OSError) as problem:
        return [*told, f"the order of arrival is not known: {problem}"]
    counted = count_arrivals(arrivals(commits, logs), lateness_ms)
    report = Path(world.folder) / "explained.json"
    report.write_text(json.dumps(described(counted, found, logs), indent=1), encoding="utf-8")
    return [*told, *compared(counted, totals, found), f"more in {report.name}"]


def seen_of(world: World, ends: Mapping[int, tuple[int, ...]]) -> list[Commit]:
    """The commits of a run that had a witness."""
    if world.seen is None:
        raise LookupError("there was no witness")
    with world.seen.open(encoding="utf-8") as lines:
        return witnessed(lines, ends)


def both_logs(world: World) -> dict[tuple[int, int, int], Sent]:
    """Every record of the input topics as the oracle reads them."""
    found = {}
    for lane, topic, name in (
        (TRANSACTIONS, world.transactions, "wallet.transactions"),
        (TOUCHES, world.touches, "campaign.touches"),
    ):
        for record in read_topic(world.bootstrap, topic):
            sent = Sent(LANES[name], record.key, record.value, len(record.value or b""), record.timestamp)
            found[lane, record.partition, record.offset] = sent
    return found


def arrivals(commits: Iterable[Commit], logs: Logs) -> Iterator[Arrived]:
    """The records in the order in which they were taken, one partition after the other."""
    for commit in commits:
        for place, (lane, offset) in enumerate(zip(commit.lanes, commit.offsets, strict=True)):
            sent, clock_ms = logs[int(lane), commit.partition, offset], commit.clock_ms if place == 0 else None
            yield Arrived(commit.partition, offset, sent, clock_ms)


def compared(counted: Arrivals, totals: Mapping[str, Any], found: Rows) -> Iterator[str]:
    """What is left unexplained when records are counted in the order of their arrival."""
    yield from counted.jumps
    for name in BY_ARRIVAL:
        if totals[name] != counted.counts[name]:
            yield f"UNEXPLAINED: totals.{name} is {totals[name]}, by the order of arrival {counted.counts[name]}"
    want = rows_of(counted.roi())
    wrong = [key for key in {*want, *found} if found.get(key) != want.get(key)]
    for key in sorted(wrong, key=str):
        yield f"UNEXPLAINED: roi {key} is {found.get(key)}, by the order of arrival {want.get(key)}"
    late = counted.too_late
    wallets = {each.touch.wallet_id for each in late}
    yield (
        f"{len({(each.touch.wallet_id, each.touch.event_id) for each in late})} touches of {len(wallets)} wallets came "
        f"too late for {len(late)} fees" + ("" if wrong else "; that explains every row")
    )
    yield from map(sentence, late[:NAMED])


def sentence(late: TooLate) -> str:
    """One touch and one fee."""
    touch, hours = late.touch, (late.clock_ms - late.fee_at_ms) / 3_600_000
    return (
        f"{touch.wallet_id}: touch {touch.event_id} of {touch.at_ms}, offset {late.at.offset} of partition "
        f"{late.at.partition}, came {hours:.1f} h of event time after {late.fee_event_id} of {late.fee_at_ms}"
    )


def described(counted: Arrivals, found: Rows, logs: Logs) -> dict[str, Any]:
    """Everything: rows of both sides, and all records of the wallets whose touches came too late."""
    wallets = {each.touch.wallet_id.encode() for each in counted.too_late}
    want = rows_of(counted.roi())
    return {
        "by_arrival": {"|".join(map(str, key)): numbers for key, numbers in want.items()},
        "found": {"|".join(map(str, key)): list(numbers) for key, numbers in found.items()},
        "too_late": [sentence(each) for each in counted.too_late],
        "records": [
            {"lane": lane, "partition": partition, "offset": offset, "at_ms": sent.at_ms, "value": _text(sent.value)}
            for (lane, partition, offset), sent in sorted(logs.items(), key=lambda each: each[1].at_ms)
            if sent.key in wallets
        ],
    }


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else None
