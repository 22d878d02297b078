"""Cells: exact at any size, readable, and named without doubt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.counters import (
    EMPTY_CELL,
    NUMBERS,
    Codes,
    campaign_field,
    cell_field,
    decode_cell,
    encode_cell,
    split_field,
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(
    ["a|b", "%7C", "%25|", "|", "%"]
)
cells = st.tuples(*[st.integers(-(10**30), 10**30)] * NUMBERS)


@given(cells)
def test_a_cell_comes_back_as_it_was_stored(cell: tuple[int, ...]) -> None:
    assert decode_cell(encode_cell(cell)) == cell
    assert decode_cell(None) == EMPTY_CELL


def test_a_stored_cell_can_be_read_by_people() -> None:
    assert encode_cell((1, -2, *range(3, 12))) == b"1 -2 3 4 5 6 7 8 9 10 11"


@given(st.sampled_from(["unassigned", "s1", "s77"]), names, names)
def test_a_field_is_taken_apart_as_it_was_made(segment: str, campaign: str, channel: str) -> None:
    field = cell_field(segment, campaign_field(campaign, channel))
    assert split_field(field) == (segment, campaign, channel)
    assert field.count(b"|") == 2


def test_revenue_of_no_campaign_has_a_field_too() -> None:
    assert split_field(cell_field("s3", Codes().names[0])) == ("s3", None, None)


def test_codes_count_up_and_keep_their_meaning() -> None:
    codes = Codes().with_names([b"x|email"])
    more = codes.with_names([b"y|email", b"z|web"])
    assert codes.numbers == {b"|": 0, b"x|email": 1}
    assert [more.names[more.numbers[name]] for name in more.numbers] == list(more.numbers)
    assert more.numbers[b"x|email"] == codes.numbers[b"x|email"]


def test_codes_are_restored_from_what_was_stored() -> None:
    stored = {name: b"%d" % number for name, number in ((b"k%d|c" % n, n) for n in range(12, 0, -1))}
    codes = Codes.of(stored)
    assert {name: b"%d" % number for name, number in codes.numbers.items() if number} == stored


def test_codes_with_a_gap_are_refused() -> None:
    with pytest.raises(ValueError, match="gap"):
        Codes.of({b"a|b": b"1", b"c|d": b"3"})
