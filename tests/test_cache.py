"""The cache of wallets: copies out, results in only when told, and never more than it may hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.journeys import EMPTY_JOURNAL, Touched
from models.layout import FEE
from models.records import Record, Records, records_of
from models.rows import HAS_JOURNAL, ON_PAGE_SHIFT, ROW_VERSION, UnknownFormat, blank_rows
from streams.cache import LONGEST_KEY, Lookup, WalletCache
from tests.journals import as_stored
from tests.partition import NOON_MS

JOURNAL = as_stored([Touched(NOON_MS, b"e", 1)], [])


def records(*keys: bytes | None) -> Records:
    return records_of(Record(0, NOON_MS, key, b"") for key in keys)


def row(segment: int = 0, flags: int = 0) -> bytes:
    one = blank_rows(1)
    one["version"], one["segment"], one["flags"] = ROW_VERSION, segment, flags
    return one.tobytes()


def loaded(cache: WalletCache, *keys: bytes) -> Lookup:
    """A batch of these wallets, all new to the store."""
    lookup = cache.look_up(records(*keys))
    cache.admit(lookup, [None] * len(lookup.missing))
    return lookup


def test_a_lookup_names_each_key_once_and_each_record_its_key() -> None:
    lookup = WalletCache(10).look_up(records(b"b", None, b"a", b"b", b""))
    assert lookup.keys == [b"b", b"a", b""]
    assert lookup.wallet_of.tolist() == [0, -1, 1, 0, 2]
    assert lookup.missing == lookup.keys


def test_a_key_that_is_far_too_long_is_no_wallet() -> None:
    longest = b"x" * LONGEST_KEY
    lookup = WalletCache(10).look_up(records(longest + b"y", b"a", longest, longest + b"y"))
    assert (lookup.keys, lookup.wallet_of.tolist()) == ([b"a", longest], [-1, 0, 1, -1])


def test_keys_are_looked_up_as_records_of_them_would_be() -> None:
    cache = WalletCache(10)
    loaded(cache, b"b")
    one, other = cache.look_up_keys([b"c", b"b", b"a"]), cache.look_up(records(b"c", b"b", b"a"))
    assert (one.keys, one.missing, one.wallet_of.tolist(), one.slots.tolist()) == (
        other.keys, other.missing, other.wallet_of.tolist(), other.slots.tolist(),
    )  # fmt: skip


def test_a_wallet_is_read_once() -> None:
    cache = WalletCache(10)
    loaded(cache, b"a", b"b")
    lookup = cache.look_up(records(b"b", b"c", b"a"))
    assert lookup.missing == [b"c"]
    assert (cache.hits, cache.misses) == (2, 3)


def test_a_row_says_whether_there_is_a_journal_and_a_page_to_read() -> None:
    cache = WalletCache(10)
    lookup = cache.look_up(records(b"a", b"b", b"c", b"d", b"e"))
    rows = [row(1), row(2, HAS_JOURNAL), None, row(4, HAS_JOURNAL | 1 << ON_PAGE_SHIFT), row(5, 2 << ON_PAGE_SHIFT)]
    assert cache.admit(lookup, rows) == ([b"b", b"d"], [b"d", b"e"])
    cache.admit_journals([b"b", b"d"], [JOURNAL, JOURNAL], 2)
    cache.admit_pages([b"d", b"e"], [FEE.pack(1, 2), FEE.pack(3, 4) * 2])
    wallets, _ = cache.copy(lookup)
    assert wallets.rows["segment"].tolist() == [1, 2, 0, 4, 5]
    with_fee, of_fees = JOURNAL + FEE.pack(1, 2), EMPTY_JOURNAL + FEE.pack(3, 4) * 2
    assert wallets.journals == [None, JOURNAL, None, with_fee, of_fees]


@pytest.mark.parametrize("stored", [None, b"", FEE.pack(1, 2), FEE.pack(1, 2) * 3, FEE.pack(1, 2) * 2 + b"x"])
def test_a_page_that_is_gone_or_has_another_number_of_fees_is_not_taken(stored: bytes | None) -> None:
    cache = WalletCache(10)
    cache.admit(cache.look_up(records(b"a")), [row(1, 2 << ON_PAGE_SHIFT)])
    with pytest.raises((LookupError, UnknownFormat), match="page"):
        cache.admit_pages([b"a"], [stored])


def test_a_journal_that_is_gone_is_not_taken_for_empty() -> None:
    cache = WalletCache(10)
    cache.admit(cache.look_up(records(b"a")), [row(1, HAS_JOURNAL)])
    with pytest.raises(LookupError, match="gone"):
        cache.admit_journals([b"a"], [None], 2)


def test_nothing_is_kept_before_it_is_committed() -> None:
    cache = WalletCache(10)
    lookup = loaded(cache, b"a")
    wallets, _ = cache.copy(lookup)
    wallets.rows["segment"] = 9
    wallets.journals[0] = JOURNAL
    again, _ = cache.copy(lookup)
    assert (again.rows["segment"].tolist(), again.journals) == ([0], [None])
    cache.keep(lookup, wallets)
    kept, _ = cache.copy(cache.look_up(records(b"a")))
    assert (kept.rows["segment"].tolist(), kept.journals) == ([9], [JOURNAL])


def test_the_least_recently_used_leave() -> None:
    cache = WalletCache(8)
    for name in range(8):
        cache.copy(loaded(cache, b"%d" % name))
    cache.copy(cache.look_up(records(b"0")))
    loaded(cache, b"new")
    assert cache.look_up(records(*[b"%d" % name for name in range(8)], b"new")).missing == [b"1", b"2"]


def test_a_batch_larger_than_the_cache_has_all_its_wallets() -> None:
    cache = WalletCache(10)
    keys = [b"%d" % number for number in range(100)]
    wallets, wallet_of = cache.copy(loaded(cache, *keys))
    assert (wallets.keys, len(wallets.rows), wallet_of.tolist()) == (keys, 100, list(range(100)))


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12), max_size=30), st.integers(1, 20))
def test_a_cache_of_any_size_over_a_store_is_the_store(batches: list[list[int]], capacity: int) -> None:
    """Every batch adds 1 to the segment of its wallets; a wallet that has left comes back from the store."""
    store: dict[bytes, bytes] = {}
    expected: dict[bytes, int] = {}
    cache = WalletCache(capacity)
    for batch in batches:
        lookup = cache.look_up(records(*[b"%d" % wallet for wallet in batch]))
        here = [key for key in lookup.missing if key in store]
        assert cache.admit(lookup, [store.get(key) for key in lookup.missing]) == (here, [])
        cache.admit_journals(*with_journals([key for key in lookup.missing if key in store]), 2)
        wallets, _ = cache.copy(lookup)
        assert [journal is not None for journal in wallets.journals] == [key in store for key in lookup.keys]
        wallets.rows["segment"] += 1
        wallets.rows["version"], wallets.rows["flags"] = ROW_VERSION, HAS_JOURNAL
        wallets.journals[:] = [JOURNAL] * len(lookup.keys)
        cache.keep(lookup, wallets)
        for key, stored in zip(lookup.keys, wallets.rows, strict=True):
            store[key] = stored.tobytes()
            expected[key] = expected.get(key, 0) + 1
        assert len(cache) <= max(capacity, len(lookup.keys))
    found = {key: int(np.frombuffer(stored, blank_rows(0).dtype)["segment"][0]) for key, stored in store.items()}
    assert found == expected


def with_journals(keys: list[bytes]) -> tuple[list[bytes], list[bytes | None]]:
    return keys, [JOURNAL] * len(keys)
