"""Rows by the names of their features, as River's learners get them, one by one or in a data frame."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Frame(Protocol):
    """A data frame, as far as it is needed: pandas and polars fit."""

    @property
    def columns(self) -> Sequence[str]: ...
    def to_numpy(self) -> NDArray[Any]: ...


def row_of(x: Mapping[Hashable, Any], features: Sequence[Hashable]) -> Floats:
    """A row (d,) in the order of `features`; what is missing, or no finite number, is zero."""
    return np.array([_number(x.get(feature)) for feature in features])


def rows_of(X: NDArray[Any] | Frame, features: Sequence[Hashable]) -> Floats:
    """Rows (n, d) of a frame in the order of `features`, one that is missing is zero; an array as it is.

    An array has no names, so once features are known it must have just so many columns: ValueError.
    """
    if isinstance(X, np.ndarray):
        if X.ndim != 2 or (features and X.shape[1] != len(features)):
            wanted = f"(n, {len(features)}), one column for each feature learned so far," if features else "(n, d)"
            raise ValueError(f"an array of rows must have the shape {wanted} and has {X.shape}")
        return np.ascontiguousarray(X, np.float64)
    column_of: dict[Hashable, int] = {feature: column for column, feature in enumerate(X.columns)}
    found = np.asarray(X.to_numpy(), np.float64)
    blank = np.zeros((len(found), 1))
    order = [column_of.get(feature, len(column_of)) for feature in features]
    return np.concatenate((found, blank), axis=1).take(order, axis=1)


def _number(value: object) -> float:
    """A finite number as it is, anything else as zero."""
    return float(value) if isinstance(value, Real) and math.isfinite(value) else 0.0
