"""Does a flash crash relabel anybody? Moves in its days, against what the other days of the season let expect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from models.rules import DAY_MS
from streams.replay import Told

#: The day of the crash and the next: on it nothing is known in its first hours, and on the next it is let go again.
CRASH_DAYS = 2
Spans = Sequence[tuple[int, int]]


class Moves(NamedTuple):
    """How often wallets moved in the days of a crash, and how often the other days let expect."""

    seen: int = 0
    expected: float = 0.0


class Crash(NamedTuple):
    """Moves of all wallets, `wallets` how many these were, and of those with nothing changed in truth: `needless`."""

    moves: Moves = Moves()
    wallets: int = 0
    needless: Moves = Moves()


def crash_of(moves: Sequence[Told], quiet: Mapping[str, Spans], crash_ms: int, days: int) -> Crash:
    """What a crash did to a season of so many settled `days`, with `moves` in them.

    `quiet`: when nothing has changed in truth, of each wallet that moved at all: what is expected of needless moves
    goes by that time, for a wallet that has just changed is not in it.
    """
    here = crash_ms, crash_ms + CRASH_DAYS * DAY_MS
    inside = [told for told in moves if is_in(told, [here])]
    needless = [told for told in moves if is_in(told, quiet.get(told.wallet, ()))]
    at_rest = [span for spans in quiet.values() for span in spans]
    then = sum(max(0, min(end, here[1]) - max(begin, here[0])) for begin, end in at_rest)
    otherwise = sum(end - begin for begin, end in at_rest) - then
    return Crash(
        compared(len(moves), len(inside), CRASH_DAYS / max(1, days - CRASH_DAYS)),
        len({told.wallet for told in inside}),
        compared(len(needless), sum(is_in(told, [here]) for told in needless), then / max(1, otherwise)),
    )


def is_in(told: Told, spans: Spans) -> bool:
    """Whether a change was decided in one of these spans, ms [from, until)."""
    return any(begin <= told.decided_at_ms < end for begin, end in spans)


def compared(of_all: int, seen: int, share: float) -> Moves:
    """Moves of a time that is as long as `share` of the other time."""
    return Moves(seen, (of_all - seen) * share)


def crash_figures(crashes: Sequence[Crash]) -> dict[str, Any]:
    """Those of several seasons put together, with the chance of so many or more if a crash changed nothing."""
    return {
        **told_of([crash.moves for crash in crashes]),
        "wallets": sum(crash.wallets for crash in crashes),
        "needless": told_of([crash.needless for crash in crashes]),
    }


def told_of(some: Sequence[Moves]) -> dict[str, Any]:
    """Moves, what was expected, and the chance."""
    seen, expected = sum(moves.seen for moves in some), sum(moves.expected for moves in some)
    return {"moves": seen, "expected": round(expected, 1), "chance": round(chance(seen, expected), 4)}


def chance(seen: int, expected: float) -> float:
    """The Poisson probability of so many or more."""
    if expected <= 0:
        return 1.0 if seen == 0 else 0.0
    fewer = (math.exp(n * math.log(expected) - expected - math.lgamma(n + 1)) for n in range(seen))
    return max(0.0, 1.0 - math.fsum(fewer))
