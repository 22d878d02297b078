"""One partition without Kafka and Redis: a list is the log, dicts are the store, batches go the way of the shell."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.cells import encode_cells
from models.counters import EMPTY_CELL, Cell, CellDeltas, Codes, decode_cell
from models.effects import Announcement, Effects, Quarantined, with_whole
from models.records import Record, records_of
from models.rows import ROW_VERSION, SLOTS, unpack_rows
from models.rules import DAY_MS, HOUR_MS, Rules
from models.segments import EMPTY_CATALOGUE, Catalogue, Segment
from models.state import TOUCHES, TRANSACTIONS, Batch, State, Totals, Wallets
from models.step import step
from models.sweep import sweep
from streams.cache import Changed, Lookup, WalletCache
from streams.cells import CellCache
from streams.sweeping import Agenda, Horizon
from tests.commands import written

#: A record as it arrives: the lane it came from, and itself.
Arrival = tuple[int, Record]
NOON_MS = 1_775_001_600_000  # 2026-04-01T00:00Z and no special time
RULES = Rules()


class Partition:
    """Takes arrivals batch by batch; everything a real one keeps in Redis or sends is here as plain values."""

    def __init__(self, catalogue: Catalogue = EMPTY_CATALOGUE, rules: Rules = RULES, capacity: int = 100_000) -> None:
        self.catalogue, self.rules, self.capacity = catalogue, rules, capacity
        self.number = 0
        self.rows: dict[bytes, bytes] = {}  # as they are, however they are stored
        self.whole: dict[bytes, bytes] = {}
        self.behind: dict[bytes, bytes] = {}
        self.journals: dict[bytes, bytes] = {}
        self.fees: dict[bytes, bytes] = {}
        self.cells: dict[bytes, bytes] = {}
        self.codes: dict[bytes, bytes] = {}
        self.totals: bytes | None = None
        self.clock_ms = 0
        self.changes: list[Announcement] = []
        self.rejected: list[Quarantined] = []
        self.learning: list[NDArray[np.float32]] = []
        self.agenda = Agenda()
        self.sweeps: list[tuple[int, list[bytes]]] = []
        self.restart()

    def restart(self) -> None:
        """Forget everything but the store, as a new owner of the partition does."""
        self.cache, self.cell_cache = WalletCache(self.capacity), CellCache(self.capacity)
        self.known = Totals.from_json(self.totals), Codes.of(self.codes)
        first = self.agenda.first()
        self.horizon = Horizon(first.at_ms) if first else Horizon()

    def take(self, arrivals: Sequence[Arrival], size: int = 1000) -> Partition:
        """Take arrivals in batches of `size`."""
        return self.take_cut(arrivals, range(0, len(arrivals), size))

    def take_cut(self, arrivals: Sequence[Arrival], starts: Iterable[int]) -> Partition:
        """Take arrivals in batches that begin at `starts`, the first at 0."""
        edges = [*starts, len(arrivals)]
        for start, stop in pairwise(edges):
            rest = arrivals[start:stop]
            while rest:
                lookup, state, effects = self.ask(rest)
                if effects.taken:
                    self.commit(lookup, state, effects)
                rest = rest[effects.taken :]
                if rest:
                    self.sweep(state.until_ms, rest[0])
        return self

    def sweep(self, until_ms: int, cause: Arrival) -> list[Effects]:
        """Sweep those who are due by `until_ms`: the record that is the cause moves the clock there."""
        done: list[Effects] = []
        for page in self.agenda.pages_until(self.horizon, until_ms):
            self.sweeps.append((page.at_ms, page.wallets))
            lookup = self.cache.look_up_keys(page.wallets)
            after, effects = sweep(self._state(lookup), page.at_ms, cause, self.rules, self.catalogue)
            self.commit(lookup, after, effects)
            self.horizon.swept(page, effects.due)
            done.append(effects)
        return done

    def ask(self, arrivals: Sequence[Arrival]) -> tuple[Lookup, State, Effects]:
        """What a batch asks for. Nothing is written."""
        before, batch, lookup = self.before(arrivals)
        return lookup, *step(before, batch, self.rules, self.catalogue)

    def before(self, arrivals: Sequence[Arrival]) -> tuple[State, Batch, Lookup]:
        """The input of the step for a batch: wallets read where the cache has none."""
        records, lanes = records_of(record for _, record in arrivals), bytes(lane for lane, _ in arrivals)
        lookup = self.cache.look_up(records)
        return self._state(lookup), Batch(records, lanes, lookup.wallet_of), lookup

    def _state(self, lookup: Lookup) -> State:
        """What a step may read; wallets that the cache lacks come from the store."""
        if lookup.missing:
            with_journal, with_fees = self.cache.admit(lookup, [self.row(key) for key in lookup.missing])
            journals = [self.journals.get(key) for key in with_journal]
            self.cache.admit_journals(with_journal, journals, len(self.known[1].names))
            self.cache.admit_fees(with_fees, [self.fees.get(key) for key in with_fees])
        wallets, _ = self.cache.copy(lookup)
        return State(self.number, 1, self.clock_ms, *self.known, wallets, self.horizon.until_ms(self.clock_ms))

    def wallets(self, keys: list[bytes]) -> Wallets:
        """These wallets as a step would read them."""
        return self._state(self.cache.look_up_keys(keys)).wallets

    def commit(self, lookup: Lookup, state: State, effects: Effects) -> None:
        """Write what a step asked for, and keep what it made."""
        effects = with_whole(effects, state.wallets, self.cache.older(effects.keys))
        self.unsaved_are_as_they_were(lookup, state, effects)
        changed = self.cache.changed(lookup, effects.keys, effects.rows, b"")
        self.store(changed)
        self.rows |= {key: effects.rows[place].tobytes() for place, key in enumerate(effects.keys)}
        self.journals |= effects.journals
        assert not effects.fees.keys() & effects.spilled.keys(), "fees written twice"
        self.fees |= effects.fees
        for key, part in effects.spilled.items():
            self.fees[key] = with_part(self.fees.get(key, b""), *part)
        self.codes |= {name: b"%d" % code for name, code in effects.codes.items()}
        self.count(effects.cells)
        self.totals, self.clock_ms = state.totals.to_json(), state.clock_ms
        self.changes += effects.changes
        self.rejected += effects.rejected
        self.learning.append(effects.learning)
        self.agenda.keep(effects.due)
        self.horizon.queued(effects.due)
        self.cache.keep(lookup, state.wallets)
        self.cache.stored(changed)
        self.known = state.totals, state.codes

    def unsaved_are_as_they_were(self, lookup: Lookup, state: State, effects: Effects) -> None:
        """Else what is in the cache were not what is stored, and the next patch would be of another row."""
        saved = {*effects.keys}
        unsaved = [place for place, key in enumerate(lookup.keys) if key not in saved]
        before = self.cache.copy(lookup)[0].rows[unsaved] if unsaved else state.wallets.rows[:0]
        assert state.wallets.rows[unsaved].tobytes() == before.tobytes()

    def row(self, key: bytes) -> bytes | None:
        """A wallet's row as it is stored: whole, and what has changed of it behind."""
        row = self.whole.get(key, self.rows.get(key))
        if row is None:
            return None
        stored = row + self.behind.get(key, b"")
        assert row[0] != ROW_VERSION or unpack_rows([stored]).tobytes() == self.rows[key]
        return stored

    def store(self, changed: Changed) -> None:
        """Write rows, or parts of them where they say."""
        whole, parts = written(changed)
        self.whole |= whole
        self.behind |= dict.fromkeys(whole, b"")
        for key, (place, patch) in parts.items():
            before = self.whole.setdefault(key, self.rows[key]) + self.behind.get(key, b"")
            assert len(before) == place, "a patch follows what is there, without a hole"
            self.behind[key] = self.behind.get(key, b"") + patch

    def count(self, deltas: CellDeltas) -> None:
        """Write the cells that a batch adds to."""
        missing = self.cell_cache.missing(deltas.names)
        if missing:
            self.cell_cache.admit(missing, [self.cells.get(name) for name in missing])
        if deltas.names:
            added = self.cell_cache.added(deltas)
            self.cells |= zip(deltas.names, encode_cells(added), strict=True)
            self.cell_cache.keep(deltas.names, added)

    # -------------------------------------------------------------- what can be compared

    @property
    def counted(self) -> Totals:
        return Totals.from_json(self.totals)

    def stored(self) -> dict[str, Any]:
        """Everything that must not depend on where batches are cut, byte by byte."""
        return {
            "rows": dict(sorted(self.rows.items())),
            "journals": dict(sorted(self.journals.items())),
            "fees": dict(sorted(self.fees.items())),
            "cells": dict(sorted(self.cells.items())),
            "codes": self.codes,
            "totals": self.totals,
            "clock_ms": self.clock_ms,
            "changes": [(each.key, each.value, each.headers) for each in self.changes],
            "rejected": [(each.lane, each.record, each.reason, each.detail) for each in self.rejected],
            "learning": sorted(row.tobytes() for rows in self.learning for row in rows),
        }

    def sums(self) -> Cell:
        """All cells added up: cost, revenue by rule, conversions by rule."""
        cells = [decode_cell(cell) for cell in self.cells.values()]
        return tuple(map(sum, zip(*cells, strict=True))) if cells else EMPTY_CELL

    def by_campaign(self) -> dict[bytes, Cell]:
        """The cells `campaign|channel`, added up over segments; cells of zeros are left out."""
        out: dict[bytes, Cell] = {}
        for name, cell in self.cells.items():
            campaign = name.split(b"|", 1)[1]
            out[campaign] = tuple(map(int.__add__, out.get(campaign, EMPTY_CELL), decode_cell(cell)))
        return {campaign: cell for campaign, cell in out.items() if any(cell)}


def with_part(value: bytes, at: int, what: bytes) -> bytes:
    """A value of which a part is written, as Redis' SETRANGE does it."""
    return value[:at].ljust(at, b"\0") + what + value[at + len(what) :]


# ------------------------------------------------------------------ records


def encoded(lane: int, value: dict[str, Any], sent_at_ms: int | None = None) -> Arrival:
    """A value as a record of its wallet; sent when it happened unless told otherwise. The offset comes later."""
    at_ms = value["occurred_at"] if sent_at_ms is None else sent_at_ms
    return lane, Record(0, at_ms, value["wallet_id"].encode(), json.dumps(value, separators=(",", ":")).encode())


def transaction(event_id: str, wallet: str, at_ms: int, **more: Any) -> dict[str, Any]:
    """The value of a valid transaction."""
    needed = {"kind": "trade", "product": "spot", "asset": "BTC"}
    return {"event_id": event_id, "wallet_id": wallet, "occurred_at": at_ms, **needed, **more}


def touch(event_id: str, wallet: str, at_ms: int, **more: Any) -> dict[str, Any]:
    """The value of a valid touch."""
    needed = {"campaign_id": "spring", "channel": "email"}
    return {"event_id": event_id, "wallet_id": wallet, "occurred_at": at_ms, **needed, **more}


def numbered(arrivals: Iterable[Arrival]) -> list[Arrival]:
    """The same with the offsets of two logs."""
    offsets = [0, 0]
    out = []
    for lane, record in arrivals:
        out.append((lane, record._replace(offset=offsets[lane])))
        offsets[lane] += 1
    return out


# ------------------------------------------------------------------ a season of them

PRODUCTS = ("spot", "derivatives", "staking", "lending", "wallet", "nft")
ASSETS = ("BTC", "ETH", "SOL", "USDC", "USDT", "AAVE", "UNI", "LINK")
CHANNELS = ("email", "app_notification", "social", "Search", "web|%", "referral")
BAD = (b'{"x":1}', b"\xff", b"[", b"[]", None, b'{"a":' * 40 + b"1" + b"}" * 40)


@dataclass
class Season:
    """Arrivals with a hot wallet, disorder, repeats and bad records; the same for the same arguments."""

    events: int = 5000
    wallets: int = 250
    seed: int = 11
    hot: float = 0.3
    out_of_order: float = 0.3
    repeats: float = 0.03
    bad: float = 0.01
    #: part of the disorder that is later than the allowed hour
    late: float = 0.1
    dice: random.Random = field(init=False)

    def arrivals(self) -> list[Arrival]:
        """In order of arrival; bursts, quiet hours, and now and then some quiet days."""
        self.dice = random.Random(self.seed)
        now, out = NOON_MS, []
        for number in range(self.events):
            now += self.dice.choice((200, 5_000, 60_000, 900_000)) if self.dice.random() > 0.01 else 2 * DAY_MS
            one = self._one(number, now)
            out.append(one)
            if self.dice.random() < self.repeats:
                again = out[-1 - self.dice.randrange(min(20, len(out)))]
                out.append((again[0], again[1]._replace(timestamp=now)))
            if self.dice.random() < self.bad:
                out.append((one[0], one[1]._replace(value=self.dice.choice(BAD), timestamp=now)))
            if self.dice.random() < self.bad:
                out.append((one[0], one[1]._replace(key=self.dice.choice((None, b"other")), timestamp=now)))
        return numbered(out)

    def _one(self, number: int, now: int) -> Arrival:
        dice = self.dice
        wallet = 0 if dice.random() < self.hot else int(self.wallets * dice.random() ** 2.2)
        behind = 0
        if dice.random() < self.out_of_order:
            behind = dice.randrange(5 * DAY_MS) if dice.random() < self.late else dice.randrange(HOUR_MS)
        make = self._touch if dice.random() < 0.2 else self._transaction
        lane = TOUCHES if make == self._touch else TRANSACTIONS
        return encoded(lane, make(f"e{number}", wallet, max(NOON_MS, now - behind)), now)

    def _touch(self, event_id: str, wallet: int, at_ms: int) -> dict[str, Any]:
        dice = self.dice
        return touch(
            event_id, f"w{wallet}", at_ms, campaign_id=f"c{dice.randrange(6)}", channel=dice.choice(CHANNELS),
            touch=dice.choice(("click", "open", "impression", "visit", "sent")), cost_usd=f"{dice.random():.4f}",
        )  # fmt: skip

    def _transaction(self, event_id: str, wallet: int, at_ms: int) -> dict[str, Any]:
        """What a wallet does depends on who it is, and changes half-way."""
        dice = self.dice
        persona = (wallet + (at_ms - NOON_MS) // (25 * DAY_MS)) % len(PRODUCTS)
        product = PRODUCTS[persona if dice.random() < 0.85 else dice.randrange(6)]
        more: dict[str, Any] = {"usd_value": f"{dice.lognormvariate(3 + persona, 1.5):.2f}"}
        if dice.random() < 0.1:
            del more["usd_value"]
        if dice.random() < 0.85:
            more["fee_usd"] = f"{dice.lognormvariate(0, 2) * (-1 if dice.random() < 0.05 else 1):.7f}"
        if product == "derivatives":
            more["leverage"] = round(1 + dice.random() * 20, 2)
        if dice.random() < 0.3:
            more["jurisdiction"] = dice.choice(("US", "GB", "DE"))
        asset = dice.choice(ASSETS[: 2 + persona])
        side = dice.choice(("buy", "sell"))
        return transaction(event_id, f"w{wallet}", at_ms, product=product, asset=asset, side=side, **more)


def drawn_catalogue(rows: NDArray[np.floating[Any]], segments: int = 5, version: int = 1) -> Catalogue:
    """A catalogue whose centres are some of these feature rows (n, 16), far apart; a wallet has reason to move."""
    features = rows.astype(np.float64)
    mean, sd = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = np.clip((features - mean) / sd, -4, 4)
    chosen = [0]
    while len(chosen) < segments:
        distance = ((scaled[:, None] - scaled[chosen]) ** 2).sum(axis=2).min(axis=1)
        chosen.append(int(np.argsort(distance)[-1 - len(distance) // 20]))
    return Catalogue(
        version=version,
        mean=mean,
        sd=sd,
        centres=scaled[chosen],
        variances=np.ones((segments, features.shape[1])),
        shares=np.full(segments, 1 / segments),
        segments=tuple(Segment(n + 1, (3 * n + 1) % SLOTS, f"segment {n}", 1 / segments, 1) for n in range(segments)),
        whale_at=float(np.quantile(features[:, 5], 0.9)),
    )


def learned(arrivals: Sequence[Arrival]) -> NDArray[np.float32]:
    """The learning rows of arrivals (m, 16)."""
    return np.concatenate(Partition().take(arrivals).learning)


@cache
def catalogue_of(events: int) -> Catalogue:
    """A catalogue drawn from a season of so many events."""
    return drawn_catalogue(learned(Season(events).arrivals()))


#: Cuts a log somewhere: from its length to the places where batches begin.
Cut = Callable[[int], Iterable[int]]


def random_cut(seed: int) -> Cut:
    """Batches of very different sizes."""

    def starts(length: int) -> Iterable[int]:
        dice, at = random.Random(seed), 0
        while at < length:
            yield at
            at += dice.choice((1, 2, 3, 10, 50, 400))

    return starts
