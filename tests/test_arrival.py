"""Credit follows the order of arrival, however late: a second opinion that shares no code, on much disorder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.counters import RULES as NAMES
from models.counters import campaign_field
from models.rules import DAY_MS, HOUR_MS, Rules
from models.state import TOUCHES
from tests.arrival import Arrivals, Arrived, count_arrivals
from tests.oracle import Sent
from tests.partition import NOON_MS, Arrival, Partition, Season, encoded, numbered, touch, transaction

WILD = Season(events=2500, wallets=60, hot=0.1, out_of_order=0.6, late=0.6, bad=0.02, seed=4)


def arrived(arrivals: list[Arrival], lateness_ms: int) -> Arrivals:
    """The same arrivals by the other opinion."""
    return count_arrivals(
        (
            Arrived(0, record.offset, Sent(int(lane != TOUCHES), record.key, record.value, 0, record.timestamp), None)
            for lane, record in arrivals
        ),
        lateness_ms,
    )


def rows_by_arrival(counted: Arrivals) -> dict[tuple[bytes, int], tuple[int, ...]]:
    return {
        (campaign_field(row["campaign_id"], row["channel"]) if row["campaign_id"] else b"|", NAMES.index(row["rule"])):
            (row["cost_micros"], row["revenue_micros"], row["conversions_micros"])
        for row in counted.roi()
    }  # fmt: skip


def rows_of(partition: Partition) -> dict[tuple[bytes, int], tuple[int, ...]]:
    return {
        (name, rule): (cell[0], cell[1 + rule], cell[6 + rule])
        for name, cell in partition.by_campaign().items()
        for rule in range(5)
        if cell[0] or cell[1 + rule] or cell[6 + rule]
    }


@pytest.mark.parametrize("size", [1, 40, 1000])
@pytest.mark.parametrize("lateness_ms", [0, HOUR_MS, 3 * DAY_MS])
@pytest.mark.parametrize("seed", [1, 2])
def test_credit_is_what_the_rules_give_to_the_order_of_arrival(size: int, lateness_ms: int, seed: int) -> None:
    season = replace(WILD, seed=seed).arrivals()
    partition = Partition(rules=Rules(lateness_ms=lateness_ms)).take(season, size)
    counted, totals = arrived(season, lateness_ms), partition.counted
    assert totals.beyond_memory == 0
    assert rows_of(partition) == rows_by_arrival(counted)
    by_name = {name: getattr(totals, name) for name in ("transactions", "touches", "duplicates")}
    assert counted.counts == by_name | {"late": totals.late, "rejected": sum(totals.rejected.values())}
    assert counted.clock_of == {0: partition.clock_ms}
    assert counted.too_late


def test_a_touch_that_came_too_late_is_named_with_its_fee() -> None:
    clock = transaction("clock", "other", NOON_MS + HOUR_MS + 2)
    for at, named in ((1, ["paid"]), (2, [])):
        values = [transaction("paid", "w", NOON_MS + at, fee_usd=5), clock, touch("a", "w", NOON_MS)]
        sent = numbered(
            encoded(TOUCHES if "channel" in value else 1 - TOUCHES, value, clock["occurred_at"]) for value in values
        )
        assert [each.fee_event_id for each in arrived(sent, HOUR_MS).too_late] == named
