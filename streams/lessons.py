"""What a partition tells the overview: its learning rows, at most once a second, and how it waits for the model.

A backlog must not outrun the model: sixty replayed days would be over before the first catalogue exists.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

import numpy as np

from models.observe import Digest
from models.regime import NO_FLOW, HourlyTotals
from models.rows import FEATURES
from models.rules import DAY_MS
from streams.announce import Message
from streams.intake import CATCHING_UP_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from streams.catalogue import CatalogueWatch
    from streams.ledger import Mark

#: At most one digest a second and partition, but for one that the partition waits to be learned.
DIGEST_S = 1.0
#: But a digest leaves at once when it has this many rows, or it would not fit into one Kafka message.
DIGEST_ROWS = 8_000
#: A digest that has nothing but the flow of the hour leaves this long after the last one.
FLOW_S = 30.0
#: How far (event time) a partition may be ahead of what the overview has learned.
AHEAD_MS = 2 * DAY_MS
WAIT_S, LOOK_AGAIN_S = 5.0, 0.02
#: Nothing to learn.
NO_ROWS = np.zeros((0, len(FEATURES)), np.float32)


class Lessons:
    """The learning rows of one partition on their way to the overview."""

    def __init__(self, partition: int, topic: str, watch: CatalogueWatch) -> None:
        self.waits = 0
        self._partition, self._topic, self._watch = partition, topic, watch
        self._rows: list[NDArray[np.float32]] = []
        self._many = 0  # rows in these
        self._hours = HourlyTotals()
        self._flows = [NO_FLOW]  # of commits, not yet added to the hours, which costs more than to wait
        self._sent, self._sent_s = 0, time.monotonic()
        self._deaf_at = -1  # what the overview had heard when a wait for it was given up

    def digest(
        self, mark: Mark, learning: NDArray[np.float32], *, ahead: bool, flow: NDArray[np.float64] = NO_FLOW
    ) -> Message | None:
        """The digest that goes with the commit of `mark`, if it is time for one.

        `learning`: float32 (n, 16), the rows of this commit. `ahead`: whether the partition will wait for the overview.
        `flow`: float64 (h, 4), what this commit adds to the hours.
        """
        many, waited_s = self._many + len(learning), time.monotonic() - self._sent_s
        due = many >= DIGEST_ROWS or (many and waited_s >= DIGEST_S)
        untold = len(flow) or len(self._flows) > 1
        if not (due or (untold and waited_s >= FLOW_S) or ahead):
            return None
        together = np.concatenate((NO_ROWS, *self._rows, learning))
        told = self._hours.plus(np.concatenate((*self._flows, flow))).to_tell()
        digest = Digest(self._partition, mark.number, mark.nonce, mark.clock_ms, together, told)
        return Message(self._topic, str(self._partition).encode(), digest.pack())

    def committed(
        self, mark: Mark, learning: NDArray[np.float32], *, sent: bool, flow: NDArray[np.float64] = NO_FLOW
    ) -> None:
        """The commit succeeded: its rows and hours are under way, or wait for the next digest."""
        if len(flow):
            self._flows.append(flow)
        if sent:
            self._hours = self._hours.plus(np.concatenate(self._flows)).all_told()
            self._flows = [NO_FLOW]
            self._rows, self._many = [], 0
            self._sent, self._sent_s = mark.number, time.monotonic()
        elif len(learning):
            self._rows.append(learning)
            self._many += len(learning)

    @property
    def span_ms(self) -> float:
        """How much history a batch may hold: a batch of many days would be over before the model could follow."""
        return math.inf if self._watch.pinned else DAY_MS

    @property
    def waiting(self) -> bool:
        """Whether there are rows that no digest has taken."""
        return bool(self._rows)

    @property
    def due_in_s(self) -> float:
        """How long these rows may wait for the next commit; a partition that is idle by then tells them by itself."""
        return self._sent_s + DIGEST_S - time.monotonic() if self._rows else math.inf

    def ahead(self, clock_ms: int, newest_ms: int) -> bool:
        """Whether the partition is too far ahead of the model; never with a pinned catalogue or live traffic.

        `newest_ms`: timestamp of the newest record, compared with the wall clock.
        """
        if self._watch.pinned or newest_ms > time.time() * 1000 - CATCHING_UP_MS:
            return False
        return clock_ms > self._watch.learned_until_ms + AHEAD_MS

    async def keep_pace(self, clock_ms: int, newest_ms: int, closing: Callable[[], bool]) -> None:
        """Wait while the overview has digests of ours to learn; give up after 5 s and count it.

        After giving up there is no more waiting until the overview is heard of again: it may be gone.
        """
        deadline = time.monotonic() + WAIT_S
        with self._watch.impatient():
            while self.ahead(clock_ms, newest_ms) and self._unheard() and not closing():
                if time.monotonic() > deadline:
                    self.waits += 1
                    self._deaf_at = self._watch.heard.get(self._partition, 0)
                    return
                await asyncio.sleep(LOOK_AGAIN_S)

    def _unheard(self) -> bool:
        heard = self._watch.heard.get(self._partition, 0)
        return heard != self._deaf_at and self._sent > heard
