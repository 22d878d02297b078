"""Read-outs against a real Redis that holds what a worker would have committed."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from models.counters import RULES, campaign_field, cell_field, encode_cell
from models.hashing import partitions_of
from models.journeys import Touched
from models.rows import FEATURES, ROW_VERSION, WHALE, blank_rows
from models.segments import Catalogue, Segment
from models.state import Totals
from streams import readouts
from streams.embedded import Embedded
from streams.errors import Refused, TidemarkError, Unavailable, WrongSettings
from streams.ledger import OVERVIEW, Ledger, Mark, Writes
from streams.settings import Settings
from tests.golden import FILES, Golden
from tests.journals import as_stored

PARTITIONS = 3
TOPICS = ("topic-a", "topic-b")
CATALOGUE = Catalogue(
    version=4,
    mean=np.zeros(len(FEATURES)),
    sd=np.ones(len(FEATURES)),
    centres=np.stack([np.zeros(len(FEATURES)), np.ones(len(FEATURES))]),
    variances=np.ones((2, len(FEATURES))),
    shares=np.array([0.5, 0.5]),
    segments=(Segment(1, 0, "steady holders", 0.5, 1), Segment(3, 1, "leveraged traders", 0.5, 2)),
)
#: Few names, so that partitions share cells, and some that look like what separates or escapes them.
texts = st.sampled_from(["spring", "a|b", "%7C", "%25", "été"]) | st.text(min_size=1, max_size=3)
amounts = st.integers(-(10**15), 10**15)


@pytest.fixture
def settings(embedded: Embedded) -> Settings:
    """An empty Redis."""
    return emptied(Settings(kafka=embedded.kafka, redis=SecretStr(embedded.redis)))


def emptied(settings: Settings) -> Settings:
    with redis.Redis.from_url(settings.redis_url) as store:
        store.flushdb()
    return settings


def commit(settings: Settings, owner: int | str, writes: Writes, catalogue: tuple[int, str] = (0, "")) -> None:
    """Claim and commit as a worker does."""

    async def committed() -> None:
        ledger = Ledger(settings.redis_url)
        mark, _ = await ledger.claim(owner, Mark(0, (0, 0), TOPICS, PARTITIONS, "0" * 16))
        new = Mark(mark.number + 1, (5, 2), TOPICS, PARTITIONS, "1" * 16, catalogue, 1_700_000_000_000)
        await ledger.commit(owner, (mark, new), b"", writes)
        await ledger.close()

    asyncio.run(committed())


def publish(settings: Settings) -> None:
    commit(settings, OVERVIEW, Writes({b"catalogue": CATALOGUE.to_json()}))


def with_totals(totals: Totals, cells: Mapping[bytes, tuple[int, ...]] | None = None) -> Writes:
    return Writes(
        {b"totals": totals.to_json()}, {b"roi": {name: encode_cell(cell) for name, cell in (cells or {}).items()}}
    )


def stored_row(segment: int, *, whale: bool = False) -> bytes:
    row = blank_rows(1)
    row["version"], row["segment"], row["sequence"] = ROW_VERSION, segment, 7
    row["changed_s"], row["flags"], row["transactions"] = 1_700_000_000, WHALE if whale else 0, 9
    row["last_at_ms"] = 1_700_000_000_000
    return row.tobytes()


def test_before_the_first_commit_there_are_zeros_and_empty_lists(settings: Settings) -> None:
    found = readouts.totals(settings)
    assert found.pop("rejected") == {}
    assert set(found.values()) == {0}
    assert (readouts.roi(settings), readouts.segments(settings), list(readouts.wallets(settings))) == ([], [], [])


def test_a_claimed_partition_that_has_committed_nothing_changes_nothing(settings: Settings) -> None:
    commit(settings, 0, Writes())
    assert readouts.segments(settings) == []
    assert readouts.records_read(readouts.totals(settings)) == 0


def test_totals_have_the_fields_of_the_contract_in_its_order(settings: Settings) -> None:
    assert list(readouts.totals(settings)) == [
        "transactions", "touches", "duplicates", "late", "beyond_memory", "rejected", "revenue_micros", "cost_micros",
        "segment_changes", "wallets", "catalogue_version", "whales",
    ]  # fmt: skip


def test_operations_says_of_every_total_whether_a_restored_state_has_the_same(settings: Settings) -> None:
    text = (Path(__file__).parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.partition("\n## Backup and restore\n")[2].partition("\n## ")[0]
    same, other = (
        set(re.findall(r"`(\w+)`", section.partition(f"\n- {begin}")[2].partition("\n- ")[0]))
        for begin in ("Equal", "Not necessarily")
    )
    fields = set(readouts.totals(settings))
    assert fields <= same | other
    assert fields & same & other == set()
    assert {"transactions", "revenue_micros", "cost_micros"} <= same
    assert {"catalogue_version", "whales", "segment_changes", "late"} <= other


def test_totals_add_up_over_partitions_and_name_the_catalogue_in_use(settings: Settings) -> None:
    commit(settings, 0, with_totals(Totals(transactions=3, revenue_micros=-5, rejected={"not_json": 2})), (3, "abc"))
    commit(
        settings, 2, with_totals(Totals(transactions=4, touches=1, rejected={"not_json": 1, "too_deep": 1})), (4, "d")
    )
    found = readouts.totals(settings)
    assert (found["transactions"], found["touches"], found["revenue_micros"]) == (7, 1, -5)
    assert found["rejected"] == {"not_json": 3, "too_deep": 1}
    assert found["catalogue_version"] == 4
    assert readouts.records_read(found) == 12


@hypothesis_settings(
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a shrink asks Redis for minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["unassigned", "s3"]), texts, st.just("email"), st.integers(0, PARTITIONS - 1)),
        st.tuples(*[amounts] * 11),
        max_size=12,
    )
)
def test_roi_adds_up_over_partitions_for_every_rule_whatever_campaigns_are_called(
    settings: Settings, cells: dict[tuple[str, str, str, int], tuple[int, ...]]
) -> None:
    emptied(settings)
    for partition in range(PARTITIONS):
        here = {
            cell_field(segment, campaign_field(campaign, channel)): cell
            for (segment, campaign, channel, place), cell in cells.items()
            if place == partition
        }
        commit(settings, partition, with_totals(Totals(), here))
    rows = readouts.roi(settings)
    for place, rule in enumerate(RULES):
        of_rule = [row for row in rows if row["rule"] == rule]
        assert sum(row["cost_micros"] for row in of_rule) == sum(cell[0] for cell in cells.values())
        assert sum(row["revenue_micros"] for row in of_rule) == sum(cell[1 + place] for cell in cells.values())
        assert sum(row["conversions_micros"] for row in of_rule) == sum(cell[6 + place] for cell in cells.values())
    known = {place[:3] for place in cells}
    assert {(row["segment"], row["campaign_id"], row["channel"]) for row in rows} <= known


def test_roi_rows_have_the_shape_of_the_contract(settings: Settings) -> None:
    publish(settings)
    cells = {
        cell_field("s3", campaign_field("spring|50%", "email")): (2_000_000, *[5_000_000] * 5, *[1_000_000] * 5),
        cell_field("s3", b"|"): (0, *[7] * 5, *[0] * 5),
        cell_field("s1", campaign_field("gone", "email")): (0,) * 11,
    }
    commit(settings, 1, with_totals(Totals(), cells))
    rows = readouts.roi(settings)
    assert len(rows) == 10
    assert rows[4] == {
        "segment": "s3", "name": "leveraged traders", "campaign_id": "spring|50%", "channel": "email",
        "rule": "position", "revenue_micros": 5_000_000, "cost_micros": 2_000_000, "conversions_micros": 1_000_000,
        "roi": 1.5, "whales": 0,
    }  # fmt: skip
    assert (rows[5]["campaign_id"], rows[5]["channel"], rows[5]["roi"]) == (None, None, None)


def test_segments_are_those_of_the_catalogue_and_those_with_wallets_then_unassigned(settings: Settings) -> None:
    publish(settings)
    cells = {cell_field("s3", b"|"): (0, *[9] * 5, *[0] * 5)}
    commit(settings, 0, with_totals(Totals(wallets=6, wallets_by_segment={0: 1, 3: 5}), cells))
    commit(settings, 1, with_totals(Totals(wallets=4, wallets_by_segment={0: 2, 2: 2})))
    rows = readouts.segments(settings)
    assert [(row["segment"], row["name"], row["wallets"]) for row in rows] == [
        ("s3", "leveraged traders", 5), ("s2", "s2", 2), ("s1", "steady holders", 0), ("unassigned", "unassigned", 3),
    ]  # fmt: skip
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert rows[0]["revenue_micros"] == 9
    assert list(rows[0]["centre"]) == list(FEATURES)
    assert rows[1]["centre"] == rows[-1]["centre"] == {}


def test_whales_are_counted_by_segment_as_the_commits_left_them_and_the_flags_say_the_same(settings: Settings) -> None:
    publish(settings)
    cells = {cell_field("s3", b"|"): (0, *[9] * 5, *[0] * 5), cell_field("unassigned", b"|"): (0, *[9] * 5, *[0] * 5)}
    whales = [{0: 1, 3: 4}, {0: 2, 1: 3}, {}]
    for partition, of_segments in enumerate(whales):
        rows = {
            f"w:{partition}-{segment}-{place}".encode(): stored_row(segment, whale=place < of_segments.get(segment, 0))
            for segment in (0, 1, 3)
            for place in range(5)
        }
        totals = Totals(wallets=15, wallets_by_segment=dict.fromkeys((0, 1, 3), 5), whales_by_segment=of_segments)
        commit(settings, partition, Writes({**rows, b"totals": totals.to_json()}, with_totals(totals, cells).hashes))
    expected = {"s1": 3, "s3": 4, "unassigned": 3}
    assert {row["segment"]: row["whales"] for row in readouts.segments(settings)} == expected
    assert readouts.totals(settings)["whales"] == 10
    assert {(row["segment"], row["whales"]) for row in readouts.roi(settings)} == {("s3", 4), ("unassigned", 3)}
    assert Counter(row["segment"] for row in readouts.wallets(settings) if row["whale"]) == expected


def test_a_wallet_is_found_where_the_partitioner_puts_it(settings: Settings) -> None:
    publish(settings)
    wallet = "wällét/1 |%"
    (partition,) = partitions_of([wallet.encode()], PARTITIONS, "murmur2").tolist()
    field = campaign_field("spring|50%", "email")
    journal = as_stored([Touched(1_700_000_000_123, b"e1", 1)], [])
    strings = {b"w:" + wallet.encode(): stored_row(3, whale=True), b"j:" + wallet.encode(): journal}
    for other in range(PARTITIONS):
        commit(settings, other, Writes(strings, {b"codes": {field: b"1"}}) if other == partition else Writes())
    found = readouts.wallet(settings, wallet)
    assert 0 < found.pop("confidence") <= 1
    assert list(found.pop("features")) == list(FEATURES)
    assert found.pop("known") == {
        "age_days": 0.0, "recency_days": 0.0, "transactions": 9, "products": 0, "experience": "beginner",
        "sell_fast": 0.0,
    }  # fmt: skip
    assert found == {
        "wallet_id": wallet, "segment": "s3", "name": "leveraged traders", "since": "2023-11-14T22:13:20.000Z",
        "sequence": 7, "lifecycle": "active", "whale": True, "description": None,
        "touches": [
            {
                "occurred_at": "2023-11-14T22:13:20.123Z", "event_id": "e1",
                "campaign_id": "spring|50%", "channel": "email",
            }
        ],
    }  # fmt: skip
    assert readouts.wallet(settings.model_copy(update={"partitioner": "off"}), wallet)["sequence"] == 7
    with pytest.raises(TidemarkError, match="no wallet 'w2'"):
        readouts.wallet(settings, "w2")


@pytest.mark.parametrize("damaged", [b"\2" * 99, as_stored([Touched(1_700_000_000_123, b"e", 2)], [])])
def test_a_wallet_with_a_damaged_journal_or_one_of_an_unknown_campaign_is_refused_in_one_line(
    settings: Settings, damaged: bytes
) -> None:
    (partition,) = partitions_of([b"w"], PARTITIONS, "murmur2").tolist()
    for other in range(PARTITIONS):
        strings = {b"w:w": stored_row(3), b"j:w": damaged}
        commit(settings, other, Writes(strings, {b"codes": {b"a|b": b"1"}}) if other == partition else Writes())
    with pytest.raises(Refused, match=rf"^what Redis holds of partition {partition} cannot be read [^\n]+$"):
        readouts.wallet(settings, "w")


@pytest.mark.parametrize(
    ("totals", "cells"),
    [
        *((stored, {}) for stored in [b"{}", b"[]", b"null", b"\xff garbage", b'{"transactions":1}']),
        (Totals().to_json().replace(b'"touches":0', b'"touches":"0"'), {}),
        (Totals().to_json().replace(b'"rejected":{}', b'"rejected":{"not_json":null}'), {}),
        (Totals().to_json().replace(b'"whales_by_segment":{}', b'"whales_by_segment":[]'), {}),
        (Totals().to_json(), {b"s1|spring|email": b"1 2 3"}),
        (Totals().to_json(), {b"s1|spring|email": b"one" + b" 0" * 10}),
        (Totals().to_json(), {b"s1|spring": b"0" + b" 0" * 10}),
    ],
)
@pytest.mark.parametrize("command", ["totals", "roi", "segments", "overall"])
def test_counters_of_another_shape_are_refused_in_one_line_that_names_the_partition(
    settings: Settings, command: str, totals: bytes, cells: dict[bytes, bytes]
) -> None:
    commit(settings, 0, Writes())
    commit(settings, 1, Writes({b"totals": totals}, {b"roi": cells}))
    with pytest.raises(Refused, match=r"^what Redis holds of partition 1 cannot be read \([^\n]+$"):
        getattr(readouts, command)(settings)


def test_wallets_stored_by_older_versions_read_the_same(settings: Settings) -> None:
    found: dict[int, list[Any]] = {}
    for number, version in FILES.items():
        emptied(settings)
        golden = Golden.read(number)
        stored = golden.partition()
        (partition,) = partitions_of([b"mover"], PARTITIONS, "murmur2").tolist()
        strings = {b"w:" + key: row for key, row in stored.rows.items()}
        strings |= {b"j:" + key: journal for key, journal in stored.journals.items()}
        strings |= {b"f:" + key: fees for key, fees in stored.fees.items()}
        commit(settings, 0, Writes())
        commit(settings, partition, Writes(strings, {b"codes": stored.codes}))
        one = readouts.wallet(settings, "mover")
        everybody = sorted(readouts.wallets(settings), key=lambda row: str(row["wallet_id"]))
        told = golden.wallets["mover"]
        assert (one["segment"], one["sequence"]) == (f"s{told['segment']}", told["sequence"])
        assert [each["event_id"] for each in one["touches"]] == [event_id for _, event_id, _ in told["touches"]]
        assert [row["wallet_id"] for row in everybody] == sorted(golden.wallets)
        # since version 3 the rules place the same wallets another way: those files tell another story
        found.setdefault(min(version, 3) // 3, []).append((one, everybody))
    assert set(found) == {0, 1}
    assert all(each == alike[0] for alike in found.values() for each in alike)


def test_wallets_are_listed_once_each_and_by_segment(settings: Settings) -> None:
    publish(settings)
    for partition in range(PARTITIONS):
        rows = {f"w:{partition}-{number}".encode(): stored_row(number % 2 * 3) for number in range(700)}
        commit(settings, partition, Writes(rows))
    everything = [row["wallet_id"] for row in readouts.wallets(settings)]
    assert len(everything) == len(set(everything)) == 2100
    assert {row["segment"] for row in readouts.wallets(settings, "s3")} == {"s3"}
    assert sum(1 for _ in readouts.wallets(settings, "unassigned")) == 1050
    assert json.dumps(next(readouts.wallets(settings)))


@pytest.mark.parametrize(
    ("segment", "why"),
    [
        ("s999", "no segment s999"),
        ("s2", "no segment s2"),
        ("s03", "no segment's id"),
        ("S3", "no segment's id"),
        ("whales", "no segment's id"),
        ("s" + "9" * 5000, "no segment's id"),
    ],
)
def test_wallets_of_a_segment_there_never_was_are_wrong_usage_in_one_short_line(
    settings: Settings, segment: str, why: str
) -> None:
    publish(settings)
    commit(settings, 0, with_totals(Totals(wallets=2, wallets_by_segment={3: 1, 5: 1})))
    with pytest.raises(WrongSettings, match=why) as refused:
        next(readouts.wallets(settings, segment))
    assert (len(refused.value.lines), len(str(refused.value)) < 120) == (1, True)


def test_wallets_of_a_segment_that_is_empty_gone_or_not_yet_known_are_none(settings: Settings) -> None:
    assert list(readouts.wallets(settings, "s3")) == []  # before the first commit
    publish(settings)
    commit(settings, 0, with_totals(Totals(wallets=1, wallets_by_segment={5: 0})))
    assert [list(readouts.wallets(settings, segment)) for segment in ("s1", "s5", "unassigned")] == [[], [], []]
    commit(settings, OVERVIEW, Writes({b"catalogue": replace(CATALOGUE, retired_names={2: "gone"}).to_json()}))
    assert list(readouts.wallets(settings, "s2")) == []


def test_an_exported_catalogue_is_the_pinned_one_read_back(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TidemarkError, match="there is no catalogue yet"):
        readouts.catalogue(settings)
    publish(settings)
    file = tmp_path / "catalogue.json"
    file.write_bytes(readouts.catalogue(settings).to_json())
    pinned = emptied(settings).model_copy(update={"catalogue": file})
    assert readouts.catalogue(pinned).hash == CATALOGUE.hash
    for text in ("{}", ""):
        file.write_text(text)
        with pytest.raises(Refused, match="TIDEMARK_CATALOGUE"):
            readouts.segments(pinned)


def test_without_redis_one_line_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="check TIDEMARK_REDIS"):
        readouts.totals(Settings(redis=SecretStr("redis://127.0.0.1:1/0")))


def lag_of(settings: Settings) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["topic"], row["partition"]): row for row in readouts.lag(settings)}


def test_lag_is_the_log_end_minus_the_committed_mark(settings: Settings) -> None:
    from kafka import KafkaProducer

    from streams import topics

    named = settings.model_copy(
        update={"partitions": PARTITIONS, "topic_transactions": "lag.t", "topic_touches": "lag.c"}
    )
    with pytest.raises(TidemarkError, match=r"no topic lag\.t: run `tidemark topics create`"):
        readouts.lag(named)
    topics.create(named)
    assert {row["lag"] for row in readouts.lag(named)} == {0}
    producer = KafkaProducer(bootstrap_servers=named.kafka, enable_idempotence=False)
    for _ in range(8):  # one batch each: the embedded broker's end offset is that of the newest batch
        producer.send("lag.t", b"{}", partition=1).get(10)
    producer.close()
    assert lag_of(named)["lag.t", 1] == {
        "topic": "lag.t", "partition": 1, "position": 0, "end": 8, "lag": 8, "event_time_lag_ms": None,
    }  # fmt: skip
    commit(named, 1, Writes())
    found = lag_of(named)["lag.t", 1]
    assert (found["position"], found["lag"]) == (5, 3)
    assert found["event_time_lag_ms"] > 0
