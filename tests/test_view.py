"""The live picture fits any terminal and shows what was read."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from models.counters import RULES
from streams import tables
from streams.readouts import Overall
from streams.view import Moment, screen, summary

TOTALS = {
    "transactions": 900, "touches": 90, "duplicates": 9, "late": 3, "beyond_memory": 0, "rejected": {"not_json": 1},
    "revenue_micros": 1_234_560_000, "cost_micros": 1, "segment_changes": 7, "wallets": 5, "catalogue_version": 2,
    "whales": 3,
}  # fmt: skip
ROI = [
    {
        "segment": "s1", "name": "steady holders", "campaign_id": campaign, "channel": channel, "rule": rule,
        "revenue_micros": 30_000_000, "cost_micros": cost, "conversions_micros": 1, "roi": 2.0 if cost else None,
        "whales": 21,
    }
    for campaign, channel, cost in (("spring", "email", 10_000_000), (None, None, 0))
    for rule in RULES
]  # fmt: skip
SEGMENTS = [
    {
        "segment": "s1",
        "name": "steady holders",
        "wallets": 5,
        "share": 1.0,
        "revenue_micros": 5,
        "centre": {},
        "whales": 42,
        "description": None,
    },
]
CHANGE = {
    "wallet_id": "0x1234567890123456789012345678901234567890", "occurred_at": "2026-04-14T09:12:03.120Z",
    "from": None, "to": {"segment": "s1", "name": "steady holders"}, "whale": True,
    "reasons": [{"feature": "leverage_fast", "before": 1.1, "after": 4.6, "weight": 0.6}],
}  # fmt: skip


def printed(what: object, width: int, height: int = 40) -> str:
    console = Console(file=StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(what)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above
    return str(text)


@pytest.fixture
def moment() -> Moment:
    return Moment(Overall(TOTALS, ROI, SEGMENTS, 1_700_000_000_000), 1100, 2000, 532.4, [CHANGE] * 3)


@pytest.mark.parametrize(("width", "height"), [(40, 24), (80, 24), (129, 40), (200, 60)])
def test_a_frame_fills_the_terminal_and_no_more(moment: Moment, width: int, height: int) -> None:
    lines = printed(screen(moment, width), width, height).splitlines()
    assert len(lines) == height
    assert {len(line) for line in lines} == {width}


def test_a_frame_shows_lag_throughput_segments_campaigns_and_changes(moment: Moment) -> None:
    text = printed(screen(moment, 160), 160)
    for shown in (
        "2023-11-14",
        "1,000",
        "532",
        "behind 100",
        "$1,234.56",
        "steady holders",
        "spring",
        "+200%",
        "leverage fast",
        "whales 3",
        "42",
        "…7890 (whale)",
    ):
        assert shown in text


def test_before_the_first_commit_there_is_a_picture_too() -> None:
    empty: dict[str, Any] = {name: {} if name == "rejected" else 0 for name in TOTALS}
    nothing = Moment(Overall(empty, [], [], 0), 0, 2000, 0.0, [])
    assert "starting" in printed(screen(nothing, 100), 100)
    assert "none yet" in printed(summary(nothing), 100)


def test_the_roi_table_has_one_line_for_each_campaign_and_every_rule(moment: Moment) -> None:
    text = printed(tables.roi(ROI), 200)
    assert sum("steady holders" in line for line in text.splitlines()) == 2
    assert "time decay" in text
    assert "+200%" in text


def test_who_is_a_whale_is_called_one_in_a_line_of_its_own_too() -> None:
    line = {"wallet_id": "w1", "segment": "s1", "name": "steady holders", "confidence": 0.5, "whale": True}
    assert tables.wallet_line(line).endswith("steady holders (whale)")
    assert "whale" not in tables.wallet_line(line | {"whale": False}) + str(tables.change(CHANGE | {"whale": False}))


def test_whales_stand_beside_wallets_in_the_tables_and_descriptions_below_names(moment: Moment) -> None:
    text = printed(tables.segments([SEGMENTS[0] | {"description": "hold for years"}]), 100)
    heading, _, row, about = text.splitlines()
    assert heading.split() == ["segment", "name", "wallets", "share", "whales", "revenue"]
    assert row.split()[-3:-1] == ["100.0%", "42"]
    assert about.split() == ["hold", "for", "years"]
    assert printed(tables.roi(ROI), 200).count(" 21 ") == 2
    assert ["whales", "3"] in [line.split() for line in printed(tables.totals(TOTALS), 100).splitlines()]
