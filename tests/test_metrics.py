"""What Prometheus reads: what was committed, under the names of the contract, the documents and the alerts."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from models.counters import Codes
from models.lifecycle import NEVER_MS
from models.rows import blank_rows
from models.state import State, Totals, Wallets
from models.step import step, unmoved
from streams.health import Pulse, Seen, Vitals
from streams.metrics import MOVES, REASONS, Exposition, Facts
from streams.settings import Settings
from streams.tally import OUTCOMES, Tally
from tests.partition import Partition, Season, drawn_catalogue, learned

ROOT = Path(__file__).resolve().parents[1]
INPUTS = ("wallet.transactions", "campaign.touches")
#: What the design's contract says, and what came after it.
CONTRACT = {
    "tidemark_events_total", "tidemark_rejected_total", "tidemark_consumer_lag_records",
    "tidemark_event_time_lag_seconds", "tidemark_commit_duration_seconds", "tidemark_batch_records",
    "tidemark_wallet_cache_hits_total", "tidemark_wallet_cache_misses_total", "tidemark_rebalances_total",
    "tidemark_catalogue_version", "tidemark_segment_changes_total", "tidemark_overview_waits_total",
}  # fmt: skip
LATER = {"tidemark_beyond_memory_total", "tidemark_phase_seconds_total", "tidemark_ready"}
SUFFIXES = re.compile(r"_(bucket|sum|count)$")
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]

LANES = (Seen(INPUTS[0], 10, 1, 5), Seen(INPUTS[1], 4, 1, 0))
DIGESTS = Pulse("overview", 0, (Seen("tidemark.batch.digests", 3, 1, None),))


def page(tally: Tally, *pulses: Pulse, is_ready: bool = True) -> Series:
    """The series of a page; a worker's own, not those of its process."""
    seen = Vitals(0.0, {}, pulses, catalogue=42, rebalances=3)
    made = Exposition(Facts(INPUTS, tally, lambda: seen, lambda: is_ready)).page()
    assert made.status == 200
    families = text_string_to_metric_families(made.body.decode())
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in families
        for each in family.samples
        if each.name.startswith("tidemark")
    }


def exported(series: Series) -> set[str]:
    """The names of metrics, those of histograms without what the format appends."""
    histograms = {name.removesuffix("_bucket") for name, _ in series if name.endswith("_bucket")}
    return {bare if (bare := SUFFIXES.sub("", name)) in histograms else name for name, _ in series}


@pytest.fixture(scope="module")
def everything() -> set[str]:
    return exported(page(Tally(), Pulse(0, 1_700_000_000_000, LANES), DIGESTS))


def counted() -> tuple[Tally, Totals, Partition]:
    """A season with everything in it, batch by batch."""
    arrivals = Season(events=4000).arrivals()
    partition, tally = Partition(drawn_catalogue(learned(arrivals))), Tally()
    for start in range(0, len(arrivals), 300):
        rest = arrivals[start : start + 300]
        while rest:
            lookup, state, effects = partition.ask(rest)
            if effects.taken:
                lanes = bytes(lane for lane, _ in rest[: effects.taken])
                tally.committed(lanes, (partition.known[0], state.totals), effects)
                partition.commit(lookup, state, effects)
            rest = rest[effects.taken :]
            for swept in partition.sweep(state.until_ms, rest[0]) if rest else ():
                tally.swept(swept)
    return tally, partition.counted, partition


# ------------------------------------------------------------------ what is counted


def test_a_tally_adds_up_to_the_totals() -> None:
    tally, totals, partition = counted()
    accepted = [tally.events[lane, "accepted"] + tally.events[lane, "late"] for lane in (0, 1)]
    assert accepted == [totals.transactions, totals.touches]
    assert sum(tally.events[lane, "late"] for lane in (0, 1)) == totals.late > 0
    assert all(tally.events[lane, "late"] for lane in (0, 1))
    assert sum(tally.events[lane, "duplicate"] for lane in (0, 1)) == totals.duplicates > 0
    assert dict(tally.reasons) == totals.rejected
    assert sum(tally.events[lane, "rejected"] for lane in (0, 1)) == sum(totals.rejected.values()) == tally.rejected > 0
    assert sum(tally.events.values()) == tally.records == tally.sizes.sum
    assert sum(tally.moves.values()) == tally.changes == totals.segment_changes == len(partition.changes) > 0
    assert {status for status, _ in tally.moves} == {"entered", "moved", "left"}
    assert tally.beyond_memory == totals.beyond_memory
    assert sum(tally.sizes.counts) == tally.batches


def test_a_late_event_is_told_of_the_topic_it_came_from() -> None:
    arrivals = Season(events=1200).arrivals()
    together, alone, late = Partition(), Partition(), [0, 0]
    before, batch, _ = together.before(arrivals)
    _, effects = step(replace(before, until_ms=NEVER_MS), batch, together.rules, together.catalogue)
    for lane, record in arrivals:
        known = alone.counted.late
        alone.take([(lane, record)])
        late[lane] += alone.counted.late - known
    assert effects.late == tuple(late)
    assert min(late) > 0


def test_the_page_says_what_the_tally_says() -> None:
    tally, totals, _ = counted()
    tally.found_wallets, tally.missed_wallets, tally.waits = 70, 30, 2
    series = page(tally)
    for lane, topic in enumerate(INPUTS):
        for outcome in OUTCOMES:
            assert (
                series["tidemark_events_total", (("outcome", outcome), ("topic", topic))] == tally.events[lane, outcome]
            )
    for reason in REASONS:
        assert series["tidemark_rejected_total", (("reason", reason),)] == totals.rejected.get(reason, 0)
    changes = {
        (status, origin): series["tidemark_segment_changes_total", (("origin", origin), ("status", status))]
        for status, origin in MOVES
    }
    assert {move: count for move, count in changes.items() if count} == dict(tally.moves)
    assert [series[f"tidemark_wallet_cache_{name}_total", ()] for name in ("hits", "misses")] == [70, 30]
    assert series["tidemark_overview_waits_total", ()] == 2
    assert (series["tidemark_catalogue_version", ()], series["tidemark_rebalances_total", ()]) == (42, 3)


def test_every_series_that_can_grow_is_there_from_the_start() -> None:
    tally, _, _ = counted()
    begins = {name for name in page(Tally()) if name[0].endswith("_total")}
    assert {name for name in page(tally) if name[0].endswith("_total")} == begins


def test_a_histogram_counts_up_to_and_with_its_bounds() -> None:
    tally = Tally()
    for seconds in (0.0005, 0.0006, 3.0, 100.0):
        tally.commits.note(seconds)
    series = page(tally)
    found = {
        its[0][1]: value for (name, its), value in series.items() if name == "tidemark_commit_duration_seconds_bucket"
    }
    assert [found[bound] for bound in ("0.0005", "0.001", "2.5", "5.0", "30.0", "+Inf")] == [1, 2, 2, 3, 3, 4]
    assert series["tidemark_commit_duration_seconds_count", ()] == 4
    assert series["tidemark_commit_duration_seconds_sum", ()] == pytest.approx(103.0011)


def test_gauges_of_partitions_come_and_go_with_them() -> None:
    now_ms = time.time_ns() // 1_000_000
    series = page(Tally(), Pulse(7, now_ms - 60_000, LANES), DIGESTS)
    assert series["tidemark_consumer_lag_records", (("partition", "7"), ("topic", INPUTS[0]))] == 5
    assert series["tidemark_consumer_lag_records", (("partition", "7"), ("topic", INPUTS[1]))] == 0
    assert series["tidemark_event_time_lag_seconds", (("partition", "7"),)] == pytest.approx(60, abs=5)
    assert not any("digests" in str(its) for _, its in series)  # not known yet is not 0
    assert not any("lag" in name for name, _ in page(Tally()))
    assert page(Tally(), is_ready=False)["tidemark_ready", ()] == 0


def test_a_batch_is_counted_in_microseconds() -> None:
    idle = State(0, 1, 0, Totals(), Codes(), Wallets([], blank_rows(0), []))
    _, effects = unmoved(idle, Totals(), [], 0)
    tally, lanes, totals = Tally(), bytes(900) + b"\1" * 100, (Totals(), Totals(transactions=900, touches=100))
    fastest = min(_seconds(tally, lanes, totals, effects) for _ in range(50))
    assert fastest < 30e-6


def _seconds(tally: Tally, lanes: bytes, totals: tuple[Totals, Totals], effects: Any) -> float:
    began = time.perf_counter()
    tally.committed(lanes, totals, effects)
    tally.commits.note(0.002)
    tally.took((0.0, 0.1, 0.2, 0.3, 0.4))
    return time.perf_counter() - began


# ------------------------------------------------------------------ names that others rely on


def test_the_names_are_those_of_the_contract(everything: set[str]) -> None:
    assert everything == CONTRACT | LATER


def test_reasons_are_those_the_code_gives() -> None:
    code = "".join(path.read_text() for path in sorted((ROOT / "models").glob("*.py")))
    assert set(re.findall(r'Rejected\(\s*"(\w+)"', code)) <= set(REASONS)
    assert [reason for reason in REASONS if f'"{reason}"' not in code] == []


def test_operations_tells_of_every_metric_and_of_no_other(everything: set[str]) -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert sorted(re.findall(r"`(tidemark_\w+)`", "".join(rows))) == sorted(everything)
    assert set(re.findall(r"`(tidemark_\w+)`", text)) <= everything


def test_operations_tells_the_labels_of_every_metric() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    labels: dict[str, set[str]] = {}
    for name, its in page(Tally(), Pulse(0, 1_700_000_000_000, LANES)):
        labels.setdefault(SUFFIXES.sub("", name), set()).update(label for label, _ in its)
    for row in (row.split("|") for row in table.splitlines() if row.startswith("| `")):
        for name in re.findall(r"`(tidemark_\w+)`", row[1]):
            assert set(re.findall(r"`(\w+)`", row[2])) == labels[name], name


# ------------------------------------------------------------------ compose, Prometheus, alerts


@pytest.fixture(scope="module")
def alerts() -> list[dict[str, Any]]:
    parsed = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())
    return [rule for group in parsed["groups"] for rule in group["rules"]]


def test_alerts_ask_for_metrics_and_labels_that_exist(alerts: list[dict[str, Any]], everything: set[str]) -> None:
    series = page(Tally(), Pulse(0, 1_700_000_000_000, LANES))
    labels = {label for _, its in series for label, _ in its} | {"le", "job", "instance"}
    for rule in alerts:
        asked = set(re.findall(r"\btidemark_\w+", rule["expr"]))
        assert {bare if (bare := SUFFIXES.sub("", name)) in everything else name for name in asked} <= everything, rule
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])
        matched = re.findall(r"(\w+)=~?\"", rule["expr"])
        told = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        assert {word for each in grouped for word in each.split(", ")} | {*matched, *told} <= labels, rule
        assert rule["labels"]["severity"] in {"page", "ticket"}
    reasons = re.findall(r'reason=~"([^"]+)"', "".join(rule["expr"] for rule in alerts))
    assert {reason for each in reasons for reason in each.split("|")} <= set(REASONS)


def test_a_partition_that_waits_for_its_first_commit_has_a_lag_and_no_event_time_as_operations_says() -> None:
    names = {name for name, its in page(Tally(), Pulse(3, 0, LANES)) if ("partition", "3") in its}
    assert names == {"tidemark_consumer_lag_records"}


def test_operations_says_what_to_do_about_every_alert(alerts: list[dict[str, Any]]) -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("\n## Alerts\n")[2]
    told = re.findall(r"^\| `(Tidemark\w+)` \((\w+)\)", text, re.MULTILINE)
    assert sorted(told) == sorted((rule["alert"], rule["labels"]["severity"]) for rule in alerts)


def test_compose_asks_workers_where_they_answer() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    worker = compose["services"]["worker"]
    environment = {name.removeprefix("TIDEMARK_").lower(): value for name, value in worker["environment"].items()}
    settings = Settings(**environment)
    assert f"http://127.0.0.1:{settings.http_port}/ready" in worker["healthcheck"]["test"][-1]
    prometheus = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["dns_sd_configs"][0]["names"] == ["worker"]
    assert job["dns_sd_configs"][0]["port"] == settings.http_port
    assert settings.http_host == "0.0.0.0"  # noqa: S104 -- inside the network of the containers
    assert "ports" not in worker
    rules = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())["groups"][0]["rules"]
    assert {job["job_name"]} == set(re.findall(r'job="(\w+)"', "".join(rule["expr"] for rule in rules)))
    mounted = {each["source"]: each["target"] for each in compose["services"]["prometheus"]["configs"]}
    assert Path(mounted["alerts"]).name in prometheus["rule_files"]
    for source in mounted:
        assert (ROOT / compose["configs"][source]["file"]).is_file()
