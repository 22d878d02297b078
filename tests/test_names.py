from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.names import (
    GivenName,
    WrongName,
    carried,
    folded,
    give,
    name_for,
    natural,
    natural_row,
    read_given,
    with_names,
)
from models.rows import FEATURES
from models.segments import LARGEST, Catalogue
from tests.test_segments import a_catalogue


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


@pytest.mark.parametrize("feature", FEATURES)
def test_whatever_a_catalogue_may_hold_can_be_told(feature: str) -> None:
    largest = LARGEST + LARGEST * LARGEST  # a centre in the units of its feature
    assert all(math.isfinite(natural(feature, value)) for value in (-largest, -1.0, 0.0, 800.0, largest))


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


def test_a_name_from_a_centre_is_nobody_s_whatever_the_case() -> None:
    taken = {"ACTIVE  traders", "Big-Ticket Traders"}
    found = name_for(centre(frequency=6.0), centre(ticket=2.0, wallet_size=1.0), taken)
    assert found == "large traders"


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


def test_a_given_name_is_stored_and_read_again() -> None:
    stored = give(a_catalogue(), 7, GivenName(" steady whales ", "who never sell"), {})
    assert stored == b'{"description":"who never sell","name":"steady whales"}'
    assert read_given({b"7": stored}) == {7: GivenName("steady whales", "who never sell")}


@pytest.mark.parametrize(
    ("number", "given", "why"),
    [
        (7, GivenName(""), "1 to 64"),
        (7, GivenName("   "), "1 to 64"),
        (7, GivenName("x" * 65), "1 to 64"),
        (7, GivenName("two\nlines"), "can be printed"),
        (7, GivenName("fine", "x" * 501), "at most 500"),
        (7, GivenName("fine", "two\nlines"), "one line"),
        (7, GivenName("Unassigned"), "segment.s id"),
        (7, GivenName("s12"), "segment.s id"),
        (7, GivenName("ｓ１２"), "segment.s id"),
        (7, GivenName("Whales"), "the overlay"),
        (7, GivenName(" WHALE "), "the overlay"),
        (7, GivenName("\u2013"), "no letter and no digit"),
        (7, GivenName("— … !"), "no letter and no digit"),
        (7, GivenName("Name 1"), "s8 is called name 1"),
        (7, GivenName("SECOND"), "s2 is called second"),
        (7, GivenName("mine"), "s9 is called Mine"),
        (7, GivenName("name\u00a0  1"), "s8 is called name 1"),
        (7, GivenName("ｎａｍｅ 1"), "s8 is called name 1"),
        (7, GivenName("cafe\u0301"), "s10 is called caf\u00e9"),
        (7, GivenName("STRASSE"), "s11 is called Straße"),
        (99, GivenName("fine"), "no segment s99"),
    ],
)
def test_a_name_that_would_confuse_is_refused_in_one_line(number: int, given: GivenName, why: str) -> None:
    others = {9: GivenName("Mine"), 10: GivenName("caf\u00e9"), 11: GivenName("Straße")}
    with pytest.raises(WrongName, match=why) as refused:
        give(a_catalogue(), number, given, others)
    assert "\n" not in str(refused.value)


def test_a_segment_may_be_given_its_own_name_again_and_a_retired_one_too() -> None:
    assert give(a_catalogue(), 7, GivenName("name 0"), {7: GivenName("other")})
    assert give(a_catalogue(), 3, GivenName("gone for good"), {})


def test_a_name_is_kept_in_one_form_however_it_was_typed() -> None:
    stored = give(a_catalogue(), 7, GivenName("  cafe\u0301 \u00a0 regulars", "who  stay"), {})
    expected = {7: GivenName("caf\u00e9 regulars", "who stay")}
    assert read_given({b"7": stored}) == expected
    typed = b'{"name": "cafe\\u0301  regulars", "description": " who stay"}'
    assert read_given({b"7": typed}) == expected  # one that was stored before there was one form


def test_what_cannot_be_read_of_the_given_names_is_left_out() -> None:
    found = {
        b"1": b'{"name":"a"}',
        b"x": b'{"name":"b"}',
        b"2": b"{",
        b"3": b"[]",
        b"4": b'{"title":"c"}',
        b"5": b"7",
        b"6": b'{"name":6}',
    }
    assert read_given(found) == {1: GivenName("a")}


def test_given_names_win_and_a_name_that_says_the_same_gets_a_number() -> None:
    catalogue = a_catalogue()
    named = with_names(
        catalogue, {7: GivenName("name 1", "mine"), 2: GivenName("old friends"), 99: GivenName("nobody")}
    )
    assert [segment.name for segment in named.segments] == ["name 1", "name 1 2", "name 2", "name 3", "name 4"]
    assert named.segments[0].description == "mine"
    assert (named.name_of(2), named.name_of(1)) == ("old friends", "first")
    assert with_names(named, {7: GivenName("name 1", "mine"), 2: GivenName("old friends")}) is named
    assert with_names(catalogue, {}) is catalogue
    assert with_names(named, {}).segments == catalogue.segments


def test_a_name_with_capitals_gives_way_to_a_given_one_without() -> None:
    catalogue = a_catalogue()
    first, *others = catalogue.segments
    catalogue = replace(catalogue, segments=(replace(first, name="DeFi users"), *others))
    assert with_names(catalogue, {8: GivenName("defi users")}).name_of(7) == "DeFi users 2"


#: Names that are the same to people, and some of the automatic ones.
ALIKE = ["name 1", "NAME 1", "Name  1", "ｎａｍｅ 1", "name 1 2", "second", "Second", "caf\u00e9", "cafe\u0301", "fine"]


#: Segment, name, description.
NAMINGS = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(ALIKE), st.sampled_from(["", "told"])), max_size=8)


@given(NAMINGS)
def test_no_two_segments_alive_or_retired_are_ever_called_the_same(renames: list[tuple[int, str, str]]) -> None:
    automatic = catalogue = a_catalogue()
    stored: dict[bytes, bytes] = {}
    for number, name, description in renames:
        given = read_given(stored)
        if number in given and name == "fine":
            del stored[b"%d" % number]  # --reset
        else:
            with suppress(WrongName):
                stored[b"%d" % number] = give(catalogue, number, GivenName(name, description), given)
        given = read_given(stored)
        catalogue = Catalogue.from_json(with_names(catalogue, given).to_json())
        assert with_names(catalogue, given) is catalogue
        numbers = [*(segment.number for segment in catalogue.segments), *catalogue.retired_names]
        assert len({folded(catalogue.name_of(number)) for number in numbers}) == len(numbers)
        for named, its in given.items():
            assert (catalogue.name_of(named), catalogue.description_of(named)) == its
    assert with_names(catalogue, {}).to_json() == automatic.to_json()


@given(NAMINGS, NAMINGS)
def test_a_pinned_catalogue_keeps_the_names_it_was_made_with_until_others_are_given(
    renames: list[tuple[int, str, str]], later: list[tuple[int, str, str]]
) -> None:
    before = given_in_turn(a_catalogue(), renames)
    pinned = with_names(a_catalogue(), before)
    assert with_names(pinned, carried(pinned, {})) is pinned
    assert with_names(pinned, carried(pinned, before)) is pinned
    stored = given_in_turn(pinned, later)
    shown = with_names(pinned, carried(pinned, stored))
    numbers = [*(segment.number for segment in pinned.segments), *pinned.retired_names]
    assert len({folded(shown.name_of(number)) for number in numbers}) == len(numbers)
    for number in numbers:
        its = GivenName(shown.name_of(number), shown.description_of(number))
        if number in stored:
            assert its == stored[number]
        elif folded(pinned.name_of(number)) not in {folded(each.name) for each in stored.values()}:
            assert its == (pinned.name_of(number), pinned.description_of(number)) or number not in before


def test_a_name_that_another_segment_was_given_since_is_not_kept() -> None:
    pinned = with_names(a_catalogue(), {7: GivenName("mine", "told")})
    shown = with_names(pinned, carried(pinned, {8: GivenName("Mine")}))
    assert [shown.name_of(number) for number in (7, 8)] == ["name 0", "Mine"]


def given_in_turn(catalogue: Catalogue, renames: list[tuple[int, str, str]]) -> dict[int, GivenName]:
    """What is stored after these renames of what read-outs show; `fine` takes a name back that was given."""
    stored: dict[int, GivenName] = {}
    for number, name, description in renames:
        if number in stored and name == "fine":
            del stored[number]
        else:
            shown = with_names(catalogue, carried(catalogue, stored))
            with suppress(WrongName):
                stored |= read_given({b"%d" % number: give(shown, number, GivenName(name, description), stored)})
    return stored
