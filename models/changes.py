"""What the world is told of a change of segment: a CloudEvent with from, to, reasons and confidence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.effects import Announcement
from models.names import natural
from models.rows import FEATURES, SEGMENTS
from models.segments import confidence
from models.state import TRANSACTIONS

if TYPE_CHECKING:
    from models.records import Record
    from models.rules import Rules
    from models.segments import Catalogue

UNASSIGNED = "unassigned"
#: A change names the features that spoke most for it.
REASONS = 3
#: The last millisecond that RFC 3339 can write.
LAST_MS = 253_402_300_799_999
MINUTE_MS = 60_000
#: A value is written by a template, for that takes a tenth of the time; this quotes and escapes what is not ours.
quoted = json.JSONEncoder(ensure_ascii=False).encode


class Move(NamedTuple):
    """From one segment to another, by number, 0: unassigned. `origin`: live, recalibration or sweep."""

    left: int
    joined: int
    origin: str


class Change(NamedTuple):
    """One change and the facts around it. `before`: features (16,) at the last change, None for the first."""

    move: Move
    wallet_id: str
    sequence: int
    occurred_at_ms: int
    features: NDArray[np.float64]
    before: NDArray[np.float32] | None
    scores: NDArray[np.float64]
    is_whale: bool
    jurisdiction: str | None
    partition: int
    lane: int
    record: Record
    lifecycle: str = "active"


def segment_id(number: int) -> str:
    """The public id of a segment."""
    return f"s{number}" if number else UNASSIGNED


def segment_number(segment: str) -> int | None:
    """The number of a segment by its public id, 0 of `unassigned`; None for a text that is no segment's id."""
    if segment == UNASSIGNED:
        return 0
    digits = segment[1:]
    short = segment[:1] == "s" and len(digits) <= len(str(SEGMENTS)) and digits.isascii() and digits.isdecimal()
    number = int(digits) if short else 0
    return number if 0 < number < SEGMENTS and segment == segment_id(number) else None


def announce(changes: Sequence[Change], catalogue: Catalogue, rules: Rules) -> list[Announcement]:
    """Changes as CloudEvents 1.0 messages in Kafka's binary mode; what one says does not depend on the others."""
    if not changes:
        return []
    columns = np.array([catalogue.column_of(change.move.joined) for change in changes])
    sure = confidence(np.array([change.scores for change in changes]), columns).tolist()
    return [
        announcement(change, catalogue, rules, (chance, why))
        for change, chance, why in zip(changes, sure, reasons(changes, catalogue), strict=True)
    ]


def announcement(change: Change, catalogue: Catalogue, rules: Rules, found: tuple[float, str]) -> Announcement:
    """One message. `found`: confidence, 0 to 1, and the reasons as JSON."""
    (left, joined, origin), key = change.move, change.wallet_id.encode()
    status = ("moved" if left else "entered") if joined else "left"
    occurred_at = rfc3339(change.occurred_at_ms)
    topic = quoted(rules.transactions_topic if change.lane == TRANSACTIONS else rules.touches_topic)
    source = f'{{"topic":{topic},"partition":{change.partition},"offset":{change.record.offset}}}'
    confidence, why = round(found[0], 4), found[1]
    came, went = _described(left, catalogue) if left else "null", _described(joined, catalogue) if joined else "null"
    value = (
        f'{{"wallet_id":{quoted(change.wallet_id)},"sequence":{change.sequence},"status":"{status}",'
        f'"from":{came},"to":{went},'
        f'"lifecycle":"{change.lifecycle}","whale":{"true" if change.is_whale else "false"},'
        f'"occurred_at":"{occurred_at}","decided_at":"{rfc3339(change.record.timestamp)}","origin":"{origin}",'
        f'"confidence":{confidence},"reasons":{why},"catalogue_version":{catalogue.version},'
        f'"regime":"{catalogue.regime_at(change.occurred_at_ms)}",'
        f'"jurisdiction":{quoted(change.jurisdiction)},"source":{source}}}'
    )
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_type", b"tidemark.segment.changed.v1"),
        ("ce_source", rules.source.encode()),
        ("ce_id", f"{change.wallet_id}/{change.sequence}/{segment_id(joined) if joined else '-'}".encode()),
        ("ce_subject", key),
        ("ce_time", occurred_at.encode()),
        ("ce_partitionkey", key),
        ("content-type", b"application/json"),
    )
    return Announcement(status, origin, key, value.encode(), headers)


def described(number: int, catalogue: Catalogue) -> dict[str, str]:
    """Id and name of a segment, of one that is gone too."""
    return {"segment": segment_id(number), "name": catalogue.name_of(number)}


@lru_cache(maxsize=256)
def _described(number: int, catalogue: Catalogue) -> str:
    return json.dumps(described(number, catalogue), separators=(",", ":"), ensure_ascii=False)


def reasons(changes: Sequence[Change], catalogue: Catalogue) -> list[str]:
    """Per change the features that contributed most to the lead of the new segment, in natural units, as JSON.

    The lead is over the segment that was left; for a first segment, and where the old one is gone, over all
    segments by their shares. `weight`: the feature's part of the lead, by absolute value. What has not changed
    since the last change comes after what has.
    """
    after = np.array([change.features for change in changes])
    first = np.array([change.before is None for change in changes])
    before = np.array([change.features if change.before is None else change.before for change in changes])
    lead = leads(changes, after, catalogue)
    total = np.abs(lead).sum(axis=1, keepdims=True)
    same = (before == after.astype(np.float32)) & ~first[:, None]
    named = np.lexsort((-lead, same), axis=1)[:, :REASONS]
    weight = lead / np.where(total == 0, 1.0, total)
    columns = (np.take_along_axis(column, named, axis=1).tolist() for column in (before, after, weight))
    rows = zip(named.tolist(), *columns, first.tolist(), strict=True)
    return [f"[{','.join(map(_reason, *row, [is_first] * REASONS))}]" for *row, is_first in rows]


def _reason(feature: int, before: float, after: float, weight: float, is_first: bool) -> str:  # noqa: FBT001  # a column
    name = FEATURES[feature]
    was = "null" if is_first else natural(name, before)
    return f'{{"feature":"{name}","before":{was},"after":{natural(name, after)},"weight":{round(weight, 4)}}}'


def leads(changes: Sequence[Change], features: NDArray[np.float64], catalogue: Catalogue) -> NDArray[np.float64]:
    """What each feature adds to the lead of the new segment over the old one, (m, 16)."""
    of_segments = contributions(features, catalogue)
    row = np.arange(len(changes))
    joined = of_segments[row, [catalogue.column_of(change.move.joined) for change in changes]]
    left = np.array([catalogue.column_of(change.move.left) for change in changes])
    average = np.zeros_like(joined)
    for column, share in enumerate(catalogue.shares):  # one by one: a sum over an axis may be reordered
        average += share * of_segments[:, column]
    lead: NDArray[np.float64] = joined - np.where(left[:, None] >= 0, of_segments[row, left], average)
    return lead


def contributions(features: NDArray[np.float64], catalogue: Catalogue) -> NDArray[np.float64]:
    """What each feature adds to the log-likelihood of each segment, over a standard wallet: (…, 16) -> (…, k, 16)."""
    scaled = catalogue.scale(features)[..., None, :]
    distance = (scaled - catalogue.centres) ** 2 / catalogue.variances
    gained: NDArray[np.float64] = 0.5 * (scaled**2 - distance - np.log(catalogue.variances))
    return gained


def rfc3339(at_ms: int) -> str:
    """Epoch milliseconds as RFC 3339 in UTC, with milliseconds."""
    minute, at_ms = divmod(min(max(at_ms, 0), LAST_MS), MINUTE_MS)  # a record's timestamp may be anything
    return f"{_minute(minute)}:{at_ms // 1000:02}.{at_ms % 1000:03}Z"


@lru_cache(maxsize=4096)
def _minute(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).isoformat(timespec="minutes").removesuffix("+00:00")
