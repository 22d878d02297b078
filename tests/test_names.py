from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.names import name_for, natural, natural_row
from models.rows import FEATURES


@pytest.mark.parametrize(
    ("feature", "value", "expected"),
    [
        ("frequency", math.log1p(2 * 45 / math.log(2)), 2.0),
        ("frequency_fast", math.log1p(2 * 3 / math.log(2)), 2.0),
        ("ticket", math.log1p(250), 250),
        ("wallet_size", math.log1p(1_234_567), 1_235_000),
        ("ticket_spread", math.log(3), 3),
        ("leverage", math.log(4.6), 4.6),
        ("leverage", 0.0, 1.0),
        ("staking", math.sqrt(0.36), 0.36),
        ("staking", 1e-9, 0.0),
        ("stable", 0.25, 0.25),
        ("diversity", 0.2, 5.0),
    ],
)
def test_a_feature_is_told_in_the_unit_people_think_in(feature: str, value: float, expected: float) -> None:
    assert natural(feature, value) == pytest.approx(expected, rel=1e-9)


@given(st.sampled_from(FEATURES), st.floats(0, 8), st.floats(0, 8))
def test_more_of_a_feature_is_never_told_as_less(feature: str, one: float, other: float) -> None:
    low, high = natural(feature, min(one, other)), natural(feature, max(one, other))
    assert low <= high if feature != "diversity" else low >= high


def test_a_row_is_told_by_feature() -> None:
    assert list(natural_row(np.zeros(16))) == list(FEATURES)


def centre(**values: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([values.get(feature, 0.0) for feature in FEATURES])


@pytest.mark.parametrize(
    ("values", "contrast", "name"),
    [
        ({"derivatives": 0.9, "leverage": math.log(5)}, {}, "leveraged traders"),
        ({"derivatives": 0.9}, {}, "derivatives traders"),
        ({"staking": 0.9, "lending": 0.3}, {}, "stakers"),
        ({"staking": 0.3, "lending": 0.9}, {}, "lenders"),
        ({"staking": 0.6, "lending": 0.6}, {}, "DeFi users"),
        ({"wallet": 0.9}, {}, "transfer users"),
        ({"spot": 0.9, "frequency": 6.0}, {}, "active traders"),
        ({"spot": 0.9, "frequency": 3.0}, {"frequency": 1.0}, "active traders"),
        ({"spot": 0.9}, {}, "steady holders"),
        ({"spot": 0.9}, {"wallet_size": -1.0, "frequency": -1.0}, "new and small"),
    ],
)
def test_a_name_says_what_the_wallets_do(values: dict[str, float], contrast: dict[str, float], name: str) -> None:
    assert name_for(centre(**values), centre(**contrast), ()) == name


def test_the_second_of_a_kind_is_called_by_what_sets_it_apart() -> None:
    found = name_for(centre(frequency=6.0), centre(ticket=2.0, wallet_size=1.0), {"active traders"})
    assert found == "big-ticket traders"


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_names_are_unique_readable_and_the_same_again(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    centres, scaled = draw.random((count, 16)) * draw.integers(0, 3), draw.normal(size=(count, 16))
    names: list[str] = []
    for one, other in zip(centres, scaled, strict=True):
        name = name_for(one, other, names)
        assert name == name_for(one, other, names)
        names.append(name)
    assert len(set(names)) == count
    assert all(name.strip() == name and 1 <= len(name) <= 60 and "  " not in name for name in names)
