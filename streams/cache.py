"""The wallets a partition has at hand. It takes results only after their commit, and dies with the partition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.journeys import Journal
from models.rows import HAS_JOURNAL, ROW, unpack_rows
from models.state import Wallets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.state import Record

#: Rows are added in steps of this many; a partition with few wallets takes little memory.
GROWTH = 4096
NEVER = np.iinfo(np.int64).max
#: A wallet id has at most 128 characters; the record of a longer key is rejected and needs no wallet.
LONGEST_KEY = 512


@dataclass(frozen=True, slots=True)
class Lookup:
    """The distinct keys of a batch. `wallet_of`: (n,) the key of each record, -1 none or far too long.

    `missing`: to be read.
    """

    keys: list[bytes]
    wallet_of: NDArray[np.int64]
    missing: list[bytes]


class WalletCache:
    """At most `capacity` wallets, or those of one batch; when full, the least recently used quarter leaves.

    Redis has them all.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.hits = self.misses = 0
        self._rows = np.zeros(0, ROW)
        self._journals: list[Journal | None] = []
        self._used = np.zeros(0, np.int64)
        self._slots: dict[bytes, int] = {}
        self._free: list[int] = []
        self._turn = 0

    def __len__(self) -> int:
        return len(self._slots)

    def look_up(self, records: Sequence[Record]) -> Lookup:
        """Which wallets a batch is about, and which of them must be read first."""
        keys = [record.key for record in records]
        if max(map(len, filter(None, keys)), default=0) > LONGEST_KEY:
            keys = [key if key is None or len(key) <= LONGEST_KEY else None for key in keys]
        places: dict[bytes, int] = {}
        wallet_of = [-1 if key is None else places.setdefault(key, len(places)) for key in keys]
        missing = [key for key in places if key not in self._slots]
        self.misses += len(missing)
        self.hits += len(places) - len(missing)
        return Lookup(list(places), np.array(wallet_of, np.int64), missing)

    def admit(self, lookup: Lookup, stored: list[bytes | None]) -> list[bytes]:
        """Take the rows of the missing wallets, in their order; which of them have a journal to be read too."""
        self._make_room(lookup)
        slots = [self._free.pop() for _ in lookup.missing]
        rows = unpack_rows(stored)
        self._rows[slots] = rows
        for key, slot in zip(lookup.missing, slots, strict=True):
            self._slots[key] = slot
            self._journals[slot] = None
        return [lookup.missing[i] for i in np.flatnonzero(rows["flags"] & HAS_JOURNAL).tolist()]

    def admit_journals(self, keys: list[bytes], stored: list[bytes | None]) -> None:
        for key, journal in zip(keys, stored, strict=True):
            if journal is None:
                raise LookupError(f"the journal of wallet {key!r} is gone although its row says that it has one")
            self._journals[self._slots[key]] = Journal.unpack(journal)

    def copy(self, lookup: Lookup) -> tuple[Wallets, NDArray[np.int64]]:
        """Copies of a batch's wallets, and the wallet of each record."""
        slots = self._places(lookup)
        return Wallets(lookup.keys, self._rows[slots], [self._journals[s] for s in slots.tolist()]), lookup.wallet_of

    def keep(self, lookup: Lookup, wallets: Wallets) -> None:
        """Take over what a step made of a batch's wallets, now that it is committed."""
        slots = self._places(lookup)
        self._rows[slots] = wallets.rows
        for slot, journal in zip(slots.tolist(), wallets.journals, strict=True):
            self._journals[slot] = journal
            if journal is not None:
                journal.forget()

    def _places(self, lookup: Lookup) -> NDArray[np.int64]:
        slots = np.fromiter(map(self._slots.__getitem__, lookup.keys), np.int64, len(lookup.keys))
        self._turn += 1
        self._used[slots] = self._turn
        return slots

    def _make_room(self, lookup: Lookup) -> None:
        needed = len(lookup.missing)
        if len(self._slots) + needed > self.capacity:
            self._evict(lookup)
        if needed > len(self._free):
            self._grow(max(GROWTH, needed - len(self._free)))

    def _grow(self, more: int) -> None:
        had = len(self._rows)
        self._rows = np.concatenate([self._rows, np.zeros(more, ROW)])
        self._used = np.concatenate([self._used, np.full(more, NEVER)])
        self._journals += [None] * more
        self._free += range(had + more - 1, had - 1, -1)

    def _evict(self, lookup: Lookup) -> None:
        """Forget the least recently used quarter, but nothing that this batch needs."""
        used = self._used.copy()
        used[[self._slots[key] for key in lookup.keys if key in self._slots]] = NEVER
        used[self._free] = NEVER
        many = max(len(self._slots) // 4, len(self._slots) + len(lookup.missing) - self.capacity)
        leaving = set(np.argsort(used, kind="stable")[:many].tolist())
        leaving = {slot for slot in leaving if used[slot] != NEVER}
        for key in [key for key, slot in self._slots.items() if slot in leaving]:
            slot = self._slots.pop(key)
            self._journals[slot] = None
            self._free.append(slot)
