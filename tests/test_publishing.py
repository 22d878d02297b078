from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.identity import Lineage
from models.names import GivenName
from models.publishing import named, next_catalogue
from models.rows import FEATURES
from models.segments import EMPTY_CATALOGUE, HISTORY, Catalogue, Happening, Mixture

AT = (13.0, 1_775_000_000_000)


def a_mixture(count: int) -> Mixture:
    draw = np.random.default_rng(count)
    size = len(FEATURES)
    return Mixture(
        mean=np.ones(size),
        sd=np.ones(size),
        centres=draw.normal(size=(count, size)),
        variances=np.ones((count, size)),
        shares=np.full(count, 1 / count),
    )


def grown(before: Catalogue, lineage: Lineage, given: dict[int, GivenName] | None = None) -> Catalogue:
    after = next_catalogue(before, a_mixture(len(lineage.numbers)), lineage, AT)
    return named(before, after, given or {}, settled=True)


FIRST = grown(EMPTY_CATALOGUE, Lineage((1, 2, 3), (1, 2, 3)))


def test_every_coming_and_going_is_told_with_version_and_moment() -> None:
    second = grown(FIRST, Lineage((1, 4, 5), (4, 5), retired={2: 1, 3: 0}, split={4: 1}))
    assert [each.kind for each in FIRST.history] == ["born"] * 3
    assert second.history[3:] == (
        Happening("split", 4, 1, 2, AT[1]),
        Happening("born", 5, 0, 2, AT[1]),
        Happening("absorbed", 2, 1, 2, AT[1]),
        Happening("retired", 3, 0, 2, AT[1]),
    )
    assert second.retired == {2: 1, 3: 0}


def test_who_returns_has_his_name_and_birth_again_and_is_not_retired_any_more() -> None:
    second = grown(FIRST, Lineage((1, 3), retired={2: 1}))
    third = grown(second, Lineage((1, 3, 2), returned=(2,), split={2: 1}))
    assert third.name_of(2) == FIRST.name_of(2)
    assert (third.retired, third.retired_names) == ({}, {})
    assert third.segments[2].born_version == 1
    assert third.history[-1] == Happening("returned", 2, 1, 3, AT[1])
    assert third.slot_since[third.segments[2].slot] == 3  # evidence of the time without him is void


def test_who_stays_keeps_name_slot_and_birth_whatever_its_centre_does() -> None:
    second = grown(FIRST, Lineage((3, 1, 4), (4,), retired={2: 1}))
    for number in (1, 3):
        before, after = (one.segments[one.column_of(number)] for one in (FIRST, second))
        assert replace(after, share=before.share) == before


def test_a_name_that_was_retired_or_given_is_nobody_else_s() -> None:
    taken = FIRST.name_of(3)
    second = grown(FIRST, Lineage((1, 2), retired={3: 1}))
    given = {1: GivenName("mine", "for ever")}
    third = grown(second, Lineage((1, 2, 4), (4,)), given)
    names = [segment.name for segment in third.segments]
    assert names[0] == "mine"
    assert third.segments[0].description == "for ever"
    assert taken not in names
    assert len(set(names)) == 3
    assert grown(third, Lineage((1, 2, 4))).name_of(1) == FIRST.name_of(1)


def test_a_retired_segment_keeps_what_users_said_and_its_own_name_for_when_they_take_it_back() -> None:
    given = {2: GivenName("mine", "for ever"), 1: GivenName(FIRST.name_of(3))}
    second = grown(FIRST, Lineage((1, 2), retired={3: 1}), given)
    assert second.name_of(3) == f"{FIRST.name_of(3)} 2"  # nobody is called as another is
    third = grown(second, Lineage((1,), retired={2: 1}), given)
    assert (third.name_of(2), third.description_of(2)) == ("mine", "for ever")
    assert Catalogue.from_json(third.to_json()).description_of(2) == "for ever"
    fourth = grown(third, Lineage((1,)))
    names = [fourth.name_of(number) for number in (1, 2, 3)]
    assert (names, fourth.description_of(2)) == ([FIRST.name_of(number) for number in (1, 2, 3)], "")
    back = grown(third, Lineage((1, 2), returned=(2,)), given)
    assert (back.name_of(2), back.description_of(2)) == ("mine", "for ever")
    assert grown(back, Lineage((1, 2))).name_of(2) == FIRST.name_of(2)


def test_the_history_is_bounded() -> None:
    catalogue = EMPTY_CATALOGUE
    for turn in range(HISTORY):
        numbers = (turn + 1, turn + 2)
        catalogue = grown(catalogue, Lineage(numbers, numbers[1:], retired={turn: turn + 1} if turn else {}))
    assert len(catalogue.history) == HISTORY
    assert catalogue.history[-1].version == HISTORY
