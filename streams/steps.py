"""One step for all partitions of a worker that have a batch at the same moment.

Live traffic brings every partition a few records at a time, and a step of two costs nearly what one of fifty does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from models.step import step_together

if TYPE_CHECKING:
    from models.effects import Effects
    from models.rules import Rules
    from models.segments import Catalogue
    from models.state import Batch, State
    from streams.catalogue import CatalogueWatch

#: A step waits this long for other partitions, unless so many records are there; and it takes so many at most.
COMPANY_S = 0.005
ENOUGH, MOST = 500, 4000


class Turn(NamedTuple):
    """A partition that waits for its step."""

    state: State
    batch: Batch
    done: asyncio.Future[tuple[State, Effects, Catalogue]]


class Steps:
    """Where the partitions of a worker bring their batches. Each has at most one here at a time."""

    def __init__(self, rules: Rules, watch: CatalogueWatch) -> None:
        self._rules, self._watch = rules, watch
        self._waiting: deque[Turn] = deque()
        self._records = 0
        self._call: asyncio.Handle | None = None

    async def step(self, state: State, batch: Batch) -> tuple[State, Effects, Catalogue]:
        """What a batch makes of its partition, and the catalogue it was placed with."""
        loop = asyncio.get_running_loop()
        turn = Turn(state, batch, loop.create_future())
        self._waiting.append(turn)
        self._records += len(batch.records)
        if self._records >= ENOUGH:
            self._call_now(loop)
        elif self._call is None:
            self._call = loop.call_later(COMPANY_S, self._run)
        return await turn.done

    def _call_now(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._call is not None:
            self._call.cancel()
        self._call = loop.call_soon(self._run)

    def _run(self) -> None:
        """Step those that wait, the first come first; who has been cancelled meanwhile is left out."""
        turns: list[Turn] = []
        records = 0
        while self._waiting and (not turns or records + len(self._waiting[0].batch.records) <= MOST):
            turn = self._waiting.popleft()
            records += len(turn.batch.records)
            if not turn.done.done():
                turns.append(turn)
        self._records -= records
        self._call = None
        if self._waiting:
            self._call_now(asyncio.get_running_loop())
        if turns:
            self._step(turns)

    def _step(self, turns: list[Turn]) -> None:
        catalogue = self._watch.catalogue  # once for all of them: it may change before they are committed
        try:
            results = step_together([(turn.state, turn.batch) for turn in turns], self._rules, catalogue)
        except Exception as problem:  # noqa: BLE001 -- whatever it is, it ends every partition that was part of it
            for turn in turns:
                turn.done.set_exception(problem)
            return
        for turn, (state, effects) in zip(turns, results, strict=True):
            turn.done.set_result((state, effects, catalogue))
