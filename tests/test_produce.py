"""A line becomes a record with the very bytes it was given. What needs a broker is in tests/kafka/test_produce.py."""

from __future__ import annotations

import base64
import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import Unavailable
from streams.lines import BadLine, Outgoing, members, read_line
from streams.produce import PROGRESS_SECONDS, SHORTEST_WAIT_S, UNPACED, Pace, Raw, Target, hashed, produce, stamp
from tests.oracle import murmur2

TOPICS = {"wallet.transactions": "mine.tx", "campaign.touches": "mine.touches"}
NOON_MS = 1_775_044_800_000
#: What adding up seconds loses.
NOTHING_S = 1e-6
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(line: dict[str, Any] | str) -> Outgoing:
    return read_line(line if isinstance(line, str) else json.dumps(line), 1, TOPICS)


def told(**parts: Any) -> dict[str, Any]:
    return {"topic": "wallet.transactions", "key": "w", "value": {"a": 1}, "timestamp": NOON_MS} | parts


# ------------------------------------------------------------------ a line


@given(value=JSON.filter(lambda x: x is not None), indent=st.sampled_from([None, 1]), plain=st.booleans())
def test_the_value_is_sent_as_the_text_it_was(value: Any, indent: int | None, plain: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=plain, separators=(" ,  ", " : "))
    if not plain:
        text = text.encode("utf-8", "replace").decode()
    for line in (
        f'{{"topic":"wallet.transactions","key":"w","value":{text},"timestamp":{NOON_MS}}}\n',
        f' {{ "value" :\t{text} , "timestamp":{NOON_MS}, "key": "w", "topic":"wallet.transactions" }} ',
    ):
        outgoing = read(line)
        assert outgoing == Outgoing("mine.tx", b"w", text.encode(), NOON_MS, [])


@given(JSON, JSON)
def test_the_fast_way_reads_no_line_in_another_way_than_the_slow_one(value: Any, more: Any) -> None:
    """A member between value and timestamp, or a text that looks like the end of a line, must not be cut wrongly."""
    extra = json.dumps({"value": value, "more": more, "tricky": '},"timestamp":1}'}, separators=(",", ":"))
    for line in (
        f'{{"topic":"wallet.transactions","key":"w",{extra[1:-1]},"timestamp":7}}',
        f'{{"topic":"wallet.transactions","key":"w","value":{extra},"timestamp":7}}',
        f'{{"topic":"wallet.transactions","key":"w","value":{{}},"x":{extra},"timestamp":7}}',
    ):
        found, text = members(line)
        assert text is not None
        assert read(line).value == (None if text == "null" else text.encode())
        assert read(line).at_ms == found["timestamp"] == 7
        assert found == json.loads(line) or "NaN" in line


@given(st.binary())
def test_base64_is_sent_as_the_bytes_it_means(raw: bytes) -> None:
    line = told(value_base64=base64.b64encode(raw).decode())
    del line["value"]
    assert read(line).value == raw


def test_null_values_and_keys_stay_null() -> None:
    assert read(told(value=None, key=None)) == Outgoing("mine.tx", None, None, NOON_MS, [])
    assert read({"topic": "campaign.touches", "value": None}) == Outgoing("mine.touches", None, None, None, [])
    assert Raw().serialize("t", [], None) is None


def test_headers_keep_their_order_and_are_utf8() -> None:
    assert read(told(headers={"b": "é", "a": ""})).headers == [("b", "é".encode()), ("a", b"")]


@pytest.mark.parametrize(
    "line",
    [
        "", "nonsense", "[]", "null", "{", '{"topic"', '{"topic":}', '{"topic" "x"}', "{1:2}", "{}",
        '{"topic":"other","value":1}',
        json.dumps(told(topic=None)), json.dumps(told(key=5)), json.dumps(told(headers=[1])),
        json.dumps(told(headers={"a": 1})),
        json.dumps(told(timestamp="now")), json.dumps(told(timestamp=-1)), json.dumps(told(timestamp=1.5)),
        json.dumps(told(timestamp=True)), json.dumps(told(value_base64="AA==")),
        '{"topic":"campaign.touches","key":"w"}',
        '{"topic":"campaign.touches","value_base64":"A"}', '{"topic":"campaign.touches","value_base64":5}',
        json.dumps(told()) + "}", json.dumps(told()) + json.dumps(told()), json.dumps(told())[:-1] + ",}",
        '{"topic":"campaign.touches","value":' + "[" * 100_000, json.dumps(told())[:-1],
        '{"topic":"campaign.touches","key":"\ud800","value":1}',
    ],
)  # fmt: skip
def test_a_malformed_line_is_named_by_its_number(line: str) -> None:
    with pytest.raises(BadLine, match=r"^line 17: [^\n]+$"):
        read_line(line, 17, TOPICS)


# ------------------------------------------------------------------ timestamps


@pytest.mark.parametrize(
    ("parts", "at_ms"),
    [
        ({}, NOON_MS), ({"timestamp": 0}, 0),
        ({"timestamp": None, "value": {"occurred_at": 1_775_000_000_001}}, 1_775_000_000_001),
        ({"timestamp": None, "value": {"occurred_at": "2026-04-01T12:00:00.5+00:00"}}, NOON_MS + 500),
        ({"timestamp": None, "value": {"occurred_at": "2026-04-01T12:00:00"}}, None),
        ({"timestamp": None, "value": {"occurred_at": "yesterday"}}, None), ({"timestamp": None, "value": [1]}, None),
        ({"timestamp": None, "value": {"occurred_at": 1_775_000_000}}, None),
        ({"timestamp": None, "value": {"occurred_at": True}}, None),
        ({"timestamp": None, "value": {"occurred_at": [1]}}, None),
    ],
)  # fmt: skip
def test_the_time_of_a_line_is_its_timestamp_else_its_events(parts: dict[str, Any], at_ms: int | None) -> None:
    assert read(told(**parts)).at_ms == at_ms


def test_a_line_without_a_time_takes_that_of_the_line_before_and_the_first_must_have_one() -> None:
    silent = read({"topic": "campaign.touches", "value": None})
    assert stamp(silent, NOON_MS, 2) == NOON_MS
    assert stamp(read(told()), 5, 2) == NOON_MS
    with pytest.raises(BadLine, match="line 1: neither a timestamp"):
        stamp(silent, None, 1)


# ------------------------------------------------------------------ pace and partition


class Slow:
    """The clock of a busy machine: every sleep is too long by so much, and each line takes the time it is told to.

    On a real clock a test cannot tell a pace that waits too long from a machine that is slow.
    """

    def __init__(self, oversleeps_s: float = 0.0) -> None:
        self.oversleeps_s, self.now_s, self.sleeps = oversleeps_s, 5000.0, 0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float, /) -> None:
        assert seconds > 0
        self.now_s += seconds + self.oversleeps_s
        self.sleeps += 1


@given(
    rate=st.sampled_from([0.5, 30, 400, 5000]) | st.floats(0.5, 5000),
    took_ms=st.lists(st.integers(0, 4) | st.integers(0, 1500), max_size=100),
    oversleeps_ms=st.integers(0, 300),
)
def test_a_rate_is_kept_and_progress_is_told(rate: float, took_ms: list[int], oversleeps_ms: int) -> None:
    clock = Slow(oversleeps_ms / 1000)
    told = [(0, clock.now_s)]
    pace, began_s = Pace(rate, lambda sent: told.append((sent, clock.now_s)), clock), clock.now_s
    for number, ms in enumerate(took_ms, 1):
        clock.now_s += ms / 1000
        before_s, due_s, known = clock.now_s, began_s + number / rate, len(told)
        pace.step()
        assert due_s - SHORTEST_WAIT_S <= clock.now_s + NOTHING_S
        assert clock.now_s <= max(before_s, due_s + clock.oversleeps_s) + NOTHING_S
        assert clock.now_s - told[-1][1] < PROGRESS_SECONDS
        assert told[known:] in ([], [(number, clock.now_s)])
    assert all(later - one >= PROGRESS_SECONDS for (_, one), (_, later) in pairwise(told))


def test_without_a_rate_nothing_waits_and_progress_is_told() -> None:
    clock, line_s = Slow(), 50e-6
    told = [clock.now_s]
    pace = Pace(None, lambda _: told.append(clock.now_s), clock)
    for _ in range(100_000):
        clock.now_s += line_s
        pace.step()
    assert clock.sleeps == 0
    gaps_s = [later - one for one, later in pairwise([*told, clock.now_s])]
    assert all(gap_s >= PROGRESS_SECONDS for gap_s in gaps_s[:-1])
    assert max(gaps_s) <= PROGRESS_SECONDS + UNPACED * line_s


@given(st.binary(max_size=80))
def test_the_partitioner_is_javas_murmur2(key: bytes) -> None:
    assert hashed(key) == murmur2(key)


def test_no_broker_is_one_line_that_says_where() -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"^no Kafka broker answers at 127.0.0.1:1: start it, or set TIDEMARK_KAFKA$"):
        produce([json.dumps(told())], Target("127.0.0.1:1", TOPICS))
    assert time.monotonic() - began < 10


def test_a_password_is_not_shown_with_the_target() -> None:
    assert "secret" not in repr(Target("k:1", TOPICS, {"sasl_plain_password": "secret"}))
