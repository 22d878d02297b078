"""One worker's life: the hooks of its Faust app become taking over and handing over, its end an exit code."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, cast

import structlog
import uvloop

from models.rehearsal import rehearse
from streams import logs, topics
from streams.announce import Message, Outbox
from streams.app import Consumer, app_of, explained, post, stuck, threads_end, too_large
from streams.catalogue import CatalogueWatch, pinned_catalogue
from streams.errors import CutLog, Unavailable
from streams.intake import Place
from streams.ledger import Ledger
from streams.lookout import Lookout, Work, answering
from streams.owner import Owner
from streams.partition import Surroundings
from streams.settings import Settings
from streams.store import Address
from streams.tally import Tally
from streams.transport import TP, BatchConsumer, arrivals, batch_channel

#: At the start Kafka and Redis are given this long to answer.
START_S = 15.0
#: Leaving the group and closing connections may take this long; then the process ends without them.
LEAVE_S = 5.0
#: How often the group is asked whether it takes this worker.
GROUP_S = 1.0
#: New containers before Python looks for cycles, and how many such looks before it looks further.
COLLECT = (100_000, 50, 1000)
#: How long a thread works on while another waits for its turn.
TURN_S = 0.001
#: Compiled loops are read from disk in less than this; what takes longer is told.
COMPILED_S = 1.0
log = structlog.get_logger("tidemark.worker")


def run(settings: Settings) -> int:
    """Work until SIGTERM; 0 after a clean hand-over. Raises `TidemarkError` when the worker must be started again."""
    logs.configure(settings.log_level)
    with suppress(OSError):  # whoever calls this may have a stderr that is no file
        faulthandler.enable()  # a crash of compiled code (uvloop, Numba) would be a death without a word
    # Records come and go by the ten thousand, without cycles; looking for some among all wallets takes a tenth of the
    # CPU. And the thread that fetches must not wait 5 ms for each of its turns.
    sys.setswitchinterval(TURN_S)
    gc.freeze()
    gc.set_threshold(*COLLECT)
    worker = Worker(settings)
    with answering(settings, worker.lookout), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(worker.run())
    return 0


class Worker:
    """A Faust app with one agent for both inputs and one for the digests, and the owner of what they read."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tally = Tally()
        self.lookout = Lookout(self.tally)
        #: whether the newest hand-over was clean
        self.clean = True

    async def run(self) -> None:
        looking = asyncio.create_task(self.lookout.run())
        try:
            await self._run(looking)
        finally:
            looking.cancel()

    async def _run(self, looking: asyncio.Task[None]) -> None:
        pinned = pinned_catalogue(self.settings.catalogue) if self.settings.catalogue else None
        largest, largest_rejected = await world_is_there(self.settings)
        with self.lookout.compiling():
            await _compiled()
        stopping = _stop_signal()  # until here SIGTERM ends the process at once: there is nothing to hand over
        self.ledger = Ledger(Address.of(self.settings))
        watch = CatalogueWatch(self.ledger, pinned)
        rules = self.settings.rules()
        self.around = Surroundings(self.settings, rules, self.ledger, watch, largest_rejected, self.tally)
        self.app = app_of(self.settings, self._take_over, largest)
        outbox, consumer = Outbox(self._send, too_large, stuck=stuck), Consumer(self.app)
        self.owner = Owner(self.around, outbox, consumer)
        self._connect()
        self.lookout.watch(Work(self.owner, consumer, self.ledger, outbox, watch))
        problem = await self._until_the_end(stopping, looking)
        self.lookout.leave()
        if problem:
            self.owner.abandon()
        if isinstance(problem, CutLog):
            problem = await self.owner.explained(problem)
        left = await self._leave()
        problem = self._last_problem(problem)
        if not left:
            _end_now(problem)
        if problem:
            raise problem

    def _last_problem(self, problem: BaseException | None) -> BaseException | None:
        """What the process ends with; None only after a signal and a clean hand-over."""
        if problem is None and self.owner.failed.done():
            problem = self.owner.failed.result()
        if problem is None and not self.clean:
            problem = Unavailable("partitions were cut off before they could finish: their next owner repeats the rest")
        return explained(problem) if problem else None

    def _connect(self) -> None:
        """Faust's hooks: a stopping app skips the revocation, so the end is a hand-over too."""
        self.app.agent(batch_channel(self.app, self.settings.inputs), name="intake")(self._intake)
        self.app.agent(batch_channel(self.app, [self.settings.digests_topic]), name="digests")(self._digests)
        self.app.on_partitions_revoked.connect(self._hand_over)
        self.app.on_before_shutdown.connect(self._hand_over)

    async def _until_the_end(self, stopping: asyncio.Event, looking: asyncio.Task[None]) -> BaseException | None:
        """Work; None when a signal ends it, else the problem that does."""
        signalled = asyncio.create_task(stopping.wait())
        crashed = asyncio.create_task(self.app.wait_until_stopped())
        starting = asyncio.create_task(self.app.start())
        watching = (self.around.watch.run(), self.owner.watch_topics(), self._watch_group())
        tasks = [asyncio.create_task(each) for each in watching]
        ends: set[asyncio.Future[Any]] = {signalled, crashed, starting, self.owner.failed, looking, *tasks}
        try:
            while True:
                done, ends = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                if signalled in done:
                    return None
                if self.owner.failed in done:
                    return self.owner.failed.result()
                for task in done:
                    if problem := task.exception():
                        return problem
                if crashed in done:
                    return self.app.crash_reason or Unavailable("Kafka's client stopped: start the worker again")
        finally:
            for task in (signalled, crashed, starting, *tasks):
                task.cancel()

    async def _watch_group(self) -> None:
        """Raises what keeps this worker out of the group; else never returns."""
        while True:
            await asyncio.sleep(GROUP_S)
            if problem := cast("BatchConsumer", self.app.consumer).group_problem:
                raise problem

    async def _leave(self) -> bool:
        """Leave the group, so that others need not wait for the session to time out; whether it worked in time."""
        # Not `wait_for`: Faust swallows its cancellation and returns as if its threads had ended; and an app that has
        # crashed returns at once. Threads left alone outlive the loop, join the group again, and end with a traceback.
        leaving = asyncio.create_task(self.app.stop())
        ended = asyncio.create_task(threads_end())
        _, late = await asyncio.wait([leaving, ended], timeout=LEAVE_S)
        problem = leaving.exception() if leaving.done() else None
        if late or problem:
            log.warning("kafka's client did not stop in time", problem=repr(problem) if problem else f"{LEAVE_S:g} s")
            return False
        await self.ledger.close()
        return True

    # ------------------------------------------------------------------ what Faust calls

    async def _take_over(self, tps: set[TP]) -> Mapping[TP, int]:
        places = await self.owner.take_over({Place(*tp) for tp in tps})
        return {TP(*place): offset for place, offset in places.items()}

    async def _hand_over(self, *_: Any, **__: Any) -> None:
        self.clean = await self.owner.hand_over()

    async def _intake(self, stream: Any) -> None:
        """The agent of both inputs: empties Faust's queue at once, partitions take from their own lanes."""
        async for delivery in arrivals(stream):
            for batch in delivery:
                self.owner.deliver(Place(*batch.tp), batch.generation, batch)

    async def _digests(self, stream: Any) -> None:
        """The agent of the digests: the group gives their one partition to one worker."""
        await self._intake(stream)

    async def _send(self, message: Message) -> Any:
        return await post(self.app, message)


async def _compiled() -> None:
    """The step's loops are at hand before there are records; half a minute the first time, while /live answers."""
    began = time.monotonic()
    await asyncio.to_thread(rehearse)
    took_s = time.monotonic() - began
    if took_s > COMPILED_S:
        log.info("compiled", seconds=round(took_s, 1))


async def world_is_there(settings: Settings) -> tuple[int, int]:
    """Kafka with its topics and Redis, or one line that says what to do.

    The largest message to be read or sent, in bytes, and the largest that may be sent as rejected: a record of the
    largest input goes on with its headers and ours.
    """
    await asyncio.to_thread(topics.describe, settings, START_S)
    largest = await asyncio.to_thread(topics.largest_input, settings)
    ledger = Ledger(Address.of(settings), give_up_s=START_S)
    await ledger.ping()
    await ledger.close()
    limit = await asyncio.to_thread(topics.largest_rejected, settings)
    return largest + topics.ENVELOPE, min(largest + topics.ENVELOPE, limit)


@asynccontextmanager
async def outside_the_group(settings: Settings) -> AsyncIterator[tuple[Surroundings, Outbox]]:
    """What a command works on partitions with: no group is joined, and the catalogue stays the one there is."""
    largest, largest_rejected = await world_is_there(settings)
    ledger = Ledger(Address.of(settings))
    watch = CatalogueWatch(ledger, pinned_catalogue(settings.catalogue) if settings.catalogue else None)
    await watch.look()
    app = app_of(settings, _nothing, largest)
    await app.producer.start()
    try:
        frozen = CatalogueWatch(ledger, watch.catalogue)
        around = Surroundings(settings, settings.rules(), ledger, frozen, largest_rejected)
        yield around, Outbox(partial(post, app), too_large)
    finally:
        await app.producer.stop()
        await ledger.close()


async def _nothing(_: set[TP]) -> Mapping[TP, int]:
    """What is taken over by an app that reads nothing."""
    return {}


def _stop_signal() -> asyncio.Event:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


def _end_now(problem: BaseException | None) -> None:
    """End the process although threads of Kafka's client still run: they would keep it alive."""
    if problem:
        print(f"tidemark: {problem}", file=sys.stderr)  # noqa: T201 -- the line that says why
    sys.stderr.flush()
    os._exit(1 if problem else 0)
