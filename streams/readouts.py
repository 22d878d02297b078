"""What has been counted, as plain values: read from Redis and Kafka, with no worker needed."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models.changes import UNASSIGNED, described, rfc3339, segment_id, segment_number
from models.counters import EMPTY_CELL, RULES, Cell, decode_cell, split_field, unescape
from models.hashing import partitions_of
from models.journeys import Journal, touches_of, unpack_journal
from models.names import carried, natural, read_given, with_names
from models.rows import FEATURES, LIFECYCLE, WHALE, unpack_rows
from models.segments import EMPTY_CATALOGUE, Catalogue, UnusableCatalogue, confidence
from models.state import Totals
from streams.errors import Refused, TidemarkError, WrongSettings, readable
from streams.ledger_reader import LedgerReader
from streams.store import Address

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streams.ledger import Mark
    from streams.ledger_reader import Snapshot
    from streams.settings import Settings

_COUNTS = ("transactions", "touches", "duplicates", "late", "beyond_memory")
_MONEY = ("revenue_micros", "cost_micros", "segment_changes", "wallets")
Row = dict[str, Any]
Cells = dict[bytes, Cell]


def totals(settings: Settings) -> Row:
    """The totals of all partitions together; zeros before the first commit."""
    with closing(LedgerReader(Address.of(settings))) as reader:
        return _totals(_snapshots(reader))


def roi(settings: Settings) -> list[Row]:
    """Five rows, one a rule, for every segment, campaign and channel with money; sums over all partitions."""
    with closing(LedgerReader(Address.of(settings))) as reader:
        return _roi(_snapshots(reader), published(settings, reader))


def segments(settings: Settings) -> list[Row]:
    """Every segment, largest first, then `unassigned`; empty before anything is known."""
    with closing(LedgerReader(Address.of(settings))) as reader:
        return _segments(_snapshots(reader), published(settings, reader))


def catalogue(settings: Settings) -> Catalogue:
    """The catalogue wallets are placed with. Raises `TidemarkError` while there is none."""
    with closing(LedgerReader(Address.of(settings))) as reader:
        found = published(settings, reader)
    if not found.segments:
        raise TidemarkError("there is no catalogue yet: it comes with the first segments, see `tidemark segments`")
    return found


class Overall(NamedTuple):
    """Totals, roi and segments of the same snapshots. `clock_ms`: the newest event time, 0 before the first event."""

    totals: Row
    roi: list[Row]
    segments: list[Row]
    clock_ms: int


def overall(settings: Settings) -> Overall:
    """What the live view shows."""
    with closing(LedgerReader(Address.of(settings))) as reader:
        snapshots, found = _snapshots(reader), published(settings, reader)
    clock_ms = _newest_ms(snapshot.mark for snapshot in snapshots)
    return Overall(_totals(snapshots), _roi(snapshots, found), _segments(snapshots, found), clock_ms)


def records_read(totals: Row) -> int:
    """How many records the totals account for."""
    return int(totals["transactions"] + totals["touches"] + totals["duplicates"] + sum(totals["rejected"].values()))


def wallet(settings: Settings, wallet_id: str) -> Row:
    """One wallet. Raises `TidemarkError` for one that has no accepted event."""
    key = wallet_id.encode()
    with closing(LedgerReader(Address.of(settings))) as reader:
        found, marks = published(settings, reader), reader.marks()
        for partition in _partitions_of(settings, key, marks):
            row, journal, codes = reader.wallet(partition, key)
            if row is not None:
                with readable(partition):
                    touches = _touches(unpack_journal(journal, len(codes) + 1), codes) if journal else []
                    its = _described(wallet_id, unpack_rows([row]), found, _newest_ms(marks.values()))
                    return {**its, "touches": touches, "description": _description(its["segment"], found)}
    raise TidemarkError(f"no wallet {wallet_id!r}: none of its events was accepted; `tidemark wallets` lists all")


def wallets(settings: Settings, segment: str | None = None) -> Iterator[Row]:
    """Every wallet by a scan, each once; `segment`: only this one, such as `s3` or `unassigned`.

    Raises `WrongSettings` for a segment that there is not and never was.
    """
    if segment is not None and segment_number(segment) is None:
        raise WrongSettings((no_id(segment),))
    seen: set[tuple[int, bytes]] = set()
    with closing(LedgerReader(Address.of(settings))) as reader:
        found, known_at_ms = published(settings, reader), _newest_ms(reader.marks().values())
        if segment is not None and not _is_known(segment, found, reader):
            raise WrongSettings((f"there is no segment {segment}: `tidemark segments` lists all",))
        for partition, key, stored in reader.wallets():
            row = unpack_rows([stored])
            if (segment is None or segment_id(int(row["segment"][0])) == segment) and (partition, key) not in seen:
                seen.add((partition, key))
                yield _described(key.decode(), row, found, known_at_ms)


def no_id(text: str) -> str:
    """What is wrong with a text that is no segment's id, in one line."""
    shown = text if len(text) <= 20 else f"{text[:20]}…"
    return f"{shown!r} is no segment's id: these are s1, s2 and so on, see `tidemark segments`"


def _is_known(segment: str, found: Catalogue, reader: LedgerReader) -> bool:
    """Whether there is or was such a segment; before there is anything, nothing can be said against one."""
    number = _number(segment)
    if number == 0 or found.column_of(number) >= 0 or number in found.retired_names:
        return True
    counted = [snapshot.totals for snapshot in _snapshots(reader)]
    nothing_yet = not found.segments and not any(one.wallets_by_segment for one in counted)
    return nothing_yet or any(number in one.wallets_by_segment for one in counted)


def lag(settings: Settings) -> list[Row]:
    """How far the committed mark is behind the last stable offset, for each input topic and partition.

    `position`: the next record to be counted, or the end where none is left; markers of transactions are no records.
    `event_time_lag_ms`: wall clock minus the partition's event time; 0 where every record is committed, null where
    none is.
    """
    from streams.topics import standing

    with closing(LedgerReader(Address.of(settings))) as reader:
        marks = reader.marks()
    now_ms = time.time_ns() // 1_000_000
    rows = []
    for lane, topic in enumerate(settings.inputs):
        committed = {partition: mark.offsets[lane] for partition, mark in marks.items()}
        for partition, (position, end) in enumerate(standing(settings, topic, committed)):
            behind = max(0, end - position)
            late_ms = _event_time_lag_ms(behind, marks.get(partition), now_ms)
            rows.append(
                {
                    "topic": topic,
                    "partition": partition,
                    "position": position,
                    "end": end,
                    "lag": behind,
                    "event_time_lag_ms": late_ms,
                }
            )
    return rows


def _event_time_lag_ms(behind: int, mark: Mark | None, now_ms: int) -> int | None:
    if not behind:
        return 0
    return max(0, now_ms - mark.clock_ms) if mark and mark.clock_ms else None


def _newest_ms(marks: Iterable[Mark | None]) -> int:
    """The newest event time of these partitions, 0 before the first event."""
    return max((mark.clock_ms for mark in marks if mark), default=0)


class Counted(NamedTuple):
    """The counters of a partition as one commit left them."""

    mark: Mark | None
    totals: Totals
    cells: Cells


def _snapshots(reader: LedgerReader) -> list[Counted]:
    """Each partition as one commit left it. Raises `Refused` where that is nothing this program has written."""
    return [_counted(partition, reader.snapshot(partition)) for partition in reader.marks()]


def _counted(partition: int, found: Snapshot) -> Counted:
    with readable(partition):
        cells = {field: decode_cell(stored) for field, stored in found.roi.items()}
        for field in cells:
            split_field(field)
        return Counted(found.mark, Totals.from_json(found.totals), cells)


def published(settings: Settings, reader: LedgerReader) -> Catalogue:
    """The pinned catalogue, else the overview's newest, else the empty one; with the names users have given.

    A pinned one brings those it was made with: the Redis may be another, or have lost them.
    """
    stored = settings.catalogue.read_bytes() if settings.catalogue else reader.overview().catalogue
    try:
        found = EMPTY_CATALOGUE if stored is None else Catalogue.from_json(stored)
    except UnusableCatalogue as error:
        source = f"TIDEMARK_CATALOGUE ({settings.catalogue})" if settings.catalogue else "Redis"
        raise Refused(f"{source} holds what is {error}") from error
    given = read_given(reader.names())
    return with_names(found, carried(found, given) if settings.catalogue else given)


def _totals(snapshots: Sequence[Counted]) -> Row:
    counted = [snapshot.totals for snapshot in snapshots]
    rejected: dict[str, int] = defaultdict(int)
    for one in counted:
        for reason, count in one.rejected.items():
            rejected[reason] += count
    return {
        **{name: sum(getattr(one, name) for one in counted) for name in _COUNTS},
        "rejected": dict(sorted(rejected.items())),
        **{name: sum(getattr(one, name) for one in counted) for name in _MONEY},
        "catalogue_version": max((s.mark.catalogue[0] for s in snapshots if s.mark), default=0),
        "whales": sum(_whales(snapshots).values()),
    }


def whales(reader: LedgerReader) -> Counter[str]:
    """How many wallets of each segment, by id, carry the whale flag now."""
    return _whales(_snapshots(reader))


def _whales(snapshots: Sequence[Counted]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for one in (snapshot.totals for snapshot in snapshots):
        counted.update({segment_id(number): count for number, count in one.whales_by_segment.items()})
    return counted


def _cells(snapshots: Sequence[Counted]) -> Cells:
    """The counters of all partitions, added up, by field."""
    cells: Cells = {}
    for snapshot in snapshots:
        for field, cell in snapshot.cells.items():
            both = cells.get(field, EMPTY_CELL), cell
            cells[field] = tuple(map(sum, zip(*both, strict=True)))
    return cells


def _roi(snapshots: Sequence[Counted], found: Catalogue) -> list[Row]:
    rows, flagged = [], _whales(snapshots)
    for field, (cost, *credited) in sorted(_cells(snapshots).items()):
        if not (cost or any(credited)):
            continue  # everything was taken back by a late touch
        segment, campaign, channel = split_field(field)
        place = {"segment": segment, "name": _name(segment, found), "campaign_id": campaign, "channel": channel}
        for rule, revenue, conversions in zip(RULES, credited[:5], credited[5:], strict=True):
            rows.append(
                {
                    **place,
                    "rule": rule,
                    "revenue_micros": revenue,
                    "cost_micros": cost,
                    "conversions_micros": conversions,
                    "roi": (revenue - cost) / cost if cost else None,
                    "whales": flagged[segment],
                }
            )
    return rows


def _segments(snapshots: Sequence[Counted], found: Catalogue) -> list[Row]:
    held: dict[str, int] = defaultdict(int)
    all_wallets = 0
    for one in (snapshot.totals for snapshot in snapshots):
        all_wallets += one.wallets
        for number, count in one.wallets_by_segment.items():
            held[segment_id(number)] += count
    if not (all_wallets or found.segments):
        return []
    named = {segment_id(segment.number) for segment in found.segments}
    others = {segment for segment, count in held.items() if count and segment != UNASSIGNED}
    held[UNASSIGNED] = all_wallets - sum(held[segment] for segment in others)
    flagged, revenue = _whales(snapshots), Counter[str]()
    for field, numbers in _cells(snapshots).items():
        revenue[split_field(field)[0]] += numbers[1]  # the same under every rule
    earned = {segment for segment, micros in revenue.items() if micros and segment != UNASSIGNED}
    listed = sorted(named | others | earned, key=lambda segment: (-held[segment], segment))
    return [
        {
            "segment": segment,
            "name": _name(segment, found),
            "wallets": held[segment],
            "share": held[segment] / all_wallets if all_wallets else 0.0,
            "revenue_micros": revenue[segment],
            "centre": _centre(segment, found),
            "whales": flagged[segment],
            "description": _description(segment, found),
        }
        for segment in (*listed, UNASSIGNED)
    ]


def _number(segment: str) -> int:
    return 0 if segment == UNASSIGNED else int(segment.removeprefix("s"))


def _name(segment: str, found: Catalogue) -> str:
    return UNASSIGNED if segment == UNASSIGNED else described(_number(segment), found)["name"]


def _description(segment: str, found: Catalogue) -> str | None:
    return found.description_of(_number(segment)) or None


def _centre(segment: str, found: Catalogue) -> dict[str, float]:
    column = found.column_of(_number(segment))
    return _natural(found.centre(column)) if column >= 0 else {}


def _natural(features: NDArray[np.float64]) -> dict[str, float]:
    """Features (16,) in the units people think in."""
    return {name: natural(name, float(value)) for name, value in zip(FEATURES, features, strict=True)}


def _confidence(features: NDArray[np.float64], column: int, found: Catalogue) -> float:
    return round(float(confidence(found.place(features), np.array([column]))[0]), 4)


def _described(wallet_id: str, row: NDArray[np.void], found: Catalogue, now_ms: int) -> Row:
    """A stored row (1,) in words; confidence is null for a wallet whose segment the catalogue does not have.

    `now_ms`: event time as of which its age and recency are told.
    """
    from models.features import row_features  # Numba takes half a second, which other read-outs need not spend
    from models.known import known

    number, features = int(row["segment"][0]), row_features(row)
    column = found.column_of(number)
    since_s = int(row["changed_s"][0])
    return {
        "wallet_id": wallet_id,
        "segment": segment_id(number),
        "name": _name(segment_id(number), found),
        "since": rfc3339(since_s * 1000) if since_s else None,
        "sequence": int(row["sequence"][0]),
        "confidence": _confidence(features, column, found) if column >= 0 else None,
        "lifecycle": LIFECYCLE[int(row["lifecycle"][0])],
        "whale": bool(row["flags"][0] & WHALE),
        "features": _natural(features[0]),
        "known": known(row[0], now_ms)._asdict(),
    }


def _touches(journal: Journal, codes: dict[bytes, bytes]) -> list[Row]:
    """The touches a wallet remembers, oldest first."""
    names = {int(code): field.decode().split("|") for field, code in codes.items()}
    return [
        {
            "occurred_at": rfc3339(touch.occurred_at_ms),
            "event_id": touch.event_id.decode(),
            "campaign_id": unescape(names[touch.code][0]),
            "channel": unescape(names[touch.code][1]),
        }
        for touch in touches_of(journal)
    ]


def _partitions_of(settings: Settings, key: bytes, marks: dict[int, Mark]) -> Sequence[int]:
    """Where a wallet can be: one partition, or any if the producers' partitioner is not known."""
    if settings.partitioner == "off" or not marks:
        return list(marks)
    count = next(iter(marks.values())).partitions
    expected: list[int] = partitions_of([key], count, settings.partitioner).tolist()
    return expected
