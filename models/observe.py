"""The overview side: what all partitions report is learned, and catalogues are published. Pure, as the step is."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.identity import Lineage, give_slots
from models.microclusters import READY, MicroClusters
from models.names import name_for
from models.packed import pack, unpack
from models.rows import FEATURES, SEGMENTS, SLOTS, UnknownFormat
from models.rules import DAY_MS
from models.segments import EMPTY_CATALOGUE, Catalogue, Segment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from models.rules import Rules

FORMAT = 1
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
#: Cells of the sketch of wallet sizes: log1p USD from 0 to 32 (8e13 USD), 1/8 wide.
CELLS, CELLS_PER_UNIT = 256, 8


@dataclass(frozen=True, slots=True, eq=False)
class Digest:
    """What a partition reports: `number` and `nonce` of the commit it left with, `clock_ms` of the partition.

    `rows`: float32 (n, 16) learning rows in the order of `FEATURES`.
    """

    partition: int
    number: int
    nonce: str
    clock_ms: int
    rows: NDArray[np.float32]

    def pack(self) -> bytes:
        """The digest as bytes for Kafka, 64 a row and some 150 around them."""
        return pack({"format": FORMAT, **{name: getattr(self, name) for name in _HEAD}}, {"rows": self.rows})

    @classmethod
    def unpack(cls, packed: bytes) -> Digest:
        """The digest of `pack`. Raises `UnknownFormat`."""
        head, arrays = unpack(packed)
        rows = arrays.get("rows", np.zeros(0))
        if head.get("format") != FORMAT or not {*_HEAD} <= {*head}:
            raise UnknownFormat("no digest of a format this program knows")
        if rows.ndim != 2 or rows.shape[1] != len(FEATURES):
            raise UnknownFormat(f"a digest with rows {rows.shape}")
        return cls(rows=rows, **{name: head[name] for name in _HEAD})


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
    and the one before; `rows_learned`: all of them.
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
        }
        model = np.frombuffer(self.model.snapshot(), np.uint8)
        return pack(head, {"sizes": self.sizes, "model": model})

    @classmethod
    def restore(cls, packed: bytes | None, catalogue_json: bytes | None) -> Overview:
        """The overview of a snapshot and of the catalogue kept beside it; a new one where there is none.

        Raises `UnknownFormat`, `UnusableCatalogue`.
        """
        catalogue = EMPTY_CATALOGUE if catalogue_json is None else Catalogue.from_json(catalogue_json)
        if packed is None:
            settled = NAMES_SETTLE if catalogue.segments else 0
            return cls(_blank_model(catalogue), catalogue, np.zeros(CELLS), {}, 0, 0, 0, 0, settled)
        head, arrays = unpack(packed)
        if head.get("format") != FORMAT:
            raise UnknownFormat(f"an overview snapshot of format {head.get('format')}")
        heard = {int(partition): _heard(*fields) for partition, fields in head["heard"].items()}
        model = MicroClusters.restore(arrays["model"].tobytes())
        return cls(model, catalogue, arrays["sizes"], heard, **{name: head[name] for name in _COUNTS})


_COUNTS = ("learned_until_ms", "fitted_at_ms", "rows_since", "rows_before", "rows_learned")


@dataclass(frozen=True, slots=True)
class Observed:
    """What is to be stored and announced: the snapshot, the pointer (JSON), and a catalogue if a new one came out."""

    snapshot: bytes
    pointer: bytes
    catalogue: bytes | None
    version: int


def observe(overview: Overview, digests: Iterable[Digest], rules: Rules) -> tuple[Overview, Observed]:
    """Learn digests in their order; publish a catalogue when the model has become better by a margin.

    A digest seen before changes nothing. How digests are grouped into calls changes nothing either, except that
    of several catalogues published within one call only the last comes out. `overview` is left as it is.
    """
    version = overview.catalogue.version
    copied = False
    for digest in digests:
        if _is_repeat(overview, digest):
            continue
        if not copied:
            overview, copied = _working_copy(overview, rules), True
        overview = _publish_if_due(_learn(overview, digest))
    catalogue = overview.catalogue
    published = catalogue.to_json() if catalogue.version != version else None
    return overview, Observed(overview.snapshot(), _pointer(overview), published, catalogue.version)


def _is_repeat(overview: Overview, digest: Digest) -> bool:
    """A number below the newest with a nonce not seen is no repeat: the partition began anew after a rollback."""
    heard = overview.heard.get(digest.partition)
    return heard is not None and (digest.number, digest.nonce) in heard.seen


def _working_copy(overview: Overview, rules: Rules) -> Overview:
    """A copy whose model and sketch may be changed, within today's bounds."""
    model = deepcopy(overview.model)
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
    return replace(
        overview,
        sizes=sizes,
        heard=heard,
        learned_until_ms=learned_until_ms,
        fitted_at_ms=min(overview.fitted_at_ms, learned_until_ms) if overview.fitted_at_ms else learned_until_ms,
        rows_since=overview.rows_since + len(rows),
        rows_learned=overview.rows_learned + len(rows),
    )


def _publish_if_due(overview: Overview) -> Overview:
    """Fit the model once an event-day, or when it has learned more than at the last fit."""
    a_day_passed = overview.learned_until_ms - overview.fitted_at_ms >= DAY_MS and overview.rows_since > 0
    enough = overview.model.weight >= READY
    if not enough or not (a_day_passed or overview.rows_since > overview.rows_before):
        return overview
    lineage = overview.model.refit()
    overview = replace(
        overview,
        fitted_at_ms=overview.learned_until_ms,
        rows_since=0,
        rows_before=max(overview.rows_since, overview.rows_before),
    )
    if lineage is None or max(lineage.numbers) >= SEGMENTS:  # ids are used up: the last catalogue stays
        return overview
    return replace(overview, catalogue=_next_catalogue(overview, lineage))


def _next_catalogue(overview: Overview, lineage: Lineage) -> Catalogue:
    before, mixture = overview.catalogue, overview.model.mixture
    assert mixture is not None  # it was fitted just now
    version = before.version + 1
    held = {segment.number: segment.slot for segment in before.segments}
    slots, slot_since = give_slots(lineage.numbers, held, before.slot_since, version)
    catalogue = Catalogue(
        mean=mixture.mean,
        sd=mixture.sd,
        centres=mixture.centres,
        variances=mixture.variances,
        shares=mixture.shares,
        version=version,
        slot_since=slot_since,
        whale_at=_quantile(overview.sizes, 1 - WHALE_SHARE),
        retired=before.retired | lineage.retired,
        retired_names=before.retired_names | {number: before.name_of(number) for number in lineage.retired},
    )
    known = {segment.number: segment for segment in before.segments}
    names = _names(catalogue, lineage.numbers, known if overview.rows_learned >= NAMES_SETTLE else {})
    segments = (
        Segment(number, slots[number], name, float(share), known[number].born_version if number in known else version)
        for number, name, share in zip(lineage.numbers, names, catalogue.shares, strict=True)
    )
    return replace(catalogue, segments=tuple(segments))


def _names(catalogue: Catalogue, numbers: tuple[int, ...], settled: dict[int, Segment]) -> list[str]:
    """The names by column: a settled one stays, the others come from their centres; all different."""
    names = {number: settled[number].name for number in numbers if number in settled}
    for column, number in enumerate(numbers):
        if number not in names:
            taken = {*names.values(), *catalogue.retired_names.values()}
            names[number] = name_for(catalogue.centre(column), catalogue.centres[column], taken)
    return [names[number] for number in numbers]


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
    }
    return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()


def _blank_model(catalogue: Catalogue) -> MicroClusters:
    """A model that has learned nothing, but goes on from the catalogue if there is one."""
    model = MicroClusters(half_life=float("inf"), refit_every=0, one_scale=PRODUCTS)
    if catalogue.segments:
        model.adopt(catalogue, tuple(segment.number for segment in catalogue.segments))
        model.next_number = 1 + max([*model.numbers, *catalogue.retired])
    return model


def _heard(number: int, nonce: str, clock_ms: int, seen: list[tuple[int, str]]) -> Heard:
    return Heard(number, nonce, clock_ms, tuple((one, other) for one, other in seen))
