"""Usual places: a mean of where a cluster has been, once it has been there for long enough."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.usual import SETTLED, Usual

HERE, THERE = np.zeros((1, 2)), np.ones((1, 2))


def test_a_young_cluster_is_usually_where_it_is() -> None:
    young = Usual.at(HERE).later(SETTLED / 2, THERE)
    assert young.places.tolist() == THERE.tolist()


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
def test_an_old_one_follows_by_half_in_a_half_life_however_the_time_is_cut(parts: list[float]) -> None:
    usual = Usual.at(HERE).later(SETTLED, HERE)
    for part in parts:
        usual = usual.later(part / sum(parts), THERE)
    assert usual.places == pytest.approx(THERE / 2)


def test_a_cluster_keeps_its_usual_place_through_a_change_of_columns_and_a_new_one_begins_where_it_is() -> None:
    usual = Usual(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), np.array([1.0, 2.0, 3.0]))
    after = usual.renumbered((4, 7, 9), (9, 12, 4), np.full((3, 2), 5.0))
    assert after.places.tolist() == [[3.0, 3.0], [5.0, 5.0], [1.0, 1.0]]
    assert after.ages.tolist() == [3.0, 0.0, 1.0]


def test_a_new_feature_was_zero_so_far() -> None:
    usual = Usual(THERE, np.ones(1)).widened(3)
    assert usual.places.tolist() == [[1.0, 1.0, 0.0]]
