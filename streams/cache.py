"""The wallets a partition has at hand. It takes results only after their commit, and dies with the partition."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.journeys import has_fees, unpack_journals, with_fees
from models.layout import FEE_BYTES
from models.patches import Stored, store, words_of
from models.records import distinct_keys
from models.rows import HAS_FEES, HAS_JOURNAL, ROW, UnknownFormat, are_older, since_look, unpack_rows
from models.state import Wallets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.records import Records

#: A row as it is moved: NumPy copies a structured one field by field, and this one in a fifth of the time.
_BYTES = np.dtype((np.void, ROW.itemsize))
#: Rows are added in steps of this many; a partition with few wallets takes little memory.
GROWTH = 4096
NEVER = np.iinfo(np.int64).max
#: As the bytes behind a stored row: there is no row that could be patched.
NO_ROW = ROW.itemsize
#: A wallet id has at most 128 characters; the record of a longer key is rejected and needs no wallet.
LONGEST_KEY = 512


@dataclass(slots=True)
class Lookup:
    """The distinct keys of a batch. `wallet_of`: (n,) the key of each record, -1 none or far too long.

    `missing`: to be read. `slots`: (k,) where the cache has each key; -1 where it is missing, until it is admitted.
    """

    keys: list[bytes]
    wallet_of: NDArray[np.int64]
    missing: list[bytes]
    slots: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Changed:
    """Wallets as they are to be stored. `slots`: (k,) where the cache has them."""

    stored: Stored
    slots: NDArray[np.int64]


class WalletCache:
    """At most `capacity` wallets, or those of one batch; when full, the least recently used quarter leaves.

    Redis has them all. `elsewhere`: how many of them are not here; None: unknown.
    """

    def __init__(self, capacity: int, elsewhere: int | None = None) -> None:
        self.capacity, self.elsewhere = capacity, elsewhere
        self.hits = self.misses = 0
        self._rows = np.zeros(0, _BYTES)
        self._journals = np.zeros(0, np.object_)
        self._keys = np.zeros(0, np.object_)
        self._used = np.zeros(0, np.int64)
        self._behind = np.zeros(0, np.int64)  # bytes of patches behind the stored row
        self._old = np.zeros(0, np.bool_)  # whose row, journal and fees lie in Redis as an older version had them
        self._slots: dict[bytes, int] = {}
        self._free: list[int] = []
        self._turn = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def has_all(self) -> bool:
        """Whether every wallet there is is here: one that is missing is new, and need not be asked for."""
        return self.elsewhere == 0

    def look_up(self, records: Records) -> Lookup:
        """Which wallets a batch is about, in order of their first records, and which of them must be read first."""
        found = distinct_keys(records, LONGEST_KEY)
        return self._looked_up(found.keys, found.which)

    def look_up_keys(self, keys: list[bytes]) -> Lookup:
        """As if there were one record for each of these keys, of which none comes twice and none is too long."""
        return self._looked_up(keys, np.arange(len(keys)))

    def _looked_up(self, keys: list[bytes], wallet_of: NDArray[np.int64]) -> Lookup:
        slots = list(map(self._slots.get, keys, repeat(-1)))
        missing = [key for key, slot in zip(keys, slots, strict=True) if slot < 0] if -1 in slots else []
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        return Lookup(keys, wallet_of, missing, np.array(slots, np.int64))

    def admit(self, lookup: Lookup, stored: list[bytes | None]) -> tuple[list[bytes], list[bytes]]:
        """Take the rows of the missing wallets, in their order; whose journals and whose fees are to be read too."""
        self._make_room(lookup)
        if not lookup.missing:
            return [], []
        slots, rows = self._free[-len(lookup.missing) :], unpack_rows(stored)
        del self._free[-len(lookup.missing) :]
        self._rows[slots] = rows.view(_BYTES)
        self._old[slots] = older = are_older(stored)
        self._keys[slots] = lookup.missing
        behind = np.array([NO_ROW if row is None else len(row) - ROW.itemsize for row in stored])
        self._behind[slots] = np.where(older, NO_ROW, behind)
        self._slots.update(zip(lookup.missing, slots, strict=True))
        if self.elsewhere is not None:
            self.elsewhere -= len(stored) - stored.count(None)
        lookup.slots[lookup.slots < 0] = slots
        more = (rows["flags"] & has for has in (HAS_JOURNAL, HAS_FEES))
        with_journal, with_fees = ([lookup.missing[i] for i in np.flatnonzero(has).tolist()] for has in more)
        return with_journal, with_fees

    def admit_journals(self, keys: list[bytes], stored: list[bytes | None], codes: int) -> None:
        """Take the journals of these wallets; numbers of campaigns are below `codes`."""
        there = [journal for journal in stored if journal is not None]
        if len(there) < len(keys):
            gone = keys[stored.index(None)]
            raise LookupError(f"the journal of wallet {gone!r} is gone although its row says that it has one")
        slots, journals = [self._slots[key] for key in keys], unpack_journals(there, codes)
        self._journals[slots] = journals
        for slot, journal in zip(slots, journals, strict=True):
            if has_fees(journal):
                self._admit_fees_of_old(slot)

    def _admit_fees_of_old(self, slot: int) -> None:
        """There are fees in a journal, as up to version 4: from now on its row says that the wallet has some."""
        if not self._old[slot]:
            raise UnknownFormat(f"a journal of wallet {self._keys[slot]!r} with fees, which lie elsewhere")
        self._rows.view(ROW)["flags"][slot] |= HAS_FEES

    def admit_fees(self, keys: list[bytes], stored: list[bytes | None]) -> None:
        """Take the fees of these wallets; after their journals."""
        slots = [self._slots[key] for key in keys]
        of_old = since_look(self._rows[slots].view(ROW)).tolist()
        for key, slot, packed, many in zip(keys, slots, stored, of_old, strict=True):
            if packed is None:
                raise LookupError(f"the fees of wallet {key!r} are gone although its row says that it has some")
            if self._old[slot] and len(packed) != FEE_BYTES * many:  # those of its journal do not lie here
                raise UnknownFormat(f"{len(packed)} bytes for {many} fees of wallet {key!r}")
            self._journals[slot] = with_fees(self._journals[slot], packed)

    def copy(self, lookup: Lookup) -> tuple[Wallets, NDArray[np.int64]]:
        """Copies of a batch's wallets, and the wallet of each record."""
        slots = lookup.slots
        self._turn += 1
        self._used[slots] = self._turn
        return Wallets(lookup.keys, self._rows[slots].view(ROW), self._journals[slots].tolist()), lookup.wallet_of

    def older(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of these wallets, all of them here, that lie in Redis as an older version had them."""
        return [key for key in keys if self._old[self._slots[key]]] if self._old.any() else []

    def changed(self, lookup: Lookup, keys: list[bytes], rows: NDArray[np.void], prefix: bytes) -> Changed:
        """How to store rows (k,) that a step made of some wallets of a batch, under keys that begin with `prefix`."""
        slots = lookup.slots if keys is lookup.keys else np.array([self._slots[key] for key in keys], np.int64)
        names = as_bytes(prefix), as_bytes(b"".join(keys)), np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)))
        before = self._rows[slots].view(ROW)
        return Changed(store(names, words_of(before), words_of(rows), self._behind[slots]), slots)

    def keep(self, lookup: Lookup, wallets: Wallets) -> None:
        """Take over what a step made of a batch's wallets, now that it is committed."""
        self._rows[lookup.slots] = wallets.rows.view(_BYTES)
        self._journals[lookup.slots] = wallets.journals

    def stored(self, changed: Changed) -> None:
        """Rows are stored as `changed` says, and all else of these wallets as today's version has it."""
        self._behind[changed.slots], self._old[changed.slots] = changed.stored.behind, False

    def _make_room(self, lookup: Lookup) -> None:
        needed = len(lookup.missing)
        if len(self._slots) + needed > self.capacity:
            self._evict(lookup)
        if needed > len(self._free):
            self._grow(max(GROWTH, needed - len(self._free)))

    def _grow(self, more: int) -> None:
        had = len(self._rows)
        self._rows = np.concatenate([self._rows, np.zeros(more, _BYTES)])
        self._used = np.concatenate([self._used, np.full(more, NEVER)])
        self._old = np.concatenate([self._old, np.zeros(more, np.bool_)])
        self._journals = np.concatenate([self._journals, np.full(more, None)])
        self._keys = np.concatenate([self._keys, np.full(more, None)])
        self._behind = np.concatenate([self._behind, np.full(more, NO_ROW)])
        self._free += range(had + more - 1, had - 1, -1)

    def _evict(self, lookup: Lookup) -> None:
        """Forget the least recently used quarter, but nothing that this batch needs."""
        used = self._used.copy()
        used[lookup.slots[lookup.slots >= 0]] = NEVER
        used[self._free] = NEVER
        many = max(len(self._slots) // 4, len(self._slots) + len(lookup.missing) - self.capacity)
        oldest = used.argpartition(many - 1)[:many] if many < len(used) else np.arange(len(used))
        leaving = oldest[used[oldest] != NEVER]
        if self.elsewhere is not None:
            self.elsewhere += int(np.count_nonzero(self._rows[leaving].view(ROW)["version"]))
        for key in self._keys[leaving].tolist():
            del self._slots[key]
        self._keys[leaving] = self._journals[leaving] = None
        self._free += leaving.tolist()


def as_bytes(text: bytes) -> NDArray[np.uint8]:
    """The same memory as an array."""
    return np.frombuffer(text, np.uint8)
