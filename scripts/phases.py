"""What each phase of the step costs: the product's own functions, batch by batch, under the CPU clock."""

from __future__ import annotations

import time
from collections import defaultdict

from models import step as wallet_side
from models.admission import check, without_repeats
from models.columns import read
from models.counters import Cell, Codes, add_cells, encode_cell
from models.decisions import decide
from models.features import fold
from models.observe import Digest, Overview, observe
from models.rules import Rules
from models.segments import EMPTY_CATALOGUE, Catalogue
from models.state import TOUCHES, TRANSACTIONS, Batch, Record, State, Totals
from streams.cache import WalletCache

BATCH = 1000


class Stopwatch:
    """CPU seconds by phase."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._began = time.process_time()

    def lap(self, phase: str) -> None:
        """Everything since the last lap was this phase."""
        now = time.process_time()
        self.spent[phase] += now - self._began
        self._began = now


def phases(records: list[tuple[str, bytes, bytes, int]], rules: Rules) -> dict[str, float]:
    """Microseconds of CPU per event and phase, in batches of 1,000, over the last quarter of the records.

    The first half warms the cache and teaches a catalogue; with the next quarter the wallets enter their segments.
    """
    batches = [records[at : at + BATCH] for at in range(0, len(records), BATCH)]
    half, settled = len(batches) // 2, len(batches) * 3 // 4
    bench = Bench(rules)
    for batch in batches[:half]:
        bench.work(batch)
    bench.learn()
    for batch in batches[half:settled]:
        bench.work(batch)
    bench.watch.spent.clear()
    for batch in batches[settled:]:
        bench.work(batch)
    events = sum(map(len, batches[settled:]))
    return {phase: round(seconds / events * 1e6, 2) for phase, seconds in bench.watch.spent.items()}


class Bench:
    """One partition in memory, its step taken apart."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.watch, self.cache = rules, Stopwatch(), WalletCache(1_000_000)
        self.catalogue: Catalogue = EMPTY_CATALOGUE
        self.clock_ms, self.totals, self.codes = 0, Totals(), Codes()
        self.cells: dict[bytes, Cell] = {}
        self.overview = Overview.restore(None, None)
        self.number = 0
        self.lessons: list[Digest] = []

    def work(self, sent: list[tuple[str, bytes, bytes, int]]) -> None:
        """One batch through every phase."""
        records = [Record(at, at_ms, key, value) for at, (_, key, value, at_ms) in enumerate(sent)]
        lanes = bytes(TRANSACTIONS if topic == "wallet.transactions" else TOUCHES for topic, *_ in sent)
        self.watch.lap("other")
        lookup = self.cache.look_up(records)
        if lookup.missing:
            self.cache.admit(lookup, [None] * len(lookup.missing))
        wallets, wallet_of = self.cache.copy(lookup)
        state = State(0, 1, self.clock_ms, self.totals, self.codes, wallets)
        batch = Batch(records, lanes, wallet_of)
        self.watch.lap("index")
        events, refused = read(records, lanes)
        self.watch.lap("validate")
        events, wallet = check(state, batch, events, refused, self.rules)
        events, wallet, duplicates = without_repeats(state, events, wallet)
        work = wallet_side.Work(state, batch, events, wallet, self.rules)
        counted = wallet_side.count(self.totals, refused, duplicates)
        self.watch.lap("admit")
        folded = fold(work.rows, events, work.rounds)
        self.watch.lap("fold")
        decided = decide(folded, work.rounds, self.catalogue, self.rules)
        changes = wallet_side.announce_changes(work, folded, decided, self.catalogue)
        self.watch.lap("place and decide")
        books, cells = wallet_side.settle(work, folded, decided)
        self.watch.lap("credit")
        after, effects = wallet_side.finish(work, folded, books, counted, (cells, changes, []))
        added = add_cells(self.cells, cells)
        for cell in added.values():
            encode_cell(cell)
        self.cells |= added
        self.cache.keep(lookup, after.wallets)
        self.clock_ms, self.totals, self.codes = after.clock_ms, after.totals, after.codes
        self.watch.lap("finish")
        self.number += 1
        self.lessons.append(Digest(0, self.number, "0" * 16, self.clock_ms, effects.learning))

    def learn(self) -> None:
        """A catalogue from what the wallets showed so far."""
        for lesson in self.lessons:
            self.overview, _ = observe(self.overview, [lesson], self.rules)
        self.catalogue = self.overview.catalogue
        self.watch.lap("other")
