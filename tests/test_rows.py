"""The stored row is a contract."""

from __future__ import annotations

import numpy as np
import pytest

from models.rows import FEATURES, ROW, ROW_VERSION, UnknownFormat, blank_rows, unpack_rows


def test_a_row_is_at_most_768_bytes_and_its_layout_is_pinned() -> None:
    """Who changes the layout changes `ROW_VERSION` with it, adds tests/golden/wallets-<version>.json, and this line."""
    assert ROW.itemsize <= 768
    assert (ROW_VERSION, ROW.itemsize, len(FEATURES)) == (4, 768, 16)
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
