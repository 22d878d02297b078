"""How well a clustering agrees with a truth, and how well it separates: the figures clusterers are compared by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def adjusted_rand(left: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    """Rand index of two labellings of the same things, adjusted for chance (Hubert & Arabie 1985): 1 equal, 0 chance.

    Two labellings that are both of one cluster, or both all singletons, agree: 1.
    """
    table = contingency(left, right)
    together = _pairs(table).sum()
    ours, theirs = _pairs(table.sum(axis=1)).sum(), _pairs(table.sum(axis=0)).sum()
    all_pairs = _pairs(np.array([table.sum()])).sum()
    by_chance = ours * theirs / all_pairs if all_pairs else 0.0
    most = (ours + theirs) / 2
    return 1.0 if most == by_chance else float((together - by_chance) / (most - by_chance))


def adjusted_mutual_information(left: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    """Mutual information adjusted for chance, arithmetic mean of entropies (Vinh, Epps & Bailey 2010): 1 equal."""
    table = contingency(left, right)
    total = table.sum()
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    if total == 0 or (len(rows) == 1 and len(columns) == 1):
        return 1.0
    shared = table > 0
    outer = np.outer(rows, columns)
    information = float((table[shared] / total * np.log(total * table[shared] / outer[shared])).sum())
    by_chance = _expected_information(rows, columns)
    most = (_entropy(rows) + _entropy(columns)) / 2
    return 1.0 if np.isclose(most, by_chance) else float((information - by_chance) / (most - by_chance))


def simplified_silhouette(rows: Floats, labels: NDArray[np.int64]) -> float | None:
    """Mean of (b - a) / max(a, b), -1..1, a and b the distances to the own and the next cluster's mean.

    `rows` (n, d), `labels` (n,). None with fewer than two clusters. (Vendramin, Campello & Hruschka 2010)
    """
    clusters, member_of = np.unique(labels, return_inverse=True)
    if len(clusters) < 2:
        return None
    sums = np.zeros((len(clusters), rows.shape[1]))
    np.add.at(sums, member_of, rows)
    means = sums / np.bincount(member_of)[:, None]
    lengths = (rows**2).sum(axis=1)[:, None] + (means**2).sum(axis=1)
    distances = np.sqrt(np.maximum(lengths - 2 * rows @ means.T, 0.0))
    place = np.arange(len(rows))
    own = distances[place, member_of].copy()
    distances[place, member_of] = np.inf
    other = distances.min(axis=1)
    return float(((other - own) / np.maximum(np.maximum(own, other), 1e-300)).mean())


def contingency(left: Sequence[Hashable], right: Sequence[Hashable]) -> Floats:
    """How many things have each pair of labels, (labels of left, labels of right)."""
    ours = {label: place for place, label in enumerate(dict.fromkeys(left))}
    theirs = {label: place for place, label in enumerate(dict.fromkeys(right))}
    table = np.zeros((len(ours), len(theirs)))
    for one, other in zip(left, right, strict=True):
        table[ours[one], theirs[other]] += 1
    return table


def _pairs(counts: Floats) -> Floats:
    pairs: Floats = counts * (counts - 1) / 2
    return pairs


def _entropy(counts: Floats) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _expected_information(rows: Floats, columns: Floats) -> float:
    """Mutual information of two labellings of these sizes that have nothing to do with each other."""
    total = rows.sum()
    expected = 0.0
    for ours in rows:
        for theirs in columns:
            both = np.arange(max(1.0, ours + theirs - total), min(ours, theirs) + 1)
            chance = (
                gammaln([ours + 1, theirs + 1, total - ours + 1, total - theirs + 1]).sum()
                - gammaln(total + 1)
                - gammaln(both + 1)
                - gammaln(ours - both + 1)
                - gammaln(theirs - both + 1)
                - gammaln(total - ours - theirs + both + 1)
            )
            expected += float((both / total * np.log(total * both / (ours * theirs)) * np.exp(chance)).sum())
    return expected
