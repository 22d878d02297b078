"""What the world is told of a change of segment."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.changes import Change, Move, announce, contributions, rfc3339, segment_id
from models.events import to_ms
from models.records import Record
from models.rows import FEATURES
from models.rules import Rules
from models.segments import Catalogue
from tests.partition import NOON_MS, Partition, Season, catalogue_of

RULES = Rules(transactions_topic="deals", touches_topic="visits", source="/tidemark/g/topic-id")


def catalogue() -> Catalogue:
    return catalogue_of(events=1500)


def change(**more: Any) -> Change:
    features = catalogue().centre(1)
    made = Change(
        move=Move(1, 2, "live"),
        wallet_id="w|ä",
        sequence=7,
        occurred_at_ms=NOON_MS + 120,
        features=features,
        before=catalogue().centre(0).astype(np.float32),
        scores=catalogue().place(features[None])[0],
        is_whale=True,
        jurisdiction="US",
        lane=0,
        partition=3,
        record=Record(18812, NOON_MS + 190, b"w", b"{}"),
    )
    return made._replace(**more)


def told(**more: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(announce([change(**more)], catalogue(), RULES)[0].value)
    return body


def test_a_change_has_the_shape_of_the_contract() -> None:
    body = told()
    confidence, reasons = body.pop("confidence"), body.pop("reasons")
    assert body == {
        "wallet_id": "w|ä",
        "sequence": 7,
        "status": "moved",
        "from": {"segment": "s1", "name": "segment 0"},
        "to": {"segment": "s2", "name": "segment 1"},
        "lifecycle": "active",
        "whale": True,
        "occurred_at": "2026-04-01T00:00:00.120Z",
        "decided_at": "2026-04-01T00:00:00.190Z",
        "origin": "live",
        "catalogue_version": 1,
        "regime": "normal",
        "jurisdiction": "US",
        "source": {"topic": "deals", "partition": 3, "offset": 18812},
    }
    assert 0 < confidence <= 1
    assert [set(reason) for reason in reasons] == [{"feature", "before", "after", "weight"}] * 3


def test_a_change_is_a_cloud_event_in_binary_mode() -> None:
    (sent,) = announce([change()], catalogue(), RULES)
    assert sent.key == "w|ä".encode()
    assert {name: text.decode() for name, text in sent.headers} == {
        "ce_specversion": "1.0",
        "ce_type": "tidemark.segment.changed.v1",
        "ce_source": "/tidemark/g/topic-id",
        "ce_id": "w|ä/7/s2",
        "ce_subject": "w|ä",
        "ce_time": "2026-04-01T00:00:00.120Z",
        "ce_partitionkey": "w|ä",
        "content-type": "application/json",
    }


def test_the_first_segment_is_entered_from_nowhere() -> None:
    body = told(move=Move(0, 2, "live"), before=None, jurisdiction=None)
    assert (body["status"], body["from"], body["jurisdiction"]) == ("entered", None, None)
    assert [reason["before"] for reason in body["reasons"]] == [None] * 3


def test_a_segment_that_is_gone_keeps_its_id_for_a_name() -> None:
    assert told(move=Move(99, 2, "recalibration"))["from"] == {"segment": "s99", "name": "s99"}


def test_the_topic_is_that_of_the_record() -> None:
    assert told(lane=1)["source"]["topic"] == "visits"


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 10_000))
def test_reasons_add_up_to_the_lead_and_the_largest_come_first(left: int, joined: int, seed: int) -> None:
    """In the units of the score: what all features add is the difference of the likelihoods."""
    features = np.random.default_rng(seed).normal(2, 2, len(FEATURES))
    of_segments = contributions(features, catalogue())
    lead = of_segments[joined] - of_segments[left]
    scores = catalogue().place(features[None])[0] - np.log(catalogue().shares)
    assert np.isclose(lead.sum(), scores[joined] - scores[left], rtol=1e-6, atol=1e-6)
    if left == joined:
        return
    body = told(features=features, move=Move(left + 1, joined + 1, "live"))
    expected = np.sort(lead)[::-1][:3] / np.abs(lead).sum()
    assert [reason["weight"] for reason in body["reasons"]] == pytest.approx(expected, abs=1e-4)
    assert [lead[FEATURES.index(reason["feature"])] for reason in body["reasons"]] == sorted(lead, reverse=True)[:3]


def test_what_has_not_changed_since_the_last_change_is_named_last() -> None:
    """Although it speaks for the new segment just as much; features are remembered in 32 bits."""
    features = catalogue().centre(1) + 1 / 3
    before = features.astype(np.float32)
    moved = [FEATURES.index(name) for name in ("ticket", "staking")]
    before[moved] += 1
    named = [reason["feature"] for reason in told(features=features, before=before)["reasons"]]
    assert set(named[:2]) == {"ticket", "staking"}


def test_changes_say_the_same_together_and_alone() -> None:
    several = [
        change(),
        change(move=Move(0, 2, "live"), before=None, jurisdiction=None),
        change(move=Move(99, 1, "recalibration"), features=catalogue().centre(0), lane=1),
    ]
    alone = [announce([each], catalogue(), RULES)[0] for each in several]
    assert announce(several, catalogue(), RULES) == alone


@given(st.integers(0, 253_402_300_799_999))
def test_a_time_is_written_as_it_would_be_read(at_ms: int) -> None:
    assert to_ms(rfc3339(at_ms)) == at_ms
    assert rfc3339(at_ms).endswith("Z")


def test_segments_have_public_ids() -> None:
    assert [segment_id(0), segment_id(1), segment_id(12)] == ["unassigned", "s1", "s12"]


def test_a_change_says_in_which_regime_it_happened() -> None:
    held = replace(catalogue(), held_from_ms=NOON_MS, held_until_ms=NOON_MS + 1000)
    messages = announce([change(occurred_at_ms=NOON_MS + after) for after in (-1, 0, 999, 1000)], held, RULES)
    assert [json.loads(each.value)["regime"] for each in messages] == ["normal", "crash", "crash", "normal"]


def test_the_jurisdiction_is_what_the_wallet_had_stated_by_then() -> None:
    partition = Partition(catalogue()).take(Season(events=1500).arrivals())
    stated: dict[str, str] = {}
    by_offset = {}
    for lane, record in Season(events=1500).arrivals():
        if lane == 0 and record.value and record.key and record.value[:1] == b"{" and b"wallet_id" in record.value:
            value = json.loads(record.value)
            if record.key.decode() == value["wallet_id"]:
                stated[value["wallet_id"]] = value.get("jurisdiction", stated.get(value["wallet_id"]))
                by_offset[record.offset] = stated[value["wallet_id"]]
    told_of = [json.loads(each.value) for each in partition.changes if each.origin != "sweep"]
    assert len(told_of) > 50
    assert [each["jurisdiction"] for each in told_of] == [by_offset[each["source"]["offset"]] for each in told_of]
