"""Figures that clusterers are compared by, against scikit-learn and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from models.agreement import adjusted_mutual_information, adjusted_rand, simplified_silhouette

labellings = st.integers(2, 60).flatmap(
    lambda size: st.tuples(*[st.lists(st.integers(0, 4), min_size=size, max_size=size)] * 2)
)


@given(labellings)
def test_agreement_is_what_scikit_learn_says(both: tuple[list[int], list[int]]) -> None:
    assert adjusted_rand(*both) == pytest.approx(adjusted_rand_score(*both), abs=1e-9)
    assert adjusted_mutual_information(*both) == pytest.approx(adjusted_mutual_info_score(*both), abs=1e-7)


@given(labellings)
def test_what_labels_are_called_does_not_matter(both: tuple[list[int], list[int]]) -> None:
    named = [f"segment {label}" for label in both[0]]
    assert adjusted_rand(named, both[1]) == adjusted_rand(*both)
    assert adjusted_mutual_information(both[0], named) == pytest.approx(1)


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_the_silhouette_is_the_mean_of_its_definition(seed: int, clusters: int) -> None:
    draw = np.random.default_rng(seed)
    rows, labels = draw.normal(size=(40, 3)), draw.integers(0, clusters, 40)
    labels[:2] = 0, 1
    means = {label: rows[labels == label].mean(axis=0) for label in set(labels.tolist())}
    each = []
    for row, label in zip(rows, labels.tolist(), strict=True):
        own = float(np.linalg.norm(row - means[label]))
        other = min(float(np.linalg.norm(row - mean)) for name, mean in means.items() if name != label)
        each.append((other - own) / max(own, other))
    assert simplified_silhouette(rows, labels) == pytest.approx(np.mean(each))


def test_one_cluster_has_no_silhouette() -> None:
    assert simplified_silhouette(np.ones((3, 2)), np.ones(3, np.int64)) is None
