"""How segments drift, from announced changes and the history of catalogues."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.rules import DAY_MS, HOUR_MS
from models.segments import Happening
from streams import drifting
from streams.drifting import Flow
from tests.test_readouts import CATALOGUE

START_MS = 1_775_001_600_000


def change(wallet: str, sequence: int, hour: float, ends: tuple[int, int], regime: str = "normal") -> dict[str, Any]:
    """A change as it is announced; `ends`: numbers of segments, 0 for outside."""
    left, joined = ({"segment": f"s{number}", "name": "x"} if number else None for number in ends)
    at = datetime.fromtimestamp(START_MS / 1000 + hour * 3600, UTC).isoformat(timespec="milliseconds")
    told = {"wallet_id": wallet, "sequence": sequence, "from": left, "to": joined, "decided_at": at}
    return told | {"regime": regime}


def flow_of(*changes: dict[str, Any]) -> Flow:
    flow = Flow()
    for each in changes:
        flow.take(each)
    return flow


def test_shares_are_those_of_the_wallets_where_their_last_change_put_them() -> None:
    flow = flow_of(
        change("a", 1, 1, (0, 1)),
        change("b", 1, 2, (0, 1)),
        change("b", 2, 30, (1, 3)),
        change("a", 2, 80, (1, 0)),
    )
    found = drifting.drift(flow, CATALOGUE, ())
    assert found.names == ["steady holders", "leveraged traders"]
    assert found.shares.tolist() == [[1, 0], [0.5, 0.5], [0.5, 0.5], [0, 1]]
    assert [at_ms - START_MS for at_ms in found.times_ms] == [DAY_MS, 2 * DAY_MS, 3 * DAY_MS, 4 * DAY_MS]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 500)), min_size=1, max_size=30), st.randoms())
def test_a_change_that_comes_again_after_a_crash_counts_once(drawn: list[tuple[str, int]], chance: Any) -> None:
    told, sequence, where = [], dict.fromkeys("abc", 0), dict.fromkeys("abc", 0)
    for wallet, hour in sorted(drawn, key=lambda one: one[1]):
        sequence[wallet] += 1
        joined = 3 if where[wallet] == 1 else 1
        told.append(change(wallet, sequence[wallet], hour, (where[wallet], joined)))
        where[wallet] = joined
    again = list(told)
    for place in range(len(told), 0, -1):
        if chance.random() < 0.5:
            again.insert(place, told[chance.randrange(place)])
    once, twice = (drifting.drift(flow_of(*some), CATALOGUE, ()) for some in (told, again))
    assert np.array_equal(once.shares, twice.shares)
    assert once.shares.sum(axis=1) == pytest.approx(np.ones(len(once.times_ms)))


def test_a_short_stream_is_cut_into_hours_and_a_long_one_into_few_steps() -> None:
    short = drifting.drift(flow_of(change("a", 1, 0, (0, 1)), change("b", 1, 5, (0, 1))), CATALOGUE, ())
    assert len(short.times_ms) == 6
    long = drifting.drift(flow_of(change("a", 1, 0, (0, 1)), change("b", 1, 24 * 3000, (0, 1))), CATALOGUE, ())
    assert len(long.times_ms) <= drifting.STEPS + 1
    assert all(np.diff(long.times_ms) % DAY_MS == 0)


def test_births_come_from_all_catalogues_that_can_be_read_each_once() -> None:
    old, new = Happening("born", 1, 0, 1, START_MS), Happening("split", 3, 1, 2, START_MS + 30 * HOUR_MS)
    gone = Happening("absorbed", 2, 1, 2, START_MS + 30 * HOUR_MS)
    older = replace(CATALOGUE, history=(old,))
    found = drifting.history(replace(CATALOGUE, history=(gone, new)), [older.to_json(), b"{}", older.to_json()])
    assert found == [old, gone, new]
    flow = flow_of(change("a", 1, 1, (0, 1)), change("b", 1, 50, (0, 3)))
    assert drifting.drift(flow, CATALOGUE, found).births == [(new.at_ms, "s3")]


def test_regimes_are_bands_and_the_newest_known_one_is_whole() -> None:
    upset = {10: "crash", 11: "crash", 15: "crash", 100: "crash"}
    found = drifting.regimes(upset, None)
    assert found == [(10 * HOUR_MS, 16 * HOUR_MS, "crash"), (100 * HOUR_MS, 101 * HOUR_MS, "crash")]
    assert drifting.regimes(upset, (98 * HOUR_MS, 122 * HOUR_MS))[1:] == [(98 * HOUR_MS, 122 * HOUR_MS, "crash")]
    flow = flow_of(change("a", 1, 3, (0, 1), "crash"))
    assert list(flow.upset.values()) == ["crash"]


def test_the_pointer_of_the_overview_tells_the_newest_crash_if_there_was_one() -> None:
    assert drifting.crash_of(None) is None
    pointer = {"version": 3, "hash": "abc", "learned_until_ms": 10, "heard": {"0": 1}}
    assert drifting.crash_of(json.dumps(pointer).encode()) is None
    assert drifting.crash_of(json.dumps(pointer | {"regime_from_ms": 5, "regime_until_ms": 9}).encode()) == (5, 9)


def test_the_first_step_is_drawn_too_even_if_it_is_the_only_one(tmp_path: Path) -> None:
    flow = flow_of(change("a", 1, 1.2, (0, 1)), change("b", 1, 1.4, (0, 3)))
    born = [Happening("born", 3, 0, 2, START_MS + HOUR_MS + 1)]
    found = drifting.drift(flow, CATALOGUE, born)
    assert (found.times_ms, found.births) == ([START_MS + 2 * HOUR_MS], [(born[0].at_ms, "s3")])
    drifting.draw(found, tmp_path / "one.svg", print)
    areas = re.findall(
        r'<g id="FillBetween\w*">.*?<path[^>]* d="([^"]+)"', (tmp_path / "one.svg").read_text("utf-8"), re.DOTALL
    )
    wide = [{float(x) for x in re.findall(r"[ML] ([\d.]+) ", area)} for area in areas]
    assert len(wide) == 2
    assert all(max(each) - min(each) > 300 for each in wide)


def test_a_drift_is_drawn_and_told_with_moments_in_utc(tmp_path: Path) -> None:
    happened = [
        Happening("born", 3, 0, 2, START_MS + 40 * HOUR_MS),
        Happening("returned", 1, 3, 3, START_MS + 50 * HOUR_MS),
    ]
    flow = flow_of(change("a", 1, 1, (0, 1)), change("b", 1, 60, (0, 3), "crash"))
    found = drifting.drift(flow, CATALOGUE, happened, (START_MS, START_MS + DAY_MS), {"s1": 2, "s9": 4})
    drifting.draw(found, tmp_path / "drift.svg", print)
    drawn = (tmp_path / "drift.svg").read_text(encoding="utf-8")
    assert "born: leveraged traders" in drawn
    assert "back: steady holders" in drawn
    assert "born: steady holders" not in drawn
    told = drifting.described(found)
    assert told["times"][0] == "2026-04-02T00:00:00+00:00"
    assert [each["shares"] for each in told["segments"]] == [[1, 1, 0.5], [0, 0, 0.5]]
    assert ([each["segment"] for each in told["births"]], len(told["regimes"])) == (["s3"], 2)
    assert [each["segment"] for each in told["returns"]] == ["s1"]
    assert [each["whales"] for each in told["segments"]] == [2, 0]
    assert "50% (2 whales)" in (tmp_path / "drift.svg").read_text(encoding="utf-8")
