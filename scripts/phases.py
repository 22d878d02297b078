"""What each phase of the step costs: the product's own step, batch by batch, its functions under the CPU clock."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from models import step as wallet_side
from models.cells import encode_cells
from models.counters import Codes
from models.observe import Digest, Overview, observe
from models.records import Record, Records, records_of
from models.rules import Rules
from models.segments import EMPTY_CATALOGUE, Catalogue
from models.state import TOUCHES, TRANSACTIONS, Batch, State, Totals
from scripts.bench_traffic import TRANSACTIONS as TOPIC
from scripts.bench_traffic import Sent
from streams.cache import WalletCache
from streams.cells import CellCache

#: Phase -> the functions of `models.step` that make it up. What is in none of them is the phase "rest".
PHASES = {
    "validate": ("read",),
    "admit": ("check", "without_repeats"),
    "fold, place and decide": ("work_through",),
    "announce": ("announce_changes",),
    "credit": ("settle",),
    "finish": ("finish",),
}


class Stopwatch:
    """CPU seconds by phase; a phase within another is taken off it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.process_time()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.process_time() - began
            self.spent[name] += took - self._inner.pop()
            self._inner[-1] += took

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, under the clock."""

        def under_the_clock(*words: Any, **named: Any) -> Any:
            with self.phase(name):
                return function(*words, **named)

        return under_the_clock


@contextmanager
def taken_apart(watch: Stopwatch) -> Iterator[list[str]]:
    """The step's functions under the clock; those of `PHASES` that it has no longer, whose time is in "rest"."""
    functions = {name: phase for phase, names in PHASES.items() for name in names}
    kept = {name: vars(wallet_side)[name] for name in functions if name in vars(wallet_side)}
    for name, function in kept.items():
        setattr(wallet_side, name, watch.timed(functions[name], function))
    try:
        yield [name for name in functions if name not in kept]
    finally:
        for name, function in kept.items():
            setattr(wallet_side, name, function)


def phases(records: Sequence[Sent], rules: Rules, size: int = 1000) -> dict[str, float]:
    """Microseconds of CPU per event and phase, in batches of `size`, over the last quarter of the records; their sum.

    The first half warms the cache and teaches a catalogue; with the next quarter the wallets enter their segments.
    """
    half, settled = len(records) // 2, len(records) * 3 // 4
    bench = Bench(rules)
    bench.work_through(records[:half])
    bench.learn()
    bench.work_through(records[half:settled])
    with taken_apart(bench.watch) as unknown:
        bench.watch.spent.clear()
        bench.work_through(records[settled:], size)
    events = len(records) - settled
    out = {phase: round(seconds / events * 1e6, 2) for phase, seconds in bench.watch.spent.items()}
    return out | {"sum": round(sum(bench.watch.spent.values()) / events * 1e6, 2)} | dict.fromkeys(unknown, 0.0)


class Bench:
    """One partition in memory, with the shell's work that is not waiting."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.watch, self.cache = rules, Stopwatch(), WalletCache(1_000_000)
        self.catalogue: Catalogue = EMPTY_CATALOGUE
        self.clock_ms, self.totals, self.codes = 0, Totals(), Codes()
        self.cells = CellCache(100_000)
        self.lessons: list[Digest] = []

    def work_through(self, sent: Sequence[Sent], size: int = 1000) -> None:
        for at in range(0, len(sent), size):
            some = sent[at : at + size]
            records = records_of(Record(number, each.at_ms, each.key, each.value) for number, each in enumerate(some))
            self.work(records, bytes(TRANSACTIONS if each.topic == TOPIC else TOUCHES for each in some))

    def work(self, records: Records, lanes: bytes) -> None:
        """One batch the way the shell takes it."""
        with self.watch.phase("load"):
            lookup = self.cache.look_up(records)
            if lookup.missing:
                self.cache.admit(lookup, [None] * len(lookup.missing))
            wallets, wallet_of = self.cache.copy(lookup)
        state = State(0, 1, self.clock_ms, self.totals, self.codes, wallets)
        with self.watch.phase("rest"):
            after, effects = wallet_side.step(state, Batch(records, lanes, wallet_of), self.rules, self.catalogue)
        with self.watch.phase("count and keep"):
            missing = self.cells.missing(effects.cells.names)
            if missing:
                self.cells.admit(missing, [None] * len(missing))
            added = self.cells.added(effects.cells)
            encode_cells(added)
            self.cells.keep(effects.cells.names, added)
            changed = self.cache.changed(lookup, effects.keys, effects.rows, b"{0}:w:")
            self.cache.keep(lookup, after.wallets)
            self.cache.stored(changed)
        self.clock_ms, self.totals, self.codes = after.clock_ms, after.totals, after.codes
        self.lessons.append(Digest(0, len(self.lessons) + 1, "0" * 16, self.clock_ms, effects.learning))

    def learn(self) -> None:
        """A catalogue from what the wallets showed so far."""
        overview = Overview.restore(None, None)
        for lesson in self.lessons:
            overview, _ = observe(overview, [lesson], self.rules)
        self.catalogue = overview.catalogue
