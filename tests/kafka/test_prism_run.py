"""Real data through a real Kafka: every event of PRISM on Terra is counted, and nothing else."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import pytest

from tests.kafka.world import World


def test_prism_is_counted_as_its_source_files_say(
    world: World, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shared / "data" / "prism-terra"
    with gzip.open(source / "prism_events.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (source / "campaign" / "forge_phase1_state.csv").open(encoding="utf-8") as file:
        buyers = {row["sender"] for row in csv.DictReader(file)}
    world.run("topics", "create")
    world.run("produce", stdin=world.run("convert", "prism-terra", str(source)), seconds=300)
    worker = world.worker("worker")
    world.await_applied(len(rows), seconds=300)
    world.await_no_lag()
    worker.terminate()
    assert worker.wait() == 0
    totals = world.ask("totals")
    fees = (Decimal(row["usd"]) * 30 / 10_000 for row in rows if row["product"] == "dex" and row["usd"])
    assert totals["transactions"] == len(rows) == 106_501
    assert totals["revenue_micros"] == sum(int((fee * 10**6).to_integral_value(ROUND_HALF_EVEN)) for fee in fees)
    assert totals["touches"] == len(buyers)
    assert totals["rejected"] == {}
    report(world, rows, capsys)


def report(world: World, rows: list[dict[str, str]], capsys: pytest.CaptureFixture[str]) -> None:
    """What the run is about, for people: the segments, and how much the whales moved."""
    moved: dict[str, float] = defaultdict(float)
    for row in rows:
        moved[row["wallet"]] += float(row["usd"] or 0)
    whales = {line["wallet_id"] for line in world.lines("wallets") if line["whale"]}
    share = sum(moved[wallet] for wallet in whales) / sum(moved.values())
    with capsys.disabled():
        print(f"\n{world.run('segments').decode()}{len(whales)} whales moved {share:.0%} of all USD")
    assert whales
