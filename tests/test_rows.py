"""The stored row is a contract."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.patches import store, words_of
from models.rows import FEATURES, ROW, ROW_VERSION, UnknownFormat, blank_rows, unpack_rows
from tests.commands import unpacked


def test_a_row_is_at_most_768_bytes_and_its_layout_is_pinned() -> None:
    """Who changes the layout changes `ROW_VERSION` with it, adds tests/golden/wallets-<version>.json, and this line."""
    assert ROW.itemsize <= 768
    assert (ROW_VERSION, ROW.itemsize, len(FEATURES)) == (5, 768, 16)
    assert ROW.fields is not None
    assert [ROW.fields[name][1] for name in ("version", "segment", "ring", "sums", "cusum", "recent_fees")] == [
        0,
        4,
        56,
        312,
        576,
        704,
    ]


def test_rows_come_back_as_they_were_stored() -> None:
    rows = blank_rows(3)
    rows["version"] = ROW_VERSION
    rows["segment"] = (1, 2, 3)
    rows["sums"][1] = 0.1
    stored: list[bytes | None] = [row.tobytes() for row in rows]
    assert unpack_rows(stored).tobytes() == rows.tobytes()
    assert unpack_rows([None, *stored[1:]])["version"].tolist() == [0, ROW_VERSION, ROW_VERSION]
    assert len(unpack_rows([])) == 0


def test_unpacked_rows_may_be_changed() -> None:
    rows = unpack_rows([None])
    rows["segment"] = 5
    assert rows["segment"].tolist() == [5]


@pytest.mark.parametrize("stored", [b"", bytes(ROW.itemsize), bytes([ROW_VERSION]), bytes([9]) * ROW.itemsize])
def test_a_row_of_another_version_or_length_is_refused(stored: bytes) -> None:
    with pytest.raises(UnknownFormat):
        unpack_rows([stored])


@pytest.mark.parametrize("version", [1, 2])
def test_a_row_of_a_layout_before_the_third_never_began_anew(version: int) -> None:
    """What is `rebased_s` today was the largest ticket."""
    rows = blank_rows(2)
    rows["version"], rows["segment"] = version, 7
    rows["rebased_s"] = np.float32(1e6).view(np.uint32)
    found = unpack_rows([rows[0].tobytes(), None])
    assert (found["rebased_s"].tolist(), found["segment"].tolist()) == ([0, 0], [7, 0])
    assert found["version"].tolist() == [ROW_VERSION, 0]


@st.composite
def lives(draw: st.DrawFn) -> list[list[bytes]]:
    """Rows of up to five wallets, and what became of each, step by step."""
    chance = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    steps = draw(st.integers(0, 4))
    rows = chance.integers(0, 256, (draw(st.integers(1, 5)), ROW.itemsize), np.uint8)
    rows[:, 0] = ROW_VERSION
    told = [[row.tobytes() for row in rows]]
    for _ in range(steps):
        which = chance.random(rows.shape) < draw(st.sampled_from([0, 0.001, 0.05, 1]))
        which[:, 0] = False
        rows = np.where(which, chance.integers(0, 256, rows.shape, np.uint8), rows)
        told.append([row.tobytes() for row in rows])
    return told


def patches(before: NDArray[np.void], after: NDArray[np.void]) -> list[bytes]:
    """What makes each of some rows another, one by one: an empty one where nothing has changed."""
    found = []
    for place in range(len(before)):
        one, other = before[[place]], after[[place]]
        name = np.frombuffer(b"w", np.uint8), np.frombuffer(b"", np.uint8), np.zeros(1, np.int64)
        # far behind the beginning, so that a patch of any size still fits behind the row
        stored = store(name, words_of(one), words_of(other), np.array([-ROW.itemsize]))
        (patch,) = unpacked(stored.parts.tobytes())[2::3]
        found.append(patch)
    return found


def as_rows(stored: list[bytes]) -> NDArray[np.void]:
    return np.frombuffer(b"".join(stored), ROW)


@given(lives())
def test_a_row_with_its_patches_is_the_row_it_has_become(told: list[list[bytes]]) -> None:
    stored: list[bytes | None] = [*told[0], None]
    for before, after in pairwise(told):
        made = patches(as_rows(before), as_rows(after))
        stored = [*(row + patch for row, patch in zip(stored, made, strict=False) if row is not None), None]
        for row, became, patch in zip(before, after, made, strict=True):
            words = sum(row[at : at + 8] != became[at : at + 8] for at in range(0, ROW.itemsize, 8))
            assert len(patch) == 12 + 8 * words
    assert unpack_rows(stored).tobytes() == b"".join(told[-1]) + bytes(ROW.itemsize)


def test_patches_that_are_none_are_refused() -> None:
    rows = blank_rows(2)
    rows["version"] = ROW_VERSION
    changed = rows.copy()
    changed["segment"], changed["recent_fees"] = 5, 9
    whole, (patch, _) = rows[0].tobytes(), patches(rows, changed)
    assert unpack_rows([whole + patch, whole])["segment"].tolist() == [5, 0]
    for damaged in (patch[:-1], patch[:11], patch + b"\1", patch + patch[:20], b"\xff" * 12):
        with pytest.raises(UnknownFormat, match="damaged patches"):
            unpack_rows([whole, whole + damaged])
    with pytest.raises(UnknownFormat, match="version 3, "):
        unpack_rows([b"\3" + whole[1:] + patch[:89]])


def test_what_a_patch_makes_of_the_version_is_looked_at() -> None:
    rows = blank_rows(1)
    rows["version"] = ROW_VERSION
    later = rows.copy()
    later["version"] = ROW_VERSION + 1
    with pytest.raises(UnknownFormat):
        unpack_rows([rows[0].tobytes() + patches(rows, later)[0]])
