"""A stream through the product's own two sides in one process, without Kafka and Redis: for judging, not for serving.

Event time is cut into slots. With each the partitions take their records in batches as the shell does, tell what is to
be learned, and the overview learns it before the next slot: as on live traffic, where a digest leaves every second and
a partition is never far ahead of the model. The same records and rules end in the same changes, byte for byte.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.counters import Codes
from models.hashing import partitions_of
from models.observe import Digest, Overview, observe
from models.records import Record, records_of
from models.regime import HourlyTotals
from models.rows import FEATURES
from models.rules import HOUR_MS
from models.state import TOUCHES, TRANSACTIONS, Batch, State, Totals
from models.step import step_together
from models.sweep import sweep
from streams.cache import Lookup, WalletCache
from streams.lines import read_line
from streams.sweeping import Agenda, Horizon

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.effects import Announcement, Effects
    from models.rules import Rules
    from models.segments import Catalogue
    from models.state import Wallets

#: A record as it arrives: the lane it came from (0 transactions, 1 touches), and itself.
Arrival = tuple[int, Record]
TOPICS = {"wallet.transactions": "0", "campaign.touches": "1"}
PARTITIONS = 4
#: Records of one batch, as a worker takes them.
BATCH = 1000
#: A slot ends after this much event time, or so many records: in a crash the overview must hear of it within the hour.
SLOT_MS, SLOT_RECORDS = 3 * HOUR_MS, 500
#: No wallet ever leaves the cache: there is no Redis behind it.
CAPACITY = 1 << 40


class Told(NamedTuple):
    """An announced change, read again. Numbers of segments, 0 none; times in epoch milliseconds."""

    wallet: str
    status: str
    origin: str
    left: int
    joined: int
    lifecycle: str
    confidence: float
    occurred_at_ms: int
    decided_at_ms: int
    version: int


@dataclass(frozen=True, slots=True)
class Slot:
    """What one slot brought. `begins_ms`, `ends_ms`: event time from and up to which records have been taken.

    `catalogue`: the one that decided in it. `learned`: float32 (n, 16), the rows that the overview then learned.
    """

    begins_ms: int
    ends_ms: int
    changes: list[Told]
    catalogue: Catalogue
    learned: NDArray[np.float32]


def arrivals(lines: Iterable[str]) -> Iterator[Arrival]:
    """NDJSON as `tidemark simulate` and `convert` write it; a line that tells no time has that of the one before it.

    Raises `streams.lines.BadLine`.
    """
    at_ms, offsets = 0, [0, 0]
    for number, line in enumerate(lines, 1):
        read = read_line(line, number, TOPICS)
        lane = TRANSACTIONS if read.topic == "0" else TOUCHES
        at_ms = at_ms if read.at_ms is None else read.at_ms
        yield lane, Record(offsets[lane], at_ms, read.key, read.value, read.headers)
        offsets[lane] += 1


@dataclass(slots=True)
class Part:
    """One partition: its wallets, and what its State is made of."""

    number: int
    cache: WalletCache = field(default_factory=lambda: WalletCache(CAPACITY))
    clock_ms: int = 0
    totals: Totals = field(default_factory=Totals)
    codes: Codes = field(default_factory=Codes)
    keys: dict[bytes, None] = field(default_factory=dict)
    agenda: Agenda = field(default_factory=Agenda)
    horizon: Horizon = field(default_factory=Horizon)
    commits: int = 0
    learning: list[NDArray[np.float32]] = field(default_factory=list)
    hours: HourlyTotals = field(default_factory=HourlyTotals)

    def keep(self, lookup: Lookup, after: State, effects: Effects) -> None:
        """A batch is done."""
        self.cache.keep(lookup, after.wallets)
        self.clock_ms, self.totals, self.codes = after.clock_ms, after.totals, after.codes
        self.keys.update(dict.fromkeys(effects.keys))
        self.agenda.keep(effects.due)
        self.horizon.queued(effects.due)
        self.commits += 1
        if len(effects.learning):
            self.learning.append(effects.learning)
        self.hours = self.hours.plus(effects.flow)

    def state(self, wallets: Wallets, partitions: int) -> State:
        """What a step may read."""
        until_ms = self.horizon.until_ms(self.clock_ms)
        return State(self.number, partitions, self.clock_ms, self.totals, self.codes, wallets, until_ms)

    def digest(self) -> Digest | None:
        """What there is to be learned since the last one."""
        rows, flow = np.concatenate([_NO_ROWS, *self.learning]), self.hours.to_tell()
        if not self.learning and not len(flow):
            return None
        self.learning, self.hours = [], self.hours.all_told()
        return Digest(self.number, self.commits, "0" * 16, self.clock_ms, rows, flow)


_NO_ROWS = np.zeros((0, len(FEATURES)), np.float32)


class Replay:
    """Both sides of a stream. `pinned`: decide by this catalogue and learn nothing.

    `rules` hold for all of it; `slot_ms`: event time between two lessons of the overview, at most.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        pinned: Catalogue | None = None,
        partitions: int = PARTITIONS,
        slot_ms: int = SLOT_MS,
    ) -> None:
        self.rules, self.slot_ms, self.pinned = rules, slot_ms, pinned
        self.overview = Overview.restore(None, None)
        self.parts = [Part(number) for number in range(partitions)]
        #: processor seconds that the overview took to learn and to publish
        self.learning_s = 0.0
        self._part_of: dict[bytes | None, int] = {None: 0}
        self._catalogue = pinned or self.overview.catalogue

    @property
    def catalogue(self) -> Catalogue:
        """The one that decides now; it says whether the market is in a crash."""
        if self.pinned:
            return self.pinned
        catalogue, flow = self.overview.catalogue, self.overview.flow
        if self._catalogue.version != catalogue.version:
            self._catalogue = catalogue
        self._catalogue = self._catalogue.held(flow.from_ms, flow.until_ms)
        return self._catalogue

    def run(self, records: Iterable[Arrival]) -> Iterator[Slot]:
        """Take records in order of arrival, slot by slot; between two slots everything here may be looked at."""
        for number, some in groupby(records, lambda arrival: arrival[1].timestamp // self.slot_ms):
            gathered: list[Arrival] = []
            for arrival in some:
                if len(gathered) == SLOT_RECORDS:
                    yield self.take(gathered, arrival[1].timestamp)
                    gathered = []
                gathered.append(arrival)
            yield self.take(gathered, (number + 1) * self.slot_ms)

    def take(self, records: Sequence[Arrival], ends_ms: int) -> Slot:
        """One slot."""
        catalogue = self.catalogue
        shares = self._by_partition(records)
        effects: list[Effects] = []
        for start in range(0, max(map(len, shares), default=0), BATCH):
            batches = [share[start : start + BATCH] for share in shares]
            effects += self._step([(part, some) for part, some in zip(self.parts, batches, strict=True) if some])
        learned = self._learn()
        changes = [told(change) for each in effects for change in each.changes]
        return Slot(records[0][1].timestamp, ends_ms, changes, catalogue, learned)

    def wallets(self) -> Wallets:
        """All wallets seen so far, partition after partition: keys, rows as of each one's newest event, journals."""
        kept = [part.cache.copy(_all_of(part))[0] for part in self.parts]
        rows = np.concatenate([each.rows for each in kept])
        journals = [journal for each in kept for journal in each.journals]
        return type(kept[0])([key for each in kept for key in each.keys], rows, journals)

    def _by_partition(self, records: Sequence[Arrival]) -> list[list[Arrival]]:
        new = list({record.key for _, record in records if record.key not in self._part_of} - {None})
        if new:
            keys = [key for key in new if key is not None]
            places = partitions_of(keys, len(self.parts), "crc32" if self.rules.partitioner == "crc32" else "murmur2")
            self._part_of.update(zip(keys, places.tolist(), strict=True))
        shares: list[list[Arrival]] = [[] for _ in self.parts]
        for arrival in records:
            shares[self._part_of[arrival[1].key]].append(arrival)
        return shares

    def _step(self, turns: list[tuple[Part, list[Arrival]]]) -> list[Effects]:
        """A batch of each of some partitions, committed; with the sweeps that come in between."""
        done: list[Effects] = []
        while turns:
            results = self._step_once(turns)
            done += [effects for _, effects in results]
            waiting = []
            for (part, some), (after, effects) in zip(turns, results, strict=True):
                if rest := some[effects.taken :]:
                    done += self._sweep(part, after.until_ms, rest[0])
                    waiting.append((part, rest))
            turns = waiting
        return done

    def _step_once(self, turns: list[tuple[Part, list[Arrival]]]) -> list[tuple[State, Effects]]:
        """As much of each batch as goes without a sweep."""
        columns = [records_of(record for _, record in some) for _, some in turns]
        loaded = [_load(part, part.cache.look_up(records)) for (part, _), records in zip(turns, columns, strict=True)]
        batches = []
        for (part, some), records, (lookup, wallets) in zip(turns, columns, loaded, strict=True):
            lanes = bytes(lane for lane, _ in some)
            batches.append((part.state(wallets, len(self.parts)), Batch(records, lanes, lookup.wallet_of)))
        results = step_together(batches, self.rules, self.catalogue)
        for (part, _), (lookup, _), (after, effects) in zip(turns, loaded, results, strict=True):
            part.keep(lookup, after, effects)
        return results

    def _sweep(self, part: Part, until_ms: int, cause: Arrival) -> list[Effects]:
        """Sweep those of a partition who are due by `until_ms`: the record that is the cause moves the clock there."""
        done = []
        for page in part.agenda.pages_until(part.horizon, until_ms):
            lookup, wallets = _load(part, part.cache.look_up_keys(page.wallets))
            before = part.state(wallets, len(self.parts))
            after, effects = sweep(before, page.at_ms, cause, self.rules, self.catalogue)
            part.keep(lookup, after, effects)
            part.horizon.swept(page, effects.due)
            done.append(effects)
        return done

    def _learn(self) -> NDArray[np.float32]:
        """A digest of every partition that has something to tell, learned; the rows of all."""
        digests = [digest for part in self.parts if (digest := part.digest()) is not None]
        if digests and self.pinned is None:
            began_s = time.process_time()
            self.overview, _ = observe(self.overview, digests, self.rules)
            self.learning_s += time.process_time() - began_s
        return np.concatenate([_NO_ROWS, *(digest.rows for digest in digests)])


def told(change: Announcement) -> Told:
    """What an announcement says."""
    value = json.loads(change.value)
    left, joined = (value[end] and value[end]["segment"] for end in ("from", "to"))
    return Told(
        wallet=value["wallet_id"],
        status=value["status"],
        origin=value["origin"],
        left=_number(left),
        joined=_number(joined),
        lifecycle=value["lifecycle"],
        confidence=value["confidence"],
        occurred_at_ms=_at_ms(value["occurred_at"]),
        decided_at_ms=_at_ms(value["decided_at"]),
        version=value["catalogue_version"],
    )


def _number(segment: str | None) -> int:
    return int(segment[1:]) if segment and segment[1:].isdigit() else 0


def _at_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _all_of(part: Part) -> Lookup:
    return part.cache.look_up_keys(list(part.keys))


def _load(part: Part, lookup: Lookup) -> tuple[Lookup, Wallets]:
    """The wallets of a batch; those never seen are blank."""
    if lookup.missing:
        part.cache.admit(lookup, [None] * len(lookup.missing))
    return lookup, part.cache.copy(lookup)[0]
