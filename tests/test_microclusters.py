from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from river import checks, datasets
from river.checks import common

from models import macro
from models.microclusters import BATCH, MicroClusters
from models.packed import pack, unpack
from models.rows import UnknownFormat
from models.summary import Scale, Summary, _costs, _pairs

Floats = NDArray[np.float64]


def a_model(**changes: Any) -> MicroClusters:
    return MicroClusters(**next(MicroClusters._unit_test_params()) | changes)


def planted(seed: int, count: int, clusters: int = 6, features: int = 16) -> tuple[Floats, NDArray[np.int64]]:
    """Rows around well separated centres, and the cluster of each."""
    centres = np.random.default_rng(7).normal(size=(clusters, features)) * 3
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, clusters, count)
    return centres[truth] + draw.normal(size=(count, features)), truth


def test_river_accepts_it() -> None:
    checks.check_estimator(a_model())


#: River applies no check on data to clusterers; the promises hold for ours all the same. These cannot be asked.
NOT_FOR_US = {
    "check_debug_one": "there is no debug_one",
    "check_transform_one": "it is no transformer",
    "check_transform_many_matches_transform_one": "it is no transformer",
    "check_predict_proba_many_matches_predict_proba_one": "it tells no probabilities",
    "check_predict_many_matches_predict_one": "needs pandas; our own law stands below",
    "check_learn_many_matches_learn_one": "needs pandas; batches are learned together here",
}
DATASET_CHECKS = [
    check
    for name, check in inspect.getmembers(common, inspect.isfunction)
    if name.startswith("check_") and list(inspect.signature(check).parameters) == ["model", "dataset"]
    if name not in NOT_FOR_US
]


class Labelled:
    """The beginning of a labelled set that comes with River: two features that may both be gone, or many."""

    def __init__(self, source: Iterable[tuple[dict[str, float], Any]], rows: int) -> None:
        self.source, self.rows = source, rows

    def __iter__(self) -> Iterator[tuple[dict[str, float], Any]]:
        return islice(iter(self.source), self.rows)


SOURCES = (datasets.Bananas, datasets.Phishing, datasets.ImageSegments)  # 2, 9 and 18 features


def test_all_of_river_s_checks_on_data_are_asked() -> None:
    assert {check.__name__ for check in DATASET_CHECKS} >= {
        "check_learn_one", "check_pickling", "check_shuffle_features_no_impact", "check_emerging_features",
        "check_disappearing_features", "check_radically_disappearing_features", "check_predict_one_pure",
        "check_predict_one_before_any_learn", "check_no_state_aliasing_with_input", "check_clone_is_independent",
        "check_seeding_is_idempotent", "check_bounded_memory_growth",
    }  # fmt: skip
    assert all(hasattr(common, name) for name in NOT_FOR_US)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
@pytest.mark.parametrize("check", DATASET_CHECKS, ids=lambda check: check.__name__)
def test_river_s_checks_on_data_hold_too(check: Callable[[MicroClusters, Labelled], None], source: Any) -> None:
    check(a_model(), Labelled(source(), 2000 if check is common.check_bounded_memory_growth else 600))


def test_rows_without_any_feature_are_rows_of_which_nothing_is_known() -> None:
    model = a_model()
    for _ in range(64):
        model.learn_one({})
    assert (model.refit(), model.predict_one({}), model.predict_one({"x": 1.0})) == (None, 0, 0)
    for at in range(400):
        model.learn_one({"x": at % 2 + at % 7 / 100})
    assert len({model.predict_one({"x": 0.0}), model.predict_one({"x": 1.0})} - {0}) == 2


@pytest.mark.parametrize("shape", [(50, 3), (50, 5), (4,)])
def test_an_array_of_another_width_is_refused_and_nothing_learned(shape: tuple[int, ...]) -> None:
    model = a_model()
    model.learn_many(planted(0, 300, features=4)[0])
    before = model.snapshot()
    for ask in (model.learn_many, model.predict_many):
        with pytest.raises(ValueError, match=r"must have the shape \(n, 4\), one column for each feature.*has \("):
            ask(np.zeros(shape))
    assert model.snapshot() == before


def test_predicting_changes_nothing_and_is_the_same_one_by_one() -> None:
    rows, _ = planted(1, 400, features=4)
    model = a_model()
    for row in rows:
        model.learn_one(dict(zip("abcd", row.tolist(), strict=True)))
    before = model.snapshot()
    alone = [model.predict_one(dict(zip("abcd", row.tolist(), strict=True))) for row in rows]
    assert model.predict_many(rows).tolist() == alone
    assert len(set(alone)) > 1
    assert model.snapshot() == before


class Table:
    """The least a data frame offers."""

    def __init__(self, columns: str, rows: Floats) -> None:
        self.columns, self.rows = list(columns), rows

    def to_numpy(self) -> Floats:
        return self.rows


def test_columns_are_known_by_name_and_a_missing_one_is_zero() -> None:
    rows, _ = planted(2, 300, features=3)
    rows[:, 1] = 0
    one, other, third = a_model(), a_model(), a_model()
    one.learn_many(Table("abc", rows))
    other.learn_many(Table("cba", rows[:, ::-1]))
    third.learn_many(Table("abc", rows[:1]))
    third.learn_many(Table("ca", rows[1:, [2, 0]]))
    fourth = a_model()
    fourth.learn_many(Table("abc", rows[:1]))
    fourth.learn_many(Table("abc", rows[1:]))
    assert one.snapshot() == other.snapshot()
    assert third.snapshot() == fourth.snapshot()
    assert one.predict_many(Table("ca", rows[:, [2, 0]])).tolist() == one.predict_many(rows).tolist()


def moments(summary: Summary) -> tuple[float, Floats, Floats]:
    """Weight, mean and squared deviations of everything, from the micro-clusters."""
    total = summary.weights.sum()
    mean = summary.weights @ summary.means / total
    inner = summary.deviations.sum(axis=0)
    return float(total), mean, inner + summary.weights @ (summary.means - mean) ** 2


@given(st.integers(0, 10**6), st.integers(2, 300), st.integers(1, 300), st.sampled_from([0.0, 1e4, 1e9]))
def test_no_mass_no_mean_and_no_spread_is_lost_however_far_from_the_origin(
    seed: int, count: int, cut: int, offset: float
) -> None:
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(count, 3)) + offset
    weights = draw.integers(1, 4, count).astype(np.float64)
    scale, summary = Scale.empty(3, (0, 0)), Summary.empty(3)
    for part in range(0, count, cut):
        scale.learn(rows[part : part + cut], weights[part : part + cut])
        summary.learn(rows[part : part + cut], weights[part : part + cut], scale, 10)
    mean = np.average(rows, axis=0, weights=weights)
    spread = weights @ (rows - mean) ** 2
    total, found_mean, found_spread = moments(summary)
    assert total == pytest.approx(weights.sum())
    np.testing.assert_allclose(found_mean, mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found_spread, spread, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scale.deviations, spread, rtol=1e-4, atol=1e-6)
    assert len(summary) <= 20


@given(st.integers(0, 10**6), st.integers(30, 90), st.booleans())
def test_merging_weighs_all_pairs_anew_after_every_round(seed: int, count: int, tied: bool) -> None:
    """What is kept of the round before is what it would be found to be again."""
    rows, _ = planted(seed, count, features=3)
    rows, budget = np.round(rows) if tied else rows, count // 3
    scale, summary = Scale.empty(3, (0, 0)), Summary.empty(3)
    scale.learn(rows, np.ones(count))
    summary.learn(rows, np.ones(count), scale, count)
    other = deepcopy(summary)
    summary._merge(scale, budget)
    while len(other) > budget:
        every = np.arange(len(other))
        kept, given = _pairs(_costs(scale.scaled(other.means), other.weights, every), len(other) - budget)
        other._unite(kept, given)
        other._keep(~np.isin(every, given))
    assert len(summary) == budget
    assert np.array_equal(summary.means, other.means)
    assert np.array_equal(summary.deviations, other.deviations)


@given(st.integers(0, 10**6), st.lists(st.floats(0.001, 1), min_size=1, max_size=8))
def test_half_of_what_is_left_of_a_row_after_a_half_life_has_settled(seed: int, pieces: list[float]) -> None:
    scale, summary = Scale.empty(3, (0, 0)), Summary.empty(3)
    rows = planted(seed, 90, features=3)[0]
    scale.learn(rows, np.ones(90))
    summary.learn(rows, np.ones(90), scale, 10)
    assert summary.young.tolist() == summary.weights.tolist()
    for piece in pieces:
        summary.fade(piece / sum(pieces))
    assert summary.weights.sum() == pytest.approx(45)
    assert summary.young == pytest.approx(summary.weights / 2)
    summary.learn(rows[:30], np.ones(30), scale, 10)
    assert summary.weights.sum() == pytest.approx(75)
    assert summary.young.sum() == pytest.approx(22.5 + 30)  # merged or not


def test_forgetting_halves_weight_and_moves_nothing() -> None:
    model = a_model(half_life=float("inf"))
    model.learn_many(planted(0, 500)[0])
    means, weight = model._summary.means.copy(), model.weight
    model.forget(1.0)
    assert model.weight == pytest.approx(weight / 2)
    assert np.array_equal(model._summary.means, means)


def test_half_of_a_row_is_left_after_a_half_life_of_rows() -> None:
    model = MicroClusters(half_life=1000.0, refit_every=0)
    for _ in range(30):
        model.learn_many(planted(0, 1000)[0])
    assert model.weight == pytest.approx(2000, rel=1e-3)


def test_the_same_rows_end_in_the_same_bytes_and_a_long_batch_is_cut() -> None:
    rows, _ = planted(3, 3 * BATCH)
    whole, parts = MicroClusters(seed=5), MicroClusters(seed=5)
    whole.learn_many(rows)
    for begin in range(0, len(rows), BATCH):
        parts.learn_many(rows[begin : begin + BATCH])
    assert whole.mixture is not None
    assert whole.snapshot() == parts.snapshot()


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 399))
def test_keeping_and_going_on_is_the_same_as_never_having_stopped(seed: int, cut: int) -> None:
    rows, _ = planted(seed, 400, features=5)
    model = a_model()
    kept = a_model()
    for at, row in enumerate(rows):
        if at == cut:
            kept = MicroClusters.restore(model.snapshot())
            assert kept.snapshot() == model.snapshot()
        model.learn_one(dict(enumerate(row.tolist())))
        if at >= cut:
            kept.learn_one(dict(enumerate(row.tolist())))
    assert kept.snapshot() == model.snapshot()


def test_a_snapshot_stays_small_whatever_comes() -> None:
    model, draw = MicroClusters(refit_every=0), np.random.default_rng(0)
    for at in range(16):
        model.learn_many(draw.standard_t(2, (1000, 16)) * at)
        assert len(model._summary) <= 2 * model.budget
        assert len(model.snapshot()) <= 90_000


@pytest.mark.parametrize(
    "rows",
    [
        np.ones((1000, 4)),
        np.indices((10, 10, 10)).reshape(3, -1).T.astype(np.float64),
        np.repeat(np.eye(5), 200, axis=0) * 1e-9,
        np.repeat(np.eye(5), 200, axis=0) * 1e9,
    ],
    ids=["all equal", "a grid", "tiny", "huge"],
)
def test_rows_that_tie_are_merged_in_a_few_rounds(rows: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    unite = Summary._unite

    def counted(summary: Summary, kept: NDArray[np.int64], given: NDArray[np.int64]) -> None:
        rounds.append(len(kept))
        unite(summary, kept, given)

    monkeypatch.setattr(Summary, "_unite", counted)
    model = MicroClusters(budget=20, refit_every=0)
    model.learn_many(rows)
    assert len(rounds) <= 40
    assert len(model._summary) <= 40
    assert model.weight == pytest.approx(len(rows), rel=0.02)
    model.refit()
    assert model.mixture is not None
    assert np.isfinite(model.mixture.place(rows)).all()


def test_rows_that_are_no_numbers_are_left_out() -> None:
    rows, _ = planted(4, 300)
    spoilt = np.insert(rows, [10, 200], np.array([[np.nan] * 16, [np.inf] * 16]), axis=0)
    one, other = a_model(), a_model()
    one.learn_many(rows)
    other.learn_many(spoilt)
    assert one.snapshot() == other.snapshot()


def test_planted_clusters_are_found_and_keep_their_numbers_over_refits() -> None:
    model = MicroClusters(refit_every=1000)
    rows, truth = planted(0, 1500)
    model.learn_many(rows)
    first = model.predict_many(rows)
    assert sorted(set(first)) == [1, 2, 3, 4, 5, 6]
    assert len(set(zip(first.tolist(), truth.tolist(), strict=True))) == 6
    for seed in range(1, 10):
        model.learn_many(planted(seed, 1000)[0])
        assert model.predict_many(rows).tolist() == first.tolist()


def test_a_cluster_that_appears_gets_a_new_number_and_no_other_loses_its_own() -> None:
    model = MicroClusters(refit_every=0, half_life=5000.0)
    rows, truth = planted(0, 3000)
    model.learn_many(rows[truth < 5])
    model.refit()
    before = model.predict_many(rows[truth < 5])
    for seed in range(1, 8):
        model.learn_many(planted(seed, 3000)[0])
        model.refit()
    assert model.predict_many(rows[truth < 5]).tolist() == before.tolist()
    assert set(model.predict_many(rows[truth == 5])) == {6}


@pytest.mark.parametrize(("most", "clusters", "found"), [(1, 3, {1}), (4, 1, {1}), (4, 2, {1, 2})])
def test_a_single_cluster_is_one_and_grows_where_there_are_more(most: int, clusters: int, found: set[int]) -> None:
    model = MicroClusters(fewest=1, most=most, refit_every=0, half_life=2000.0)
    model.learn_many(planted(0, 2000, clusters=1)[0])
    model.refit()
    assert set(model.predict_many(planted(1, 100, clusters=1)[0]).tolist()) == {1}
    for seed in range(2, 12):
        model.learn_many(planted(seed, 2000, clusters)[0])
        model.refit()
    assert set(model.predict_many(planted(12, 2000, clusters)[0]).tolist()) == found


def test_a_fit_that_is_not_better_does_not_replace_the_one_before() -> None:
    model = MicroClusters(refit_every=0)
    model.learn_many(planted(0, 5000)[0])
    assert model.refit() is not None
    kept = model.mixture
    model.learn_many(planted(1, 1000)[0])
    assert model.refit() is None
    assert model.mixture is kept


def test_a_handful_of_strangers_is_no_cluster() -> None:
    rows, _ = planted(0, 5000)
    strangers = np.full((50, 16), 25.0) + planted(1, 50)[0] / 10
    model = MicroClusters(refit_every=0)
    model.learn_many(np.concatenate((rows, strangers)))
    for _ in range(4):
        model.refit()
    assert model.numbers == (1, 2, 3, 4, 5, 6)


def few_and_newcomers(young: float) -> macro.Points:
    """Two crowds, and far away a few with newcomers near to them, whose weight is so young."""
    of = np.repeat([0, 1, 2, 3], [100, 100, 5, 10])
    means = np.repeat([[0.0], [9.0], [20.0], [26.0]], 8, axis=1)[of]
    means += np.random.default_rng(3).normal(size=means.shape) / 2
    weights = np.array([0.478, 0.478, 0.019, 0.025])[of] / np.bincount(of)[of]
    return macro.Points(means, np.full_like(means, 0.05), weights, np.array([0.5, 0.5, 0.5, young])[of])


def test_newcomers_get_a_segment_though_the_few_they_waited_with_are_below_the_floor_without_them() -> None:
    points, dice = few_and_newcomers(0.95), np.random.default_rng(0)
    warm = macro.from_centres(points, points.means[[0, 100, 200]])
    more = macro.alternative(points, warm, (3, 12), dice)
    assert more is not None
    assert len(more) == 4
    assert np.flatnonzero(macro.newcomers(points, more)).tolist() == [more.labels[-1]]
    assert macro.score(points, more) < -1  # somebody is below the floor
    assert macro.alternative(points, warm, (3, 3), dice) is None
    assert macro.alternative(few_and_newcomers(0.5), warm, (3, 12), dice) is None  # they have always been there


def test_clusters_that_die_together_do_not_keep_each_other() -> None:
    means = np.repeat([[0.0], [4.0], [8.0], [30.0], [40.0]], 20, axis=0)
    weights = np.repeat([0.33, 0.33, 0.332, 0.004, 0.004], 20) / 20
    points = macro.Points(means, np.full_like(means, 0.01), weights)
    warm = macro.from_centres(points, means[::20])
    assert len(warm) == 5
    fewer = macro.alternative(points, warm, (3, 12), np.random.default_rng(0))
    assert fewer is not None
    assert len(fewer) == 4


def test_rows_gathered_one_by_one_are_learned_before_those_of_a_batch() -> None:
    rows, _ = planted(5, 90, features=3)
    one, other = a_model(), a_model()
    for row in rows[:20]:
        one.learn_one(dict(enumerate(row.tolist())))
    one.learn_many(rows[20:])
    other.learn_many(rows[:20])
    other.learn_many(rows[20:])
    assert one.snapshot() == other.snapshot()


def test_shares_of_a_whole_are_measured_with_one_scale() -> None:
    scale = Scale.empty(4, (1, 3))
    scale.learn(np.random.default_rng(0).normal(size=(1000, 4)) * [5, 1, 3, 2], np.ones(1000))
    sd = scale.sd()
    assert sd[1] == sd[2] == pytest.approx(np.sqrt(5), rel=0.1)
    assert sd[0] == pytest.approx(5, rel=0.1)
    assert Scale.empty(2, (0, 0)).sd().tolist() == [1, 1]


def test_a_snapshot_from_before_there_were_usual_places_is_read() -> None:
    model = MicroClusters(refit_every=0)
    model.learn_many(planted(0, 2000)[0])
    model.refit()
    head, arrays = unpack(model.snapshot())
    earlier = {name: array for name, array in arrays.items() if not name.startswith("usual")}
    assert earlier.keys() < arrays.keys()
    old = MicroClusters.restore(pack(head, earlier))
    for each in (old, model):
        each.learn_many(planted(1, 500)[0])
        each.refit()
    assert old.numbers == model.numbers
    assert old.snapshot() == model.snapshot()


def test_in_a_snapshot_from_before_weight_was_young_all_of_it_has_settled() -> None:
    model = MicroClusters(refit_every=0)
    model.learn_many(planted(0, 2000)[0])
    model.refit()
    head, arrays = unpack(model.snapshot())
    assert arrays.pop("young").any()
    old = MicroClusters.restore(pack(head, arrays))
    assert not old._summary.young.any()
    old.learn_many(planted(1, 500)[0])
    assert old._summary.young.sum() == pytest.approx(500, rel=0.01)
    old.refit()
    assert old.numbers == model.numbers


def test_a_packed_value_of_another_format_is_refused() -> None:
    good = a_model().snapshot()
    head, arrays = unpack(good)
    spoilt = [b"", b"TMK1", good[:-1] + b"", good + b"\0", b"XXXX" + good[4:], pack(head | {"format": 99}, arrays)]
    model = a_model()
    model.learn_many(planted(0, 50)[0])
    spoilt += [model.snapshot()[:-8], model.snapshot()[:40]]
    for one in spoilt:
        with pytest.raises(UnknownFormat):
            MicroClusters.restore(one)


@pytest.mark.parametrize(("factor", "shift"), [(1.5, 0.0), (0.7, 0.0), (1.0, 2.0)])
def test_a_drift_of_all_rows_together_moves_boundaries_with_them_and_nobody_across(factor: float, shift: float) -> None:
    model = MicroClusters(refit_every=0, half_life=3000.0)
    rows, _ = planted(0, 1500)
    model.learn_many(rows)
    model.refit()
    before, numbers = model.predict_many(rows), model.numbers
    for turn in range(1, 21):
        now = planted(turn, 1000)[0] * (1 + turn / 20 * (factor - 1)) + turn / 20 * shift
        model.learn_many(now)
        model.refit()
    assert model.numbers == numbers
    assert (model.predict_many(rows * factor + shift) == before).mean() > 0.99


@settings(max_examples=10)
@given(st.lists(st.floats(0.0, 0.4), min_size=1, max_size=8))
def test_what_fades_is_the_time_that_passed_and_not_how_often_it_was_told(pieces: list[float]) -> None:
    model = a_model(half_life=float("inf"), refit_every=0)
    model.learn_many(planted(0, 300)[0])
    other = deepcopy(model)
    for piece in pieces:
        model.forget(piece)
    other.forget(sum(pieces))
    assert model.weight == pytest.approx(other.weight)
    np.testing.assert_allclose(model._summary.deviations, other._summary.deviations)
    assert np.array_equal(model._summary.means, other._summary.means)


def test_a_cluster_that_was_asked_for_now_here_now_there_is_not_born() -> None:
    """Probation is for one cluster: three newcomers in three places are three first wishes."""
    rows, _ = planted(0, 4000, clusters=4)
    model = MicroClusters(refit_every=0, most=8)
    model.learn_many(rows)
    model.refit()
    numbers = model.numbers
    for corner in range(6):
        strangers = np.full((250, 16), -25.0 if corner % 2 else 25.0)
        faded = deepcopy(model)
        faded.learn_many(strangers + planted(corner, 250)[0] / 10)
        faded.refit()
        assert faded._wish is not None
        assert faded._wish.times == (1 if corner == 0 or corner % 2 != (corner - 1) % 2 else 2)
        model._wish = faded._wish
    assert model.numbers == numbers


def test_a_component_that_would_jump_stays_and_the_newcomers_are_wished_a_number_of_their_own() -> None:
    means = np.repeat([[0.0], [5.0], [40.0]], 20, axis=0)
    points = macro.Points(means, np.full_like(means, 0.05), np.repeat([0.4, 0.2, 0.4], 20) / 20)
    kept = macro.evaluate(points, np.array([[0.0], [5.0]]), np.array([[0.5], [0.5]]), np.array([0.6, 0.4]))
    steady, other = macro.propose(points, kept, (2, 5), np.random.default_rng(0))
    assert steady is kept
    assert other is not None
    assert len(other) == 3
    full, instead = macro.propose(points, kept, (2, 2), np.random.default_rng(0))
    assert full is kept  # no room for a third: the jump is a wish of its own
    assert instead is not None
    assert len(instead) == 2


def test_wallets_expected_elsewhere_are_counted_as_a_share() -> None:
    means = np.repeat([[0.0], [1.0], [2.0]], 10, axis=0)
    points = macro.Points(means, np.full_like(means, 1e-4), np.full(30, 1 / 30))
    before = macro.evaluate(points, np.array([[0.0], [2.0]]), np.full((2, 1), 0.05), np.array([0.5, 0.5]))
    after = macro.evaluate(points, np.array([[1.0], [2.0]]), np.full((2, 1), 0.05), np.array([0.5, 0.5]))
    assert macro.moved(points, before, before) == 0
    assert macro.moved(points, before, after) == pytest.approx(1 / 6, abs=0.01)  # half of those in the middle
