"""`tidemark drift`: how the shares of segments moved, when they came into being, and when the market was not normal.

Shares are counted from the announced changes, which no retention deletes: at the end of each day of event time, every
wallet that has a segment is in the one its last change named. Births and names come from the history of the published
catalogues, all those the topic still holds and the newest one in Redis.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from models.changes import segment_id
from models.rules import DAY_MS, HOUR_MS
from models.segments import Catalogue, Happening, UnusableCatalogue
from streams.catalogue import Pointer
from streams.errors import TidemarkError
from streams.ledger_reader import LedgerReader
from streams.readouts import published
from streams.readouts import whales as counted_whales
from streams.store import Address
from streams.topics import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from streams.settings import Settings

#: Steps in time on a picture at most; a stream of less than two days is cut into hours.
STEPS = 400
#: Changes after which somebody who waits is told how far it is.
TELL_EVERY = 200_000
#: What counts as a segment that came into being, and as one that came back.
BIRTHS, RETURNS = ("born", "split"), ("returned",)


@dataclass(slots=True)
class Flow:
    """Announced changes as they come in, each once: how many wallets every segment won and lost, hour by hour.

    `newest`: the last sequence of each wallet; `hours`: epoch hour -> segment id -> wallets; `upset`: epoch hour ->
    the regime that was not normal.
    """

    newest: dict[str, int] = field(default_factory=dict)
    hours: dict[int, Counter[str]] = field(default_factory=dict)
    upset: dict[int, str] = field(default_factory=dict)

    def take(self, change: dict[str, Any]) -> None:
        """A change may come again after a worker's crash; then it is left out."""
        wallet, sequence = change["wallet_id"], change["sequence"]
        if sequence <= self.newest.get(wallet, 0):
            return
        self.newest[wallet] = sequence
        hour = round(datetime.fromisoformat(change["decided_at"]).timestamp()) * 1000 // HOUR_MS
        moved = self.hours.setdefault(hour, Counter())
        for end, count in (("from", -1), ("to", 1)):
            if change[end]:
                moved[change[end]["segment"]] += count
        if change["regime"] != "normal":
            self.upset[hour] = change["regime"]


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """What a picture of the drift shows. `times_ms`: ends of the steps, event time; `begin_ms`: where the first begins.

    `segments`: ids, in order of appearance; `names` of these; `shares`: float64 (times, segments), adding up to 1.
    `births`, `returns`: (time, id); `regimes`: (from, to, name). `whales`: of each segment, now.
    """

    times_ms: list[int]
    segments: list[str]
    names: list[str]
    shares: NDArray[np.float64]
    births: list[tuple[int, str]]
    returns: list[tuple[int, str]]
    regimes: list[tuple[int, int, str]]
    whales: list[int]
    begin_ms: int


def survey(settings: Settings, say: Callable[[str], None]) -> Drift:
    """Read both topics from their beginning to where they end now. Raises `TidemarkError` if no wallet ever changed."""
    flow = Flow()
    for count, value in enumerate(whole(settings, settings.changes_topic), 1):
        flow.take(json.loads(value))
        if count % TELL_EVERY == 0:
            say(f"{count:,} changes read")
    if not flow.hours:
        raise TidemarkError("no wallet has changed its segment yet: there is no drift to show")
    with closing(LedgerReader(Address.of(settings))) as reader:
        newest, pointer, whales = published(settings, reader), reader.overview().pointer, counted_whales(reader)
    happenings = history(newest, whole(settings, settings.catalogue_topic))
    return drift(flow, newest, happenings, crash_of(pointer), whales)


def crash_of(pointer: bytes | None) -> tuple[int, int] | None:
    """The newest flash crash the overview has seen, event time [from, to) in milliseconds."""
    crash = Pointer.read(pointer).crash
    return crash if crash[1] else None


def whole(settings: Settings, topic: str) -> Iterator[bytes]:
    """The values of a topic from its beginning to where it ends now."""
    with reading(settings, topic, fetch_max_wait_ms=100) as consumer:
        places = sorted(consumer.assignment())
        ends = consumer.end_offsets(places)
        consumer.seek_to_beginning()
        while any(consumer.position(place) < ends[place] for place in places):
            for records in consumer.poll(timeout_ms=500).values():
                yield from (record.value for record in records if record.value)


def history(newest: Catalogue, texts: Iterable[bytes]) -> list[Happening]:
    """What became of segments: of the newest catalogue, and of older ones that tell of longer ago."""
    found = set(newest.history)
    for text in texts:
        try:
            found |= set(Catalogue.from_json(text).history)
        except UnusableCatalogue:
            continue  # of another version of Tidemark
    return sorted(found, key=lambda each: (each.at_ms, each.version, each.segment))


def drift(
    flow: Flow,
    newest: Catalogue,
    happenings: Iterable[Happening],
    crash: tuple[int, int] | None = None,
    whales: Mapping[str, int] | None = None,
) -> Drift:
    """The shares at the end of every day, or hour of a short stream.

    `crash`: the newest, event time [from, to). `whales`: of each segment now, by id.
    """
    first, last = min(flow.hours), max(flow.hours)
    step = _step(last - first)
    begin = first // step * step
    held: Counter[str] = Counter()
    segments = list(dict.fromkeys(segment for hour in sorted(flow.hours) for segment in flow.hours[hour]))
    times_ms, rows = [], []
    for end in range(begin + step, last + step + 1, step):
        for hour in range(end - step, end):
            held.update(flow.hours.get(hour, Counter()))
        times_ms.append(end * HOUR_MS)
        rows.append([max(0, held[segment]) for segment in segments])
    wallets = np.array(rows, np.float64)
    shares = wallets / np.maximum(wallets.sum(axis=1, keepdims=True), 1.0)
    names = [newest.name_of(int(segment[1:])) for segment in segments]
    begin_ms = begin * HOUR_MS
    inside = [each for each in happenings if begin_ms < each.at_ms <= times_ms[-1]]
    births, returns = (
        [(each.at_ms, segment_id(each.segment)) for each in inside if each.kind in kinds] for kinds in (BIRTHS, RETURNS)
    )
    of_each = [(whales or {}).get(segment, 0) for segment in segments]
    return Drift(times_ms, segments, names, shares, births, returns, regimes(flow.upset, crash), of_each, begin_ms)


def _step(hours: int) -> int:
    """Hours of a step: one of a short stream, else whole days, so few that a picture can show them."""
    if hours < 48:
        return 1
    return 24 * max(1, -(-hours // (24 * STEPS)))


def regimes(upset: dict[int, str], crash: tuple[int, int] | None) -> list[tuple[int, int, str]]:
    """Bands of event time that were not normal: as changes told, less than a day apart, and the newest known one."""
    spans: list[tuple[int, int, str]] = []
    for hour in sorted(upset):
        begin_ms, end_ms = hour * HOUR_MS, (hour + 1) * HOUR_MS
        if spans and begin_ms - spans[-1][1] < DAY_MS and spans[-1][2] == upset[hour]:
            begin_ms = spans.pop()[0]
        spans.append((begin_ms, end_ms, upset[hour]))
    if crash:
        spans = [span for span in spans if span[1] <= crash[0] or span[0] >= crash[1]]
        spans.append((*crash, "crash"))
    return sorted(spans)


def draw(found: Drift, file: Path, say: Callable[[str], None]) -> None:
    """Write the drift as PNG or SVG; `say` hears in one line of names that no font here can write."""
    from streams import lettering, pictures

    names = lettering.legible(found.names, found.segments, say)
    name_of = dict(zip(found.segments, names, strict=True))
    pictures.drift(
        file,
        pictures.DriftView(
            "Shares of segments over time, by announced changes",
            [_moment(at_ms) for at_ms in found.times_ms],
            names,
            found.shares,
            [(_moment(at_ms), name_of.get(segment, segment)) for at_ms, segment in found.births],
            [(_moment(begin_ms), _moment(end_ms), name) for begin_ms, end_ms, name in found.regimes],
            found.whales,
            [(_moment(at_ms), name_of.get(segment, segment)) for at_ms, segment in found.returns],
            _moment(found.begin_ms),
        ),
    )


def described(found: Drift) -> dict[str, Any]:
    """The drift for programs."""
    return {
        "times": [_moment(at_ms).isoformat() for at_ms in found.times_ms],
        "segments": [
            {"segment": segment, "name": name, "shares": found.shares[:, place].round(6).tolist(), "whales": whales}
            for place, (segment, name, whales) in enumerate(zip(found.segments, found.names, found.whales, strict=True))
        ],
        "births": [{"at": _moment(at_ms).isoformat(), "segment": segment} for at_ms, segment in found.births],
        "returns": [{"at": _moment(at_ms).isoformat(), "segment": segment} for at_ms, segment in found.returns],
        "regimes": [
            {"from": _moment(begin_ms).isoformat(), "to": _moment(end_ms).isoformat(), "regime": name}
            for begin_ms, end_ms, name in found.regimes
        ],
    }


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
