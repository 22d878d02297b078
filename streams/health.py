"""Whether a worker lives and whether it is ready, judged from what its loop saw last. Pure: the time comes in.

What may be wrong is a closed list of signs, each with the moment since which it holds:
 1. What is waited for (Redis, Kafka) makes a worker not ready. No restart helps, so meanwhile nothing else is held
    against it.
 2. What should move and does not is a quiet death: after a while the worker does not live, and a restart helps.
 3. What belongs to the work (a rebalance) makes it not ready, and is a quiet death when it does not end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from streams.intake import KnownEnd

#: The loop looks every second; later than this it hangs.
LOOP_S = 10.0
#: Whoever waits for Redis or Kafka gives up after 600 s and ends the worker; if that did not happen, it hangs.
GIVEN_UP_S = 900.0
#: Half a minute of CPU, which a small share of a slow machine makes minutes; a restart would begin it anew.
COMPILED_S = 600.0


class Kind(NamedTuple):
    """What a sign means: not ready after `unready_s` seconds, not alive after `dead_s`.

    `says`: a sentence, in which `about` is what the sign is about and `s` its seconds. `excuses`: see rule 1.
    """

    says: str
    unready_s: float = 0.0
    dead_s: float = math.inf
    excuses: bool = False


#: The first that applies is what is said.
KINDS = {
    "starting": Kind("it has looked for Kafka, its topics and Redis for {s} s", dead_s=120),
    "compiling": Kind("it has compiled the step for {s} s", dead_s=COMPILED_S),
    "leaving": Kind("it hands its partitions over and ends"),
    "redis": Kind("Redis has not taken a command for {s} s", dead_s=GIVEN_UP_S, excuses=True),
    "kafka": Kind("{about}", excuses=True),
    "unsent": Kind("Kafka has not taken its messages for {s} s", unready_s=5, dead_s=GIVEN_UP_S, excuses=True),
    "joining": Kind("Kafka's group has given it no assignment for {s} s", dead_s=120),
    "rebalancing": Kind("a rebalance of Kafka's group has gone on for {s} s", dead_s=120),
    "rejoining": Kind("it was told to join Kafka's group again {s} s ago and has not", unready_s=10, dead_s=60),
    "ended": Kind("{about} of Kafka's client ended {s} s ago", dead_s=10),
    "unclaimed": Kind("{about} was given to it {s} s ago and nobody works on it", unready_s=5, dead_s=60),
    "silent": Kind("Kafka has answered none of its fetches for {s} s", unready_s=15, dead_s=60),
    "still": Kind("{about} has work to do and has not moved for {s} s", unready_s=30, dead_s=60),
}


class Sign(NamedTuple):
    """Something that holds now. `kind`: one of `KINDS`. `about`: which, or why, in words."""

    kind: str
    about: str = ""


class Seen(NamedTuple):
    """One topic of a partition. `applied`: next offset to be committed. `polled_ms`: when Kafka last answered, 0 never.

    `lag`: records not committed yet, None unknown.
    """

    topic: str
    applied: int
    polled_ms: int
    lag: int | None


@dataclass(frozen=True, slots=True)
class Pulse:
    """A partition as the loop saw it. `name`: its number, or `overview`. `clock_ms`: its event time, 0 none yet."""

    name: int | str
    clock_ms: int
    lanes: tuple[Seen, ...]

    @property
    def title(self) -> str:
        return f"partition {self.name}" if isinstance(self.name, int) else f"the {self.name}"

    @property
    def lag(self) -> int:
        """Records known not to be committed."""
        return sum(lane.lag or 0 for lane in self.lanes)

    def event_time_lag_s(self, now_ms: int) -> float | None:
        """How far its event time is behind the wall clock; 0 where every record is committed, None where none is."""
        if not self.lag:
            return 0.0
        return max(0, now_ms - self.clock_ms) / 1000 if self.clock_ms else None


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a worker's loop saw when it last looked, at `at_s` (monotonic seconds). `since`: when each sign began."""

    at_s: float
    since: Mapping[Sign, float] = field(default_factory=dict)
    pulses: tuple[Pulse, ...] = ()
    catalogue: int = 0
    rebalances: int = 0


class Verdict(NamedTuple):
    """A judgement and one sentence that says why."""

    good: bool
    why: str


def records_behind(applied: int, end: KnownEnd | None) -> int | None:
    """Records of a topic-partition not committed: received ones and those still in Kafka; None while unknown.

    Kafka's own marks at the end of a transaction lie between `position` and what was received: they are no records.
    """
    if end is None:
        return None
    return max(0, end.stable - end.position) + max(0, end.taken - applied)


def quiet(before: Iterable[Pulse], now: Iterable[Pulse]) -> Iterator[Sign]:
    """Partitions that have not moved between two looks although they have work, or Kafka has not answered them."""
    known, pulses = {pulse.name: pulse for pulse in before}, list(now)
    halted = [pulse for pulse in pulses if pulse.name in known and _halted(known[pulse.name], pulse)]
    unheard = [pulse for pulse in halted if not any(_answered(known[pulse.name], pulse))]
    if pulses and len(unheard) == len(pulses):
        yield Sign("silent")
    for pulse in halted:
        if pulse.lag or not all(_answered(known[pulse.name], pulse)):
            yield Sign("still", pulse.title)


def _halted(before: Pulse, now: Pulse) -> bool:
    return [lane.applied for lane in before.lanes] == [lane.applied for lane in now.lanes]


def _answered(before: Pulse, now: Pulse) -> list[bool]:
    return [old.polled_ms != new.polled_ms for old, new in zip(before.lanes, now.lanes, strict=True)]


def carried(before: Mapping[Sign, float], signs: Mapping[Sign, float]) -> dict[Sign, float]:
    """When each sign of a look began. `signs`: sign -> the moment of the look, or an earlier one if that is known.

    While one of them excuses, the clocks of those it excuses start anew.
    """
    excused = any(KINDS[sign.kind].excuses for sign in signs)
    return {
        sign: at_s if excused and not KINDS[sign.kind].excuses else min(at_s, before.get(sign, at_s))
        for sign, at_s in signs.items()
    }


def live(vitals: Vitals, now_s: float) -> Verdict:
    """False: it hangs, a restart helps."""
    if (silent_s := now_s - vitals.at_s) > LOOP_S:
        return Verdict(False, f"its loop has not turned for {silent_s:.0f} s")
    for sign, lasted_s in _in_order(vitals, now_s):
        if lasted_s > KINDS[sign.kind].dead_s:
            return Verdict(False, _said(sign, lasted_s))
    return Verdict(True, "its loop turns and what should move moves")


def ready(vitals: Vitals, now_s: float) -> Verdict:
    """True: it is in the group, and everything given to it is claimed and can be worked on, be it nothing."""
    lives = live(vitals, now_s)
    if not lives.good:
        return lives
    for sign, lasted_s in _in_order(vitals, now_s):
        if lasted_s >= KINDS[sign.kind].unready_s:
            return Verdict(False, _said(sign, lasted_s))
    if not vitals.pulses:
        return Verdict(True, "it is in Kafka's group, which has no partition for it now")
    return Verdict(True, f"it works on {', '.join(pulse.title for pulse in vitals.pulses)}")


def _in_order(vitals: Vitals, now_s: float) -> list[tuple[Sign, float]]:
    order = list(KINDS)
    held = sorted(vitals.since.items(), key=lambda held: order.index(held[0].kind))
    return [(sign, now_s - since_s) for sign, since_s in held]


def _said(sign: Sign, lasted_s: float) -> str:
    return KINDS[sign.kind].says.format(about=sign.about, s=round(lasted_s))
