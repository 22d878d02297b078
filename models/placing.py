"""How well a wallet's features fit each segment: the one function that everybody places wallets with.

It goes row by row, so a row's numbers are the same bits alone and among any others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.compiled import compiled
from models.rules import WINSOR


class Terms(NamedTuple):
    """A mixture as `place` reads it: log share times density as a polynomial in z = clip((x - mean) / sd, -4, 4).

    `mean`, `sd`: float64 (d,). `squares`, `slopes`: float64 (d, k), what z squared and z are multiplied by.
    `constants`: float64 (k,).
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    squares: NDArray[np.float64]
    slopes: NDArray[np.float64]
    constants: NDArray[np.float64]


@compiled
def place(features: NDArray[np.float64], terms: Terms, scores: NDArray[np.float64]) -> None:
    """Fill `scores` (k,): the log of share times density of a row (d,) under every component."""
    segments = len(scores)
    for column in range(segments):
        scores[column] = terms.constants[column]
    for feature in range(len(features)):
        z = min(max((features[feature] - terms.mean[feature]) / terms.sd[feature], -WINSOR), WINSOR)
        for column in range(segments):
            scores[column] += terms.squares[feature, column] * (z * z) + terms.slopes[feature, column] * z


@compiled
def place_each(rows: NDArray[np.float64], terms: Terms, scores: NDArray[np.float64]) -> None:
    """Fill `scores` (n, k) for rows (n, d)."""
    for row in range(len(rows)):
        place(rows[row], terms, scores[row])


@compiled
def best(scores: NDArray[np.float64]) -> int:
    """The column of the highest score, the first of equals."""
    found = 0
    for column in range(1, len(scores)):
        if scores[column] > scores[found]:
            found = column
    return found
