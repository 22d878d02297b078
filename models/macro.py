"""From micro-clusters to segments: a mixture of Gaussians, and how many of them.

Expectation maximisation on weighted micro-clusters with their inner variance (BETULA; Lang & Schubert 2022), and
the number of segments by the simplified silhouette (Vendramin, Campello & Hruschka 2010) with a floor on the
smallest share. Information criteria over-segment here: with the weight of all events BIC runs to the maximum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

#: A segment below this share of the mass is none.
SHARE_FLOOR = 0.02
#: A fresh start must beat the warm one by this many nats per row, or centres would jump for nothing.
JUMP = 0.3
#: Silhouettes this close are a tie. Of a tie the better explanation wins, but one more segment must explain a row
#: better by this many nats: cutting one Gaussian in two gains less.
TIE, WORTH_A_SEGMENT = 0.04, 0.2
#: Variances are shrunk to the pooled one by the mass of this many average micro-clusters, and never fall below
#: this share of the variance of everything.
PSEUDO, VARIANCE_FLOOR = 8.0, 0.02
#: A component is no longer where it was if its squared distance, in its variances and averaged over the features, is
#: above this.
FAR = 1.0
#: How much young weight counts where it matters who was there before. A cluster is one of newcomers if less than this
#: part of what is usual has settled of it: of those who came at a steady pace, for a half-life.
YOUNG_COUNTS, NEWCOMERS = 0.01, 0.5
ROUNDS, PRECISION = 30, 1e-5
FRESH_STARTS = 2


@dataclass(frozen=True)
class Points:
    """Micro-clusters in scaled units: `means` (m, d), `variances` within them (m, d), `weights` (m,) adding up to 1.

    `young`: (m,) the share of each weight that has come lately; (1,) the same for all.
    """

    means: Floats
    variances: Floats
    weights: Floats
    young: Floats = field(default_factory=lambda: np.zeros(1))

    @property
    def lasting(self) -> Floats:
        """How much each counts where it matters who was there before (m,): a little even if all of it is young."""
        lasting: Floats = self.weights * (1 - (1 - YOUNG_COUNTS) * self.young)
        return lasting

    @cached_property
    def powers(self) -> Floats:
        """Expected z squared and z, (m, 2d)."""
        return np.concatenate((self.means**2 + self.variances, self.means), axis=1)

    @cached_property
    def pooled(self) -> Floats:
        """Variance of everything (d,), never 0."""
        mean = self.weights @ self.means
        pooled: Floats = self.weights @ ((self.means - mean) ** 2 + self.variances) + 1e-6
        return pooled


@dataclass(frozen=True, slots=True)
class Fit:
    """A mixture over `Points`: `centres`, `variances` (k, d), `shares` (k,), hard `labels` (m,).

    `objective`: mean expected log-likelihood, nats per row, a constant left out; larger is better.
    """

    centres: Floats
    variances: Floats
    shares: Floats
    labels: Indices
    objective: float

    def __len__(self) -> int:
        return len(self.shares)


def log_densities(points: Points, centres: Floats, variances: Floats, shares: Floats) -> Floats:
    """Log of share times expected density, (m, k); the variance within a micro-cluster counts as distance."""
    precision = 1.0 / variances
    weights = np.concatenate((-0.5 * precision, centres * precision), axis=1)
    spread = (centres**2 * precision + np.log(variances)).sum(axis=1)
    densities: Floats = points.powers @ weights.T - 0.5 * spread + np.log(shares)
    return densities


def evaluate(points: Points, centres: Floats, variances: Floats, shares: Floats) -> Fit:
    """A given mixture, as it is, on these points."""
    densities = log_densities(points, centres, variances, shares)
    objective = float(points.weights @ _log_sum(densities))
    return Fit(centres, variances, shares, densities.argmax(axis=1), objective)


def improve(points: Points, start: Fit) -> Fit:
    """Expectation maximisation from `start`, which keeps its columns."""
    centres, variances, shares = start.centres, start.variances, start.shares
    densities = log_densities(points, centres, variances, shares)
    total, reached = _log_sum(densities), start.objective
    for turn in range(ROUNDS):
        chances = np.exp(densities - total[:, None])
        centres, variances, shares = _maximise(points, chances)
        densities = log_densities(points, centres, variances, shares)
        total = _log_sum(densities)
        before, reached = reached, float(points.weights @ total)
        if turn and reached - before < PRECISION:
            break
    return Fit(centres, variances, shares, densities.argmax(axis=1), reached)


def from_centres(points: Points, centres: Floats) -> Fit:
    """The mixture that k-means and then expectation maximisation reach from these centres (k, d)."""
    centres, labels = _k_means(points, centres)
    chances = np.full((len(labels), len(centres)), 1e-3)
    chances[np.arange(len(labels)), labels] = 1.0
    chances /= chances.sum(axis=1, keepdims=True)
    return improve(points, evaluate(points, *_maximise(points, chances)))


def from_labels(points: Points, labels: Indices, most: int) -> Fit:
    """The mixture of given clusters (m,), of those that have mass enough the `most` heaviest, heaviest first.

    A label below 0 is none. What belongs to no cluster that stays counts where it is explained best.
    """
    known, place = np.unique(labels, return_inverse=True)
    masses = np.where(known >= 0, np.bincount(place, points.weights, len(known)), 0.0)
    order = np.argsort(-masses, kind="stable")[:most]
    kept = order[masses[order] >= min(SHARE_FLOOR, masses.max())] if masses.any() else order[:1]
    chances = (place[:, None] == kept).astype(np.float64)
    chances[~chances.any(axis=1)] = 1.0 / len(kept)  # what is in none says nothing about any
    return evaluate(points, *_maximise(points, chances))


def fresh(points: Points, count: int, generator: np.random.Generator) -> Fit:
    """The best mixture of `count` components from a few k-means++ starts."""
    starts = [from_centres(points, _spread_out(points, count, generator)) for _ in range(FRESH_STARTS)]
    return max(starts, key=lambda fit: fit.objective)


def first(points: Points, fewest: int, most: int, generator: np.random.Generator) -> Fit:
    """The mixture that explains best among those tied for the best silhouette; largest component first."""
    most = min(most, len(points.weights))
    fits = [fresh(points, count, generator) for count in range(min(fewest, most), most + 1)]
    scores = [score(points, fit) for fit in fits]
    tied = [fit for fit, reached in zip(fits, scores, strict=True) if reached >= max(scores) - TIE]
    fit = max(tied, key=lambda one: one.objective)
    order = np.argsort(-fit.shares, kind="stable")
    return evaluate(points, fit.centres[order], fit.variances[order], fit.shares[order])


def propose(
    points: Points, kept: Fit, bounds: tuple[int, int], generator: np.random.Generator
) -> tuple[Fit, Fit | None]:
    """What these points make of `kept`: the same components in better places, and what else would suit them better.

    The second has one component more or less, or all begun afresh; None: nothing does. A component that would
    jump to other points stays where it was, and those points are wished one of their own.
    """
    warm = improve(points, kept)
    jumped = _jumped(points, kept, warm)
    if not jumped.any():
        return warm, alternative(points, warm, bounds, generator)
    if len(kept) < min(bounds[1], len(points.weights)):
        return kept, from_centres(points, np.concatenate((kept.centres, warm.centres[jumped][:1])))
    return kept, warm


def alternative(points: Points, warm: Fit, bounds: tuple[int, int], generator: np.random.Generator) -> Fit | None:
    """A mixture that suits the points better than the warm one: one component more or less, or all begun afresh."""
    fewest, most = bounds
    if len(warm) < min(most, len(points.weights)) and (more := _with_newcomers(points, warm)) is not None:
        return more
    reached = score(points, warm)
    if len(warm) > fewest:
        fewer = _with_one_less(points, warm)
        dying = _masses(points, warm).min() < SHARE_FLOOR / 2
        worth_it = fewer.objective >= warm.objective - WORTH_A_SEGMENT  # or it would be wished back
        if dying or (worth_it and score(points, fewer) > reached + TIE):
            return fewer
    if len(warm) < min(most, len(points.weights)):
        more = _with_one_more(points, warm, points.weights)
        worth_it = more.objective >= warm.objective + WORTH_A_SEGMENT
        if worth_it and score(points, more) >= max(reached, -1.0) - TIE:
            return more
    anew = fresh(points, len(warm), generator)
    return anew if anew.objective > warm.objective + JUMP and score(points, anew) >= reached else None


def difference(steady: Fit, other: Fit) -> tuple[int, Floats]:
    """How many components `other` has more (1, 0, -1), and the centre (d,) of the one that came or went.

    Where all are begun afresh: the centre that is farthest from any of before.
    """
    longer, shorter = (steady, other) if len(other) < len(steady) else (other, steady)
    apart = _distances(longer.centres, shorter.centres).min(axis=1)
    return len(other) - len(steady), longer.centres[apart.argmax()]


def moved(points: Points, before: Fit, after: Fit) -> float:
    """The share of the mass, 0 to 1, that is expected to be placed elsewhere; both have the same components."""
    apart = np.abs(_chances(points, before) - _chances(points, after)).sum(axis=1)
    return float(points.weights @ apart) / 2


def _jumped(points: Points, before: Fit, after: Fit) -> NDArray[np.bool_]:
    """Components (k,) that are not where they were, or share less than half their mass with what they were."""
    same = np.where(before.labels == after.labels, points.weights, 0.0)
    both = np.bincount(before.labels, same, len(before))
    apart = (2 * (before.centres - after.centres) ** 2 / (before.variances + after.variances)).mean(axis=1)
    jumped: NDArray[np.bool_] = apart > FAR
    return jumped | (both < np.minimum(_masses(points, before), _masses(points, after)) / 2)


def score(points: Points, fit: Fit) -> float:
    """Simplified silhouette, -1..1; below that, and the less the less, where the smallest share misses its floor."""
    least = float(_masses(points, fit).min())
    return silhouette(points, fit) if least >= SHARE_FLOOR else -2.0 + least


def silhouette(points: Points, fit: Fit) -> float:
    """Simplified silhouette, -1..1; 0 of a single component, which has nothing to be told apart from."""
    if len(fit) == 1:
        return 0.0
    distances = np.sqrt(_distances(points.means, fit.centres))
    rows = np.arange(len(distances))
    own = distances[rows, fit.labels].copy()
    distances[rows, fit.labels] = np.inf
    other = distances.min(axis=1)
    return float(points.weights @ ((other - own) / np.maximum(np.maximum(other, own), 1e-300)))


def apart(places: Floats, fit: Fit) -> Floats:
    """How far each place (n, d) is from each component, (n, k): squared, in its variances, mean of the features."""
    squared: Floats = ((places[:, None] - fit.centres) ** 2 / fit.variances).mean(axis=2)
    return squared


def newcomers(points: Points, fit: Fit) -> NDArray[np.bool_]:
    """Components (k,) with much less settled mass than is usual for their size."""
    settled = np.bincount(fit.labels, points.lasting, len(fit))
    found: NDArray[np.bool_] = settled < NEWCOMERS * _masses(points, fit) * settled.sum()
    return found


def _masses(points: Points, fit: Fit) -> Floats:
    """Mass of each component by hard labels, (k,)."""
    return np.bincount(fit.labels, points.weights, len(fit)).astype(np.float64, copy=False)


def _with_one_less(points: Points, fit: Fit) -> Fit:
    """One component less: the lightest one."""
    return from_centres(points, np.delete(fit.centres, _masses(points, fit).argmin(), axis=0))


def _with_one_more(points: Points, fit: Fit, weights: Floats) -> Fit:
    """One more component, begun at the micro-cluster that is explained worst; `weights` (m,) that count."""
    densities = log_densities(points, fit.centres, fit.variances, fit.shares)
    worst = np.argsort(weights * _log_sum(densities), kind="stable")[:3]
    grown = [from_centres(points, np.concatenate((fit.centres, points.means[[point]]))) for point in worst]
    return max(grown, key=lambda one: one.objective)


def _chances(points: Points, fit: Fit) -> Floats:
    """How likely each point belongs to each component, (m, k)."""
    densities = log_densities(points, fit.centres, fit.variances, fit.shares)
    chances: Floats = np.exp(densities - _log_sum(densities)[:, None])
    return chances


def _with_newcomers(points: Points, fit: Fit) -> Fit | None:
    """One more component, if it gives newcomers one of their own, is worth a segment and leaves nobody dying.

    Who was there before may be left with less than the floor: it is not the newcomers' merit that they were few.
    """
    if not points.young.any():
        return None
    more = _with_one_more(points, fit, points.weights * points.young)
    settled = _newcomers_with_mass(points, more) > _newcomers_with_mass(points, fit)
    spared = _masses(points, more).min() >= min(SHARE_FLOOR / 2, _masses(points, fit).min())
    worth_it = more.objective >= fit.objective + WORTH_A_SEGMENT
    told_apart = silhouette(points, more) >= silhouette(points, fit) - TIE
    return more if settled and spared and worth_it and told_apart else None


def _newcomers_with_mass(points: Points, fit: Fit) -> int:
    """How many components of newcomers have mass enough for a segment."""
    return int((newcomers(points, fit) & (_masses(points, fit) >= SHARE_FLOOR)).sum())


def _maximise(points: Points, chances: Floats) -> tuple[Floats, Floats, Floats]:
    """Centres, variances, shares from the chances (m, k) of each point to belong to each component."""
    weighted = chances * points.weights[:, None]
    shares = weighted.sum(axis=0) + 1e-12
    moments = weighted.T @ points.powers / shares[:, None]
    features = points.means.shape[1]
    centres = moments[:, features:]
    variances = np.maximum(moments[:, :features] - centres**2, 0.0)
    common = shares @ variances / shares.sum()
    pseudo = PSEUDO / len(points.weights)
    variances = (shares[:, None] * variances + pseudo * common) / (shares[:, None] + pseudo)
    return centres, np.maximum(variances, VARIANCE_FLOOR * points.pooled), shares / shares.sum()


def _k_means(points: Points, centres: Floats) -> tuple[Floats, Indices]:
    """Lloyd's weighted k-means; a centre that loses all its points stays where it is."""
    count = len(centres)
    labels = _distances(points.means, centres).argmin(axis=1)
    for _ in range(ROUNDS):
        member = (labels[:, None] == np.arange(count)) * points.weights[:, None]
        masses = member.sum(axis=0)
        moved = np.where(masses[:, None] > 0, member.T @ points.means / np.maximum(masses, 1e-300)[:, None], centres)
        shift = np.abs(moved - centres).max()
        centres, labels = moved, _distances(points.means, moved).argmin(axis=1)
        if shift < PRECISION:
            break
    return centres, labels


def _spread_out(points: Points, count: int, generator: np.random.Generator) -> Floats:
    """Greedy k-means++ (Arthur & Vassilvitskii 2007): every next centre the best of a few drawn by distance."""
    chosen = [int(generator.choice(len(points.weights), p=points.weights))]
    distance = _distances(points.means, points.means[chosen])[:, 0]
    while len(chosen) < count:
        chances = points.weights * distance
        chances = chances / chances.sum() if chances.sum() > 0 else points.weights
        drawn = generator.choice(len(chances), 2 + int(np.log(count)), p=chances)
        closer = np.minimum(distance[:, None], _distances(points.means, points.means[drawn]))
        best = int((points.weights @ closer).argmin())
        chosen.append(int(drawn[best]))
        distance = closer[:, best]
    return points.means[chosen]


def _distances(left: Floats, right: Floats) -> Floats:
    """Squared distances (n, m)."""
    apart = left[:, None] - right
    distances: Floats = np.einsum("nmd,nmd->nm", apart, apart)
    return distances


def _log_sum(densities: Floats) -> Floats:
    """Log of the sum of exponentials along k, (m,)."""
    largest = densities.max(axis=1)
    total: Floats = largest + np.log(np.exp(densities - largest[:, None]).sum(axis=1))
    return total
