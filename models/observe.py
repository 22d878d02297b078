"""The overview side: what all partitions report is learned, and catalogues are published. Pure, as the step is."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models import regime
from models.clusterers import begun, is_of, restored
from models.microclusters import READY, MicroClusters
from models.names import with_names
from models.packed import pack, unpack
from models.publishing import named, next_catalogue
from models.rows import FEATURES, SEGMENTS, SLOTS, UnknownFormat
from models.rules import DAY_MS, OWN_CLUSTERER
from models.segments import EMPTY_CATALOGUE, Catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from models.identity import Lineage
    from models.names import GivenName
    from models.rules import Rules

#: Versions of a digest and of a snapshot; those of all these are read.
FORMAT, FORMATS = 2, frozenset({1, 2})
#: Event-days after which the weight of a learned row has halved.
HALF_LIFE_DAYS = 30.0
#: A gap in the stream fades what is known by at most this many event-days.
LONGEST_GAP_DAYS = 5.0
#: Nonces of a partition's newest digests that are remembered, to know a repeat from a new beginning.
REMEMBERED = 8
#: The products are shares of one whole and are scaled as one.
PRODUCTS = (FEATURES.index("spot"), FEATURES.index("wallet") + 1)
WALLET_SIZE = FEATURES.index("wallet_size")
#: Names follow the centres until this many rows are learned: what two days show is too little to stand for years.
NAMES_SETTLE = 2_000
#: A whale is among this share of the learned rows by wallet size.
WHALE_SHARE = 0.05
#: Their threshold is published anew when it has moved by this much, in the units of `wallet_size`: by a quarter.
WHALE_MOVED = 0.25
#: Cells of the sketch of wallet sizes: log1p USD from 0 to 32 (8e13 USD), 1/8 wide.
CELLS, CELLS_PER_UNIT = 256, 8


@dataclass(frozen=True, slots=True, eq=False)
class Digest:
    """What a partition reports: `number` and `nonce` of the commit it left with, `clock_ms` of the partition.

    `rows`: float32 (n, 16) learning rows in the order of `FEATURES`. `flow`: float64 (h, 4), the running totals of the
    newest hours in the columns of `models.regime.CELL`: totals, never increments, so a repeat replaces.
    """

    partition: int
    number: int
    nonce: str
    clock_ms: int
    rows: NDArray[np.float32]
    flow: NDArray[np.float64] = field(default_factory=regime.NO_FLOW.copy)

    def pack(self) -> bytes:
        """The digest as bytes for Kafka, 64 a row, 32 an hour and some 200 around them."""
        head = {"format": FORMAT, **{name: getattr(self, name) for name in _HEAD}}
        return pack(head, {"rows": self.rows, "flow": self.flow})

    @classmethod
    def unpack(cls, packed: bytes) -> Digest:
        """The digest of `pack`; in format 1 there was no flow. Raises `UnknownFormat`."""
        head, arrays = unpack(packed)
        rows, flow = arrays.get("rows", np.zeros(0)), arrays.get("flow", regime.NO_FLOW)
        if head.get("format") not in FORMATS or not {*_HEAD} <= {*head}:
            raise UnknownFormat("no digest of a format this program knows")
        for each, columns in ((rows, len(FEATURES)), (flow, len(regime.CELL))):
            if each.ndim != 2 or each.shape[1] != columns:
                raise UnknownFormat(f"a digest with an array {each.shape}")
        return cls(rows=rows, flow=flow, **{name: head[name] for name in _HEAD})


_HEAD = ("partition", "number", "nonce", "clock_ms")


class Heard(NamedTuple):
    """The newest digest of a partition that was learned; `seen`: (number, nonce) of the last few, newest last."""

    number: int
    nonce: str
    clock_ms: int
    seen: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Overview:
    """All that the overview side knows. Never changed: `observe` gives a new one.

    `sizes`: float64 (256,), decayed histogram of `wallet_size`. `heard`: by partition. `fitted_at_ms`: where
    `learned_until_ms` stood at the last fit; `rows_since`, `rows_before`: rows learned since that fit, and between it
    and the one before; `rows_learned`: all of them. `flow`: how busy the market is.
    """

    model: MicroClusters
    catalogue: Catalogue
    sizes: NDArray[np.float64]
    heard: dict[int, Heard]
    learned_until_ms: int
    fitted_at_ms: int
    rows_since: int
    rows_before: int
    rows_learned: int
    flow: regime.Flow

    def after(self, other: Catalogue) -> Overview:
        """The overview, which will give no new segment a number that `other` has."""
        used = max([0, *(segment.number for segment in other.segments), *other.retired])
        if used < self.model.next_number:
            return self
        model = deepcopy(self.model)
        model.next_number = used + 1
        return replace(self, model=model)

    def snapshot(self) -> bytes:
        """Everything but the catalogue as bytes, without pickle, at most 100 kB."""
        head = {
            "format": FORMAT,
            "heard": {str(partition): heard for partition, heard in self.heard.items()},
            **{name: getattr(self, name) for name in _COUNTS},
            "flow": {name: getattr(self.flow, name) for name in _FLOW},
        }
        model = np.frombuffer(self.model.snapshot(), np.uint8)
        flow = {"usual": self.flow.usual, "cells": self.flow.cells}
        return pack(head, {"sizes": self.sizes, "model": model, **flow})

    @classmethod
    def restore(cls, packed: bytes | None, catalogue_json: bytes | None) -> Overview:
        """The overview of a snapshot and of the catalogue kept beside it; a new one where there is none.

        Raises `UnknownFormat`, `UnusableCatalogue`.
        """
        catalogue = EMPTY_CATALOGUE if catalogue_json is None else Catalogue.from_json(catalogue_json)
        if packed is None:
            settled = NAMES_SETTLE if catalogue.segments else 0
            model = _begun(catalogue, (OWN_CLUSTERER, "{}"))
            return cls(model, catalogue, np.zeros(CELLS), {}, 0, 0, 0, 0, settled, regime.Flow.unknown())
        head, arrays = unpack(packed)
        if head.get("format") not in FORMATS:
            raise UnknownFormat(f"an overview snapshot of format {head.get('format')}")
        heard = {int(partition): _heard(*fields) for partition, fields in head["heard"].items()}
        model = restored(arrays["model"].tobytes())
        flow = regime.Flow.unknown()
        if "flow" in head:  # format 1 had none
            flow = regime.Flow(arrays["usual"], arrays["cells"], **head["flow"])
        return cls(model, catalogue, arrays["sizes"], heard, **{name: head[name] for name in _COUNTS}, flow=flow)


_COUNTS = ("learned_until_ms", "fitted_at_ms", "rows_since", "rows_before", "rows_learned")
_FLOW = ("closed_until", "from_ms", "until_ms")


@dataclass(frozen=True, slots=True)
class Observed:
    """What is to be stored and announced: the snapshot, the pointer (JSON), and a catalogue if a new one came out."""

    snapshot: bytes
    pointer: bytes
    catalogue: bytes | None
    version: int


def observe(
    overview: Overview, digests: Iterable[Digest], rules: Rules, given: Mapping[int, GivenName] = MappingProxyType({})
) -> tuple[Overview, Observed]:
    """Learn digests in their order; publish a catalogue when the model has become better by a margin.

    A digest seen before changes nothing. How digests are grouped into calls changes nothing either, except that
    of several catalogues published within one call only the last comes out. `given`: names by users; where they are
    new to the catalogue it comes out again as a version of its own, once something was learned. `overview` is left as
    it is.
    """
    version = overview.catalogue.version
    copied = False
    for digest in digests:
        if _is_repeat(overview, digest):
            continue
        if not copied:
            overview, copied = _working_copy(overview, rules), True
        overview = _publish_if_due(_learn(overview, digest), given)
    catalogue = overview.catalogue
    published = catalogue.to_json() if catalogue.version != version else None
    return overview, Observed(overview.snapshot(), _pointer(overview), published, catalogue.version)


def _is_repeat(overview: Overview, digest: Digest) -> bool:
    """A number below the newest with a nonce not seen is no repeat: the partition began anew after a rollback."""
    heard = overview.heard.get(digest.partition)
    return heard is not None and (digest.number, digest.nonce) in heard.seen


def _working_copy(overview: Overview, rules: Rules) -> Overview:
    """A copy whose model and sketch may be changed, of today's clusterer and within today's bounds."""
    model = overview.model
    if is_of(model, (rules.clusterer, rules.clusterer_params)):
        model = deepcopy(model)
    else:
        model = _begun(overview.catalogue, (rules.clusterer, rules.clusterer_params))
        model.next_number = max(model.next_number, overview.model.next_number)
    model.fewest, model.most = rules.fewest_segments, min(rules.most_segments, SLOTS)
    return replace(overview, model=model, sizes=overview.sizes.copy())


def _learn(overview: Overview, digest: Digest) -> Overview:
    """Learn one digest into the model and the sketch, which are changed in place."""
    before = overview.heard.get(digest.partition)
    seen = (*(before.seen if before else ()), (digest.number, digest.nonce))[-REMEMBERED:]
    heard = overview.heard | {digest.partition: Heard(digest.number, digest.nonce, digest.clock_ms, seen)}
    learned_until_ms = max(one.clock_ms for one in heard.values())
    passed_days = (learned_until_ms - overview.learned_until_ms) / DAY_MS
    half_lives = min(max(passed_days, 0.0), LONGEST_GAP_DAYS) / HALF_LIFE_DAYS
    rows = digest.rows.astype(np.float64)
    overview.model.forget(half_lives)
    overview.model.learn_many(rows)
    sizes = _sketch(overview.sizes * 0.5**half_lives, rows[:, WALLET_SIZE])
    flow = regime.note(overview.flow, digest.partition, digest.flow)
    return replace(
        overview,
        sizes=sizes,
        flow=regime.judge(flow, min(one.clock_ms for one in heard.values()), learned_until_ms),
        heard=heard,
        learned_until_ms=learned_until_ms,
        fitted_at_ms=min(overview.fitted_at_ms, learned_until_ms) if overview.fitted_at_ms else learned_until_ms,
        rows_since=overview.rows_since + len(rows),
        rows_learned=overview.rows_learned + len(rows),
    )


def _publish_if_due(overview: Overview, given: Mapping[int, GivenName]) -> Overview:
    """Fit the model once an event-day, or when it has learned more than at the last fit."""
    a_day_passed = overview.learned_until_ms - overview.fitted_at_ms >= DAY_MS and overview.rows_since > 0
    enough = overview.model.weight >= READY
    if not enough or not (a_day_passed or overview.rows_since > overview.rows_before):
        return _renamed(overview, given)
    lineage = overview.model.refit()
    overview = replace(
        overview,
        fitted_at_ms=overview.learned_until_ms,
        rows_since=0,
        rows_before=max(overview.rows_since, overview.rows_before),
    )
    if lineage is None or max(lineage.numbers) >= SEGMENTS:  # ids are used up: the last catalogue stays
        return _renamed(_measured(overview), given)
    return replace(overview, catalogue=_next_catalogue(overview, lineage, given))


def _measured(overview: Overview) -> Overview:
    """The overview with a new threshold for whales where that has moved by more than what keeps their flag steady."""
    before, whale_at = overview.catalogue, _quantile(overview.sizes, 1 - WHALE_SHARE)
    if not before.segments or abs(whale_at - before.whale_at) <= WHALE_MOVED:
        return overview
    return replace(overview, catalogue=replace(before, whale_at=whale_at, version=before.version + 1))


def _renamed(overview: Overview, given: Mapping[int, GivenName]) -> Overview:
    """The overview with names that users have given since the last catalogue."""
    before = overview.catalogue
    after = with_names(before, given)
    return overview if after is before else replace(overview, catalogue=replace(after, version=before.version + 1))


def _next_catalogue(overview: Overview, lineage: Lineage, given: Mapping[int, GivenName]) -> Catalogue:
    before, mixture = overview.catalogue, overview.model.mixture
    assert mixture is not None  # it was fitted just now
    whale_at = _quantile(overview.sizes, 1 - WHALE_SHARE)
    catalogue = next_catalogue(before, mixture, lineage, (whale_at, overview.learned_until_ms))
    return named(before, catalogue, given, settled=overview.rows_learned >= NAMES_SETTLE)


def _sketch(sizes: NDArray[np.float64], added: NDArray[np.float64]) -> NDArray[np.float64]:
    """The histogram with these sizes added; what lies outside counts at the border."""
    cells = np.clip(np.nan_to_num(added) * CELLS_PER_UNIT, 0, CELLS - 1).astype(np.int64)
    return sizes + np.bincount(cells, minlength=CELLS)


def _quantile(sizes: NDArray[np.float64], share: float) -> float:
    """The size below which this share of the histogram lies; inf while it is empty."""
    below = np.cumsum(sizes)
    if below[-1] == 0:
        return float("inf")
    cell = int(np.searchsorted(below, share * below[-1]))
    missing = share * below[-1] - (below[cell] - sizes[cell])
    return float((cell + missing / sizes[cell]) / CELLS_PER_UNIT)


def _pointer(overview: Overview) -> bytes:
    content = {
        "version": overview.catalogue.version,
        "hash": overview.catalogue.hash,
        "learned_until_ms": overview.learned_until_ms,
        "heard": {str(partition): heard.number for partition, heard in overview.heard.items()},
        "regime": overview.flow.regime_at(overview.learned_until_ms),
        "regime_from_ms": overview.flow.from_ms,
        "regime_until_ms": overview.flow.until_ms,
    }
    return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()


def _begun(catalogue: Catalogue, clusterer: tuple[str, str]) -> MicroClusters:
    """A model that has learned nothing, but goes on from the catalogue if there is one."""
    model = begun(clusterer, half_life=float("inf"), refit_every=0, one_scale=PRODUCTS)
    if catalogue.segments:
        model.adopt(catalogue, tuple(segment.number for segment in catalogue.segments))
        model.next_number = 1 + max([*model.numbers, *catalogue.retired])
    return model


def _heard(number: int, nonce: str, clock_ms: int, seen: list[tuple[int, str]]) -> Heard:
    return Heard(number, nonce, clock_ms, tuple((one, other) for one, other in seen))
