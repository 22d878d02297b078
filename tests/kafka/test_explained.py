"""A run whose counters are not the oracle's says why: what its workers took in which order, and what came too late."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.rules import HOUR_MS
from models.state import TOUCHES, TRANSACTIONS
from tests.arrival import count_arrivals
from tests.kafka.exactness import rows_of
from tests.kafka.explained import arrivals, compared
from tests.kafka.witness import Commit, witnessed
from tests.oracle import Sent
from tests.partition import NOON_MS, touch, transaction


def seen(kind: str, first: tuple[int, int], stop: tuple[int, int], lanes: str, partition: int = 0) -> str:
    """A line of a witness; offsets without gaps."""
    at, offsets = list(first), []
    for lane in map(int, lanes):
        offsets.append(at[lane])
        at[lane] += 1
    return json.dumps({"kind": kind, **Commit(partition, first, stop, 0, lanes, offsets)._asdict()})


def lanes_of(commits: list[Commit]) -> list[tuple[int, str]]:
    return [(commit.partition, commit.lanes) for commit in commits]


# ------------------------------------------------------------------ what was seen


def test_commits_follow_each_other_whoever_wrote_them_down_first_and_old_partitions_come_first() -> None:
    lines = [
        seen("done", (2, 1), (3, 1), "0"),
        seen("done", (0, 0), (1, 0), "0", partition=4),
        seen("done", (0, 0), (2, 1), "010"),
    ]
    assert lanes_of(witnessed(lines, {4: (1, 0), 0: (3, 1), 2: (0, 0)})) == [(0, "010"), (0, "0"), (4, "0")]


def test_of_two_that_lead_to_one_place_the_last_that_was_done_counts() -> None:
    asked, lost = seen("asked", (0, 0), (1, 1), "01"), seen("done", (0, 0), (1, 1), "01")
    done = seen("done", (0, 0), (1, 1), "10")
    assert lanes_of(witnessed([asked], {0: (1, 1)})) == [(0, "01")]
    assert lanes_of(witnessed([asked, done, asked], {0: (1, 1)})) == [(0, "10")]
    assert lanes_of(witnessed([lost, done], {0: (1, 1)})) == [(0, "10")]


def test_a_commit_that_nobody_saw_is_no_order_of_arrival() -> None:
    with pytest.raises(LookupError, match=r"partition 0 to \(1, 0\)"):
        witnessed([seen("done", (1, 0), (2, 0), "0")], {0: (2, 0)})


# ------------------------------------------------------------------ what that explains

LOGS: dict[tuple[int, int, int], dict[str, Any]] = {
    (TRANSACTIONS, 0, 0): transaction("paid", "w", NOON_MS + 1, fee_usd=5),
    (TRANSACTIONS, 0, 1): transaction("clock", "w", NOON_MS + HOUR_MS + 2),
    (TOUCHES, 0, 0): touch("a", "w", NOON_MS),
}
TOTALS = {"transactions": 2, "touches": 1, "duplicates": 0, "late": 1}
#: The touch earns nothing: it came more than an hour of event time after the fee.
FOUND = [
    {
        "campaign_id": None,
        "channel": None,
        "rule": rule,
        "revenue_micros": 5_000_000,
        "cost_micros": 0,
        "conversions_micros": 1_000_000,
    }
    for rule in ("first", "last", "linear", "time_decay", "position")
]


def said(totals: dict[str, Any], found: list[dict[str, Any]], lanes: str = "001") -> list[str]:
    logs = {
        place: Sent(int(place[0] == TRANSACTIONS), b"w", json.dumps(value).encode(), 0, value["occurred_at"])
        for place, value in LOGS.items()
    }
    commits = witnessed([seen("done", (0, 0), (2, 1), lanes)], {0: (2, 1)})
    return list(compared(count_arrivals(arrivals(commits, logs), HOUR_MS), totals, rows_of(found)))


def test_what_came_too_late_is_named_and_explains_every_row() -> None:
    told, named = said(TOTALS, FOUND)
    assert told == "1 touches of 1 wallets came too late for 1 fees; that explains every row"
    assert "touch a of" in named
    assert "1.0 h of event time after paid" in named


@pytest.mark.parametrize(
    ("totals", "found", "lanes"),
    [
        (TOTALS | {"late": 0}, FOUND, "001"),
        (TOTALS, FOUND[1:], "001"),
        (TOTALS, [FOUND[0] | {"revenue_micros": 4_999_999}, *FOUND[1:]], "001"),
        (TOTALS, FOUND, "010"),  # it came before the clock went on: it has the credit
    ],
)
def test_what_does_not_follow_from_the_order_of_arrival_stays_unexplained(
    totals: dict[str, Any], found: list[dict[str, Any]], lanes: str
) -> None:
    assert any(sentence.startswith("UNEXPLAINED") for sentence in said(totals, found, lanes))
