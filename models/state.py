"""The values that cross the border between the shell and the step of one partition."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.counters import Codes
    from models.journeys import Journal
    from models.records import Records

#: Lanes: which input topic a record came from. Offsets and topic ids are kept in this order everywhere.
TRANSACTIONS, TOUCHES = 0, 1

_as_word = json.JSONEncoder().encode


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one partition, both topics in one order.

    `lanes`: the lane of each record, one byte each. `wallet_of`: int64 (n,), the index of each record's key in
    the wallets of the state, -1 where the record has no key.
    """

    records: Records
    lanes: bytes
    wallet_of: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Wallets:
    """The wallets a batch may change: copies, so a step that is never committed has changed nothing.

    `rows`: structured (k,) of `models.rows.ROW`, blank for a wallet never seen. `journals`: None where empty.
    """

    keys: list[bytes]
    rows: NDArray[np.void]
    journals: list[Journal | None]


def _by_segment(counts: dict[int, int]) -> str:
    return ",".join([f'"{segment}":{count}' for segment, count in sorted(counts.items())])


@dataclass(frozen=True, slots=True)
class Totals:
    """What a partition has counted since the beginning; every number an exact integer.

    Records read = transactions + touches + duplicates + all rejected. Segment 0 is `unassigned`.
    """

    transactions: int = 0
    touches: int = 0
    duplicates: int = 0
    late: int = 0
    beyond_memory: int = 0
    revenue_micros: int = 0
    cost_micros: int = 0
    segment_changes: int = 0
    wallets: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    wallets_by_segment: dict[int, int] = field(default_factory=dict)
    whales_by_segment: dict[int, int] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """A JSON object without blanks, its names in order. By hand: it is written with every batch."""
        rejected = ",".join([f"{_as_word(reason)}:{count}" for reason, count in sorted(self.rejected.items())])
        wallets, whales = _by_segment(self.wallets_by_segment), _by_segment(self.whales_by_segment)
        return (
            f'{{"beyond_memory":{self.beyond_memory},"cost_micros":{self.cost_micros},'
            f'"duplicates":{self.duplicates},"late":{self.late},'
            f'"rejected":{{{rejected}}},"revenue_micros":{self.revenue_micros},"segment_changes":{self.segment_changes},'
            f'"touches":{self.touches},"transactions":{self.transactions},"wallets":{self.wallets},'
            f'"wallets_by_segment":{{{wallets}}},"whales_by_segment":{{{whales}}}}}'
        ).encode()

    @classmethod
    def from_json(cls, text: bytes | None) -> Totals:
        """Totals as stored; all zero where nothing is stored yet. Raises `ValueError` for what are no totals."""
        if text is None:
            return cls()
        try:
            found = json.loads(text)
            for name in ("wallets_by_segment", "whales_by_segment"):
                found[name] = {int(segment): count for segment, count in found[name].items()}
            counts = [n for value in found.values() for n in (value.values() if isinstance(value, dict) else (value,))]
            if all(type(count) is int for count in counts):
                return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        raise ValueError(f"these are no totals: {text[:80]!r}")


@dataclass(frozen=True, slots=True)
class State:
    """Everything a step of one partition may read. `clock_ms` is 0 before the first event.

    `until_ms`: a step folds no record that moves the clock to it or beyond (`models.lifecycle.horizon`).
    """

    partition: int
    partitions: int
    clock_ms: int
    totals: Totals
    codes: Codes
    wallets: Wallets
    until_ms: int = 1 << 62
