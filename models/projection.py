"""A flat map of the segments: principal components that keep their direction from one catalogue to the next.

The plane is that of the two largest principal components of the mixture's covariance. Within it any turn is as good
as another, and eigenvectors come with either sign: so it is turned (orthogonal Procrustes; Schönemann 1966) to lie as
the map before did, or, for the first, so that richer wallets are to the right and busier ones further up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.rows import FEATURES, UnknownFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.segments import Catalogue, Mixture

    Floats = NDArray[np.float64]

FORMAT = 1
#: What the first map is turned by: features that grow to the right, and features that grow upwards.
RIGHTWARDS, UPWARDS = ("wallet_size", "ticket"), ("frequency", "frequency_fast")


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Where scaled features lie on the map.

    `axes`: float64 (d, 2), two orthonormal directions, right and up. `middle`: float64 (d,), what lies at (0, 0).
    `explained`: the part of the variance along each axis, 0..1. `catalogue`: hash of the catalogue it was made for.
    """

    axes: Floats
    middle: Floats
    explained: tuple[float, float]
    catalogue: str

    def place(self, scaled: Floats) -> Floats:
        """Positions (n, 2) of scaled features (n, d), in standard deviations of the features."""
        positions: Floats = (scaled - self.middle) @ self.axes
        return positions

    def meaning(self, axis: int, most: int = 3) -> list[str]:
        """The features that an axis (0 right, 1 up) follows most, the strongest first; `-` before one that falls."""
        weights = self.axes[:, axis]
        strongest = np.argsort(-np.abs(weights), kind="stable")[:most]
        return [f"{'-' if weights[place] < 0 else ''}{FEATURES[place]}" for place in strongest.tolist()]

    def to_json(self) -> bytes:
        content = {
            "format": FORMAT,
            "features": list(FEATURES),
            "axes": self.axes.tolist(),
            "middle": self.middle.tolist(),
            "explained": list(self.explained),
            "catalogue": self.catalogue,
        }
        return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Projection:
        """The projection of `to_json`. Raises `UnknownFormat`, also for one over other features."""
        try:
            content = json.loads(text)
            if content["format"] != FORMAT or content["features"] != list(FEATURES):
                raise UnknownFormat("a map of another version's features")
            axes = np.array(content["axes"], np.float64).reshape(len(FEATURES), 2)
            middle = np.array(content["middle"], np.float64).reshape(len(FEATURES))
            right, up = content["explained"]
            return cls(axes, middle, (float(right), float(up)), str(content["catalogue"]))
        except (ValueError, KeyError, TypeError) as problem:
            raise UnknownFormat("what is stored for the map is none") from problem


def projection(catalogue: Catalogue, previous: Projection | None = None) -> Projection:
    """The map of a catalogue with at least one segment, turned to lie as the `previous` one does."""
    covariance, middle = _covariance(catalogue)
    plane = np.linalg.eigh(covariance)[1][:, -2:]
    target = _first_target() if previous is None else previous.axes
    left, _, right = np.linalg.svd(plane.T @ target)
    axes = plane @ (left @ right)
    along = np.diag(axes.T @ covariance @ axes) / max(float(np.trace(covariance)), 1e-300)
    return Projection(axes, middle, (float(along[0]), float(along[1])), catalogue.hash)


def _covariance(mixture: Mixture) -> tuple[Floats, Floats]:
    """Covariance (d, d) and mean (d,) of the whole mixture, in scaled features."""
    shares = mixture.shares / max(float(mixture.shares.sum()), 1e-300)
    middle: Floats = shares @ mixture.centres
    apart = mixture.centres - middle
    covariance: Floats = (apart * shares[:, None]).T @ apart + np.diag(shares @ mixture.variances)
    return covariance, middle


def _first_target() -> Floats:
    target = np.zeros((len(FEATURES), 2))
    for axis, names in enumerate((RIGHTWARDS, UPWARDS)):
        target[[FEATURES.index(name) for name in names], axis] = 1.0
    return target
