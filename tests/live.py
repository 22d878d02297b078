"""What the benchmark's sender has to send, one record after the other, in plain Python."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scripts.bench_packing import EVENTS_OF_A_NEWCOMER, Body


class Live(NamedTuple):
    """A live record. `lane`: 0 transactions, 1 touches."""

    lane: int
    key: bytes
    value: bytes
    at_ms: int


def expected(
    pool: Sequence[Body], newcomers: float, rate: float, run: int, turns: Sequence[tuple[int, int]]
) -> Iterator[Live]:
    """The records of a source. `turns`: how many at which time."""
    times = itertools.chain.from_iterable(itertools.repeat(at_ms, many) for many, at_ms in turns)
    for number, ((key, body), at_ms) in enumerate(zip(who(pool, newcomers, rate), times, strict=False)):
        event = b'{"event_id":"l%d-%d","wallet_id":"%b","occurred_at":%d,%b' % (run, number, key, at_ms, body.rest)
        yield Live(body.lane, key, event, at_ms)


def who(pool: Sequence[Body], newcomers: float, rate: float) -> Iterator[tuple[bytes, Body]]:
    """Wallet and body of each record, without end."""
    known = itertools.cycle([(b"w%d" % body.wallet, body) for body in pool])
    buying = itertools.cycle([body for body in pool if body.lane == 0])
    together = max(1, round(newcomers * rate))
    owed, arrived = 0.0, 0
    for key, body in known:
        owed += newcomers
        if owed < 1:
            yield key, body
            continue
        owed -= 1
        second, seat = divmod(arrived, together)
        arrived += 1
        yield b"n%d-%d" % (seat, (second + seat) // EVENTS_OF_A_NEWCOMER), next(buying)
