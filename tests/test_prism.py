"""The real data converted: every line valid, and as many of everything as an independent count over the source."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from streams.prism import ASSETS, KINDS, PRODUCTS, convert
from tests.oracle import oracle, time_ms


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "prism-terra"


@pytest.fixture(scope="module")
def source(folder: Path) -> list[dict[str, str]]:
    with gzip.open(folder / "prism_events.csv.gz", "rt", encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


@pytest.fixture(scope="module")
def ledger(folder: Path) -> list[str]:
    with (folder / "campaign" / "forge_phase1_state.csv").open(encoding="utf-8", newline="") as rows:
        return [row["sender"] for row in csv.DictReader(rows)]


@pytest.fixture(scope="module")
def lines(folder: Path) -> list[str]:
    return list(convert(folder))


@pytest.fixture(scope="module")
def counted(lines: list[str]) -> dict[str, Any]:
    return oracle(lines)


@pytest.fixture(scope="module")
def events(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def of(events: list[dict[str, Any]], topic: str) -> list[dict[str, Any]]:
    return [event["value"] for event in events if event["topic"] == topic]


def test_every_line_is_valid_and_counts_as_the_source_counts(
    counted: dict[str, Any], source: list[dict[str, str]], ledger: list[str]
) -> None:
    fees = [Decimal(row["usd"]) * 30 / 10_000 for row in source if row["product"] == "dex"]
    revenue = sum(int((fee * 1_000_000).to_integral_value(ROUND_HALF_EVEN)) for fee in fees)
    assert counted["totals"] == {
        "transactions": len(source),
        "touches": len(ledger),
        "duplicates": 0,
        "revenue_micros": revenue,
        "cost_micros": 0,
        "rejected": {},
        "wallets": len({row["wallet"] for row in source} | set(ledger)),
    }
    assert (len(source), len(ledger), revenue) == (106_501, 5_473, 146_565_685_391)


def test_the_campaign_earns_what_its_wallets_paid_within_30_days(
    counted: dict[str, Any], source: list[dict[str, str]], ledger: list[str]
) -> None:
    launch_ms, members = 1_644_163_200_000, set(ledger)
    earned = 0
    for row in source:
        at_ms = time_ms(row["ts"]) or 0
        if row["product"] == "dex" and row["wallet"] in members and 0 <= at_ms - launch_ms <= 30 * 86_400_000:
            fee = Decimal(row["usd"]) * 30 / 10_000
            earned += int((fee * 1_000_000).to_integral_value(ROUND_HALF_EVEN))
    rows = [row for row in counted["roi"] if row["campaign_id"]]
    assert {(row["channel"], row["revenue_micros"], row["cost_micros"]) for row in rows} == {("forge", earned, 0)}
    assert len(rows) == 5


def test_every_leg_of_a_transaction_is_an_event_of_its_own(
    events: list[dict[str, Any]], source: list[dict[str, str]]
) -> None:
    ids = [event["event_id"] for event in of(events, "wallet.transactions")]
    assert len(set(ids)) == len(ids)
    legs = Counter(row["tx_id"] for row in source)
    assert Counter(event_id.rsplit("/", 1)[0] for event_id in ids) == legs
    assert max(legs.values()) == 5


def test_lines_stand_in_order_of_time_and_the_clicks_at_the_launch(events: list[dict[str, Any]]) -> None:
    moments = [event["timestamp"] for event in events]
    assert moments == sorted(moments)
    clicks = [event for event in events if event["topic"] == "campaign.touches"]
    assert {event["timestamp"] for event in clicks} == {time_ms("2022-02-06T16:00:00Z")}
    assert all(event["timestamp"] == event["value"]["occurred_at"] for event in events)


def test_what_was_done_with_what_survives(events: list[dict[str, Any]], source: list[dict[str, str]]) -> None:
    told = of(events, "wallet.transactions")
    assert Counter(event["kind"] for event in told) == Counter(KINDS[row["action"]] for row in source)
    assert Counter(event["product"] for event in told) == Counter(PRODUCTS[row["product"]] for row in source)
    assert Counter(event["asset"] for event in told) == Counter(row["asset_in"] or row["asset_out"] for row in source)
    assert [event["event_id"] for event in told if "usd_value" not in event] == [
        f"{row['tx_id']}/1" for row in source if not row["usd"]
    ]
    volume = sum(Decimal(event["usd_value"]) for event in told if "usd_value" in event)
    assert volume == sum(Decimal(row["usd"]) for row in source if row["usd"])


def test_the_tables_name_every_action_and_product_of_the_source(source: list[dict[str, str]]) -> None:
    assert set(KINDS) == {row["action"] for row in source}
    assert set(PRODUCTS) == set(ASSETS) == {row["product"] for row in source}
    assert (len(KINDS), len(PRODUCTS)) == (17, 10)


def test_another_fee_is_another_revenue(folder: Path) -> None:
    def fees(*bps: Decimal) -> list[Decimal]:
        some = islice(convert(folder, *bps), 30_000)
        return [Decimal(json.loads(line)["value"].get("fee_usd", 0)) for line in some]

    assert sum(fees(Decimal("2.5"))) * 12 == sum(fees()) > 0


def test_a_folder_that_is_not_the_data_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*prism_events.csv.gz is not there[^\n]*$"):
        next(convert(tmp_path))


def test_a_row_that_is_not_of_the_data_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "campaign").mkdir()
    (tmp_path / "campaign" / "forge_phase1_state.csv").write_text("sender\n")
    head = "ts,wallet,product,action,asset_in,amount_in,asset_out,amount_out,tx_id,source,is_contract,usd\n"
    with gzip.open(tmp_path / "prism_events.csv.gz", "wt") as file:
        file.write(head + "2022-02-06T15:22:58.011Z,w,dex,gamble,,,,,t,s,False,1\n")
    with pytest.raises(ValueError, match=r"^[^\n]*dex gamble is not of this data$"):
        list(convert(tmp_path))
