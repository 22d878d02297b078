from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from models.records import Record
from models.rules import DAY_MS, HOUR_MS, Rules
from models.segments import Catalogue
from models.state import TOUCHES, TRANSACTIONS
from streams.lines import BadLine
from streams.replay import SLOT_RECORDS, Arrival, Replay, Slot, Told, arrivals, told
from streams.simulate import SimulationPlan, simulate
from tests.partition import NOON_MS, RULES, Partition, drawn_catalogue, encoded, learned, transaction

PLAN = SimulationPlan(3, 60, 45, date(2026, 1, 1), late=0.01, duplicates=0.01, bad=0.01, oversized=False)


@cache
def season() -> tuple[Arrival, ...]:
    return tuple(arrivals(simulate(PLAN)))


@cache
def pinned() -> Catalogue:
    return drawn_catalogue(learned(season()))


def changes_of(slots: Iterable[Slot]) -> list[Told]:
    return [change for slot in slots for change in slot.changes]


def by_wallet(changes: Iterable[Told]) -> list[Told]:
    """Wallet after wallet, each one's in their order."""
    return sorted(changes, key=lambda change: change.wallet)


def test_with_a_pinned_catalogue_slots_do_not_matter() -> None:
    usual = by_wallet(changes_of(Replay(RULES, pinned=pinned()).run(season())))
    for slot_ms in (HOUR_MS, 30 * DAY_MS):
        assert by_wallet(changes_of(Replay(RULES, pinned=pinned(), slot_ms=slot_ms).run(season()))) == usual
    assert len({change.wallet for change in usual}) > 20
    assert {change.status for change in usual} >= {"entered", "moved"}


def test_with_a_pinned_catalogue_partitions_matter_only_to_sweeps() -> None:
    """Each has a clock of its own, and idle wallets are swept by it."""
    four, seven = (
        {
            change.wallet: change
            for change in reversed(changes_of(Replay(RULES, pinned=pinned(), partitions=n).run(season())))
        }
        for n in (4, 7)
    )
    assert four == seven
    assert {change.status for change in four.values()} == {"entered"}


def test_it_announces_what_a_partition_announces() -> None:
    alone = Partition(pinned(), RULES).take(season())
    replay = Replay(RULES, pinned=pinned(), partitions=1)
    assert changes_of(replay.run(season())) == [told(change) for change in alone.changes]
    assert replay.parts[0].totals == alone.counted
    wallets = replay.wallets()
    assert {key: row.tobytes() for key, row in zip(wallets.keys, wallets.rows, strict=True)} == alone.rows


def test_the_same_records_end_in_the_same_changes_and_the_same_catalogue() -> None:
    one, other = Replay(RULES), Replay(RULES)
    assert changes_of(one.run(season())) == changes_of(other.run(season()))
    assert one.overview.snapshot() == other.overview.snapshot()
    assert one.catalogue.version > 1


def test_every_learning_row_is_learned_once() -> None:
    replay = Replay(RULES)
    rows = np.concatenate([slot.learned for slot in replay.run(season())])
    alone = Replay(RULES, pinned=pinned()).take(season(), 0).learned
    assert sorted(map(bytes, rows)) == sorted(map(bytes, alone))
    assert replay.overview.rows_learned == len(rows) > 200


def test_slots_follow_each_other_and_are_short_where_much_happens() -> None:
    slots = list(Replay(RULES, pinned=pinned()).run(season()))
    assert all(one.ends_ms <= after.begins_ms for one, after in pairwise(slots))
    burst = [encoded(TRANSACTIONS, transaction(f"e{n}", "w", NOON_MS + n)) for n in range(3 * SLOT_RECORDS + 1)]
    assert len(list(Replay(RULES).run(burst))) == 4


def test_the_catalogue_that_decides_tells_of_the_crash_the_overview_has_noticed() -> None:
    replay = Replay(RULES)
    steady = [(hour, wallet) for hour in range(24 * 5) for wallet in range(40)]
    records = [_hourly(hour, wallet) for hour, wallet in steady] + [_hourly(120, wallet) for wallet in range(900)]
    for _ in replay.run(records):
        pass
    crash_ms = NOON_MS + 120 * HOUR_MS
    assert replay.catalogue.regime_at(crash_ms) == replay.overview.flow.regime_at(crash_ms) == "crash"
    assert replay.catalogue.regime_at(crash_ms - HOUR_MS) == "normal"
    assert replay.catalogue is replay.catalogue


def test_an_hour_is_told_as_a_whole_however_many_slots_it_has() -> None:
    replay = Replay(RULES, slot_ms=HOUR_MS // 6)
    minutes = [encoded(TRANSACTIONS, transaction(f"e{n}", f"w{n}", NOON_MS + n * HOUR_MS // 60)) for n in range(60)]
    slots = list(replay.run(minutes))
    assert len(slots) == 6
    assert replay.overview.flow.cells[:, 3].sum() == 60


def _hourly(hour: int, wallet: int) -> Arrival:
    return encoded(TRANSACTIONS, transaction(f"e{hour}-{wallet}", f"w{wallet}", NOON_MS + hour * HOUR_MS + wallet))


def test_records_nobody_can_use_are_taken_too() -> None:
    replay = Replay(Rules())
    records = [(TRANSACTIONS, Record(0, NOON_MS, None, b"{}")), (TOUCHES, Record(0, NOON_MS, b"w", None))]
    assert changes_of(replay.run(records)) == []
    assert sum(sum(part.totals.rejected.values()) for part in replay.parts) == 2


def test_lines_become_records_of_their_lanes_and_a_line_without_a_time_has_that_of_the_one_before() -> None:
    lines = [
        {"topic": "wallet.transactions", "key": "a", "value": {"x": 1}, "timestamp": NOON_MS},
        {"topic": "campaign.touches", "key": "b", "value": None},
        {"topic": "wallet.transactions", "key": None, "value_base64": "/w==", "timestamp": NOON_MS + 5},
    ]
    assert list(arrivals(map(json.dumps, lines))) == [
        (TRANSACTIONS, Record(0, NOON_MS, b"a", b'{"x": 1}', [])),
        (TOUCHES, Record(0, NOON_MS, b"b", None, [])),
        (TRANSACTIONS, Record(1, NOON_MS + 5, None, b"\xff", [])),
    ]
    with pytest.raises(BadLine, match="line 2"):
        list(arrivals([json.dumps(lines[0]), "nonsense"]))
