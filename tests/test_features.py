"""Features are what the table of `models.features` says, however the events came and wherever a batch was cut."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.arrivals import STABLE_ASSETS
from models.columns import read
from models.decisions import standing
from models.features import begin_anew, fold, row_features
from models.hashing import bucket
from models.lifecycle import SILENT, look
from models.records import records_of
from models.rows import FEATURES, RETURNED, blank_rows
from models.rules import DAY_MS, Rules
from models.segments import EMPTY_CATALOGUE
from models.state import TOUCHES, TRANSACTIONS
from models.turns import LESSONS, Pace, room_for, take_turns
from tests.partition import NOON_MS, encoded, touch, transaction

SLOW, FAST = 45 * DAY_MS, 3 * DAY_MS


@dataclass(frozen=True)
class Folded:
    """Rows after events, features of the event's wallet after each (n, 16), and the learning rows (m, 16)."""

    rows: NDArray[np.void]
    features: NDArray[np.float64]
    learning: NDArray[np.float32]


def arrivals(values: list[dict[str, Any]], wallet: list[int]) -> NDArray[np.void]:
    """Touches are the values with a campaign."""
    lanes = bytes(TOUCHES if "campaign_id" in value else TRANSACTIONS for value in values)
    records = records_of(encoded(lane, value)[1] for lane, value in zip(lanes, values, strict=True))
    events, rejected = read(records, lanes)
    assert not rejected
    events.rows["wallet"] = wallet
    return events.rows


def turned(rows: NDArray[np.void], events: NDArray[np.void], held: tuple[int, int] = (0, 0)) -> NDArray[np.float32]:
    """One batch; changes the rows. The learning rows. `held`: when there is a crash."""
    told = room_for(len(events), 1, 0)
    catalogue = replace(EMPTY_CATALOGUE, held_from_ms=held[0], held_until_ms=held[1])
    standing_now = standing(catalogue, Rules()), catalogue.terms
    take_turns(rows, events, np.zeros(1, np.int64), Pace(DAY_MS, DAY_MS), standing_now, told)
    return told.learning[: told.filled[LESSONS]]


def folded(values: list[dict[str, Any]], wallet: list[int] | None = None) -> Folded:
    """Events of one wallet, or of several, one by one."""
    owner = wallet or [0] * len(values)
    rows, features, learning = blank_rows(max(owner) + 1), [], []
    for place, event in enumerate(arrivals(values, owner)):
        learning.append(turned(rows, np.array([event])))
        features.append(row_features(rows[[owner[place]]]))
    return Folded(rows, np.concatenate(features), np.concatenate(learning))


def unbroken(values: list[dict[str, Any]]) -> Folded:
    """The same of a life in which the slow scale never begins anew."""
    found = folded(values)
    assume(not found.rows["rebased_s"].any())
    return found


def naive(values: list[dict[str, Any]]) -> dict[str, float]:
    """The features of one wallet, as the table defines them."""
    own = [value for value in values if "campaign_id" not in value]
    now = max(value["occurred_at"] for value in own)

    def total(of: Any, half_life: int, only: Any = lambda _: True) -> float:
        weights = [(value, 2.0 ** ((value["occurred_at"] - now) / half_life)) for value in own if only(value)]
        return math.fsum(of(value) * weight for value, weight in weights)

    def mean(of: Any, half_life: int, only: Any = lambda _: True) -> float:
        return total(of, half_life, only) / max(total(lambda _: 1, half_life, only), 1e-9)

    def log_usd(value: Any) -> float:
        return math.log1p(value["usd_value"])

    def priced(value: Any) -> bool:
        return "usd_value" in value

    def leverage(value: Any) -> float:
        return math.log(value.get("leverage", 1))

    ticket = mean(log_usd, SLOW, priced)
    variance = mean(lambda v: (log_usd(v) - ticket) ** 2, SLOW, priced)
    shares = [mean(lambda v, b=place: bucket(v["asset"], 8) == b, SLOW) for place in range(8)]
    return {
        "frequency": math.log1p(total(lambda _: 1, SLOW)),
        "frequency_fast": math.log1p(total(lambda _: 1, FAST)),
        "ticket": ticket,
        "ticket_fast": mean(log_usd, FAST, priced),
        "ticket_spread": math.sqrt(variance),
        "wallet_size": math.log1p(total(lambda v: v["usd_value"], SLOW, priced)),
        "leverage": mean(leverage, SLOW),
        "leverage_fast": mean(leverage, FAST),
        **{name: math.sqrt(mean(lambda v, n=name: v["product"] == n, SLOW))
           for name in ("spot", "derivatives", "staking", "lending", "wallet")},
        "stable": mean(lambda v: v["asset"] in STABLE_ASSETS, SLOW),
        "sell": mean(lambda v: v.get("side") == "sell", SLOW),
        "diversity": math.exp(math.fsum(share * math.log(share) for share in shares if share)),
    }  # fmt: skip


@st.composite
def lives(draw: st.DrawFn, most: int = 30, days: int = 200) -> list[dict[str, Any]]:
    """Events of one wallet in any order, a transaction among them."""
    values = []
    for number in range(draw(st.integers(1, most))):
        at_ms = NOON_MS + draw(st.integers(0, days * DAY_MS))
        if number and draw(st.integers(0, 4)) == 0:
            values.append(touch(f"e{number}", "w", at_ms))
            continue
        more: dict[str, Any] = {}
        if draw(st.booleans()):
            more["usd_value"] = draw(st.floats(0, 1e9, allow_subnormal=False))
        if draw(st.booleans()):
            more["leverage"] = draw(st.floats(1, 1000))
        if draw(st.booleans()):
            more["side"] = draw(st.sampled_from(["buy", "sell"]))
        asset = draw(st.sampled_from(["BTC", "ETH", "USDC", "DAI", "LINK"]))
        product = draw(st.sampled_from(["spot", "derivatives", "staking", "lending", "wallet", "nft", "other"]))
        values.append(transaction(f"e{number}", "w", at_ms, asset=asset, product=product, **more))
    return values


@given(lives())
@settings(max_examples=100)
def test_features_are_what_the_table_says(values: list[dict[str, Any]]) -> None:
    last = unbroken(values).features[-1]
    for name, expected in naive(values).items():
        found = last[FEATURES.index(name)]
        if name == "ticket_spread":  # a difference of squares keeps half the digits
            assert abs(found - expected) < 1e-4
        else:
            assert abs(found - expected) <= 1e-9 * max(1, abs(expected)), name


@given(lives(most=12, days=20_000))
def test_landmarks_may_move_far(values: list[dict[str, Any]]) -> None:
    """32 half-lives are 96 days and 4 years; events years apart, in any order, still give the table's features."""
    last = unbroken(values).features[-1]
    expected = naive(values)
    for name in ("frequency", "frequency_fast", "wallet_size", "stable", "derivatives"):
        assert abs(last[FEATURES.index(name)] - expected[name]) <= 1e-9 * max(1, abs(expected[name]))


@given(st.sampled_from([200, 2000, 20_000]).flatmap(lambda days: lives(days=days)), st.integers(0, 30))
def test_where_a_batch_is_cut_does_not_change_a_bit(values: list[dict[str, Any]], place: int) -> None:
    """After twenty years of sleep too: a row that is no number would poison the model that learns it."""
    alone, events = folded(values), arrivals(values, [0] * len(values))
    assert np.isfinite(alone.features).all()
    assert np.isfinite(alone.learning).all()
    for starts in ([0], [0, min(place, len(values))]):
        rows = blank_rows(1)
        parts = [turned(rows, events[start:stop]) for start, stop in pairwise([*starts, len(values)])]
        assert rows.tobytes() == alone.rows.tobytes()
        assert np.concatenate(parts).tobytes() == alone.learning.tobytes()


@given(lives(), st.randoms())
def test_the_order_of_arrival_changes_rounding_only(values: list[dict[str, Any]], dice: Any) -> None:
    """Additions commute only up to rounding; the newest transaction and the count are exact."""
    shuffled = dice.sample(values, len(values))
    one, other = unbroken(values), unbroken(shuffled)
    assert np.allclose(one.rows["sums"], other.rows["sums"], rtol=1e-12, atol=0)
    for name in ("slow_landmark", "fast_landmark", "transactions", "last_at_ms"):
        assert one.rows[name].tolist() == other.rows[name].tolist()


@given(lives(most=10), lives(most=10), st.data())
def test_a_wallet_is_folded_alone_as_among_others(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], data: st.DataObject
) -> None:
    owner = data.draw(st.permutations([0] * len(ours) + [1] * len(theirs)))
    queues = [iter(ours), iter(theirs)]
    together = folded([next(queues[each]) for each in owner], list(owner))
    for wallet, alone in enumerate((folded(ours), folded(theirs))):
        assert together.rows[[wallet]].tobytes() == alone.rows.tobytes()
        assert together.features[np.array(owner) == wallet].tobytes() == alone.features.tobytes()


def test_a_touch_changes_no_feature() -> None:
    own = [transaction("a", "w", NOON_MS, usd_value=5), transaction("b", "w", NOON_MS + DAY_MS, usd_value=7)]
    visits = [touch(f"t{i}", "w", NOON_MS + i * 100 * DAY_MS) for i in range(5)]
    assert np.array_equal(folded([*own, *visits]).features[-1], folded(own).features[-1])


def test_features_of_a_stored_row_are_those_after_its_last_event() -> None:
    found = folded([transaction("a", "w", NOON_MS, usd_value=5), transaction("b", "w", NOON_MS + 9 * DAY_MS)])
    assert row_features(found.rows).tobytes() == found.features[-1:].tobytes()


def test_a_wallet_without_a_transaction_has_zeros_and_diversity_one() -> None:
    features = row_features(blank_rows(1))[0]
    assert dict(zip(FEATURES, features.tolist(), strict=True)) == {**dict.fromkeys(FEATURES, 0.0), "diversity": 1.0}


def test_one_learning_row_a_wallet_and_active_day() -> None:
    """The state before the first transaction of a later day; touches and late ones open no day."""
    times = (0, 1, DAY_MS, DAY_MS + 1, 5, 4 * DAY_MS, 4 * DAY_MS)
    values = [transaction(f"e{i}", "w", NOON_MS + at_ms) for i, at_ms in enumerate(times)]
    values.insert(4, touch("t", "w", NOON_MS + 3 * DAY_MS))
    found = folded(values)
    expected = [folded(values[:place]).features[-1] for place in (2, 6)]
    assert found.learning.tolist() == np.array(expected, np.float32).tolist()


# ------------------------------------------------------------------ when the two scales disagree


def habit(seed: int, days: float, a_day: float, begin_ms: int = NOON_MS, **more: Any) -> list[dict[str, Any]]:
    """A wallet of one kind: Poisson in time, tickets of USD 20 or so (`usd` times), whole milliseconds."""
    dice = np.random.default_rng(seed)
    usd = more.pop("usd", 1.0)
    times = np.sort(dice.uniform(0, days * DAY_MS, dice.poisson(days * a_day))).astype(int).tolist()
    return [
        transaction(f"{seed}-{at_ms}", "w", begin_ms + at_ms, usd_value=usd * float(dice.lognormal(3, 1)), **more)
        for at_ms in times
    ]


def renewals(values: list[dict[str, Any]], held: tuple[int, int] = (0, 0)) -> tuple[int, NDArray[np.float64]]:
    """How often the slow scale began anew, and the features at the end. `held`: when there is a crash."""
    rows, count, before = blank_rows(1), 0, 0
    for event in arrivals(values, [0] * len(values)):
        turned(rows, np.array([event]), held)
        count, before = count + int(rows["rebased_s"][0] != before), int(rows["rebased_s"][0])
    return count, row_features(rows)[0]


def test_a_wallet_that_stays_as_it_is_is_hardly_ever_begun_anew() -> None:
    counts = [renewals(habit(seed, 60, pace))[0] for seed in range(4) for pace in (0.3, 2, 8)]
    assert sum(counts) <= 1  # 24 wallet-months


def test_a_wallet_that_turns_into_another_is_described_as_that_within_days() -> None:
    """Its pace, its product and its tickets; a wallet that was never anything else is the measure."""
    turned_ms = NOON_MS + 60 * DAY_MS
    perps: dict[str, Any] = {"usd": 50.0, "product": "derivatives", "leverage": 10}
    after = habit(2, 6, 8, turned_ms, **perps)
    count, found = renewals([*habit(1, 60, 0.5), *after])
    ever = renewals(habit(3, 66, 8, **perps))[1]
    assert count >= 1
    for name, width in (("frequency", 0.5), ("ticket", 0.8), ("wallet_size", 1.5), ("derivatives", 0.1), ("spot", 0.5)):
        assert abs(found[FEATURES.index(name)] - ever[FEATURES.index(name)]) < width, name


@pytest.mark.parametrize("more", [{"usd": 60.0}, {"product": "staking"}, {"a_day": 14}])
def test_a_change_of_pace_product_or_ticket_alone_is_enough(more: dict[str, Any]) -> None:
    pace, kind = more.get("a_day", 3), {name: what for name, what in more.items() if name != "a_day"}
    assert renewals([*habit(1, 60, 3), *habit(2, 8, pace, NOON_MS + 60 * DAY_MS, **kind)])[0] >= 1


def test_nothing_begins_anew_for_what_is_done_in_a_crash() -> None:
    begin_ms = NOON_MS + 60 * DAY_MS
    values = [*habit(1, 60, 1.5), *habit(2, 1, 40, begin_ms, usd=9.0)]
    assert renewals(values)[0] >= 1
    assert renewals(values, (begin_ms, begin_ms + DAY_MS))[0] == 0


@pytest.mark.parametrize("pace", [8, 40])
@pytest.mark.parametrize("crash", [False, True])
def test_who_returns_begins_anew_once_and_in_a_crash_not_at_all(pace: int, crash: bool) -> None:
    """However clearly the scales disagree after a silence; a second time the fast scale would be taken for younger."""
    row, back_ms = blank_rows(1), NOON_MS + 63 * DAY_MS
    turned(row, arrivals(values := habit(1, 60, pace), [0] * len(values)))
    assert look(row[0], back_ms - 1) == SILENT
    returns, *more = arrivals([transaction(f"r{n}", "w", back_ms + n, usd_value=900) for n in range(9)], [0] * 9)
    expected, held = row.copy(), (back_ms, back_ms + DAY_MS) if crash else (0, 0)
    fold(expected[0], returns)
    if not crash:
        begin_anew(expected[0], back_ms)
    turned(row, np.array([returns]), held)
    assert row_features(row).tolist() == row_features(expected).tolist()
    assert row["rebased_s"] == expected["rebased_s"]
    assert row["lifecycle"] == RETURNED
    turned(row, np.array(more), held)
    assert not crash or row["rebased_s"] == expected["rebased_s"]


def test_a_transaction_that_is_not_the_newest_proves_nothing() -> None:
    values = [*habit(1, 60, 1.5), *habit(2, 1, 40, NOON_MS + 60 * DAY_MS)]
    late = transaction("newest", "w", NOON_MS + 61 * DAY_MS, usd_value=20)
    assert renewals([values[0], late, *values[1:]])[0] == 0
