"""Batches of several partitions laid side by side, so that one step serves them all.

A step of two records costs nearly what one of fifty does, and live traffic brings every partition a few at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models.journeys import Journal
from models.records import Records, together
from models.rows import ROW
from models.state import Batch, State


@dataclass(frozen=True, slots=True)
class Joined:
    """Records (n,) and wallets (k,), one partition's after the other's, in the order of `states`.

    `wallet_of`: wallet of each record, -1 none. `part`: (k,) and `record_part`: (n,), which of the states it is of.
    `rows`: copies, which the step changes.
    """

    states: list[State]
    records: Records
    lanes: bytes
    wallet_of: NDArray[np.int64]
    keys: list[bytes]
    rows: NDArray[np.void]
    journals: list[Journal | None]
    part: NDArray[np.int64]
    record_part: NDArray[np.int64]


def join(batches: Sequence[tuple[State, Batch]]) -> Joined:
    """Side by side; the partitions have no wallet in common."""
    states, parts = [state for state, _ in batches], np.arange(len(batches))
    wallets = np.array([len(state.wallets.keys) for state in states])
    before = np.cumsum(wallets) - wallets
    found = [
        np.where(batch.wallet_of < 0, -1, batch.wallet_of + at) for (_, batch), at in zip(batches, before, strict=True)
    ]
    return Joined(
        states=states,
        records=together([batch.records for _, batch in batches]),
        lanes=b"".join([batch.lanes for _, batch in batches]),
        wallet_of=np.concatenate(found),
        keys=list(chain.from_iterable(state.wallets.keys for state in states)),
        rows=side_by_side([state.wallets.rows for state in states]),
        journals=list(chain.from_iterable(state.wallets.journals for state in states)),
        part=np.repeat(parts, wallets),
        record_part=np.repeat(parts, [len(batch.records) for _, batch in batches]),
    )


def side_by_side(rows: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """Copies of rows, as one array. By bytes: NumPy takes 3 us for each array to see that they have the same fields."""
    return np.frombuffer(bytearray().join(cast("Sequence[bytes]", rows)), ROW)
