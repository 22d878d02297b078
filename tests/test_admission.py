"""Who is let in: the key, the partition, the time, and no event twice."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.hashing import partitions_of
from models.records import Record
from models.rows import IDS
from models.rules import Rules
from models.state import TOUCHES, TRANSACTIONS, State
from models.step import step
from tests.partition import NOON_MS, Arrival, Partition, encoded, numbered, touch, transaction

FUTURE_MS = 10 * 60_000


def reason(partition: Partition, arrival: Arrival) -> str | None:
    """Why a single record is refused."""
    before = len(partition.rejected)
    partition.take([arrival])
    return partition.rejected[-1].reason if len(partition.rejected) > before else None


def paid(wallet: str = "w", at_ms: int = NOON_MS, **more: Any) -> Record:
    return encoded(TRANSACTIONS, transaction(f"e{at_ms}", wallet, at_ms, **more), NOON_MS)[1]


def misplaced(record: Record, partitions: int = 12, partitioner: str = "murmur2") -> str | None:
    """Why a record is refused by the one partition of several that it does not belong to."""
    mine = int(partitions_of([record.key or b""], partitions, partitioner)[0])
    partition = Partition(rules=Rules(partitioner=partitioner))
    before, batch, _ = partition.before([(TRANSACTIONS, record)])
    elsewhere = State((mine + 1) % partitions, partitions, 0, before.totals, before.codes, before.wallets)
    at_home = State(mine, partitions, 0, before.totals, before.codes, before.wallets)
    assert not step(at_home, batch, partition.rules, partition.catalogue)[1].rejected
    refused = step(elsewhere, batch, partition.rules, partition.catalogue)[1].rejected
    return refused[0].reason if refused else None


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, None),
        ({"key": None}, "key_missing"),
        ({"key": b"W"}, "key_mismatch"),
        ({"key": b"w\xff"}, "key_mismatch"),
        ({"key": b""}, "key_mismatch"),
        ({"timestamp": NOON_MS - FUTURE_MS}, None),
        ({"timestamp": NOON_MS - FUTURE_MS - 1}, "from_the_future"),
        # the first reason wins
        ({"key": None, "timestamp": 0}, "key_missing"),
        ({"key": b"x", "timestamp": 0}, "key_mismatch"),
        ({"key": None, "value": b"{}"}, "missing_field"),
    ],
)
def test_the_key_and_the_time_must_fit(changed: dict[str, Any], expected: str | None) -> None:
    assert reason(Partition(), (TRANSACTIONS, paid()._replace(**changed))) == expected


@pytest.mark.parametrize("wallet", ["ä", "日本", "a" * 128, "\u0000", " "])
def test_a_key_is_the_wallet_in_utf_8(wallet: str) -> None:
    assert reason(Partition(), (TRANSACTIONS, paid(wallet))) is None


@pytest.mark.parametrize(
    ("partitioner", "expected"), [("murmur2", "wrong_partition"), ("crc32", "wrong_partition"), ("off", None)]
)
def test_a_new_wallet_must_be_in_its_partition(partitioner: str, expected: str | None) -> None:
    assert misplaced(paid(), partitioner=partitioner) == expected


def test_the_partition_comes_after_the_key_and_before_the_time() -> None:
    assert misplaced(paid()._replace(timestamp=NOON_MS)) == "wrong_partition"
    partition = Partition()
    before, batch, _ = partition.before([(TRANSACTIONS, paid()._replace(timestamp=0, key=b"x"))])
    state = State(5, 12, 0, before.totals, before.codes, before.wallets)
    assert step(state, batch, partition.rules, partition.catalogue)[1].rejected[0].reason == "key_mismatch"
    before, batch, _ = partition.before([(TRANSACTIONS, paid()._replace(timestamp=0))])
    mine = int(partitions_of([b"w"], 12, "murmur2")[0])
    state = State((mine + 1) % 12, 12, 0, before.totals, before.codes, before.wallets)
    assert step(state, batch, partition.rules, partition.catalogue)[1].rejected[0].reason == "wrong_partition"


def test_a_wallet_that_is_known_is_not_asked_again() -> None:
    """Its rows were moved here by hand, or the setting was off before."""
    partition = Partition().take([(TRANSACTIONS, paid())])
    before, batch, _ = partition.before([(TRANSACTIONS, paid(at_ms=NOON_MS + 1))])
    mine = int(partitions_of([b"w"], 12, "murmur2")[0])
    elsewhere = State((mine + 1) % 12, 12, 0, before.totals, before.codes, before.wallets)
    assert not step(elsewhere, batch, partition.rules, partition.catalogue)[1].rejected


def test_what_is_refused_goes_on_byte_for_byte() -> None:
    record = Record(7, NOON_MS, b"w", b"{}", (("trace", b"\xff"),))
    partition = Partition().take([(TOUCHES, record)])
    assert (partition.rejected[0].lane, partition.rejected[0].record) == (TOUCHES, record)


def test_bad_events_among_good_ones_are_the_only_ones_refused() -> None:
    good = [(TRANSACTIONS, paid(f"w{i}", NOON_MS + i)) for i in range(6)]
    bad = (TRANSACTIONS, paid()._replace(key=None))
    partition = Partition().take(numbered([*good[:3], bad, *good[3:], bad]))
    assert [each.record.offset for each in partition.rejected] == [3, 7]
    assert partition.counted.transactions == 6


# ------------------------------------------------------------------ repeats


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.booleans()), min_size=1, max_size=120),
    st.integers(1, 130),
)
def test_the_newest_32_ids_of_a_wallet_are_remembered(arrived: list[tuple[str, int, bool]], size: int) -> None:
    """By arrival, of both topics together; the first content wins."""
    remembered = {name: deque[int](maxlen=IDS) for name in "ab"}
    accepted: list[int] = []
    values = []
    for place, (wallet, number, is_touch) in enumerate(arrived):
        values.append((TOUCHES, touch(f"e{number}", wallet, NOON_MS, cost_usd=f"{place + 1}")) if is_touch else
                      (TRANSACTIONS, transaction(f"e{number}", wallet, NOON_MS, fee_usd=f"{place + 1}")))  # fmt: skip
        if number not in remembered[wallet]:
            remembered[wallet].append(number)
            accepted.append(place)
    partition = Partition().take(numbered(encoded(*each) for each in values), size)
    totals = partition.counted
    assert totals.duplicates == len(arrived) - len(accepted)
    assert totals.cost_micros == 1_000_000 * sum(place + 1 for place in accepted if arrived[place][2])
    assert totals.revenue_micros == 1_000_000 * sum(place + 1 for place in accepted if not arrived[place][2])


def test_an_id_is_remembered_for_32_others_and_not_for_33() -> None:
    for others, duplicates in ((31, 1), (32, 0)):
        ids = ["x", *[f"e{i}" for i in range(others)], "x"]
        for size in (1, 100):
            partition = Partition().take(numbered(encoded(0, transaction(name, "w", NOON_MS)) for name in ids), size)
            assert partition.counted.duplicates == duplicates


def test_the_oldest_id_is_the_one_forgotten_across_batches() -> None:
    ids = [*[f"e{i}" for i in range(IDS)], "new", "e1", "e0", "e1"]
    partition = Partition().take(numbered(encoded(0, transaction(name, "w", NOON_MS)) for name in ids), IDS)
    assert partition.counted.duplicates == 1  # the first e1; e0 was forgotten, and pushes e1 out


def test_a_refused_event_is_not_remembered() -> None:
    early = (TRANSACTIONS, paid()._replace(timestamp=0))
    partition = Partition().take(numbered([early, (TRANSACTIONS, paid())]))
    assert (partition.counted.transactions, partition.counted.duplicates) == (1, 0)
