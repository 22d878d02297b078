"""The cache of wallets: copies out, results in only when told, and never more than it may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.journeys import EMPTY_JOURNAL, Touched
from models.layout import FEE
from models.records import Record, Records, records_of
from models.rows import (
    HAS_FEES,
    HAS_JOURNAL,
    ROW,
    ROW_VERSION,
    SINCE_LOOK_SHIFT,
    UnknownFormat,
    blank_rows,
    unpack_rows,
)
from streams.cache import LONGEST_KEY, Lookup, WalletCache
from tests.commands import written
from tests.journals import as_stored
from tests.partition import NOON_MS

JOURNAL = as_stored([Touched(NOON_MS, b"e", 1)], [])


def records(*keys: bytes | None) -> Records:
    return records_of(Record(0, NOON_MS, key, b"") for key in keys)


def row(segment: int = 0, flags: int = 0, version: int = ROW_VERSION) -> bytes:
    one = blank_rows(1)
    one["version"], one["segment"], one["flags"] = version, segment, flags
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


def test_a_row_says_whether_there_are_a_journal_and_fees_to_read() -> None:
    cache = WalletCache(10)
    lookup = cache.look_up(records(b"a", b"b", b"c", b"d", b"e"))
    rows = [row(1), row(2, HAS_JOURNAL), None, row(4, HAS_JOURNAL | HAS_FEES), row(5, HAS_FEES | 1 << SINCE_LOOK_SHIFT)]
    assert cache.admit(lookup, rows) == ([b"b", b"d"], [b"d", b"e"])
    cache.admit_journals([b"b", b"d"], [JOURNAL, JOURNAL], 2)
    cache.admit_fees([b"d", b"e"], [FEE.pack(1, 2), FEE.pack(3, 4) * 2])
    wallets, _ = cache.copy(lookup)
    assert wallets.rows["segment"].tolist() == [1, 2, 0, 4, 5]
    assert cache.older(lookup.keys) == []
    with_fee, of_fees = JOURNAL + FEE.pack(1, 2), EMPTY_JOURNAL + FEE.pack(3, 4) * 2
    assert wallets.journals == [None, JOURNAL, None, with_fee, of_fees]


#: What is written behind fees that Redis has lost.
LOST = bytes(FEE.size) + FEE.pack(1, 2)


@pytest.mark.parametrize("stored", [None, b"x", FEE.pack(1, 2) * 2 + b"x", LOST])
def test_fees_that_are_gone_or_damaged_are_not_taken(stored: bytes | None) -> None:
    cache = WalletCache(10)
    cache.admit(cache.look_up(records(b"a")), [row(1, HAS_FEES | 2 << SINCE_LOOK_SHIFT)])
    with pytest.raises((LookupError, UnknownFormat), match="fees"):
        cache.admit_fees([b"a"], [stored])


@pytest.mark.parametrize("stored", [None, b"", FEE.pack(1, 2), FEE.pack(1, 2) * 3, FEE.pack(1, 2) * 2 + b"x"])
def test_a_page_of_version_4_has_as_many_fees_as_its_row_says(stored: bytes | None) -> None:
    cache = WalletCache(10)
    cache.admit(cache.look_up(records(b"a")), [row(1, 2 << SINCE_LOOK_SHIFT, 4)])
    with pytest.raises((LookupError, UnknownFormat), match="fees"):
        cache.admit_fees([b"a"], [stored])


def test_a_wallet_of_an_older_version_is_one_until_it_is_written() -> None:
    """Evicted before, it is loaded as one again; its fees, wherever they were, are one of today's value."""
    cache = WalletCache(10)
    keys, of_journal, of_page = [b"a", b"b", b"c"], JOURNAL + FEE.pack(1, 2), FEE.pack(3, 4)
    for saved, left in (([b"c"], [b"a", b"b"]), ([b"a"], [b"b"]), (keys, [])):
        lookup = cache.look_up_keys(keys)
        rows: list[bytes | None] = [row(1, HAS_JOURNAL, 4), row(2, 1 << SINCE_LOOK_SHIFT, 4), row(3)]
        assert cache.admit(lookup, rows) == ([b"a"], [b"b"])
        cache.admit_journals([b"a"], [of_journal], 2)
        cache.admit_fees([b"b"], [of_page])
        wallets, _ = cache.copy(lookup)
        assert wallets.journals == [of_journal, EMPTY_JOURNAL + of_page, None]
        assert (wallets.rows["flags"] & HAS_FEES).tolist() == [HAS_FEES, HAS_FEES, 0]
        assert cache.older(keys) == [b"a", b"b"]
        after = wallets.rows[[lookup.keys.index(key) for key in saved]]
        cache.stored(cache.changed(lookup, saved, after, b""))
        assert cache.older(keys) == left
        loaded(cache, *[b"%d" % number for number in range(10)])  # everybody else leaves


@pytest.mark.parametrize("stored", [None, row(1, version=4), row(1)])
def test_only_what_lies_in_redis_as_today_is_patched(stored: bytes | None) -> None:
    """A patch tells no version: behind a row of an older one it would be refused, without a row it would be one."""
    cache = WalletCache(10)
    lookup = cache.look_up(records(b"a"))
    cache.admit(lookup, [stored])
    for number in range(2):
        wallets, _ = cache.copy(lookup)
        wallets.rows["version"], wallets.rows["segment"] = ROW_VERSION, 7 + number
        changed = cache.changed(lookup, lookup.keys, wallets.rows, b"{3}:w:")
        whole, parts = written(changed)
        if number == 0 and (stored is None or stored[0] != ROW_VERSION):
            assert (whole, parts) == ({b"{3}:w:a": wallets.rows.tobytes()}, {})
        else:
            assert (whole, [*parts]) == ({}, [b"{3}:w:a"])
        cache.keep(lookup, wallets)
        cache.stored(changed)


def test_a_journal_of_today_has_no_fees_behind_its_touches() -> None:
    cache = WalletCache(10)
    cache.admit(cache.look_up(records(b"a")), [row(1, HAS_JOURNAL)])
    with pytest.raises(UnknownFormat, match="fees"):
        cache.admit_journals([b"a"], [JOURNAL + FEE.pack(1, 2)], 2)


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


def test_a_cache_has_all_wallets_once_it_has_met_them() -> None:
    cache = WalletCache(10, elsewhere=2)
    cache.admit(cache.look_up(records(b"a", b"new")), [row(1), None])
    assert (cache.elsewhere, cache.has_all) == (1, False)
    cache.admit(cache.look_up(records(b"b")), [row(1)])
    assert cache.has_all


def test_a_blank_wallet_that_leaves_is_nowhere_else() -> None:
    cache = WalletCache(4, elsewhere=0)
    for name in range(8):  # rejected, say: nothing of them was ever stored
        cache.copy(loaded(cache, b"%d" % name))
    assert cache.has_all


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
    cache = WalletCache(capacity, elsewhere=0)
    for batch in batches:
        lookup = cache.look_up(records(*[b"%d" % wallet for wallet in batch]))
        assert not (cache.has_all and store.keys() & set(lookup.missing)), "who is missing is new"
        here = [key for key in lookup.missing if key in store]
        assert cache.admit(lookup, [store.get(key) for key in lookup.missing]) == (here, [])
        cache.admit_journals(*with_journals([key for key in lookup.missing if key in store]), 2)
        wallets, _ = cache.copy(lookup)
        assert [journal is not None for journal in wallets.journals] == [key in store for key in lookup.keys]
        wallets.rows["segment"] += 1
        wallets.rows["version"], wallets.rows["flags"] = ROW_VERSION, HAS_JOURNAL
        wallets.journals[:] = [JOURNAL] * len(lookup.keys)
        changed = cache.changed(lookup, lookup.keys, wallets.rows, b"")
        cache.keep(lookup, wallets)
        cache.stored(changed)
        whole, parts = written(changed)
        store |= whole
        for key, (place, patch) in parts.items():
            assert place == len(store[key]), "behind what is there, without a hole"
            store[key] += patch
        for key in lookup.keys:
            assert len(store[key]) <= 2 * ROW.itemsize
            expected[key] = expected.get(key, 0) + 1
        assert len(cache) <= max(capacity, len(lookup.keys))
        assert cache.elsewhere == len(store) - len(cache)
    found = {key: int(unpack_rows([stored])["segment"][0]) for key, stored in store.items()}
    assert found == expected


def with_journals(keys: list[bytes]) -> tuple[list[bytes], list[bytes | None]]:
    return keys, [JOURNAL] * len(keys)
