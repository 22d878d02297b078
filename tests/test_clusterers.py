from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.clusterers import (
    RIVERS,
    SAMPLE,
    Borrowed,
    begun,
    bounds_of,
    is_of,
    parameters_of,
    problem_with,
    restored,
)
from models.microclusters import MicroClusters
from models.probation import PATIENCE
from models.rules import CLUSTERERS, OWN_CLUSTERER
from tests.test_microclusters import planted

every_clusterer = pytest.mark.parametrize("name", RIVERS)


def learned(name: str, rows: int = 1200, params: str = "{}") -> MicroClusters:
    model = begun((name, params), refit_every=0)
    for begin in range(0, rows, 300):
        model.learn_many(planted(begin, 300)[0])
    return model


def test_the_closed_list_is_ours_and_river_s() -> None:
    assert (OWN_CLUSTERER, *RIVERS) == CLUSTERERS


@every_clusterer
def test_what_it_finds_becomes_a_mixture_with_numbers_within_the_bound(name: str) -> None:
    model = learned(name)
    lineage = model.refit()
    assert lineage is not None
    assert model.mixture is not None
    assert 2 <= len(model.numbers) <= model.most
    assert model.numbers == lineage.born == tuple(range(1, len(model.numbers) + 1))
    assert np.isfinite(model.mixture.place(planted(9, 50)[0])).all()
    assert model.mixture.shares.sum() == pytest.approx(1)


def test_planted_clusters_are_found_through_river_too() -> None:
    model = learned("river.DBSTREAM", 3000)
    model.refit()
    rows, truth = planted(9, 500)
    pairs = set(zip(truth.tolist(), model.predict_many(rows).tolist(), strict=True))
    assert len({found for _, found in pairs}) == len(pairs) == 6


def test_clusters_come_and_go_only_after_probation() -> None:
    rows, truth = planted(0, 2400)
    model = begun(("river.DBSTREAM", "{}"), refit_every=0, half_life=1000.0)
    model.learn_many(rows[truth < 3])
    model.refit()
    before = model.numbers
    changed_after = 0
    for turn in range(1, 12):
        model.learn_many(planted(turn, 600)[0])
        model.refit()
        if model.numbers != before:
            changed_after = turn
            break
    assert changed_after >= PATIENCE


@every_clusterer
def test_the_same_rows_end_in_the_same_bytes(name: str) -> None:
    one, other = learned(name, 600), learned(name, 600)
    one.refit()
    other.refit()
    assert one.snapshot() == other.snapshot()


@every_clusterer
def test_a_snapshot_holds_rows_and_no_pickle_and_goes_on(name: str) -> None:
    model = learned(name)
    model.refit()
    again = restored(model.snapshot())
    assert isinstance(again, Borrowed)
    assert again.snapshot() == model.snapshot()
    assert again.weight == model.weight
    again.learn_many(planted(77, 300)[0])
    again.refit()
    assert set(model.numbers) & set(again.numbers)
    assert is_of(again, (name, "{}"))


def test_ours_is_restored_as_ours() -> None:
    model = learned(OWN_CLUSTERER, 300)
    assert type(restored(model.snapshot())) is MicroClusters
    assert is_of(model, (OWN_CLUSTERER, "{}"))
    assert not is_of(model, ("river.KMeans", "{}"))
    assert not is_of(learned("river.KMeans", 300), ("river.KMeans", '{"n_clusters":4}'))


def test_memory_is_bounded_whatever_comes() -> None:
    model = begun(("river.KMeans", "{}"), refit_every=0)
    draw = np.random.default_rng(0)
    for at in range(20):
        model.learn_many(draw.standard_t(2, (1000, 16)) * at)
        assert len(model.snapshot()) <= 90_000


@settings(max_examples=15)
@given(st.integers(0, 1000), st.floats(0.5, 4.0))
def test_the_sample_forgets_as_everything_does(seed: int, half_lives: float) -> None:
    model = Borrowed(refit_every=0, half_life=float("inf"), seed=seed)
    model.learn_many(np.tile([0.0, 1.0], (4000, 1)))
    model.forget(half_lives)
    model.learn_many(np.ones((4000, 2)))
    left = float((model._sample[:, 0] == 0).mean())
    expected = 0.5**half_lives / (1 + 0.5**half_lives)
    assert len(model._sample) == SAMPLE
    assert left == pytest.approx(expected, abs=0.09)


@every_clusterer
def test_features_may_come_later_and_earlier_rows_have_zeros_there(name: str) -> None:
    model = begun((name, "{}"), refit_every=40)
    rows: list[dict[Hashable, Any]] = [{}, {"x": 1.0}, {"x": 1.0, "y": 2.0}]
    for x in rows:
        for _ in range(64):
            model.learn_one(x)
    assert isinstance(model, Borrowed)
    assert {tuple(row) for row in model._sample.tolist()} == {(0, 0), (1, 0), (1, 2)}
    assert model._sample.shape == (3 * 64, 2)
    model.predict_one({"x": 1.0})


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("river.KMeans", {"clusters": 3}, "has no parameter clusters; it takes n_clusters, halflife"),
        ("river.KMeans", {"n_clusters": "3"}, "n_clusters must be a whole number from 1 to 100 (default 8)"),
        ("river.KMeans", {"n_clusters": 10**400}, "n_clusters must be a whole number from 1 to 100"),
        ("river.KMeans", {"n_clusters": 10**8}, "n_clusters must be a whole number from 1 to 100"),
        ("river.KMeans", {"halflife": 5}, "halflife must be a number from 0.0001 to 1 (default 0.05)"),
        ("river.KMeans", {"halflife": float("inf")}, "halflife must be a number from 0.0001 to 1"),
        ("river.DBSTREAM", {"cleanup_interval": 10**7}, "cleanup_interval must be a number from 1 to 1,000,000"),
        ("river.DenStream", {"mu": -1}, "mu must be a number from 1.01 to 1,000 (default 2)"),
        ("river.DenStream", {"beta": 0.4}, "mu times beta must be above 1 and is 0.8"),
        ("river.KMeans", {"n_clusters": 3.5}, "whole number"),
        ("river.KMeans", {"n_clusters": True}, "whole number"),
        ("river.KMeans", {"n_clusters": 0}, "from 1 to 100"),
        ("river.KMeans", {"halflife": float("nan")}, "a number from"),
        ("river.KMeans", {"halflife": [1]}, "a number from"),
        ("river.KMeans", {"seed": 3}, "has no parameter seed"),
        ("river.CluStream", {"n_clusters": 3}, "has no parameter n_clusters"),
        ("river.CluStream", {"__class__": 3}, "has no parameter __class__"),
        ("tidemark", {"budget": 3}, "it takes none"),
    ],
)
def test_a_wrong_parameter_is_named_with_the_allowed_ones(name: str, given: dict[str, Any], why: str) -> None:
    assert why in (problem_with(name, given) or "")


@every_clusterer
def test_every_parameter_it_names_can_be_given(name: str) -> None:
    given = {key: value for key, value in parameters_of(name).items() if value not in (0, None)}
    assert problem_with(name, given) is None
    begun((name, json.dumps(given)), refit_every=0).learn_many(planted(0, 50)[0])


@pytest.mark.parametrize("high", [False, True])
@every_clusterer
def test_river_lives_with_every_parameter_at_either_bound(name: str, high: bool) -> None:
    """All at the same bound but for those of which one bounds another."""
    given = {key: bounds_of(name, key)[high] for key in parameters_of(name)} | {"beta": 1}
    given = {key: value for key, value in given.items() if key in parameters_of(name)}
    assert problem_with(name, given) is None
    model = begun((name, json.dumps(given)), refit_every=0)
    model.learn_many(planted(0, 60)[0])
    model.refit()
    assert len(model.predict_many(planted(1, 10)[0])) == 10


@every_clusterer
def test_the_documents_name_every_parameter_with_its_bounds(name: str) -> None:
    text = (Path(__file__).parent.parent / "docs" / "segments.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    told = [f"`{key}` {bounds_of(name, key).low:g} to {bounds_of(name, key).high:,.12g}" for key in parameters_of(name)]
    assert row == f"| `{name}` | {', '.join(told)} |"
