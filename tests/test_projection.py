"""The map of the segments: a plane that keeps its direction from one catalogue to the next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.projection import Projection, projection
from models.rows import FEATURES, UnknownFormat
from models.segments import Catalogue
from tests.test_segments import D, a_catalogue

seeds = st.integers(0, 10**6)


def nudged(catalogue: Catalogue, by: float, seed: int = 1) -> Catalogue:
    """The next version: every centre a little elsewhere."""
    moved = np.random.default_rng(seed).normal(size=catalogue.centres.shape) * by
    return replace(catalogue, centres=catalogue.centres + moved, version=catalogue.version + 1)


def round_one(catalogue: Catalogue) -> Catalogue:
    """A catalogue whose two largest components are equal: any turn of their plane is as good as any other."""
    centres = np.zeros((4, D))
    centres[[0, 1], 0], centres[[2, 3], 5] = (5.0, -5.0), (5.0, -5.0)
    return replace(
        catalogue, centres=centres, variances=np.ones((4, D)), shares=np.full(4, 0.25), segments=catalogue.segments[:4]
    )


@given(seeds, st.integers(1, 12))
def test_axes_are_orthonormal_and_explain_the_most_two_directions_can(seed: int, count: int) -> None:
    flat = projection(a_catalogue(seed, count))
    assert flat.axes.T @ flat.axes == pytest.approx(np.eye(2), abs=1e-9)
    catalogue = a_catalogue(seed, count)
    apart = catalogue.centres - catalogue.shares @ catalogue.centres
    covariance = (apart * catalogue.shares[:, None]).T @ apart + np.diag(catalogue.shares @ catalogue.variances)
    best = np.linalg.eigvalsh(covariance)[-2:].sum() / np.trace(covariance)
    assert sum(flat.explained) == pytest.approx(best)


@given(seeds, st.integers(2, 12))
def test_the_same_catalogue_lies_as_before_however_the_map_before_was_turned(seed: int, count: int) -> None:
    catalogue = a_catalogue(seed, count)
    first = projection(catalogue)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(2, 2)))[0]
    turned = replace(first, axes=first.axes @ turn)
    assert projection(catalogue, turned).place(catalogue.centres) == pytest.approx(
        turned.place(catalogue.centres), abs=1e-7
    )


@given(seeds)
def test_a_small_step_of_the_model_is_a_small_step_on_the_map_even_where_components_are_equal(seed: int) -> None:
    before = round_one(a_catalogue(0, 5))
    first = projection(before)
    after = nudged(before, 0.01, seed)
    then = projection(after, first)
    assert np.abs(then.place(after.centres) - first.place(before.centres)).max() < 0.2


@given(seeds, st.integers(2, 12))
def test_the_order_of_segments_does_not_matter(seed: int, count: int) -> None:
    catalogue = a_catalogue(seed, count)
    order = np.random.default_rng(seed).permutation(count)
    other = replace(
        catalogue,
        centres=catalogue.centres[order],
        variances=catalogue.variances[order],
        shares=catalogue.shares[order],
        segments=tuple(catalogue.segments[place] for place in order),
    )
    assert projection(other).place(catalogue.centres) == pytest.approx(
        projection(catalogue).place(catalogue.centres), abs=1e-6
    )


def test_on_the_first_map_richer_is_to_the_right_and_busier_is_up() -> None:
    centres = np.zeros((4, D))
    centres[[0, 1], FEATURES.index("wallet_size")] = 3.0, -3.0
    centres[[2, 3], FEATURES.index("frequency")] = 2.0, -2.0
    catalogue = replace(round_one(a_catalogue(0, 5)), centres=centres)
    places = projection(catalogue).place(centres)
    assert places[0, 0] > 1 > -1 > places[1, 0]
    assert places[2, 1] > 1 > -1 > places[3, 1]
    assert projection(catalogue).meaning(0)[0] == "wallet_size"
    assert projection(catalogue).meaning(1)[0] == "frequency"


def test_a_projection_is_read_back_as_it_was_kept_and_another_is_refused() -> None:
    flat = projection(a_catalogue(3))
    again = Projection.from_json(flat.to_json())
    assert again.axes.tobytes() == flat.axes.tobytes()
    assert (again.explained, again.catalogue) == (flat.explained, flat.catalogue)
    for wrong in (b"", b"[]", b"{}", flat.to_json().replace(b"frequency", b"speed"), flat.to_json()[:-20]):
        with pytest.raises(UnknownFormat):
            Projection.from_json(wrong)
