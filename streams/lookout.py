"""Looks at a worker once a second from within its loop: a heartbeat, signs of trouble, the line of that second."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from streams import health
from streams.health import Pulse, Seen, Sign, Verdict, Vitals, carried, quiet, records_behind
from streams.intake import Place
from streams.ledger import OVERVIEW

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from streams.announce import Outbox
    from streams.catalogue import CatalogueWatch
    from streams.intake import KnownEnd
    from streams.ledger import Ledger
    from streams.owner import Owned, Owner
    from streams.settings import Settings
    from streams.tally import Tally

LOOK_S = 1.0
#: While nothing happens a line comes this often, so that silence in the log means that nobody writes it.
IDLE_S = 60.0
#: Messages on their way are no sign of trouble before this.
UNSENT_S = 5.0

log = structlog.get_logger("tidemark.worker")


class Client(Protocol):
    """What the lookout asks of Kafka's client; see `streams.app`."""

    @property
    def rebalances(self) -> int: ...
    @property
    def rebalancing(self) -> bool: ...
    @property
    def rejoining(self) -> bool: ...
    @property
    def ended(self) -> Sequence[str]: ...
    @property
    def assigned(self) -> set[Place]: ...
    def end(self, place: Place) -> KnownEnd | None: ...


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to look at once Kafka and Redis were found."""

    owner: Owner
    client: Client
    ledger: Ledger
    outbox: Outbox
    watch: CatalogueWatch

    def pulses(self) -> tuple[Pulse, ...]:
        return tuple(self._pulse(name, self.owner.owned[name]) for name in self.owner.partitions)

    def signs(self, now_s: float) -> Iterator[tuple[Sign, float]]:
        """What holds now but for what only two looks can tell, and since when as far as it is known."""
        if self.ledger.down_since is not None:
            yield Sign("redis"), self.ledger.down_since
        if self.owner.kafka_problem:
            yield Sign("kafka", self.owner.kafka_problem), now_s
        waiting_s = self.outbox.waiting_since
        if waiting_s is not None and now_s - waiting_s >= UNSENT_S:
            yield Sign("unsent"), waiting_s
        for sign in self._of_the_group():
            yield sign, now_s

    def _of_the_group(self) -> Iterator[Sign]:
        client = self.client
        yield from (Sign("ended", part) for part in client.ended)
        if client.rejoining:
            yield Sign("rejoining")
        if not client.rebalances:
            yield Sign("joining")
        elif client.rebalancing:
            yield Sign("rebalancing")
        else:
            owned = {Place(topic, _number(name)) for name, its in self.owner.owned.items() for topic in its.lanes}
            yield from (Sign("unclaimed", f"{each.topic}[{each.partition}]") for each in client.assigned - owned)

    def _pulse(self, name: int | str, owned: Owned) -> Pulse:
        mark = owned.tenure.mark
        return Pulse(
            name,
            mark.clock_ms,
            tuple(self._seen(Place(topic, _number(name)), mark.offsets[lane]) for topic, lane in owned.lanes.items()),
        )

    def _seen(self, place: Place, applied: int) -> Seen:
        end = self.client.end(place)
        return Seen(place.topic, applied, end.polled_ms if end else 0, records_behind(applied, end))


class Lookout:
    """`vitals`: what it saw last; read by other threads, so it is replaced and never changed."""

    def __init__(self, tally: Tally) -> None:
        now_s = time.monotonic()
        self.vitals = Vitals(now_s, {Sign("starting"): now_s})
        self.tally, self._told, self._told_s = tally, tally.told(), now_s
        self._work: Work | None = None
        self._stage = "starting"

    def live(self) -> Verdict:
        return health.live(self.vitals, time.monotonic())

    def ready(self) -> Verdict:
        return health.ready(self.vitals, time.monotonic())

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Meanwhile the start takes its time."""
        self._stage = "compiling"
        yield
        self._stage = "starting"

    def watch(self, work: Work) -> None:
        """The start is over: from now on this is what to look at, until it leaves."""
        self._work = work

    def leave(self) -> None:
        """The worker hands over: what stands still now is meant to."""
        self._stage, self._work = "leaving", None

    async def run(self) -> None:
        """Look and tell, once a second. Never returns."""
        while True:
            self.look(time.monotonic())
            self._tell(time.monotonic())
            await asyncio.sleep(LOOK_S)

    def look(self, now_s: float) -> None:
        """Take the pulse of everything."""
        work, before = self._work, self.vitals
        if work is None:
            signs: Mapping[Sign, float] = {Sign(self._stage): now_s}
            self.vitals = Vitals(now_s, carried(before.since, signs))
            return
        pulses, signs = work.pulses(), dict(work.signs(now_s))
        if not work.client.rebalancing:
            signs |= dict.fromkeys(quiet(before.pulses, pulses), now_s)
        version = work.watch.catalogue.version
        self.vitals = Vitals(now_s, carried(before.since, signs), pulses, version, work.client.rebalances)

    def _tell(self, now_s: float) -> None:
        """The line of a second in which something happened, or of a minute in which nothing did."""
        told, seconds = self.tally.told(), now_s - self._told_s
        if told == self._told and seconds < IDLE_S:
            return
        if told == self._told:
            log.info("idle", seconds=round(seconds, 1), **self._standing(), why=self.ready().why)
        else:
            since = {name: round(value - self._told[name], 4) for name, value in told.items()}
            log.info("worked", seconds=round(seconds, 2), **since, **self._standing())
        self._told, self._told_s = told, now_s

    def _standing(self) -> dict[str, float]:
        """Records behind, and seconds of event time of the partition that is behind most."""
        pulses = [pulse for pulse in self.vitals.pulses if pulse.name != OVERVIEW]
        now_ms = time.time_ns() // 1_000_000
        behind_s = max((pulse.event_time_lag_s(now_ms) or 0.0 for pulse in pulses), default=0.0)
        return {"lag": sum(pulse.lag for pulse in pulses), "behind_s": round(behind_s, 1)}


def answering(settings: Settings, lookout: Lookout) -> AbstractContextManager[None]:
    """Meanwhile /live, /ready and /metrics are answered, if a port is asked for."""
    if settings.http_port is None:
        return nullcontext()
    from streams import endpoint, metrics

    facts = metrics.Facts(settings.inputs, lookout.tally, lambda: lookout.vitals, lambda: lookout.ready().good)
    pages = {
        "/live": lambda: endpoint.judged("live", lookout.live()),
        "/ready": lambda: endpoint.judged("ready", lookout.ready()),
        "/metrics": metrics.Exposition(facts).page,
    }
    return endpoint.serving(settings.http_host, settings.http_port, pages)


def _number(name: int | str) -> int:
    """The partition's number in its topics; the overview's topic has one partition."""
    return name if isinstance(name, int) else 0
