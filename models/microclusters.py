"""The online clusterer, with River's interface."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from river import base

from models import identity, macro
from models.frames import row_of, rows_of
from models.packed import pack, unpack
from models.probation import Wish, wish_again
from models.rows import UnknownFormat
from models.segments import Mixture
from models.summary import Scale, Summary
from models.usual import Usual

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from numpy.typing import NDArray

    from models.frames import Frame

    Floats = NDArray[np.float64]

#: Version of a snapshot; those of all these are read.
FORMAT, FORMATS = 2, frozenset({1, 2})
#: Rows learned in one go; more are cut up, so that memory is bounded whatever comes in.
BATCH = 1_000
#: Rows that `learn_one` gathers before they are learned together.
GATHERED = 32
#: Weight from which a first fit makes sense.
READY = 200.0
#: A new fit replaces the published one when it explains a row better by this many nats on average and would place
#: this share of the rows elsewhere, or when it explains so much better that what is published is out of date.
BETTER, MATERIAL, STALE = 0.05, 0.02, 0.3
#: A cluster that comes back within this many half-lives gets its number again; so many retired ones are remembered.
RETURNS, RESTING = 1.0, 16
#: The scale forgets this many times slower than the micro-clusters.
SCALE_LASTS = 4.0


class Resting(NamedTuple):
    """A cluster that is no more: the age of the model at its end, centre and variance (d,) in the features' units."""

    since: float
    centre: Floats
    variance: Floats


class MicroClusters(base.Clusterer):
    """Two-phase online clustering with identities that stay.

    Rows are gathered in micro-clusters [1]; a mixture of Gaussians with diagonal variances is fitted to these from
    time to time [2], warm from the one before, and replaces it only when it is better. Its number of clusters moves
    by one, when the simplified silhouette has asked for it three times in a row. A cluster's number, which
    `predict_one` gives, is carried over refits by overlap of mass [3] and never given to another cluster; 0 is "no
    clusters yet". The same rows in the same batches end in the same bytes.

    Parameters
    ----------
    fewest, most
        Bounds of the number of clusters, 1 and up.
    budget
        Micro-clusters kept after merging; there are at most twice as many. 50 to 500.
    half_life
        Rows after which the weight of a row has halved; inf: only `forget` fades.
    refit_every
        Rows between two fits; 0: only `refit` fits.
    one_scale
        Columns [from, to) that share one standard deviation, such as shares of a whole; (0, 0): none.
    seed
        Seed of the fresh starts of a fit.

    Examples
    --------
    >>> model = MicroClusters(fewest=2, most=4, refit_every=100)
    >>> for i in range(300):
    ...     model.learn_one({"x": i % 2 + i % 7 / 100, "y": 0.0})
    >>> model.predict_one({"x": 0.0, "y": 0.0}) != model.predict_one({"x": 1.0, "y": 0.0})
    True

    References
    ----------
    [1] Lang & Schubert, BETULA: Numerically stable CF-trees for BIRCH clustering, SISAP 2020.
    [2] Lang & Schubert, BETULA: Fast clustering of large data with improved BIRCH CF-trees, Inf. Systems 2022.
    [3] Spiliopoulou et al., MONIC: Modeling and monitoring cluster transitions, KDD 2006.

    """

    def __init__(  # noqa: PLR0913  # River's way: every parameter is an argument, or `clone` and grids cannot set it
        self,
        *,
        fewest: int = 3,
        most: int = 12,
        budget: int = 150,
        half_life: float = 50_000.0,
        refit_every: int = 5_000,
        one_scale: tuple[int, int] = (0, 0),
        seed: int = 1,
    ) -> None:
        self.fewest, self.most = fewest, most
        self.budget = budget
        self.half_life = half_life
        self.refit_every = refit_every
        self.one_scale = one_scale
        self.seed = seed
        self.mixture: Mixture | None = None
        self.numbers: tuple[int, ...] = ()
        self.next_number = 1
        self._features: tuple[Hashable, ...] = ()
        self._scale = Scale.empty(0, one_scale)
        self._summary = Summary.empty(0)
        self._gathered: list[Floats] = []
        self._since = 0.0
        self._refits = 0
        self._age = 0.0
        self._usual = Usual.at(_places(None))
        self._resting: dict[int, Resting] = {}
        self._wish: Wish | None = None

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {"fewest": 2, "most": 5, "budget": 20, "refit_every": 40}

    @property
    def weight(self) -> float:
        """The faded number of rows learned."""
        return float(self._summary.weights.sum())

    # Learning

    def learn_one(self, x: Mapping[Hashable, Any]) -> None:
        """Learn a row; features never seen before are zero in all earlier rows."""
        self._widen(x)
        self._gathered.append(row_of(x, self._features))
        if len(self._gathered) >= GATHERED:
            self._learn_gathered()

    def learn_many(self, X: NDArray[Any] | Frame, weights: Floats | None = None) -> None:
        """Learn rows (n, d) with weights (n,), 1 each by default; rows with NaN or infinity are left out.

        Raises ValueError for an array that has not one column for each feature learned before.
        """
        self._learn_gathered()
        if not isinstance(X, np.ndarray):
            self._widen(X.columns)
        rows = rows_of(X, self._features)
        if not self._features:
            self._widen(range(rows.shape[1]))
        weights = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
        finite = np.isfinite(rows).all(axis=1)
        rows, weights = rows[finite], weights[finite]
        for begin in range(0, len(rows), BATCH):
            self._learn(rows[begin : begin + BATCH], weights[begin : begin + BATCH])

    def forget(self, half_lives: float) -> None:
        """Let everything learned so far fade by 2^-half_lives."""
        self._age += half_lives
        self._summary.fade(half_lives)
        self._scale.fade(0.5 ** (half_lives / SCALE_LASTS))
        if self.mixture is not None:
            self._usual = self._usual.later(half_lives, _places(self.mixture))

    def _learn(self, rows: Floats, weights: Floats) -> None:
        self.forget(float(weights.sum()) / self.half_life)
        rows = self._scale.cut_off(rows)
        self._scale.learn(rows, weights)
        self._summary.learn(rows, weights, self._scale, self.budget)
        self._since += float(weights.sum())
        due = self.refit_every if self.mixture is not None else min(self.refit_every, READY)
        if self.refit_every and self._since >= due:
            self.refit()

    def _learn_gathered(self) -> None:
        if self._gathered:
            rows, self._gathered = np.array(self._gathered), []
            self._learn(rows, np.ones(len(rows)))

    # Fitting

    def refit(self) -> identity.Lineage | None:
        """Fit the mixture anew; who is who if it replaced the one before, None if that one stays."""
        self._since = 0.0
        if self.weight == 0 or not self._features:  # rows that tell nothing have no clusters
            return None
        self._refits += 1
        points = self._points()
        if self.mixture is None:
            fit = self._first(points)
            mass, past = np.zeros((0, len(fit))), None
        else:
            kept = self._carried(points, self.mixture)
            fit = self._better(points, kept)
            if fit is kept:
                return None
            mass = identity.overlap(kept.labels, fit.labels, points.lasting, (len(kept), len(fit)))
            past = identity.Past(macro.apart(self._usual_now(), fit), macro.newcomers(points, fit))
        return self._replace(fit, mass, past)

    def adopt(self, mixture: Mixture, numbers: tuple[int, ...]) -> None:
        """Go on from this mixture; `numbers` of its columns."""
        self._usual = self._usual.renumbered(self.numbers, numbers, _places(mixture))
        self.mixture, self.numbers = mixture, numbers
        self.next_number = max(self.next_number, *(number + 1 for number in numbers), 1)

    def _replace(self, fit: macro.Fit, mass: Floats, past: identity.Past | None) -> identity.Lineage:
        """Put a fit in the place of the present mixture; `mass` (old, new) that lasts lies in both."""
        scale = self._scale
        mixture = Mixture(mean=scale.mean, sd=scale.sd(), **_of(fit))
        recent = {number: each for number, each in self._resting.items() if self._age - each.since <= RETURNS}
        resting = {n: (scale.scaled(each.centre), each.variance / scale.sd() ** 2) for n, each in recent.items()}
        back = identity.recognise((fit.centres, fit.variances), resting)
        lineage = identity.trace(self.numbers, mass, self.next_number, back, past)
        gone = {number: self._at_rest(number) for number in lineage.retired}
        staying = {number: each for number, each in recent.items() if number not in lineage.returned}
        self._resting = dict([*staying.items(), *gone.items()][-RESTING:])
        self.adopt(mixture, lineage.numbers)
        return lineage

    def _first(self, points: macro.Points) -> macro.Fit:
        return macro.first(points, self.fewest, self.most, self._dice())

    def _dice(self) -> np.random.Generator:
        """The same for the same fit, whoever makes it."""
        return np.random.default_rng([self.seed, self._refits])

    def _at_rest(self, number: int) -> Resting:
        """What is remembered of a cluster that is no more, in the units of the features."""
        assert self.mixture is not None  # it has this cluster
        column, sd = self.numbers.index(number), self.mixture.sd
        centre = self.mixture.mean + sd * self.mixture.centres[column]
        return Resting(self._age, centre, self.mixture.variances[column] * sd**2)

    def _better(self, points: macro.Points, kept: macro.Fit) -> macro.Fit:
        """The fit that is to replace `kept`, or `kept` itself; centres jump, come and go only after probation."""
        steady, other = macro.propose(points, kept, (self.fewest, self.most), self._dice())
        if self._granted(steady, other):
            assert other is not None  # nothing is granted that nobody wished
            return other
        return steady if self._is_material(points, kept, steady) else kept

    def _is_material(self, points: macro.Points, kept: macro.Fit, fit: macro.Fit) -> bool:
        """Whether a fit of the same clusters is worth a change of all boundaries."""
        gain = fit.objective - kept.objective
        return gain > STALE or (gain > BETTER and macro.moved(points, kept, fit) > MATERIAL)

    def _granted(self, steady: macro.Fit, other: macro.Fit | None) -> bool:
        """Whether the wish for `other` instead of `steady` has been on probation for long enough."""
        self._wish = None if other is None else self._wished(steady, other)
        granted = self._wish is not None and self._wish.is_granted
        if granted:
            self._wish = None
        return granted

    def _wished(self, steady: macro.Fit, other: macro.Fit) -> Wish:
        """The wish for `other` instead of `steady`, in the features' units: the scale will be another next time."""
        change, about = macro.difference(steady, other)
        mean, sd = self._scale.mean, self._scale.sd()
        return wish_again(self._wish, change, mean + sd * about, sd)

    def _points(self) -> macro.Points:
        weights = self._summary.weights
        variances = self._summary.deviations / weights[:, None] / self._scale.sd() ** 2
        means, young = self._scale.scaled(self._summary.means), self._summary.young
        return macro.Points(means, variances, weights / weights.sum(), young / weights)

    def _usual_now(self) -> Floats:
        """The usual places of the centres (k, d), in today's scale."""
        places: Floats = (self._usual.places - self._scale.mean) / self._scale.sd()
        return places

    def _carried(self, points: macro.Points, mixture: Mixture) -> macro.Fit:
        """The present mixture in today's scale, on today's points."""
        ratio = mixture.sd / self._scale.sd()
        centres = (mixture.mean - self._scale.mean) / self._scale.sd() + mixture.centres * ratio
        return macro.evaluate(points, centres, mixture.variances * ratio**2, mixture.shares)

    # Predicting

    def predict_one(self, x: Mapping[Hashable, Any]) -> int:
        """The number of the cluster of a row, 0 before the first fit."""
        return int(self._predict(row_of(x, self._features)[None])[0])

    def predict_many(self, X: NDArray[Any] | Frame) -> NDArray[np.int64]:
        """The numbers (n,) of the clusters of rows (n, d)."""
        return self._predict(rows_of(X, self._features))

    def _predict(self, rows: Floats) -> NDArray[np.int64]:
        if self.mixture is None:
            return np.zeros(len(rows), np.int64)
        columns = self.mixture.place(rows).argmax(axis=1)
        numbers: NDArray[np.int64] = np.array(self.numbers, np.int64).take(columns)
        return numbers

    # Features by name

    def _widen(self, features: Any) -> None:
        """Make room for features not known yet."""
        new = sorted(set(features).difference(self._features), key=str)
        if not new:
            return
        self._features = (*self._features, *new)
        size = len(self._features)
        self._gathered = [np.pad(row, (0, size - len(row))) for row in self._gathered]
        self._scale.widen(size)
        self._summary.widen(size)
        self._wish = None
        self._resting = {}
        if self.mixture is not None:
            self.mixture = _widened(self.mixture, size)
            self._usual = self._usual.widened(size)

    # Keeping

    def snapshot(self) -> bytes:
        """All that was learned as bytes, without pickle; feature names must be texts or integers."""
        return pack(*self._content())

    @classmethod
    def restore(cls, packed: bytes) -> Self:
        """The model whose `snapshot` this is. Raises `UnknownFormat`."""
        head, arrays = unpack(packed)
        if head.get("format") not in FORMATS:
            raise UnknownFormat(f"a model snapshot of format {head.get('format')}")
        parameters = head["parameters"]
        model = cls(**parameters | {"one_scale": tuple(parameters["one_scale"])})
        model._take(head, arrays)
        return model

    def _content(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Head and arrays of a snapshot."""
        scale, summary, wish = self._scale, self._summary, self._wish
        head = {
            "format": FORMAT,
            "parameters": self._get_params(),
            "features": self._features,
            "numbers": self.numbers,
            "next_number": self.next_number,
            "scale_weight": scale.weight,
            "radius": summary.radius,
            "since": self._since,
            "refits": self._refits,
            "age": self._age,
            "resting": {str(number): each.since for number, each in self._resting.items()},
            "wish": [wish.change, wish.times] if wish else None,
        }
        arrays = {
            "scale_mean": scale.mean,
            "scale_deviations": scale.deviations,
            "weights": summary.weights,
            "young": summary.young,
            "means": summary.means,
            "deviations": summary.deviations,
            "usual_places": self._usual.places,
            "usual_ages": self._usual.ages,
            "gathered": np.array(self._gathered).reshape(len(self._gathered), len(self._features)),
        }
        arrays |= {"wish": wish.centre} if wish else {}
        arrays |= {f"resting_{n}": np.stack((each.centre, each.variance)) for n, each in self._resting.items()}
        fit = {} if self.mixture is None else _of(self.mixture, "mean", "sd")
        return head, arrays | {f"fit_{name}": array for name, array in fit.items()}

    def _take(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from the content of a snapshot."""
        self.numbers, self.next_number = tuple(head["numbers"]), head["next_number"]
        self._features = tuple(head["features"])
        self._since, self._refits = head["since"], head["refits"]
        if head["format"] > 1:  # what was on probation in format 1 begins anew
            self._age = head["age"]
            self._wish = Wish(head["wish"][0], head["wish"][1], arrays["wish"]) if head["wish"] else None
            self._resting = {int(n): Resting(since, *arrays[f"resting_{n}"]) for n, since in head["resting"].items()}
        self._scale = Scale(head["scale_weight"], arrays["scale_mean"], arrays["scale_deviations"], self.one_scale)
        weights = arrays["weights"]
        young = arrays.get("young", np.zeros_like(weights))  # what is older than this array has settled
        self._summary = Summary(weights, young, arrays["means"], arrays["deviations"], head["radius"])
        self._gathered = list(arrays["gathered"])
        fit = {name.removeprefix("fit_"): array for name, array in arrays.items() if name.startswith("fit_")}
        self.mixture = Mixture(**fit) if fit else None
        self._usual = Usual.at(_places(self.mixture))
        if "usual_places" in arrays:  # format 2 has had them not from its beginning
            self._usual = Usual(arrays["usual_places"], arrays["usual_ages"])


def _of(fit: macro.Fit | Mixture, *more: str) -> dict[str, Floats]:
    return {name: getattr(fit, name) for name in (*more, "centres", "variances", "shares")}


def _places(mixture: Mixture | None) -> Floats:
    """The centres (k, d) in the units of the features; none without a mixture."""
    return np.zeros((0, 0)) if mixture is None else mixture.mean + mixture.sd * mixture.centres


def _widened(mixture: Mixture, size: int) -> Mixture:
    """A mixture with more features, on which all its clusters agree."""
    missing = size - len(mixture.mean)
    return replace(
        mixture,
        mean=np.pad(mixture.mean, (0, missing)),
        sd=np.pad(mixture.sd, (0, missing), constant_values=1.0),
        centres=np.pad(mixture.centres, ((0, 0), (0, missing))),
        variances=np.pad(mixture.variances, ((0, 0), (0, missing)), constant_values=1.0),
    )
