"""The catalogue of segments: where a wallet's features place it, and what each segment is called."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from models.rows import FEATURES, SEGMENTS, SLOTS
from models.rules import WINSOR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.placing import Terms

#: Version of the JSON form.
FORMAT = 1
#: Happenings a catalogue tells, so that it does not grow with the years.
HISTORY = 100
#: What makes of a posterior a confidence that is right so often (docs/decisions.md).
TEMPERATURE, DOUBT = 4.0, 0.2
#: Versions are below this: a row has 32 bits for one.
VERSIONS = 1 << 32
#: Bounds of the numbers wallets are placed with, far from where sums of squares overflow or divisions lose all digits.
LEAST_SPREAD, LARGEST = 1e-20, 1e20
#: The threshold of whales, log1p USD: more cannot be turned into USD.
LARGEST_WHALE = 700.0
#: A segment without mass keeps a finite likelihood.
LEAST_SHARE = 1e-9


class UnusableCatalogue(ValueError):
    """A text that is no catalogue this program can place wallets with."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: `number` >= 1 is its identity for ever, `slot` 0..15 its place in a wallet's evidence.

    `share`: part of the learned wallets, 0..1. `born_version`: the catalogue that first had it. `description`: what
    a user wrote about it. `automatic`: what it would be called but for names by users.
    """

    number: int
    slot: int
    name: str
    share: float
    born_version: int
    description: str = ""
    automatic: str = ""


class Happening(NamedTuple):
    """What became of segment `segment` in `version`, at event time `at_ms`.

    `kind`: born; split, `other` is the one it came out of; returned, from retirement; absorbed, `other` took its
    wallets; retired, nobody did. `other` is 0 where there is none.
    """

    kind: str
    segment: int
    other: int
    version: int
    at_ms: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """A mixture of Gaussians with diagonal variances, over scaled features.

    `mean`, `sd`: float64 (d,), the scale: z = clip((x - mean) / sd, -4, 4). `centres`, `variances`: float64 (k, d)
    in units of z. `shares`: float64 (k,), adding up to 1.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    centres: NDArray[np.float64]
    variances: NDArray[np.float64]
    shares: NDArray[np.float64]

    def scale(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (n, d) in units of standard deviations, cut off at `WINSOR`."""
        scaled: NDArray[np.float64] = np.minimum(np.maximum((rows - self.mean) / self.sd, -WINSOR), WINSOR)
        return scaled

    def place(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log of share times density of every row under every component, float64 (n, k).

        A constant common to all is left out; the softmax over k is the posterior. Bit-equal for a row alone
        and among any others.
        """
        from models.placing import place_each  # Numba takes half a second, which only those who place need spend

        scores = np.empty((len(rows), len(self.shares)))
        place_each(np.array(rows, np.float64, order="C"), self.terms, scores)
        return scores

    @cached_property
    def terms(self) -> Terms:
        """The exponent as a polynomial in z, in arrays of its own: compiled code knows one layout."""
        from models.placing import Terms

        precision = 1.0 / self.variances
        spread = (self.centres * self.centres * precision + np.log(self.variances)).sum(axis=1)
        return Terms(
            mean=np.array(self.mean, np.float64),
            sd=np.array(self.sd, np.float64),
            squares=np.array(-0.5 * precision.T, np.float64, order="C"),
            slopes=np.array((self.centres * precision).T, np.float64, order="C"),
            constants=np.log(np.maximum(self.shares, LEAST_SHARE)) - 0.5 * spread,
        )


def confidence(scores: NDArray[np.float64], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """How probable the segment in each of `columns` (m,) is, 0 to 1, for scores (m, K); over all K they add up to 1.

    The posterior of the mixture, tempered, with a part of it spread evenly: the features of a wallet are not
    independent as the mixture has it, and a clear row may still be of a segment that is not what it seems.
    """
    own = scores[np.arange(len(scores)), columns]
    with np.errstate(over="ignore"):  # a segment that fits so much better leaves the others no chance: 1 / inf
        chances: NDArray[np.float64] = 1 / np.exp((scores - own[:, None]) / TEMPERATURE).sum(axis=1)
    doubted: NDArray[np.float64] = (1 - DOUBT) * chances + DOUBT / scores.shape[1]
    return doubted


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue(Mixture):
    """One published version of the segments; column j of `place` belongs to `segments[j]`.

    `slot_since[s]`: the version in which slot s was last given to another segment; evidence older than that is void.
    `whale_at`: 95th percentile of the feature `wallet_size`, in its units (log1p USD); inf while unknown.
    `retired`: number of a segment that is no more -> number of the one that took its wallets, 0 for none;
    `retired_names`: what it is or was called; `retired_by_users`: of those users have said something about, their
    description and the automatic name, as in `Segment`. `history`: what became of segments, newest last, at most
    `HISTORY`.
    `held_from_ms`, `held_until_ms`: the newest flash crash as event time [from, until), 0 while there was none; nobody
    should change his segment for what he does within it. They belong to the moment and not to the version: the
    overview's pointer has them, `to_json` and `hash` do not, and a pinned catalogue has none.
    """

    version: int
    segments: tuple[Segment, ...] = ()
    slot_since: tuple[int, ...] = (0,) * SLOTS
    whale_at: float = float("inf")
    retired: dict[int, int] = field(default_factory=dict)
    retired_names: dict[int, str] = field(default_factory=dict)
    retired_by_users: dict[int, tuple[str, str]] = field(default_factory=dict)
    history: tuple[Happening, ...] = ()
    held_from_ms: int = 0
    held_until_ms: int = 0

    def regime_at(self, at_ms: int) -> str:
        """`crash` or `normal`: the market's regime at an event time, as far as the overview has seen."""
        return "crash" if self.held_from_ms <= at_ms < self.held_until_ms else "normal"

    def held(self, from_ms: int, until_ms: int) -> Self:
        """With the newest flash crash, [from, until); the same object where nothing changes."""
        if (self.held_from_ms, self.held_until_ms) == (from_ms, until_ms):
            return self
        return replace(self, held_from_ms=from_ms, held_until_ms=until_ms)

    def column_of(self, number: int) -> int:
        """The column of a segment, -1 if this version does not have it."""
        return self._columns.get(number, -1)

    def name_of(self, number: int) -> str:
        """What a segment is or was called; its id if nothing is known of it."""
        column = self.column_of(number)
        return self.segments[column].name if column >= 0 else self.retired_names.get(number, f"s{number}")

    def automatic_name_of(self, number: int) -> str:
        """What a segment is or was called but for names by users, its id if nothing is known of it.

        It is stored only where a user's name is shown in its place, or a number was added for one.
        """
        column = self.column_of(number)
        if column >= 0:
            return self.segments[column].automatic or self.segments[column].name
        return self.retired_by_users.get(number, ("", ""))[1] or self.name_of(number)

    def description_of(self, number: int) -> str:
        """What a user wrote about a segment, of one that is gone too; empty where nobody did."""
        column = self.column_of(number)
        return self.segments[column].description if column >= 0 else self.retired_by_users.get(number, ("", ""))[0]

    def successor(self, number: int) -> int:
        """The segment that stands for `number` in this version: itself, who took its wallets, or 0."""
        seen: set[int] = set()
        while number not in self._columns and number in self.retired and number not in seen:
            seen.add(number)
            number = self.retired[number]
        return number if number in self._columns else 0

    def centre(self, column: int) -> NDArray[np.float64]:
        """The centre of a segment in the units of the features, float64 (d,)."""
        centre: NDArray[np.float64] = self.mean + self.sd * self.centres[column]
        return centre

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that stand for the content."""
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    @cached_property
    def _columns(self) -> dict[int, int]:
        return {segment.number: column for column, segment in enumerate(self.segments)}

    def to_json(self) -> bytes:
        """The canonical form: one line, keys in order, every float as it is."""
        content = {
            "format": FORMAT,
            "version": self.version,
            "features": list(FEATURES),
            "mean": self.mean.tolist(),
            "sd": self.sd.tolist(),
            "whale_at": None if np.isinf(self.whale_at) else self.whale_at,
            "slot_since": list(self.slot_since),
            "retired": {str(number): successor for number, successor in self.retired.items()},
            "retired_names": {str(number): name for number, name in self.retired_names.items()},
            "segments": [self._segment_json(column) for column in range(len(self.segments))],
        }
        if self.history:  # only where there is one: a catalogue of an earlier Tidemark keeps its hash
            content["history"] = [each._asdict() for each in self.history]
        if self.retired_by_users:
            content["retired_by_users"] = {
                str(number): {"description": description, "automatic": automatic}
                for number, (description, automatic) in self.retired_by_users.items()
            }
        return json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()

    def _segment_json(self, column: int) -> dict[str, Any]:
        segment = self.segments[column]
        by_users = {"description": segment.description, "automatic": segment.automatic}
        return {key: text for key, text in by_users.items() if text} | {
            "segment": f"s{segment.number}",
            "slot": segment.slot,
            "name": segment.name,
            "share": segment.share,
            "born_version": segment.born_version,
            "weight": float(self.shares[column]),
            "centre": self.centres[column].tolist(),
            "variance": self.variances[column].tolist(),
        }

    @classmethod
    def from_json(cls, text: bytes | str) -> Catalogue:
        """The catalogue of a text made by `to_json`, in any layout. Raises `UnusableCatalogue`."""
        try:
            catalogue = _read(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as problem:
            raise UnusableCatalogue(f"not a catalogue of segments ({type(problem).__name__})") from problem
        fault = _fault(catalogue)
        if fault:
            raise UnusableCatalogue(f"not a usable catalogue of segments: {fault}")
        return catalogue


def _read(content: dict[str, Any]) -> Catalogue:
    if content["format"] != FORMAT or content["features"] != list(FEATURES):
        raise ValueError(f"format {content['format']} or its features are not those of this program")
    segments = content["segments"]
    whale_at = content["whale_at"]
    return Catalogue(
        version=int(content["version"]),
        mean=np.array(content["mean"], np.float64),
        sd=np.array(content["sd"], np.float64),
        centres=_table(segments, "centre"),
        variances=_table(segments, "variance"),
        shares=np.array([segment["weight"] for segment in segments], np.float64),
        segments=tuple(map(_read_segment, segments)),
        slot_since=tuple(map(int, content["slot_since"])),
        whale_at=float("inf") if whale_at is None else float(whale_at),
        retired={int(number): int(successor) for number, successor in content["retired"].items()},
        retired_names={int(number): str(name) for number, name in content["retired_names"].items()},
        retired_by_users={
            int(number): (str(told["description"]), str(told["automatic"]))
            for number, told in content.get("retired_by_users", {}).items()
        },
        history=tuple(Happening(**each) for each in content.get("history", ())),
    )


def _read_segment(content: dict[str, Any]) -> Segment:
    return Segment(
        number=int(content["segment"].removeprefix("s")),
        slot=int(content["slot"]),
        name=str(content["name"]),
        share=float(content["share"]),
        born_version=int(content["born_version"]),
        description=str(content.get("description", "")),
        automatic=str(content.get("automatic", "")),
    )


def _table(segments: list[dict[str, Any]], key: str) -> NDArray[np.float64]:
    return np.array([segment[key] for segment in segments], np.float64).reshape(len(segments), len(FEATURES))


def _fault(catalogue: Catalogue) -> str | None:
    """What would make placing wrong, or None."""
    return _fault_of_numbers(catalogue) or _fault_of_arrays(catalogue)


def _fault_of_numbers(catalogue: Catalogue) -> str | None:
    numbers = [segment.number for segment in catalogue.segments]
    slots = [segment.slot for segment in catalogue.segments]
    versions = (catalogue.version, *catalogue.slot_since, *(segment.born_version for segment in catalogue.segments))
    if len(set(numbers)) != len(numbers) or not all(1 <= number < SEGMENTS for number in numbers):
        return f"segment ids must be s1 to s{SEGMENTS - 1}, each once"
    if len(set(slots)) != len(slots) or not set(slots) <= set(range(SLOTS)) or len(catalogue.slot_since) != SLOTS:
        return f"slots must be 0 to {SLOTS - 1}, each once"
    if not all(1 <= number < SEGMENTS and 0 <= heir < SEGMENTS for number, heir in catalogue.retired.items()):
        return f"retired segments must be 1 to {SEGMENTS - 1}, those that took their wallets 0 to {SEGMENTS - 1}"
    if not all(0 <= version < VERSIONS for version in versions):
        return f"versions must be 0 to {VERSIONS - 1}"
    return None


def _fault_of_arrays(catalogue: Catalogue) -> str | None:
    places, spreads = (catalogue.mean, catalogue.centres), (catalogue.sd, catalogue.variances)
    shares = np.array([*catalogue.shares, *(segment.share for segment in catalogue.segments)])
    if catalogue.mean.shape != (len(FEATURES),) or catalogue.sd.shape != (len(FEATURES),):
        return f"mean and sd need {len(FEATURES)} values each"
    if not all((np.abs(array) <= LARGEST).all() for array in places):
        return f"mean and centre must be within {LARGEST:g}"
    if not all(((array >= LEAST_SPREAD) & (array <= LARGEST)).all() for array in spreads):
        return f"sd and variance must be {LEAST_SPREAD:g} to {LARGEST:g}"
    if not ((shares >= 0) & (shares <= LARGEST)).all():
        return "shares and weights must be 0 or more"
    if not (0 <= catalogue.whale_at <= LARGEST_WHALE or np.isposinf(catalogue.whale_at)):
        return f"whale_at must be 0 to {LARGEST_WHALE:g}, or null"
    return None


#: Before anything is learned: no segments, every wallet unassigned.
EMPTY_CATALOGUE = Catalogue(
    version=0,
    mean=np.zeros(len(FEATURES)),
    sd=np.ones(len(FEATURES)),
    centres=np.zeros((0, len(FEATURES))),
    variances=np.ones((0, len(FEATURES))),
    shares=np.zeros(0),
)
