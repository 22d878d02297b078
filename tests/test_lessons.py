"""What a partition tells the overview beside its rows: the running totals of its hours."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from models.observe import Digest
from models.regime import KEPT_HOURS, NO_FLOW
from models.rules import DAY_MS
from streams.announce import Message
from streams.catalogue import CatalogueWatch
from streams.ledger import Ledger, Mark
from streams.lessons import FLOW_S, Lessons

NONE = np.zeros((0, 16), np.float32)
ROWS = np.ones((3, 16), np.float32)


def cells(*hours: tuple[float, float, float, float]) -> NDArray[np.float64]:
    return np.array(hours, np.float64).reshape(len(hours), 4)


@pytest.fixture
def lessons() -> Lessons:
    return Lessons(7, "digests", CatalogueWatch(Ledger("redis://localhost:1/0")))


def told(message: Message | None) -> Digest:
    assert message is not None
    return Digest.unpack(message.value or b"")


def mark(number: int) -> Mark:
    return Mark(number, (0, 0), ("a", "b"), 1, f"{number:016x}", clock_ms=5 * DAY_MS)


def test_hours_are_told_as_running_totals_and_only_those_that_changed(lessons: Lessons) -> None:
    lessons.committed(mark(1), NONE, sent=False, flow=cells((5, 10, 4, 100.0), (6, 1, 1, 2.0)))
    first = told(lessons.digest(mark(2), ROWS, ahead=True, flow=cells((6, 2, 1, 3.0))))
    assert first.flow.tolist() == [[5, 10, 4, 100], [6, 3, 2, 5]]
    assert len(first.rows) == 3
    lessons.committed(mark(2), ROWS, sent=True, flow=cells((6, 2, 1, 3.0)))
    second = told(lessons.digest(mark(3), ROWS, ahead=True, flow=cells((6, 1, 0, 1.0))))
    assert second.flow.tolist() == [[6, 4, 2, 6]]


def test_a_digest_that_was_not_sent_is_told_again(lessons: Lessons) -> None:
    for number in (1, 2):
        lost = told(lessons.digest(mark(number), ROWS, ahead=True, flow=cells((5, 1, 1, 1.0))))
        assert lost.flow.tolist() == [[5, 1, 1, 1]]  # the commit never came about, so neither did its hour
    lessons.committed(mark(3), ROWS, sent=False, flow=cells((5, 1, 1, 1.0)))
    assert told(lessons.digest(mark(4), NONE, ahead=True)).flow.tolist() == [[5, 1, 1, 1]]


def test_hours_without_rows_wait_longer_than_rows(lessons: Lessons, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    flow = cells((5, 1, 1, 1.0))
    for waited_s, due in ((0.0, False), (2.0, False), (FLOW_S + 1, True)):
        monkeypatch.setattr(time, "monotonic", lambda waited_s=waited_s: began + waited_s)
        assert (lessons.digest(mark(1), NONE, ahead=False, flow=flow) is not None) == due
        assert lessons.digest(mark(1), NONE, ahead=False) is None


def test_a_late_event_is_told_and_memory_is_bounded(lessons: Lessons) -> None:
    for hour in range(3 * KEPT_HOURS):
        lessons.committed(mark(hour), NONE, sent=True, flow=cells((hour, 1, 1, 0.0)))
    late = told(lessons.digest(mark(999), NONE, ahead=True, flow=cells((3 * KEPT_HOURS - 5, 1, 0, 0.0))))
    assert late.flow[:, 0].tolist() == [3 * KEPT_HOURS - 5.0 + at for at in range(5)]
    assert late.flow[0, 1] == 2
    old = told(lessons.digest(mark(999), NONE, ahead=True, flow=cells((1, 1, 0, 0.0))))
    assert len(old.flow) <= KEPT_HOURS
    assert lessons.digest(mark(999), NONE, ahead=True, flow=NO_FLOW) is not None
