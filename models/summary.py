"""What the learner remembers of all rows: their scale, and micro-clusters of rows that lie together.

Micro-clusters hold weight, mean and squared deviations per dimension and are updated around their means: BETULA
(Lang & Schubert, SISAP 2020; update of Chan, Golub & LeVeque 1979). Linear and square sums lose everything far
from the origin: at 1e9 they give a variance of -3584 where 1 is true. They live in the units of the features;
scaling happens when distances are taken, so a drifting scale never invalidates what is remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.rules import WINSOR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]

#: A feature that varies less than this is constant, and is not blown up.
LEAST_SD = 1e-5
#: Weight from which the scale is trusted to cut rows off.
TRUSTED = 100.0
#: The radius grows when more than the first share of a batch founds micro-clusters, shrinks below the second.
CROWDED, SETTLED = 0.03, 0.003
GROW, SHRINK = 1.05, 0.99
#: A micro-cluster is forgotten at this share of the heaviest one's weight.
FADED = 1e-5


@dataclass(slots=True)
class Scale:
    """Decayed mean and squared deviations of every feature: `weight`, `mean` (d,), `deviations` (d,).

    `block`: columns [from, to) that share one standard deviation, such as shares that add up to one.
    """

    weight: float
    mean: Floats
    deviations: Floats
    block: tuple[int, int]

    @classmethod
    def empty(cls, features: int, block: tuple[int, int]) -> Scale:
        return cls(0.0, np.zeros(features), np.zeros(features), block)

    def sd(self) -> Floats:
        """Standard deviations (d,); 1 for a constant feature."""
        variance = self.deviations / max(self.weight, 1e-300)
        shared = slice(*self.block)
        if self.block[0] < self.block[1]:
            variance[shared] = variance[shared].mean()
        sd: Floats = np.sqrt(variance)
        return np.where(sd > LEAST_SD, sd, 1.0)

    def scaled(self, rows: Floats) -> Floats:
        """Rows (n, d) in standard deviations, cut off at `WINSOR`."""
        return np.clip((rows - self.mean) / self.sd(), -WINSOR, WINSOR)

    def cut_off(self, rows: Floats) -> Floats:
        """Rows (n, d) in their own units, no further than `WINSOR` from the mean once the scale is trusted."""
        if self.weight < TRUSTED:
            return rows
        bound = WINSOR * self.sd()
        return np.clip(rows, self.mean - bound, self.mean + bound)

    def learn(self, rows: Floats, weights: Floats) -> None:
        added = weights.sum()
        mean = weights @ rows / added
        apart = mean - self.mean
        total = self.weight + added
        self.deviations = self.deviations + weights @ (rows - mean) ** 2 + apart**2 * (self.weight * added / total)
        self.mean = self.mean + apart * (added / total)
        self.weight = float(total)

    def fade(self, factor: float) -> None:
        self.weight *= factor
        self.deviations = self.deviations * factor

    def widen(self, features: int) -> None:
        """Room for more features, of which nothing but zeros was seen so far."""
        self.mean, self.deviations = _widened(self.mean, features), _widened(self.deviations, features)


@dataclass(slots=True)
class Summary:
    """Micro-clusters: `weights` (m,), `means` (m, d), `deviations` (m, d) in the units of the features.

    `young` (m,): the part of the weights that has come lately; the rest has settled, half of a row's weight in a
    half-life. `radius`: squared distance in scaled units within which a row joins a micro-cluster; 0 until first known.
    """

    weights: Floats
    young: Floats
    means: Floats
    deviations: Floats
    radius: float

    @classmethod
    def empty(cls, features: int) -> Summary:
        return cls(np.zeros(0), np.zeros(0), np.zeros((0, features)), np.zeros((0, features)), 0.0)

    def __len__(self) -> int:
        return len(self.weights)

    def fade(self, half_lives: float) -> None:
        """What there is fades by 2^-half_lives, and as much of what is left settles."""
        factor = 0.5**half_lives
        self.weights = self.weights * factor
        self.young = self.young * factor**2
        self.deviations = self.deviations * factor

    def widen(self, features: int) -> None:
        """Room for more features, of which nothing but zeros was seen so far."""
        self.means, self.deviations = _widened(self.means, features), _widened(self.deviations, features)

    def learn(self, rows: Floats, weights: Floats, scale: Scale, budget: int) -> None:
        """Take in rows (n, d): near ones join, far ones found up to `budget` more; then at most 2 `budget` remain."""
        scaled = scale.scaled(rows)
        nearest, distance = _nearest(scaled, scale.scaled(self.means))
        far = np.flatnonzero(distance > self.radius)
        before = len(self)
        nearest[far] = before + self._found(rows[far], scaled[far], budget)
        self._join(rows, weights, nearest)
        self._tune((len(self) - before) / len(rows))
        self._forget()
        if len(self) > 2 * budget:
            self._merge(scale, budget)

    def _found(self, rows: Floats, scaled: Floats, budget: int) -> Indices:
        """Found micro-clusters at the leaders among rows; for each row which of the new ones it joins."""
        leaders, member_of = _leaders(scaled, self.radius, budget)
        blank = np.zeros((len(leaders), rows.shape[1]))
        self.weights = np.concatenate((self.weights, np.zeros(len(leaders))))
        self.young = np.concatenate((self.young, np.zeros(len(leaders))))
        self.means = np.concatenate((self.means, rows[leaders]))
        self.deviations = np.concatenate((self.deviations, blank))
        return member_of

    def _join(self, rows: Floats, weights: Floats, member_of: Indices) -> None:
        """Chan's update of all micro-clusters by all rows at once, centred on the old means: nothing cancels."""
        size, features = self.means.shape
        apart = rows - self.means[member_of]
        cell = (member_of[:, None] * features + np.arange(features)).ravel()
        first = weights[:, None] * apart
        sums = np.bincount(cell, first.ravel(), size * features).reshape(size, features)
        squares = np.bincount(cell, (first * apart).ravel(), size * features).reshape(size, features)
        added = np.bincount(member_of, weights, size)
        self.weights, self.young = self.weights + added, self.young + added
        moved = sums / self.weights[:, None]
        self.means = self.means + moved
        self.deviations = np.maximum(self.deviations + squares - sums * moved, 0.0)

    def _tune(self, founding: float) -> None:
        """Let the radius follow the stream: no parameter fits every user's data."""
        if founding > CROWDED:
            self.radius *= GROW
        elif founding < SETTLED:
            self.radius *= SHRINK

    def _forget(self) -> None:
        self._keep(self.weights >= FADED * self.weights.max())

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        if not kept.all():
            self.weights, self.young = self.weights[kept], self.young[kept]
            self.means, self.deviations = self.means[kept], self.deviations[kept]

    def _merge(self, scale: Scale, budget: int) -> None:
        """Merge pairs that are each other's cheapest by Ward's cost, until `budget` remain."""
        median, scaled = 0.0, scale.scaled(self.means)
        cost = _costs(scaled, self.weights, np.arange(len(self)))
        while len(self) > budget:
            kept, given = _pairs(cost, len(self) - budget)
            median = float(np.median(_apart(scaled[kept], scaled[given])))
            staying = np.ones(len(self), np.bool_)
            staying[given] = False
            self._unite(kept, given)
            self._keep(staying)
            changed = (np.cumsum(staying) - 1)[kept]
            scaled = scaled[staying]
            scaled[changed] = scale.scaled(self.means[changed])
            cost = cost[staying][:, staying]  # of all the others it is as it was
            cost[changed] = _costs(scaled, self.weights, changed)
            cost[:, changed] = cost[changed].T
        if self.radius == 0:
            self.radius = median

    def _unite(self, kept: Indices, given: Indices) -> None:
        mine, theirs = self.weights[kept], self.weights[given]
        total = mine + theirs
        apart = self.means[given] - self.means[kept]
        self.means[kept] += apart * (theirs / total)[:, None]
        self.deviations[kept] += self.deviations[given] + apart**2 * (mine * theirs / total)[:, None]
        self.weights[kept] = total
        self.young[kept] += self.young[given]


def _widened(array: Floats, features: int) -> Floats:
    missing = (*array.shape[:-1], features - array.shape[-1])
    return np.concatenate((array, np.zeros(missing)), axis=-1)


def _products(rows: Floats, centres: Floats) -> Floats:
    """-2 times the inner products (n, m), which squared lengths make squared distances.

    No matrix product: on this size BLAS starts threads that cost more than they save, and its last bits differ
    from machine to machine.
    """
    products: Floats = np.einsum("nd,dm->nm", rows, np.ascontiguousarray(-2.0 * centres.T), optimize=False)
    return products


def _lengths(rows: Floats) -> Floats:
    """Squared lengths (n,)."""
    lengths: Floats = np.einsum("nd,nd->n", rows, rows, optimize=False)
    return lengths


def _distances(rows: Floats, others: Floats) -> Floats:
    """Squared distances (n, m); of the same rows they are symmetric to the last bit."""
    distances = _products(rows, others)
    distances += _lengths(rows)[:, None] + _lengths(others)
    return np.maximum(distances, 0.0, out=distances)


def _apart(rows: Floats, others: Floats) -> Floats:
    """Squared distance of each row from the other of the same place, (n,)."""
    return _lengths(rows - others)


def _costs(scaled: Floats, weights: Floats, chosen: Indices) -> Floats:
    """Ward's cost (c, m) of merging the chosen micro-clusters with each of all."""
    lightness = 1.0 / weights
    costs = _distances(scaled[chosen], scaled)
    costs /= lightness[chosen, None] + lightness
    return costs


def _nearest(rows: Floats, centres: Floats) -> tuple[Indices, Floats]:
    """Index of the nearest centre and squared distance to it, (n,) each; infinitely far where there is none."""
    if len(centres) == 0:
        return np.zeros(len(rows), np.int64), np.full(len(rows), np.inf)
    nearest = (_products(rows, centres) + _lengths(centres)).argmin(axis=1)
    return nearest, _apart(rows, centres[nearest])


def _pairs(cost: Floats, most: int) -> tuple[Indices, Indices]:
    """Disjoint pairs, the cheapest first, of which neither can be had cheaper; at least one, at most `most`.

    `cost`: symmetric to the last bit, or nobody might be anybody's cheapest; its diagonal is overwritten. Of equally
    cheap partners each takes the next by index: if all took the first, a thousand equal rows would be merged one by
    one.
    """
    np.fill_diagonal(cost, np.inf)
    index = np.arange(len(cost))
    partner = cost.argmin(axis=1)
    price = cost[index, partner]
    cost[index, partner] = np.inf
    tied = np.flatnonzero(cost.min(axis=1) == price)
    cost[index, partner] = price
    in_turn = (tied[:, None] + index + 1) % len(cost)
    partner[tied] = in_turn[np.arange(len(tied)), cost[tied[:, None], in_turn].argmin(axis=1)]
    willing = np.flatnonzero(price <= price[partner])
    paired: dict[int, int] = {}
    for one in willing[np.argsort(price[willing], kind="stable")].tolist():
        other = int(partner[one])
        if one not in paired and other not in paired and len(paired) < 2 * most:
            paired |= {one: other, other: one}
    kept = np.array([one for one, other in paired.items() if one < other], np.int64)
    return kept, np.array([paired[one] for one in kept.tolist()], np.int64)


def _leaders(rows: Floats, radius: float, most: int) -> tuple[Indices, Indices]:
    """The first row leads all within the radius, then the first left over, and so on (Hartigan 1975).

    Indices of the leaders, and (n,) the leader each row follows. Without a radius every row leads.
    """
    if radius == 0:
        return np.arange(len(rows)), np.arange(len(rows))
    follows = np.full(len(rows), -1)
    left = np.arange(len(rows))
    leaders: list[int] = []
    while len(leaders) < most and len(left):
        tried = left[: most - len(leaders)]
        leader_of = np.full(len(left), -1)
        for place, near in enumerate(_distances(rows[tried], rows[left]) <= radius):
            if leader_of[place] < 0:
                leader_of[near & (leader_of < 0)] = len(leaders)
                leader_of[place] = len(leaders)
                leaders.append(int(tried[place]))
        follows[left] = leader_of
        left = left[leader_of < 0]
    follows[left] = _nearest(rows[left], rows[leaders])[0]
    return np.array(leaders, np.int64), follows
