"""What the world is told of a change of segment: a CloudEvent with from, to, reasons and confidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.decisions import Move, confidence
from models.effects import Announcement
from models.names import natural
from models.rows import FEATURES
from models.state import TRANSACTIONS

if TYPE_CHECKING:
    from models.rules import Rules
    from models.segments import Catalogue
    from models.state import RecordLike

UNASSIGNED = "unassigned"
#: A change names the features that spoke most for it.
REASONS = 3
#: The last millisecond that RFC 3339 can write.
LAST_MS = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class Change:
    """One change and the facts around it. `before`: features (16,) at the last change, None for the first."""

    move: Move
    wallet_id: str
    sequence: int
    occurred_at_ms: int
    features: NDArray[np.float64]
    before: NDArray[np.float64] | None
    scores: NDArray[np.float64]
    is_whale: bool
    jurisdiction: str | None
    lane: int
    record: RecordLike


def segment_id(number: int) -> str:
    """The public id of a segment."""
    return f"s{number}" if number else UNASSIGNED


def announce(change: Change, partition: int, catalogue: Catalogue, rules: Rules) -> Announcement:
    """The change as a CloudEvents 1.0 message in Kafka's binary mode."""
    to = segment_id(change.move.joined)
    occurred_at = rfc3339(change.occurred_at_ms)
    topic = rules.transactions_topic if change.lane == TRANSACTIONS else rules.touches_topic
    body = {
        "wallet_id": change.wallet_id,
        "sequence": change.sequence,
        "status": "moved" if change.move.left else "entered",
        "from": described(change.move.left, catalogue) if change.move.left else None,
        "to": described(change.move.joined, catalogue),
        "lifecycle": "active",
        "whale": change.is_whale,
        "occurred_at": occurred_at,
        "decided_at": rfc3339(change.record.timestamp),
        "origin": change.move.origin,
        "confidence": round(confidence(change.scores, catalogue.column_of(change.move.joined)), 4),
        "reasons": reasons(change, catalogue),
        "catalogue_version": catalogue.version,
        "regime": "normal",
        "jurisdiction": change.jurisdiction,
        "source": {"topic": topic, "partition": partition, "offset": change.record.offset},
    }
    headers = {
        "ce_specversion": "1.0",
        "ce_type": "tidemark.segment.changed.v1",
        "ce_source": rules.source,
        "ce_id": f"{change.wallet_id}/{change.sequence}/{to}",
        "ce_subject": change.wallet_id,
        "ce_time": occurred_at,
        "ce_partitionkey": change.wallet_id,
        "content-type": "application/json",
    }
    value = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    return Announcement(
        change.wallet_id.encode(), value, tuple((name, text.encode()) for name, text in headers.items())
    )


def described(number: int, catalogue: Catalogue) -> dict[str, str]:
    """Id and name of a segment, of one that is gone too."""
    return {"segment": segment_id(number), "name": catalogue.name_of(number)}


def reasons(change: Change, catalogue: Catalogue) -> list[dict[str, Any]]:
    """The features that contributed most to the lead of the new segment, in natural units.

    The lead is over the segment that was left; for a first segment, and where the old one is gone, over all
    segments by their shares. `weight`: the feature's part of the lead, by absolute value. What has not changed
    since the last change comes after what has.
    """
    of_segments = contributions(change.features, catalogue)
    left = catalogue.column_of(change.move.left)
    others = of_segments[left] if left >= 0 else (catalogue.shares[:, None] * of_segments).sum(axis=0)
    lead = of_segments[catalogue.column_of(change.move.joined)] - others
    total = float(np.abs(lead).sum()) or 1.0
    same = np.zeros(len(lead), np.bool_)
    if change.before is not None:
        same = change.before == change.features.astype(change.before.dtype)
    return [
        {
            "feature": FEATURES[feature],
            "before": None if change.before is None else natural(FEATURES[feature], float(change.before[feature])),
            "after": natural(FEATURES[feature], float(change.features[feature])),
            "weight": round(float(lead[feature]) / total, 4),
        }
        for feature in np.lexsort((-lead, same))[:REASONS].tolist()
    ]


def contributions(features: NDArray[np.float64], catalogue: Catalogue) -> NDArray[np.float64]:
    """What each feature adds to the log-likelihood of each segment (k, 16), over that of a standard wallet."""
    scaled = catalogue.scale(features)
    distance = (scaled - catalogue.centres) ** 2 / catalogue.variances
    gained: NDArray[np.float64] = 0.5 * (scaled**2 - distance - np.log(catalogue.variances))
    return gained


def rfc3339(at_ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC, with milliseconds."""
    at_ms = min(max(at_ms, 0), LAST_MS)  # a record's timestamp may be anything
    at = datetime.fromtimestamp(at_ms // 1000, UTC).replace(microsecond=at_ms % 1000 * 1000)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
