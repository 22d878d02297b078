"""Live traffic at a fixed rate, as a process of its own: it must never be what is measured.

Prints one JSON line when it ends (after `--seconds`, or on SIGTERM).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import signal
import time
from dataclasses import asdict, dataclass
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from scripts.bench_packing import Body, Source
from scripts.bench_traffic import TOUCHES, TRANSACTIONS, Traffic
from scripts.bench_wire import Wire

if TYPE_CHECKING:
    from streams.produce import Clock

#: Bodies made before the first record is sent, then sent again and again under new ids.
POOL = 40_000
PAUSE_S = 0.001


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


class Way(Protocol):
    """Where records go; see `bench_wire.Wire`."""

    @property
    def waiting(self) -> int: ...
    def take(self, many: int, at_ms: int) -> None: ...
    def ship(self) -> None: ...
    def settle(self) -> None: ...


def send(way: Way, source: Source, pace: Pace) -> Account:
    """Send until the pace says that it is enough; every record carries the wall clock in its value and timestamp."""
    account, sent = Account(began_ms=now_ms()), 0
    while many := pace.wait(sent, account, way):
        way.take(many, now_ms())
        sent += many
    account.ended_ms = now_ms()
    account.records_per_second = round(sent / max(1, account.ended_ms - account.began_ms) * 1000, 1)
    way.settle()
    (account.transactions, account.touches), (account.revenue_micros, account.cost_micros) = source.sums
    account.cpu_seconds = round(time.process_time(), 2)
    return account


class Pace:
    """Lets `rate` records a second through, until `seconds` are over or `end` was called.

    `linger_s`: so long the first of some records waits for others to be sent with, as a busy client's do.
    """

    def __init__(self, rate: float, seconds: float, linger_s: float = 0.0, clock: Clock = time) -> None:
        self._rate, self._many, self._linger_s, self._clock = rate, int(rate * seconds), linger_s, clock
        self._began = self._since = clock.monotonic()
        self._ended = False

    def end(self, _signal: int, _frame: FrameType | None) -> None:
        self._ended = True

    def wait(self, sent: int, account: Account, way: Way) -> int:
        """How many records' turn it is, as soon as it is one's; 0 when no more are to be sent. Ships what lingered."""
        while not self._ended and sent < self._many:
            now = self._clock.monotonic()
            if way.waiting and now - self._since >= self._linger_s:
                way.ship()
            elapsed = now - self._began
            due = min(self._many, int(elapsed * self._rate))
            if sent < due:
                behind_ms = (elapsed - sent / self._rate) * 1000
                if behind_ms > account.behind_ms:
                    account.behind_ms = round(behind_ms, 1)
                if not way.waiting:
                    self._since = now
                return due - sent
            self._clock.sleep(PAUSE_S)
        return 0


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

    source = Source(bodies(given.wallets), given.newcomers, given.rate, run=now_ms())
    way = Wire(given.bootstrap, given.topics, source)
    gc.disable()  # it found nothing, in a sixth of the time: what is made while sending refers to nothing of its kind
    pace = Pace(given.rate, given.seconds, given.linger / 1000)
    signal.signal(signal.SIGTERM, pace.end)
    account = send(way, source, pace)
    print(json.dumps(asdict(account)), flush=True)


if __name__ == "__main__":
    main()
