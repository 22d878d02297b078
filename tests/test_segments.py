from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm

from models.decisions import standing
from models.rows import FEATURES, SEGMENTS, SLOTS
from models.rules import WINSOR, Rules
from models.segments import EMPTY_CATALOGUE, Catalogue, Happening, Segment, UnusableCatalogue, confidence

D = len(FEATURES)


def a_catalogue(seed: int = 0, count: int = 5) -> Catalogue:
    draw = np.random.default_rng(seed)
    shares = draw.dirichlet(np.ones(count))
    slots = draw.permutation(SLOTS)
    return Catalogue(
        version=int(draw.integers(1, 1000)),
        mean=draw.normal(size=D) * 5,
        sd=draw.uniform(0.1, 3, D),
        centres=draw.normal(size=(count, D)),
        variances=draw.uniform(0.02, 2, (count, D)),
        shares=shares,
        segments=tuple(Segment(7 + j, int(slots[j]), f"name {j}", float(shares[j]), 1) for j in range(count)),
        slot_since=tuple(range(SLOTS)),
        whale_at=13.5,
        retired={1: 2, 2: 7, 3: 0},
        retired_names={1: "first", 2: "second", 3: "third"},
    )


def some_rows(seed: int, count: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(count, D)) * 8


@given(st.integers(0, 10**6), st.integers(1, 16), st.integers(0, 999), st.integers(1, 130))
def test_a_row_is_placed_bit_equal_alone_and_among_a_thousand(seed: int, segments: int, at: int, count: int) -> None:
    catalogue, rows = a_catalogue(seed, segments), some_rows(seed, 1000)
    among = catalogue.place(rows)
    assert catalogue.place(rows[at : at + 1]).tobytes() == among[at : at + 1].tobytes()
    assert catalogue.place(rows[at : at + count]).tobytes() == among[at : at + count].tobytes()
    assert catalogue.place(np.asfortranarray(rows)).tobytes() == among.tobytes()


def test_the_likelihood_is_that_of_a_mixture_of_gaussians() -> None:
    catalogue, rows = a_catalogue(), some_rows(1, 50)
    scaled = np.clip((rows - catalogue.mean) / catalogue.sd, -4, 4)
    expected = norm.logpdf(scaled[:, None], catalogue.centres, np.sqrt(catalogue.variances)).sum(axis=2)
    expected += np.log(catalogue.shares)
    found = catalogue.place(rows)
    posterior = np.exp(found - logsumexp(found, axis=1, keepdims=True))
    np.testing.assert_allclose(posterior, np.exp(expected - logsumexp(expected, axis=1, keepdims=True)), atol=1e-9)


def test_an_absurd_value_decides_no_more_than_one_at_the_bound() -> None:
    catalogue = a_catalogue()
    at_bound = catalogue.mean + WINSOR * catalogue.sd
    np.testing.assert_allclose(catalogue.place(at_bound[None] + 1e6), catalogue.place(at_bound[None]), rtol=1e-9)


@given(st.integers(0, 10**6), st.integers(0, 16))
def test_json_and_back_is_the_same_catalogue_in_any_layout(seed: int, segments: int) -> None:
    catalogue = a_catalogue(seed, segments) if segments else EMPTY_CATALOGUE
    text = catalogue.to_json()
    laid_out = json.dumps(dict(reversed(json.loads(text).items())), indent=3)
    for again in (Catalogue.from_json(text), Catalogue.from_json(laid_out)):
        assert again.to_json() == text
        assert again.hash == catalogue.hash
        assert again.place(some_rows(seed, 9)).tobytes() == catalogue.place(some_rows(seed, 9)).tobytes()


def test_the_hash_stands_for_all_of_the_content() -> None:
    catalogue = a_catalogue()
    segment = replace(catalogue.segments[0], name="another")
    changes: list[dict[str, Any]] = [
        {"version": 0},
        {"whale_at": 1.0},
        {"retired": {}},
        {"slot_since": (0,) * SLOTS},
        {"mean": catalogue.mean + 1e-12},
        {"centres": catalogue.centres * 2},
        {"segments": (segment, *catalogue.segments[1:])},
    ]
    hashes = {replace(catalogue, **change).hash for change in changes} | {catalogue.hash}
    assert len(hashes) == 1 + len(changes)
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in hashes)


def broken(**changes: Any) -> str:
    content = json.loads(a_catalogue().to_json())
    first = content["segments"][0]
    for key, value in changes.items():
        (first if key in first else content)[key] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        broken(format=2),
        broken(features=["height"]),
        broken(sd=[0.0] * D),
        broken(sd=[1.0]),
        broken(mean=[float("nan")] * D),
        broken(centre=[1.0]),
        broken(variance=[-1.0] * D),
        broken(segment="s8"),
        broken(segment="s0"),
        broken(segment="s65536"),
        broken(slot=16),
        broken(slot_since=[0]),
        broken(weight="much"),
        broken(weight=-0.1),
        broken(weight=float("inf")),
        broken(share=float("nan")),
        broken(share=-0.1),
        broken(share=float("inf")),
        broken(variance=[1e-320] * D),
        broken(sd=[1e-320] * D),
        broken(retired={"70000": 1}),
        broken(retired={"65536": 0}),
        broken(retired={"-1": 1}),
        broken(retired={"0": 1}),
        broken(retired={"1": -1}),
        broken(retired={"1": 65536}),
        broken(version=-1),
        broken(version=2**32),
        broken(version=2**70),
        broken(version=float("inf")),
        broken(born_version=2**32),
        broken(slot_since=[2**32] * SLOTS),
        broken(slot_since=[-1] * SLOTS),
        broken(slot=-1),
        broken(whale_at=float("nan")),
        broken(whale_at=float("-inf")),
        broken(whale_at=1000.0),
        broken(centre=[1e200] * D),
    ],
)
def test_a_text_that_cannot_be_placed_with_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UnusableCatalogue, match=r"^not a [^\n]+$"):
        Catalogue.from_json(text)


@given(st.integers(-(2**17), 2**33), st.sampled_from(["version", "slot_since", "retired", "heir", "segment", "slot"]))
@example(2**32 - 1, "version")
@example(2**32, "slot_since")
@example(SEGMENTS - 1, "retired")
@example(SEGMENTS, "retired")
@example(-1, "retired")
def test_decisions_can_rest_on_any_catalogue_that_is_read(number: int, where: str) -> None:
    named = {"slot_since": [number] * SLOTS, "retired": {str(number): 7}, "segment": f"s{number}"}
    text = broken(retired={"1": number}) if where == "heir" else broken(**{where: named.get(where, number)})
    try:
        catalogue = Catalogue.from_json(text)
    except UnusableCatalogue:
        return
    found = standing(catalogue, Rules())[0]
    assert np.isfinite(catalogue.place(some_rows(0, 5))).all()
    assert (found["version"], found["since"].tolist()) == (catalogue.version, list(catalogue.slot_since))
    assert set(np.flatnonzero(found["heir_of"] >= 0).tolist()) <= set(catalogue.retired)
    assert catalogue.version < 2**32  # what a row has room for


def test_a_catalogue_without_whales_is_read_and_so_are_the_largest_numbers() -> None:
    catalogue = a_catalogue()
    last = replace(catalogue, version=2**32 - 1, retired={SEGMENTS - 1: 7}, whale_at=float("inf"))
    again = Catalogue.from_json(last.to_json())
    assert (again.version, again.retired, again.whale_at) == (2**32 - 1, {SEGMENTS - 1: 7}, float("inf"))
    assert Catalogue.from_json(broken(whale_at=float("inf"))).whale_at == float("inf")


def test_the_empty_catalogue_has_no_segments_and_places_nobody() -> None:
    assert EMPTY_CATALOGUE.place(some_rows(0, 3)).shape == (3, 0)
    assert EMPTY_CATALOGUE.column_of(1) == -1
    assert EMPTY_CATALOGUE.successor(1) == 0
    assert EMPTY_CATALOGUE.whale_at == float("inf")


def test_a_retired_segment_is_followed_to_the_one_that_stands_for_it() -> None:
    catalogue = a_catalogue()
    assert [catalogue.successor(number) for number in (7, 2, 1, 3, 99)] == [7, 7, 7, 0, 0]
    assert replace(catalogue, retired={1: 2, 2: 1}).successor(1) == 0
    assert [catalogue.column_of(number) for number in (7, 9, 1)] == [0, 2, -1]


def test_confidence_is_the_posterior_at_temperature_four_with_a_fifth_spread_evenly() -> None:
    scores = np.array([[0.0, 4.0, -4.0], [0.0, 0.0, 0.0], [0.0, 400.0, 0.0]])
    found = confidence(scores, np.array([1, 0, 1]))
    assert found.tolist() == pytest.approx([0.598859, 1 / 3, 0.8 + 0.2 / 3], abs=1e-6)


def test_what_became_of_segments_and_what_users_wrote_is_kept_in_the_json() -> None:
    plain = a_catalogue()
    history = (Happening("split", 8, 7, 3, 1_775_000_000_000), Happening("absorbed", 2, 7, 4, 1_775_000_500_000))
    told = replace(
        plain, history=history, segments=(replace(plain.segments[0], description="ours"), *plain.segments[1:])
    )
    again = Catalogue.from_json(told.to_json())
    assert again.history == history
    assert [segment.description for segment in again.segments] == ["ours", "", "", "", ""]
    assert told.hash == again.hash != plain.hash


def test_a_catalogue_without_them_has_the_json_and_the_hash_it_always_had() -> None:
    content = json.loads(a_catalogue().to_json())
    assert sorted(content) == [
        "features", "format", "mean", "retired", "retired_names", "sd", "segments", "slot_since", "version", "whale_at",
    ]  # fmt: skip
    assert all("description" not in segment for segment in content["segments"])


@pytest.mark.parametrize("history", [7, [{"kind": "born"}], [{"kind": "born", "segment": 1, "of": 2}]])
def test_a_history_that_cannot_be_read_is_refused(history: Any) -> None:
    content = json.loads(a_catalogue().to_json()) | {"history": history}
    with pytest.raises(UnusableCatalogue, match=r"^not a [^\n]+$"):
        Catalogue.from_json(json.dumps(content))


def test_a_crash_holds_from_its_first_moment_to_its_last_and_changes_neither_json_nor_hash() -> None:
    calm = a_catalogue()
    held = replace(calm, held_from_ms=1000, held_until_ms=2000)
    assert [held.regime_at(at_ms) for at_ms in (0, 999, 1000, 1999, 2000)] == [
        "normal", "normal", "crash", "crash", "normal",
    ]  # fmt: skip
    assert calm.regime_at(0) == "normal"
    assert (held.to_json(), held.hash) == (calm.to_json(), calm.hash)
