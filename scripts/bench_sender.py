"""Live traffic at a fixed rate, as a process of its own: it must never be what is measured.

Prints one JSON line when it ends (after `--seconds`, or on SIGTERM).
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import FrameType
from typing import NamedTuple, Protocol

from scripts.bench_traffic import TOUCHES, TRANSACTIONS, Traffic
from scripts.bench_wire import Wire

#: Bodies made before the first record is sent, then sent again and again under new ids.
POOL = 40_000
#: Transactions of a newcomer; with the fifth a wallet is given its first segment. A second of event time lies between.
EVENTS_OF_A_NEWCOMER = 6
PAUSE_S = 0.001


class Body(NamedTuple):
    """A record without who and when. `micros`: its fee or cost."""

    lane: int
    wallet: int
    rest: bytes
    micros: int


@dataclass(slots=True)
class Account:
    """What was sent. `behind_ms`: the most that a record was sent later than its turn."""

    began_ms: int = 0
    ended_ms: int = 0
    transactions: int = 0
    touches: int = 0
    revenue_micros: int = 0
    cost_micros: int = 0
    behind_ms: float = 0.0
    cpu_seconds: float = 0.0
    records_per_second: float = 0.0

    @property
    def sent(self) -> int:
        return self.transactions + self.touches


def bodies(wallets: int) -> list[Body]:
    """The pool, from the same traffic as the backlogs."""
    out = []
    for topic, wallet, fields in itertools.islice(Traffic(wallets).happenings(), POOL):
        micros = round(fields.get("fee_usd", fields.get("cost_usd", 0)) * 1_000_000)
        rest = json.dumps(fields).encode()[1:]
        out.append(Body(0 if topic == TRANSACTIONS else 1, wallet, rest, micros))
    return out


def records(wallets: int, newcomers: float, rate: float) -> Iterator[tuple[bytes, Body]]:
    """Wallet and body of each record, without end. `newcomers`: share of the records from wallets never seen before.

    So many of them are there at any time as send one record a second each, and one in six is new every second: all at
    the same point of their lives would be announced within one second of six.
    """
    pool = bodies(wallets)
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


class Way(Protocol):
    """Where records go; see `bench_wire.Wire`."""

    waiting: int

    def add(self, topic: str, key: bytes, value: bytes, at_ms: int) -> None: ...
    def ship(self) -> None: ...
    def settle(self) -> None: ...


class Clock(Protocol):
    """What a pace goes by, in seconds; the module `time` is one."""

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...


def send(way: Way, topics: tuple[str, str], source: Iterator[tuple[bytes, Body]], pace: Pace) -> Account:
    """Send until the pace says that it is enough; every record carries the wall clock in its value and timestamp."""
    account, run = Account(began_ms=now_ms()), now_ms()
    for number, (key, body) in enumerate(source):
        if not pace.wait(number, account, way):
            break
        at_ms = now_ms()
        event = b'{"event_id":"l%d-%d","wallet_id":"%b","occurred_at":%d,%b' % (run, number, key, at_ms, body.rest)
        way.add(topics[body.lane], key, event, at_ms)
        if body.lane == 0:
            account.transactions += 1
            account.revenue_micros += body.micros
        else:
            account.touches += 1
            account.cost_micros += body.micros
    account.ended_ms = now_ms()
    account.records_per_second = round(account.sent / max(1, account.ended_ms - account.began_ms) * 1000, 1)
    way.settle()
    account.cpu_seconds = round(time.process_time(), 2)
    return account


class Pace:
    """Lets `rate` records a second through, until `seconds` are over or `end` was called.

    `linger_s`: so long the first of some records waits for others to be sent with, as a busy client's do.
    """

    def __init__(self, rate: float, seconds: float, linger_s: float = 0.0, clock: Clock = time) -> None:
        self._rate, self._many, self._linger_s, self._clock = rate, int(rate * seconds), linger_s, clock
        self._began = self._since = clock.monotonic()
        self._let, self._ended = 0, False

    def end(self, _signal: int, _frame: FrameType | None) -> None:
        self._ended = True

    def wait(self, number: int, account: Account, way: Way) -> bool:
        """Return when it is the turn of this record; False when no more are to be sent. Ships what has lingered."""
        if number < self._let:
            return True
        while not self._ended and number < self._many:
            now = self._clock.monotonic()
            if way.waiting and now - self._since >= self._linger_s:
                way.ship()
            elapsed = now - self._began
            self._let = min(self._many, int(elapsed * self._rate))
            if number < self._let:
                account.behind_ms = max(account.behind_ms, round((elapsed - number / self._rate) * 1000, 1))
                if not way.waiting:
                    self._since = now
                return True
            self._clock.sleep(PAUSE_S)
        return False


def now_ms() -> int:
    """The wall clock, epoch milliseconds."""
    return time.time_ns() // 1_000_000


def main() -> None:
    """Send live traffic at a fixed rate and print what was sent."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("--topics", nargs=2, default=(TRANSACTIONS, TOUCHES), metavar=("TRANSACTIONS", "TOUCHES"))
    parser.add_argument("--rate", type=float, required=True, help="records a second")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--wallets", type=int, default=10_000)
    parser.add_argument("--newcomers", type=float, default=0.05, help="share of records from wallets never seen before")
    parser.add_argument(
        "--linger", type=float, default=0.0, help="milliseconds a record waits for others to be sent with"
    )
    given = parser.parse_args()

    topics = tuple(given.topics)
    way = Wire(given.bootstrap, topics)
    source = records(given.wallets, given.newcomers, given.rate)
    first = next(source)
    pace = Pace(given.rate, given.seconds, given.linger / 1000)
    signal.signal(signal.SIGTERM, pace.end)
    account = send(way, topics, itertools.chain([first], source), pace)
    print(json.dumps(asdict(account)), flush=True)


if __name__ == "__main__":
    main()
