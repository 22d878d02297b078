"""Touches in `j`, fees in `f`: what is stored is what is remembered, little is written, version 4 is gone on with."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.effects import Effects
from models.journeys import EMPTY_JOURNAL, fees_of, has_fees, unpack_journal, without_fees
from models.layout import FEE, FEE_BYTES
from models.rows import HAS_FEES, HAS_JOURNAL, LOOK_EVERY, ROW_VERSION, SEGMENTS, since_look, unpack_rows
from models.rules import DAY_MS, HOUR_MS, Rules
from models.state import TOUCHES, TRANSACTIONS, State
from streams.cache import Lookup
from tests.journals import STALE, as_version_4
from tests.partition import (
    NOON_MS,
    Arrival,
    Partition,
    Season,
    catalogue_of,
    encoded,
    numbered,
    random_cut,
    touch,
    transaction,
)

MINUTE_MS = 60_000
#: Few fees are kept, so that old ones are cut off soon; or all of six hours, so that there are many.
BOUNDS = st.sampled_from([Rules(fees_kept=24), Rules(touches_kept=3, fees_kept=6), Rules(lateness_ms=6 * HOUR_MS)])


class Watched(Partition):
    """A partition that tells what its batches asked for."""

    asked: list[Effects]

    def commit(self, lookup: Lookup, state: State, effects: Effects) -> None:
        self.asked = [*getattr(self, "asked", []), effects]
        super().commit(lookup, state, effects)


def hurried(seed: int, events: int = 240) -> list[Arrival]:
    """So many events of three wallets that most fees spill; late touches, repeats and quiet days among them."""
    return Season(events=events, wallets=3, seed=seed, hot=0.6, out_of_order=0.5, late=0.3, repeats=0.1).arrivals()


def read_again(one: Partition) -> Partition:
    """A new owner of what a partition has stored."""
    other = Partition(one.catalogue, one.rules)
    for name in ("rows", "journals", "fees", "cells", "codes", "totals", "clock_ms", "agenda"):
        setattr(other, name, deepcopy(getattr(one, name)))
    other.restart()
    return other


def remembered(one: Partition) -> list[tuple[bytes, bytes, bytes | None]]:
    """What is known of every stored wallet: its row and its journal."""
    wallets = one.wallets(sorted(one.rows))
    return [
        (key, row.tobytes(), journal)
        for key, row, journal in zip(wallets.keys, wallets.rows, wallets.journals, strict=True)
    ]


# ------------------------------------------------------------------ stored and loaded


@given(seed=st.integers(0, 10_000), cut=st.integers(0, 1000), rules=BOUNDS)
@settings(max_examples=30)
def test_what_is_stored_is_what_is_remembered(seed: int, cut: int, rules: Rules) -> None:
    """After every batch, wherever it is cut; to the last byte."""
    arrivals, one = hurried(seed), Partition(catalogue_of(1000), rules)
    starts = [*random_cut(cut)(len(arrivals)), len(arrivals)]
    for start, stop in pairwise(starts):
        one.take(arrivals[start:stop])
        assert remembered(read_again(one)) == remembered(one)
    for key, row in one.rows.items():
        (flags,) = unpack_rows([row])["flags"].tolist()
        assert (bool(flags & HAS_JOURNAL), bool(flags & HAS_FEES)) == (key in one.journals, key in one.fees)


def test_the_hurried_season_spills_and_cuts_and_goes_on_where_nothing_can_be_cut() -> None:
    for rules, most in ((Rules(fees_kept=24), 20), (Rules(lateness_ms=6 * HOUR_MS), 50)):
        one = Watched(catalogue_of(1000), rules)
        one.take(hurried(1), 1)
        assert sum(len(each.fees) for each in one.asked) > 3
        assert sum(len(each.spilled) for each in one.asked) > 50
        assert max(at // FEE_BYTES for each in one.asked for at, _ in each.spilled.values()) > most > LOOK_EVERY
        assert one.sweeps


# ------------------------------------------------------------------ how much is written


@given(seed=st.integers(0, 10_000), rules=BOUNDS)
@settings(max_examples=20)
def test_a_touch_writes_no_fees_and_a_fee_no_touches_nor_other_fees(seed: int, rules: Rules) -> None:
    """Unless of the other fees some are cut off: then there are fewer of them."""
    one = Watched(catalogue_of(1000), rules)
    for arrival in hurried(seed):
        before, one.asked = dict(one.fees), []
        one.take([arrival])
        for effects in one.asked:
            assert not (effects.journals and (effects.fees or effects.spilled))
            assert not (effects.journals if arrival[0] == TRANSACTIONS else effects.fees or effects.spilled)
            assert all(not has_fees(journal) for journal in effects.journals.values())
            for key, part in effects.spilled.items():
                assert (part[0], len(part[1])) == (len(before.get(key, b"")), FEE_BYTES)
            assert all(len(fees) <= len(before[key]) for key, fees in effects.fees.items())


def test_a_sixteenth_fee_rewrites_nothing_where_none_can_be_cut_off() -> None:
    one = Watched()
    paid = [transaction(f"x{n}", "w", NOON_MS + n * MINUTE_MS // 2, fee_usd="1") for n in range(50)]
    one.take([encoded(TRANSACTIONS, value) for value in paid], 1)
    assert not any(each.fees or each.journals for each in one.asked)
    assert [len(fees) for each in one.asked for _, fees in each.spilled.values()] == [FEE_BYTES] * 46
    assert len(one.fees[b"w"]) == 46 * FEE_BYTES
    assert since_look(unpack_rows([one.rows[b"w"]])).tolist() == [46 % LOOK_EVERY]


def test_fees_that_no_late_touch_can_reach_are_cut_off_with_a_sixteenth() -> None:
    one, later = Watched(), NOON_MS + 3 * HOUR_MS
    times = [start + n * MINUTE_MS // 2 for start in (NOON_MS, later) for n in range(24)]
    paid = [transaction(f"x{n}", "w", at_ms, fee_usd="1") for n, at_ms in enumerate(times)]
    one.take([encoded(TRANSACTIONS, value) for value in paid], 1)
    (cut,) = [fees for each in one.asked for fees in each.fees.values()]
    assert {paid_at // SEGMENTS for paid_at, _ in FEE.iter_unpack(cut)} == {*times[24 : 24 + len(cut) // FEE_BYTES]}


# ------------------------------------------------------------------ what version 4 stored


def stored_by_4(one: Partition) -> Partition:
    """A new owner of what a partition of version 4 would have stored."""
    other = read_again(one)
    old = {key: as_version_4(row, one.journals.get(key), one.fees.get(key)) for key, row in one.rows.items()}
    other.rows = {key: row for key, (row, _, _) in old.items()}
    other.journals = {key: journal for key, (_, journal, _) in old.items() if journal is not None}
    other.fees = {key: fees for key, (_, _, fees) in old.items() if fees is not None}
    return other


def told(one: Partition) -> list[tuple[Any, ...]]:
    """Everything known and counted; a journal that never had a touch is none."""
    out: list[tuple[Any, ...]] = []
    for key, row, journal in remembered(one):
        read = unpack_rows([row])
        if without_fees(journal) == EMPTY_JOURNAL:  # version 4 did not know whether there had been one
            read["flags"] &= 0xFFFF ^ HAS_JOURNAL
        out.append((key, read.tobytes(), journal or EMPTY_JOURNAL))
    return [*out, (one.totals, one.clock_ms, sorted(one.cells.items()), one.codes)]


@given(seed=st.integers(0, 10_000), half=st.integers(0, 240), cut=st.integers(0, 1000), rules=BOUNDS, few=st.booleans())
@settings(max_examples=40)
def test_wallets_of_version_4_are_gone_on_with_as_if_they_had_never_been_stored(
    seed: int, half: int, cut: int, rules: Rules, few: bool
) -> None:
    """Whatever lay on pages, in journals, or was left over; also when they leave the cache before they are written."""
    arrivals = hurried(seed)
    one = Partition(catalogue_of(1000), rules).take(arrivals[:half], 50)
    other, rest = stored_by_4(one), arrivals[half:]
    assert told(other) == told(one)
    other = stored_by_4(one)
    other.capacity = 1 if few else other.capacity
    other.restart()
    other.take_cut(rest, random_cut(cut)(len(rest)))
    one.take(rest)
    assert told(other) == told(one) == told(read_again(other))
    for key, row in other.rows.items():
        if row[0] == ROW_VERSION:
            journal = one.wallets([key]).journals[0]
            assert other.fees.get(key, b"") == fees_of(journal), key
            assert other.journals.get(key, EMPTY_JOURNAL) == without_fees(journal), key


def busy(fees: int, *, touched: bool) -> Partition:
    """A wallet with so many spilled fees."""
    sent = [transaction(f"x{n}", "w", NOON_MS + n * MINUTE_MS // 2, fee_usd="1") for n in range(fees + 4)]
    arrivals = [encoded(TRANSACTIONS, value) for value in sent]
    if touched:
        arrivals.append(encoded(TOUCHES, touch("t", "w", NOON_MS)))
    return Partition().take(numbered(arrivals))


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize(("fees", "in_journal", "beside"), [(3, 0, 3), (16, 16, None), (20, 16, 4), (0, 0, 0)])
def test_a_wallet_of_version_4_is_written_whole_by_its_first_write_even_of_a_sweep(
    fees: int, in_journal: int, beside: int | None, touched: bool
) -> None:
    """With a page, with none but what is left over of the last, with both; here nobody sends its wallet a record."""
    one = stored_by_4(busy(fees, touched=touched))
    had = unpack_journal(one.journals[b"w"]) if b"w" in one.journals else EMPTY_JOURNAL
    assert len(fees_of(had)) == in_journal * FEE_BYTES
    assert one.fees.get(b"w", b"") == (STALE if beside is None else one.fees.get(b"w", b"")[: beside * FEE_BYTES])
    whole, count = one.wallets([b"w"]).journals[0], 0
    assert len(fees_of(whole)) == fees * FEE_BYTES
    while one.rows[b"w"][0] != ROW_VERSION:
        count += 1
        one.take([encoded(TRANSACTIONS, transaction(f"o{count}", "other", NOON_MS + count * DAY_MS))])
    assert any(b"w" in keys for _, keys in one.sweeps)
    assert (one.journals.get(b"w", EMPTY_JOURNAL), one.fees.get(b"w", b"")) == (without_fees(whole), fees_of(whole))
    assert read_again(one).wallets([b"w"]).journals[0] == whole
