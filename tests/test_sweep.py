"""The law book of sweeps: wallets that change without an event of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.lifecycle import GRID_MS, IDLE_MS
from models.rows import DORMANT, LIFECYCLE, WHALE, unpack_rows
from models.rules import DAY_MS, HOUR_MS, Rules
from models.segments import Catalogue
from models.state import TOUCHES
from models.sweep import sweep
from streams.sweeping import PAGE, Agenda, first_page
from tests.partition import (
    NOON_MS,
    Arrival,
    Partition,
    Season,
    catalogue_of,
    encoded,
    numbered,
    random_cut,
    transaction,
)
from tests.partition import touch as touched

RULES = Rules(partitioner="off")


def catalogue() -> Catalogue:
    return catalogue_of(events=5000)


def trade(wallet: str, hours: float) -> Arrival:
    at_ms = NOON_MS + int(hours * HOUR_MS)
    return encoded(0, transaction(f"{wallet}-{hours}", wallet, at_ms, usd_value="100", fee_usd="1"))


def busy(*wallets: str, from_days: float = 0, days: float = 20) -> list[Arrival]:
    """A transaction of each wallet every three hours."""
    return [trade(wallet, from_days * 24 + 3 * n) for n in range(int(days * 8)) for wallet in wallets]


def beats(from_days: int, days: int) -> list[Arrival]:
    """A wallet that does nothing but keep the clock going: one touch every four hours."""
    return [
        encoded(TOUCHES, touched(f"beat{n}", "clock", NOON_MS + n * 4 * HOUR_MS))
        for n in range(from_days * 6, (from_days + days) * 6)
    ]


def partition_of(*arrivals: Arrival) -> Partition:
    return Partition(catalogue(), RULES).take(numbered(arrivals))


def told(partition: Partition) -> list[dict[str, Any]]:
    return [json.loads(change.value) for change in partition.changes]


def row_of(partition: Partition, wallet: str) -> np.void:
    found: np.void = unpack_rows([partition.rows[wallet.encode()]])[0]
    return found


# ------------------------------------------------------------------ who goes quiet


def test_a_wallet_that_goes_quiet_is_announced_dormant_without_an_event_of_its_own() -> None:
    partition = partition_of(*busy("quiet"), *beats(20, 10))
    *_, before, left = told(partition)
    last_ms = int(row_of(partition, "quiet")["last_at_ms"])
    assert (left["wallet_id"], left["status"], left["origin"], left["lifecycle"]) == (
        "quiet",
        "left",
        "sweep",
        "dormant",
    )
    assert (left["from"], left["to"]) == (before["to"], None)
    assert left["sequence"] == len(partition.changes) == partition.counted.segment_changes
    assert partition.changes[-1].headers[3] == ("ce_id", f"quiet/{left['sequence']}/-".encode())
    (reason,) = left["reasons"]
    assert (reason["feature"], reason["before"], reason["weight"]) == ("idle_days", 0.0, 1.0)
    assert 2.25 <= reason["after"] <= 3
    assert left["decided_at"] >= left["occurred_at"]
    assert left["source"]["topic"] == "campaign.touches"
    row = row_of(partition, "quiet")
    assert (row["segment"], LIFECYCLE[row["lifecycle"]], row["due_s"]) == (0, "dormant", 0)
    assert (row["last_at_ms"], row["transactions"]) == (last_ms, 160)
    assert partition.counted.wallets_by_segment == {0: 2}


def test_its_next_transaction_brings_it_back_and_later_it_is_active_again() -> None:
    partition = partition_of(*busy("quiet"), *beats(20, 10), trade("quiet", 30 * 24 + 1))
    left, back = told(partition)[-2:]
    assert (back["status"], back["origin"], back["lifecycle"], back["from"]) == ("entered", "live", "returned", None)
    assert back["sequence"] == left["sequence"] + 1
    assert row_of(partition, "quiet")["segment"] == int(back["to"]["segment"][1:])
    assert row_of(partition, "quiet")["due_s"] > 0
    partition.take(numbered(busy("quiet", from_days=31)))
    assert LIFECYCLE[row_of(partition, "quiet")["lifecycle"]] == "active"


def test_a_whale_leaves_as_one_and_is_none_until_it_is_back() -> None:
    all_are = replace(catalogue(), whale_at=1.0)
    partition = Partition(all_are, RULES).take(numbered([*busy("quiet"), *beats(20, 10)]))
    assert told(partition)[-1]["status"] == "left"
    assert told(partition)[-1]["whale"]
    assert not row_of(partition, "quiet")["flags"] & WHALE
    assert partition.counted.whales_by_segment == {}
    partition.take(numbered([trade("quiet", 30 * 24 + 1)]))
    assert told(partition)[-1]["whale"]
    assert sum(partition.counted.whales_by_segment.values()) == 1


def test_a_touch_wakes_nobody_and_costs_in_unassigned() -> None:
    costs = encoded(TOUCHES, touched("costly", "quiet", NOON_MS + 31 * DAY_MS, cost_usd="2"))
    partition = partition_of(*busy("quiet"), *beats(20, 11), costs)
    assert row_of(partition, "quiet")["lifecycle"] == DORMANT
    assert partition.cells[b"unassigned|spring|email"].split()[0] == b"2000000"


def test_who_has_no_segment_leaves_none() -> None:
    partition = partition_of(*[trade("seldom", n) for n in range(3)], *beats(1, 400))
    assert partition.changes == []
    assert row_of(partition, "seldom")["lifecycle"] == DORMANT


def test_without_a_catalogue_wallets_go_dormant_too_and_nothing_is_announced() -> None:
    partition = Partition(rules=RULES).take(numbered([*busy("quiet"), *beats(20, 10)]))
    assert partition.changes == []
    assert row_of(partition, "quiet")["lifecycle"] == DORMANT


def test_an_idle_wallet_is_learned_every_five_days_as_it_is_by_then() -> None:
    monthly = [trade("monthly", 24 * 20 * n) for n in range(6)]
    partition = partition_of(*sorted([*monthly, *beats(0, 119)], key=lambda each: each[1].timestamp))
    days = [time_ms for time_ms, wallets in partition.sweeps if b"monthly" in wallets]
    assert max(after - before for before, after in pairwise(days)) <= IDLE_MS + GRID_MS
    idle = np.concatenate(partition.learning)[:, 0]  # frequency, as of each sweep and of the day before a transaction
    assert len(idle) > 15
    assert len(set(idle.tolist())) == len(idle)


def test_in_a_crash_nobody_is_moved_by_a_sweep_and_silence_is_noticed_all_the_same() -> None:
    crash = replace(catalogue(), held_from_ms=NOON_MS + 19 * DAY_MS, held_until_ms=NOON_MS + 60 * DAY_MS)
    idle, _, _ = partition_of(*[trade("idle", 48 * n) for n in range(12)]).before([trade("idle", 0)])
    own = int(idle.wallets.rows["segment"][0])
    idle.wallets.rows["segment"] = next(each.number for each in crash.segments if each.number != own)
    cause = (0, trade("cause", 1000)[1])
    swept = [sweep(idle, NOON_MS + 28 * DAY_MS, cause, RULES, by) for by in (catalogue(), crash)]
    assert [after.wallets.rows["segment"].tolist() for after, _ in swept] == [[own], idle.wallets.rows["segment"]]
    assert [len(effects.changes) for _, effects in swept] == [1, 0]
    assert [len(effects.learning) for _, effects in swept] == [1, 1]
    assert not swept[1][0].wallets.rows["cusum"].any()
    partition = Partition(crash, RULES).take(numbered([*busy("quiet", days=18), *beats(18, 30)]))
    assert told(partition)[-1]["status"] == "left"


# ------------------------------------------------------------------ when


def test_sweeps_are_in_order_of_due_time_and_wallet_and_each_is_due_once() -> None:
    partition = Partition(catalogue()).take(Season().arrivals())
    times = [at_ms for at_ms, _ in partition.sweeps]
    assert len(times) > 100
    assert times == sorted(times)
    assert all(wallets == sorted(set(wallets)) for _, wallets in partition.sweeps)
    assert len(times) == len(set(times))
    assert all(at_ms % GRID_MS == 0 for at_ms in times)


def test_who_was_active_since_is_queued_again_and_nothing_else_happens() -> None:
    partition = partition_of(*busy("always", days=30))
    before, looks = row_of(partition_of(*busy("always", days=30)), "always"), len(partition.sweeps)
    assert looks > 8
    assert {change["origin"] for change in told(partition)} == {"live"}
    state, _, _ = partition.before([trade("always", 30 * 24)])
    due_ms = int(before["due_s"]) * 1000
    after, effects = sweep(state, due_ms, (0, trade("always", 0)[1]), RULES, catalogue())
    assert int(after.wallets.rows["due_s"][0]) * 1000 > due_ms
    after.wallets.rows["due_s"] = before["due_s"]
    assert after.wallets.rows.tobytes() == state.wallets.rows.tobytes()
    assert (effects.changes, len(effects.learning), effects.taken) == ([], 0, 0)


def test_the_index_says_what_the_rows_say() -> None:
    partition = Partition(catalogue()).take(Season().arrivals())
    rows = {key: int(unpack_rows([row])[0]["due_s"]) for key, row in partition.rows.items()}
    assert partition.agenda.due == {key: due_s for key, due_s in rows.items() if due_s}
    assert min(partition.agenda.due.values()) * 1000 > partition.clock_ms


def test_a_sweep_is_pure_and_gives_the_same_bytes_again() -> None:
    partition = partition_of(*busy("a", "b"))
    state, _, _ = partition.before([trade("a", 0), trade("b", 0)])
    before = state.wallets.rows.tobytes()
    cause = (0, trade("c", 1000)[1])
    one, other = (sweep(state, NOON_MS + 40 * DAY_MS, cause, RULES, catalogue()) for _ in range(2))
    assert state.wallets.rows.tobytes() == before
    assert one[0].wallets.rows.tobytes() == other[0].wallets.rows.tobytes()
    assert one[1].changes == other[1].changes
    assert [change.status for change in one[1].changes] == ["left", "left"]


# ------------------------------------------------------------------ where a batch is cut does not matter


@pytest.mark.parametrize("size", [1, 7])
def test_where_a_batch_is_cut_does_not_matter_to_sweeps(size: int) -> None:
    log = Season(events=2000, wallets=150, seed=5).arrivals()
    whole, cut = Partition(catalogue()).take(log), Partition(catalogue()).take(log, size)
    assert cut.stored() == whole.stored()
    assert cut.sweeps == whole.sweeps
    assert sum(change["origin"] == "sweep" for change in told(whole)) > 5


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), wallets=st.integers(1, 8), cut=st.integers(0, 1000), crash=st.integers(0, 150))
def test_a_cut_and_a_crash_do_not_matter_to_sweeps_in_small(seed: int, wallets: int, cut: int, crash: int) -> None:
    """A new owner goes on from what is stored: index, rows and clock."""
    log = Season(events=150, wallets=wallets, seed=seed, late=0.3, out_of_order=0.5).arrivals()
    whole = Partition(catalogue()).take(log)
    parts = Partition(catalogue()).take_cut(log[:crash], random_cut(cut)(len(log[:crash])))
    parts.restart()
    parts.take_cut(log[crash:], random_cut(cut + 1)(len(log[crash:])))
    assert parts.stored() == whole.stored()


# ------------------------------------------------------------------ the index


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.integers(0, 5)), max_size=60))
def test_the_agenda_has_each_wallet_once_in_order(queued: list[tuple[bytes, int]]) -> None:
    agenda, latest = Agenda(), dict[bytes, int]()
    for wallet, when_s in queued:
        agenda.keep({wallet: when_s})
        latest[wallet] = when_s
    due = sorted((when_s, wallet) for wallet, when_s in latest.items() if when_s)
    page = agenda.first()
    assert page == agenda.first() == first_page([(wallet, when_s) for when_s, wallet in due])
    if page:
        first = [wallet for when_s, wallet in due if when_s == due[0][0]]
        assert page.wallets == first
        assert page.at_ms == due[0][0] * 1000


def test_a_page_has_a_thousand_at_most_and_the_next_begins_where_it_ends() -> None:
    page = first_page([(b"%05d" % n, 7) for n in range(PAGE + 1)])
    assert page is not None
    assert (len(page.wallets), page.next_ms) == (PAGE, 7000)
