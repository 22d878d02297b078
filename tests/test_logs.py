"""What a worker says: a line for what happened, JSON where nobody watches, no passwords, nothing below its level."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from streams import logs, lookout
from streams.errors import Refused
from streams.logs import KINDS, Repeats
from streams.lookout import Lookout
from streams.tally import PHASES, TOLD, Tally


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The root logger as it was."""
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = before
    structlog.reset_defaults()


def lines(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


def tell(tally: Tally, seconds: list[float], before: Any = None) -> Lookout:
    """Look once after so many seconds each; `before` each look something may happen."""
    watching = Lookout(tally)
    began_s = time.monotonic()
    for second in seconds:
        if before:
            before(second)
        watching._tell(began_s + second)
    return watching


def test_a_second_in_which_something_happened_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    tally = Tally()

    def work(_: float) -> None:
        tally.records += 10
        tally.took((0.0, 0.1, 0.3, 0.6, 1.0))

    tell(tally, [1, 2], work)
    worked = lines(capsys.readouterr().err)
    assert [line["event"] for line in worked] == ["worked", "worked"]
    assert [line["records"] for line in worked] == [10, 10]
    assert worked[1]["seconds"] == pytest.approx(1, abs=0.1)
    assert [worked[1][phase] for phase in PHASES] == [0.1, 0.2, 0.3, 0.4]
    assert {*TOLD, "lag", "behind_s"} <= worked[1].keys()


def test_idle_seconds_are_silent_and_an_idle_minute_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    tell(Tally(), [*range(1, 121)])
    idle = lines(capsys.readouterr().err)
    assert [line["event"] for line in idle] == ["idle", "idle"]
    assert idle[0]["why"].startswith("it has looked for Kafka")
    assert lookout.IDLE_S == 60


def test_the_lookout_looks_and_tells_every_second(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    tally = Tally()

    async def work() -> float:
        watching = Lookout(tally)
        looking = asyncio.create_task(watching.run())
        await asyncio.sleep(0.1)
        first_s = watching.vitals.at_s
        tally.records += 1
        await asyncio.sleep(lookout.LOOK_S + 0.2)
        looking.cancel()
        return watching.vitals.at_s - first_s

    assert asyncio.run(work()) == pytest.approx(lookout.LOOK_S, abs=0.5)
    assert [line["event"] for line in lines(capsys.readouterr().err)] == ["worked"]


def test_what_is_below_the_level_is_not_said_and_costs_microseconds(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    log = structlog.get_logger("tidemark.partition")
    fastest = min(_seconds(log) for _ in range(200))
    assert fastest < 30e-6
    assert capsys.readouterr().err == ""
    logs.configure("DEBUG")
    log.debug("batch", partition=1, records=2)
    (line,) = lines(capsys.readouterr().err)
    assert (line["event"], line["level"], line["partition"]) == ("batch", "debug", 1)


def _seconds(log: Any) -> float:
    began = time.perf_counter()
    log.debug("batch", partition=1, commit=2, offsets=(1, 2), clock_ms=3, records=4, load_s=0.1, step_s=0.2)
    return time.perf_counter() - began


def test_on_a_terminal_lines_are_for_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    logs.configure("INFO")
    structlog.get_logger("tidemark.worker").info("ready", partitions=[1])
    said = capsys.readouterr().err
    assert "ready" in said
    assert not said.startswith("{")


def test_libraries_say_only_what_goes_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("DEBUG")
    for name in ("aiokafka.consumer", "faust", "mode", "asyncio"):
        logging.getLogger(name).warning("chatty")
    assert capsys.readouterr().err == ""


def passing(told: Repeats, name: str, text: str, *filled_in: object) -> int | None:
    """How many were left out before this message; None when it is left out itself."""
    record = logging.LogRecord(name, logging.ERROR, __file__, 1, text, filled_in, None)
    return getattr(record, "left_out", 0) if told.filter(record) else None


def test_a_library_that_repeats_itself_is_heard_once_a_second_and_what_was_left_out_is_counted() -> None:
    seconds = iter([0.0, 0.1, 0.9, 1.0, 1.5, 2.0, 3.0])
    told = Repeats(lambda: next(seconds))
    heard = [passing(told, "aiokafka.client", "Unable connect to %s", broker) for broker in range(7)]
    assert heard == [0, None, None, 2, None, 1, 0]


def test_another_message_or_library_is_another_matter_and_our_own_events_all_pass() -> None:
    told = Repeats(lambda: 5.0)
    kinds = [("aiokafka.client", "a"), ("aiokafka.client", "b"), ("aiokafka.conn", "a"), ("tidemark.worker", "a")]
    assert [passing(told, *kind) for kind in kinds] == [0, 0, 0, 0]
    assert [passing(told, *kind) for kind in kinds] == [None, None, None, 0]


def test_messages_without_end_do_not_fill_the_memory() -> None:
    told = Repeats(lambda: 5.0)
    assert [passing(told, "faust", f"no {number // 2}") for number in range(6 * KINDS)] == [0, None] * 3 * KINDS
    assert max(len(told._passed_s), len(told._left_out)) <= KINDS


def test_kafka_away_is_a_line_and_the_next_one_says_how_many_there_were(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO")
    library = logging.getLogger("aiokafka")
    monkeypatch.setattr(logs, "REPEAT_S", 60.0)  # however slow this machine is
    for number in range(100):
        library.error("Unable connect to %s", number)
    monkeypatch.setattr(logs, "REPEAT_S", 0.0)
    library.error("Unable connect to %s", 100)
    first, last = lines(capsys.readouterr().err)
    assert first["event"] == "Unable connect to 0"
    assert "left_out" not in first
    assert (last["event"], last["left_out"]) == ("Unable connect to 100", 99)


@pytest.mark.parametrize(("problem", "told"), [(Refused("no"), False), (ZeroDivisionError("no"), True)])
def test_a_thread_that_ends_with_our_own_error_leaves_the_line_to_the_worker(
    problem: Exception, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise problem

    before = threading.excepthook
    logs.configure("INFO")
    try:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    finally:
        threading.excepthook = before
    assert ("Traceback" in capsys.readouterr().err) == told
