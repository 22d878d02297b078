from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.identity import Past, give_slots, overlap, recognise, trace
from models.rows import SLOTS


@st.composite
def overlaps(draw: st.DrawFn) -> NDArray[np.float64]:
    old, new = draw(st.integers(0, 12)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 10**6))
    generator = np.random.default_rng(seed)
    return generator.random((old, new)) ** 8 * (generator.random((old, new)) < 0.6)


@given(st.permutations(range(8)), st.integers(0, 10**6))
def test_clusters_in_another_order_keep_their_numbers(order: list[int], seed: int) -> None:
    masses = np.random.default_rng(seed).uniform(0.1, 1, 8)
    mass = np.diag(masses)[:, order]
    numbers = tuple(range(11, 19))
    lineage = trace(numbers, mass, 50)
    assert lineage.numbers == tuple(numbers[column] for column in order)
    assert (lineage.born, lineage.retired) == ((), {})


@given(overlaps())
def test_a_number_stands_for_one_cluster_and_is_never_given_to_another(mass: NDArray[np.float64]) -> None:
    numbers = tuple(range(3, 3 + mass.shape[0]))
    lineage = trace(numbers, mass, 100)
    assert len(set(lineage.numbers)) == len(lineage.numbers) == mass.shape[1]
    assert set(lineage.numbers) - set(numbers) == set(lineage.born)
    assert all(number >= 100 for number in lineage.born)
    assert set(lineage.retired) == set(numbers) - set(lineage.numbers)
    assert set(lineage.retired.values()) <= {*lineage.numbers, 0}


def test_a_split_leaves_the_number_with_the_larger_part() -> None:
    lineage = trace((1, 2), np.array([[0.6, 0.3, 0.0], [0.0, 0.0, 0.1]]), 3)
    assert lineage.numbers == (1, 3, 2)
    assert (lineage.born, lineage.retired) == ((3,), {})


def with_past(apart: list[list[float]], newcomers: tuple[int, ...] = ()) -> Past:
    """Of clusters so far apart, of which those in these columns are newcomers."""
    columns = np.arange(len(apart[0]))
    return Past(np.array(apart), np.isin(columns, newcomers))


def test_newcomers_that_outweigh_their_hosts_do_not_take_the_number() -> None:
    mass = np.array([[0.6, 0.0, 0.0], [0.0, 0.3, 0.1]])
    third_is_near = with_past([[0.1, 5.0, 5.0], [5.0, 4.0, 0.2]])  # what the second was for long is in the third column
    assert trace((4, 7), mass, 9).numbers == (4, 7, 9)
    lineage = trace((4, 7), mass, 9, past=third_is_near)
    assert lineage.numbers == (4, 9, 7)
    assert lineage.born == (9,)
    assert lineage.split == {9: 7}
    larger_part_is_where_it_was = with_past([[0.1, 5.0, 5.0], [5.0, 0.2, 4.0]])
    assert trace((4, 7), mass, 9, past=larger_part_is_where_it_was).numbers == (4, 7, 9)
    smaller_part_is_farther_still = with_past([[0.1, 5.0, 5.0], [5.0, 4.0, 6.0]])
    assert trace((4, 7), mass, 9, past=smaller_part_is_farther_still).numbers == (4, 7, 9)


def test_newcomers_are_heirs_only_of_a_segment_half_of_which_has_gone_to_them() -> None:
    near = [[0.1] * 3, [0.1] * 3]
    scattered = np.array([[0.6, 0.05, 0.04], [0.11, 0.1, 0.0]])  # what was there before has gone to its neighbour
    assert trace((4, 7), scattered, 9, past=with_past(near)).numbers == (4, 7, 9)
    lineage = trace((4, 7), scattered, 9, past=with_past(near, (1,)))
    assert lineage.numbers == (4, 9, 10)
    assert lineage.retired == {7: 4}
    left = np.array([[0.6, 0.0, 0.0], [0.0, 0.15, 0.16]])
    assert trace((4, 7), left, 9, past=with_past(near, (1,))).numbers == (4, 9, 7)
    gone_over = np.array([[0.6, 0.0, 0.0], [0.0, 0.16, 0.15]])
    assert trace((4, 7), gone_over, 9, past=with_past(near, (1,))).numbers == (4, 7, 9)


def test_a_cluster_of_everybody_takes_no_number_however_near_it_is() -> None:
    past = with_past([[4.0, 5.0, 5.0, 0.2], [5.0, 0.1, 5.0, 5.0], [5.0, 5.0, 0.1, 5.0]])
    mass = np.array([[0.3, 0.0, 0.0, 0.04], [0.0, 0.3, 0.0, 0.03], [0.0, 0.0, 0.3, 0.0]])
    assert trace((4, 7, 8), mass, 9, past=past).numbers == (9, 7, 8, 4)
    of_three = np.array([[0.3, 0.0, 0.0, 0.04], [0.0, 0.3, 0.0, 0.03], [0.0, 0.0, 0.27, 0.03]])
    assert trace((4, 7, 8), of_three, 9, past=past).numbers == (4, 7, 8, 9)


def test_a_segment_that_is_absorbed_names_who_took_its_wallets() -> None:
    lineage = trace((1, 2, 3), np.array([[0.6, 0.0], [0.1, 0.05], [0.0, 0.3]]), 4)
    assert lineage.numbers == (1, 3)
    assert lineage.retired == {2: 1}


def test_a_quarter_of_a_segment_that_goes_its_own_way_is_a_split() -> None:
    mass = np.array([[0.5, 0.2, 0.05, 0.0], [0.0, 0.0, 0.0, 0.2]])
    lineage = trace((1, 2), mass, 3)
    assert lineage.numbers == (1, 3, 4, 2)
    assert lineage.split == {3: 1}  # 4 took too little of anybody to be told as a part of him
    assert trace((), np.zeros((0, 2)), 1).split == {}


def test_a_retired_segment_that_is_back_has_its_number_unless_the_cluster_is_somebody_s_heir() -> None:
    mass = np.array([[0.6, 0.2], [0.0, 0.0]])
    lineage = trace((1, 2), mass, 9, {1: 5})
    assert (lineage.numbers, lineage.born, lineage.returned) == ((1, 5), (), (5,))
    assert lineage.split == {5: 1}
    assert trace((1, 2), mass, 9, {0: 5}).numbers == (1, 9)


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(0, 8))
def test_who_comes_back_is_recognised_by_where_he_was_and_nobody_twice(seed: int, clusters: int, gone: int) -> None:
    draw = np.random.default_rng(seed)
    centres, variances = draw.normal(size=(clusters, 16)) * 3, draw.uniform(0.3, 1, (clusters, 16))
    near = {100 + at: (centres[at] + draw.normal(0, 0.1, 16), variances[at]) for at in range(min(gone, clusters))}
    far = {200 + at: (centres[at % clusters] + 3.0, np.ones(16)) for at in range(gone)}
    found = recognise((centres, variances), near | far)
    assert found == {at: 100 + at for at in range(min(gone, clusters))}


def test_two_clusters_are_never_given_the_same_number() -> None:
    centres, variances = np.zeros((2, 3)), np.ones((2, 3))
    centres[1] += 0.1
    assert recognise((centres, variances), {7: (np.zeros(3), np.ones(3))}) == {0: 7}


def test_a_segment_without_wallets_retires_to_nobody() -> None:
    assert trace((1, 2), np.array([[0.5], [0.0]]), 3).retired == {2: 0}


def test_a_cluster_that_took_a_little_of_everybody_is_nobodys_heir() -> None:
    mass = np.array([[0.5, 0.0, 0.05], [0.0, 0.5, 0.05], [0.1, 0.08, 0.04]])
    lineage = trace((1, 2, 3), mass, 4)
    assert lineage.numbers == (1, 2, 4)
    assert lineage.retired == {3: 1}


def test_overlap_has_a_row_and_a_column_also_for_who_is_empty() -> None:
    mass = overlap(np.array([0, 0, 2]), np.array([1, 1, 0]), np.array([0.25, 0.5, 1.0]), (4, 3))
    assert mass.shape == (4, 3)
    assert mass[0, 1] == 0.75
    assert mass[2, 0] == 1.0
    assert mass.sum() == 1.75


@given(st.lists(st.sets(st.integers(1, 40), min_size=1, max_size=SLOTS), min_size=1, max_size=12))
def test_a_segment_keeps_its_slot_and_a_new_holder_is_dated(generations: list[set[int]]) -> None:
    held: dict[int, int] = {}
    since = (0,) * SLOTS
    for version, alive in enumerate(generations, 1):
        slots, dated = give_slots(tuple(sorted(alive)), held, since, version)
        assert set(slots) == alive
        assert len(set(slots.values())) == len(slots)
        assert set(slots.values()) <= set(range(SLOTS))
        for number, slot in slots.items():
            kept = held.get(number) == slot
            assert (number in held) == kept
            assert dated[slot] == (since[slot] if kept else version)
        held, since = slots, dated


def test_the_slot_that_rested_longest_is_given_first() -> None:
    since = (5, *(9,) * 14, 2)
    slots, dated = give_slots((1, 2, 3), {1: 4}, since, 10)
    assert slots == {1: 4, 2: 15, 3: 0}
    assert (dated[15], dated[0], dated[4]) == (10, 10, 9)
