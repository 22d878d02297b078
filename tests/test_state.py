"""What a partition has counted, as it is stored."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from models.state import Totals
from models.tallies import NEVER_SEEN, shifted

by_segment = st.dictionaries(st.integers(0, 2**31), st.integers())
totals = st.builds(Totals, *[st.integers()] * 9, st.dictionaries(st.text(), st.integers()), by_segment, by_segment)


@given(totals)
def test_totals_are_stored_as_json_with_all_names_in_order(counted: Totals) -> None:
    assert counted.to_json() == json.dumps(asdict(counted), separators=(",", ":"), sort_keys=True).encode()
    assert Totals.from_json(counted.to_json()) == counted


#: Wallets: the segment and whale flag of each, at first and after every move.
lives = st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=4), max_size=12)


@given(lives)
def test_every_wallet_is_counted_where_it_is_now(wallets: list[list[tuple[int, int]]]) -> None:
    shifts = [(*was, *now) for life in wallets for was, now in zip([(NEVER_SEEN, 0), *life], life, strict=False)]
    found = shifted(shifted(Totals(), shifts[:5]), shifts[5:])
    now = Counter(life[-1][0] for life in wallets), Counter(life[-1][0] for life in wallets if life[-1][1])
    assert (found.wallets_by_segment, found.whales_by_segment) == now
    assert list(found.wallets_by_segment) == sorted(now[0])
