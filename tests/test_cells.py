"""The cache of cells: exact at any size, results in only when told; and the text of its cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.cells import encode_cells
from models.counters import NUMBERS, Cell, CellDeltas, encode_cell
from streams.cells import CellCache

LEAST, MOST = -(2**63), 2**63 - 1
#: What a table of int64 holds, with its edges; what no table of int64 holds.
small = st.integers(LEAST, MOST) | st.sampled_from([LEAST, LEAST + 1, -10, -9, -1, 0, 9, 10, 99, 100, MOST])
large = st.integers(-(10**30), 10**30)
NAMES = [b"s%d||" % number for number in range(6)]


def cells(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[list[Cell]]:
    return st.lists(st.tuples(*[numbers] * NUMBERS), min_size=1, max_size=len(NAMES))


def batches(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[list[dict[bytes, Cell]]]:
    return st.lists(st.dictionaries(st.sampled_from(NAMES), st.tuples(*[numbers] * NUMBERS)), max_size=5)


@given(cells(small), st.sampled_from([np.int64, np.object_]))
def test_cells_are_written_as_each_is_alone(written: list[Cell], kind: type) -> None:
    assert encode_cells(np.array(written, kind)) == [encode_cell(cell) for cell in written]


@given(
    st.dictionaries(st.sampled_from(NAMES), st.tuples(*[small | large] * NUMBERS)),
    batches(small) | batches(large),
    st.integers(0, len(NAMES)),
)
def test_cells_are_added_as_whole_numbers_of_any_size(
    known: dict[bytes, Cell], added: list[dict[bytes, Cell]], capacity: int
) -> None:
    cache, stored = CellCache(capacity), {name: encode_cell(cell) for name, cell in known.items()}
    for batch in added:
        missing = cache.missing(list(batch))
        cache.admit(missing, [stored.get(name) for name in missing])
        numbers: NDArray[Any] = np.array(list(batch.values()), np.object_).reshape(-1, NUMBERS)
        if all(LEAST <= number <= MOST for number in numbers.flat):
            numbers = numbers.astype(np.int64)
        deltas = CellDeltas(list(batch), numbers)
        sums = cache.added(deltas)
        assert cache.added(deltas).tolist() == sums.tolist()  # nothing has been added yet
        cache.keep(deltas.names, sums)
        for name, cell in batch.items():
            known[name] = tuple(map(int.__add__, known.get(name, (0,) * NUMBERS), cell))
        stored |= zip(batch, encode_cells(sums) if batch else [], strict=True)
        assert stored == {name: encode_cell(cell) for name, cell in known.items()}


def test_a_cell_is_read_once_until_there_are_too_many() -> None:
    cache = CellCache(2)
    for names, missing in (
        ([b"a", b"b"], [b"a", b"b"]),
        ([b"b", b"c"], [b"c"]),  # now they are three
        ([b"c"], [b"c"]),
        ([b"c"], []),
    ):
        assert cache.missing(names) == missing
        cache.admit(missing, [None] * len(missing))
