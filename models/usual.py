"""Where the centres of clusters have been for long: who has gone far in small steps has gone far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Half-lives after which a cluster has a usual place; a younger one is usually where it is.
SETTLED = 2 / 3


@dataclass(frozen=True, slots=True, eq=False)
class Usual:
    """The usual `places` (k, d) of clusters, in the features' units, and their `ages` (k,) in half-lives."""

    places: Floats
    ages: Floats

    @classmethod
    def at(cls, centres: Floats) -> Usual:
        """Clusters just met: their usual place is where they are."""
        return cls(centres, np.zeros(len(centres)))

    def later(self, half_lives: float, centres: Floats) -> Usual:
        """After a time in which the clusters were at these centres (k, d): halfway to them after a half-life."""
        ages = self.ages + half_lives
        step = np.where(ages < SETTLED, 1.0, 1 - 0.5**half_lives)[:, None]
        return Usual(self.places + step * (centres - self.places), ages)

    def renumbered(self, before: tuple[int, ...], after: tuple[int, ...], centres: Floats) -> Usual:
        """The same for the clusters `after`, who are at `centres`; those not among `before` are just met."""
        column_of = {number: column for column, number in enumerate(before)}
        columns = np.array([column_of.get(number, len(before) + new) for new, number in enumerate(after)], np.intp)
        places = np.concatenate((self.places.reshape(len(before), -1 if before else centres.shape[1]), centres))
        return Usual(places[columns], np.concatenate((self.ages, np.zeros(len(after))))[columns])

    def widened(self, size: int) -> Usual:
        """The same with features (up to `size`) that were zero so far."""
        return Usual(np.pad(self.places, ((0, 0), (0, size - self.places.shape[1]))), self.ages)
