"""One step for all partitions of a worker that have a batch at the same moment.

Live traffic brings every partition a few records at a time, and a step of two costs nearly what one of fifty does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from models.step import step_together

if TYPE_CHECKING:
    from models.effects import Effects
    from models.rules import Rules
    from models.segments import Catalogue
    from models.state import Batch, State
    from streams.catalogue import CatalogueWatch

#: A step waits at most so long, counted from the first that came, for partitions that are on their way: so that in
#: heavy traffic all go in step, and one step and one trip to Redis is for all that a poll brought. It waits for nobody
#: when so many records are there, and takes so many at most.
COMPANY_S = 0.012
ENOUGH, MOST = 1000, 4000
#: What a step made is handed to partitions of so many records in one turn of the loop, so that their commits travel as
#: one, and Redis waits for its disk once; then others have their turn. An arrival needs five on its way to a partition.
HANDED = 1000


class Member(Protocol):
    """A partition that brings batches."""

    @property
    def coming(self) -> bool:
        """Whether it has records and will soon be here with them."""


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
        self._since = 0.0  # when the first of those that wait came
        #: who may be on the way
        self.members: set[Member] = set()

    async def step(self, state: State, batch: Batch) -> tuple[State, Effects, Catalogue]:
        """What a batch makes of its partition, and the catalogue it was placed with."""
        loop = asyncio.get_running_loop()
        turn = Turn(state, batch, loop.create_future())
        self._waiting.append(turn)
        self._records += len(batch.records)
        if self._records >= ENOUGH:
            self._call_now(loop)
        elif self._call is None:
            self._since = loop.time()
            self._call = loop.call_soon(self._look)  # the others of the same poll have been woken already
        else:
            self._look()
        return await turn.done

    def _look(self) -> None:
        """Step now, unless others are on their way and have time left."""
        loop = asyncio.get_running_loop()
        left = self._since + COMPANY_S - loop.time()
        if left <= 0 or not any(member.coming for member in self.members):
            self._call_now(loop)
            return
        if self._call is not None:
            self._call.cancel()
        self._call = loop.call_later(left, self._run)

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
        self._hand(deque(zip(turns, results, strict=True)), catalogue)

    def _hand(self, made: deque[tuple[Turn, tuple[State, Effects]]], catalogue: Catalogue) -> None:
        """Give partitions what the step made of them, the first of `made` now."""
        records = 0
        while made and records < HANDED:
            turn, (state, effects) = made.popleft()
            records += len(turn.batch.records)
            if not turn.done.done():  # cancelled meanwhile
                turn.done.set_result((state, effects, catalogue))
        if made:
            asyncio.get_running_loop().call_soon(self._hand, made, catalogue)
