"""River's own clusterers in the place of ours: they say which rows belong together, all the rest stays as it is.

A closed list of names and parameters that are plain numbers: nothing of a setting is ever evaluated.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from river import base, cluster

from models import identity, macro
from models.microclusters import MicroClusters
from models.packed import unpack
from models.probation import PATIENCE, Wish
from models.rules import OWN_CLUSTERER

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: River's classes, and parameters that suit standardised rows better than River's defaults; a user's own win.
RIVERS: Mapping[str, tuple[type[base.Clusterer], Mapping[str, float]]] = {
    "river.KMeans": (cluster.KMeans, {"n_clusters": 8, "halflife": 0.05}),
    "river.STREAMKMeans": (cluster.STREAMKMeans, {"n_clusters": 8, "chunk_size": 200, "halflife": 0.05}),
    "river.DBSTREAM": (cluster.DBSTREAM, {"clustering_threshold": 2.5, "cleanup_interval": 200}),
    "river.DenStream": (cluster.DenStream, {"epsilon": 1.5, "n_samples_init": 200}),
    "river.CluStream": (cluster.CluStream, {"n_macro_clusters": 8, "max_micro_clusters": 50, "halflife": 0.1}),
}


class Bounds(NamedTuple):
    """What a parameter may be: from `low` to `high`, both included; `whole`: without a fraction."""

    low: float
    high: float
    whole: bool = False

    def __str__(self) -> str:
        return f"{'a whole number' if self.whole else 'a number'} from {self.low:g} to {self.high:,.12g}"

    def fit(self, value: object) -> bool:
        numbers = (int,) if self.whole else (int, float)
        return type(value) in numbers and self.low <= value <= self.high  # type: ignore[operator]  # a number


#: What parameters may be: beyond these a row takes seconds, nothing fades, or River fails in the middle of a stream.
#: Rows are standardised and lie within `WINSOR`, so distances are below 32.
BOUNDS: Mapping[str, Bounds] = {
    "n_clusters": Bounds(1, 100, whole=True),
    "halflife": Bounds(0.0001, 1),
    "mu": Bounds(-4, 4),
    "sigma": Bounds(0.01, 10),
    "p": Bounds(1, 10, whole=True),
    "chunk_size": Bounds(10, 10_000, whole=True),
    "clustering_threshold": Bounds(0.01, 32),
    "fading_factor": Bounds(0.000001, 1),
    "cleanup_interval": Bounds(1, 1_000_000),
    "intersection_factor": Bounds(0.001, 1),
    "minimum_weight": Bounds(0.001, 1000),
    "decaying_factor": Bounds(0.0001, 10),
    "beta": Bounds(0.01, 1),
    "epsilon": Bounds(0.01, 32),
    "n_samples_init": Bounds(1, 10_000, whole=True),
    "stream_speed": Bounds(1, 100_000, whole=True),
    "n_macro_clusters": Bounds(1, 100, whole=True),
    "max_micro_clusters": Bounds(2, 1000, whole=True),
    "micro_cluster_r_factor": Bounds(1, 100, whole=True),
    "time_window": Bounds(1, 10_000_000, whole=True),
    "time_gap": Bounds(2, 1_000_000, whole=True),
}
#: DenStream's `mu` is no place but a weight.
_WEIGHT = Bounds(1.01, 1000)
#: Those that hand what they do not know on to River's KMeans.
_WITH_KMEANS = frozenset({"river.STREAMKMeans", "river.CluStream"})
#: Rows of the sample that stands for everything learned: 64 kB of a snapshot.
SAMPLE = 1_000
#: What River's clusterers raise on rows they cannot say anything of yet.
SPEECHLESS = (AttributeError, KeyError, ValueError, ZeroDivisionError)


def parameters_of(name: str) -> dict[str, Any]:
    """The parameters a clusterer takes, with their defaults; our own has none to set. Raises `KeyError`."""
    if name == OWN_CLUSTERER:
        return {}
    kind, ours = RIVERS[name]
    kinds: list[Callable[..., Any]] = [cluster.KMeans, kind] if name in _WITH_KMEANS else [kind]
    found = {
        each.name: each.default
        for one in kinds
        for each in inspect.signature(one).parameters.values()
        if each.kind is not each.VAR_KEYWORD
    }
    if name in _WITH_KMEANS and "n_macro_clusters" in found:
        del found["n_clusters"]
    return {parameter: default for parameter, default in (found | dict(ours)).items() if parameter != "seed"}


def problem_with(name: str, given: Mapping[str, object]) -> str | None:
    """What is wrong with the parameters given for a clusterer, and what is allowed; None: nothing."""
    allowed = parameters_of(name)
    for parameter, value in given.items():
        if parameter not in allowed:
            return f"{name} has no parameter {parameter}; it takes {', '.join(allowed) or 'none'}"
        if not bounds_of(name, parameter).fit(value):
            return f"{name}: {parameter} must be {bounds_of(name, parameter)} (default {allowed[parameter]})"
    chosen: dict[str, Any] = allowed | dict(given)
    if name == "river.DenStream" and chosen["mu"] * chosen["beta"] <= 1:
        return f"{name}: mu times beta must be above 1 and is {chosen['mu'] * chosen['beta']:g}"
    return None


def bounds_of(name: str, parameter: str) -> Bounds:
    """What a parameter of a clusterer may be. Raises `KeyError`."""
    return _WEIGHT if (name, parameter) == ("river.DenStream", "mu") else BOUNDS[parameter]


class Borrowed(MicroClusters):
    """A clusterer of River's with our scale, identities, probation and snapshots around it.

    It learns every row, standardised by the scale of that moment. A bounded random sample of the rows, in which old
    ones fade as everything does, is labelled by it at each fit; the labels' means, variances and shares make the
    mixture. A snapshot holds the sample and not River's model, which cannot be kept safely: after `restore` that
    model has learned the sample only, so a restart may change what comes next.

    Parameters
    ----------
    name
        One of `RIVERS`.
    params
        Its parameters, as JSON.
    fewest, most, budget, half_life, refit_every, one_scale, seed
        As of `MicroClusters`; how many clusters there are, up to `most`, is River's choice.

    """

    def __init__(self, *, name: str = "river.KMeans", params: str = "{}", **ours: Any) -> None:
        super().__init__(**ours)
        self.name, self.params = name, params
        self._model = self._blank()
        self._sample = np.zeros((0, 0), np.float32)
        self._mass = 0.0
        self._learned = 0

    def _blank(self) -> base.Clusterer:
        kind, ours = RIVERS[self.name]
        seeded = "seed" in inspect.signature(kind).parameters or self.name in _WITH_KMEANS
        return kind(**{**ours, **json.loads(self.params), **({"seed": self.seed} if seeded else {})})

    @property
    def weight(self) -> float:
        return self._mass

    def forget(self, half_lives: float) -> None:
        super().forget(half_lives)
        self._mass *= 0.5**half_lives

    def _learn(self, rows: Floats, weights: Floats) -> None:
        self.forget(float(weights.sum()) / self.half_life)
        rows = self._scale.cut_off(rows)
        self._scale.learn(rows, weights)
        for row in self._scale.scaled(rows).tolist():
            self._model.learn_one(dict(enumerate(row)))
        self._draw(rows.astype(np.float32), self._mass + np.cumsum(weights))
        self._mass += float(weights.sum())
        self._since += float(weights.sum())

    def _draw(self, rows: NDArray[np.float32], masses: Floats) -> None:
        """Biased reservoir sampling (Aggarwal 2006): a row enters by its share of the mass and puts another out.

        `masses`: of everything up to each row. Where much has faded a row may stand for several.
        """
        generator = np.random.default_rng([self.seed, self._learned])
        self._learned += len(rows)
        free = min(SAMPLE - len(self._sample), len(rows))
        self._sample = np.concatenate((self._sample, rows[:free]))
        times = np.floor(SAMPLE / masses[free:] + generator.random(len(rows) - free)).astype(np.int64)
        entering = np.repeat(rows[free:], np.minimum(times, SAMPLE), axis=0)
        self._sample[generator.integers(0, SAMPLE, len(entering))] = entering

    def _widen(self, features: Any) -> None:
        super()._widen(features)
        missing = len(self._features) - self._sample.shape[1]
        self._sample = np.pad(self._sample, ((0, 0), (0, missing)))

    def _points(self) -> macro.Points:
        rows = self._scale.scaled(self._sample.astype(np.float64))
        return macro.Points(rows, np.zeros_like(rows), np.full(len(rows), 1 / len(rows)))

    def _first(self, points: macro.Points) -> macro.Fit:
        return self._labelled(points)

    def _better(self, points: macro.Points, kept: macro.Fit) -> macro.Fit:
        fit = self._labelled(points)
        mass = identity.overlap(kept.labels, fit.labels, points.weights, (len(kept), len(fit)))
        lineage = identity.trace(self.numbers, mass, self.next_number)
        if lineage.born or lineage.retired:
            return fit if self._has_lasted() else kept
        self._wish = None
        order = np.argsort([self.numbers.index(number) for number in lineage.numbers])
        in_order = macro.evaluate(points, fit.centres[order], fit.variances[order], fit.shares[order])
        return in_order if self._is_material(points, kept, in_order) else kept

    def _has_lasted(self) -> bool:
        """Whether River's clusters have been others than the published for long enough; which others may vary."""
        times = 1 + (self._wish.times if self._wish else 0)
        self._wish = Wish(0, times, self._scale.mean) if times < PATIENCE else None
        return times >= PATIENCE

    def _labelled(self, points: macro.Points) -> macro.Fit:
        """The clusters as River's model labels the sample."""
        labels = [self._label(dict(enumerate(row))) for row in points.means.tolist()]
        return macro.from_labels(points, np.array(labels, np.int64), self.most)

    def _label(self, row: dict[Hashable, Any]) -> int:
        try:
            return int(self._model.predict_one(row))
        except SPEECHLESS:
            return -1

    def _content(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        head, arrays = super()._content()
        parameters = head["parameters"] | {name: getattr(self, name) for name in _OURS}
        head |= {"parameters": parameters, "mass": self._mass, "learned": self._learned}
        return head, arrays | {"sample": self._sample}

    def _take(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        super()._take(head, arrays)
        self._mass, self._learned, self._sample = head["mass"], head["learned"], arrays["sample"]
        for row in self._scale.scaled(self._sample.astype(np.float64)).tolist():
            self._model.learn_one(dict(enumerate(row)))


_OURS = ("fewest", "most", "budget", "half_life", "refit_every", "one_scale", "seed")


def restored(packed: bytes) -> MicroClusters:
    """The model of a snapshot, ours or a borrowed one. Raises `UnknownFormat`."""
    head, _ = unpack(packed)
    return (Borrowed if "name" in head.get("parameters", {}) else MicroClusters).restore(packed)


def begun(clusterer: tuple[str, str], **ours: Any) -> MicroClusters:
    """A model that has learned nothing. `clusterer`: its name, and its parameters as JSON."""
    name, params = clusterer
    return MicroClusters(**ours) if name == OWN_CLUSTERER else Borrowed(name=name, params=params, **ours)


def is_of(model: MicroClusters, clusterer: tuple[str, str]) -> bool:
    """Whether a model is of this kind, with these parameters."""
    if isinstance(model, Borrowed):
        return (model.name, model.params) == clusterer
    return clusterer[0] == OWN_CLUSTERER
