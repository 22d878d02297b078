"""When a partition sweeps: before the record that moves its clock to the time at which wallets are due.

A step stops before that record (`models.state.State.until_ms`), so batches are cut there; then those who are due are
swept, in the order of (due, wallet), at most 1,000 at once; then the record is taken. Shell and replay go this way.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from models.lifecycle import NEVER_MS, horizon

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Wallets of one sweep: a commit holds no more.
PAGE = 1000


class Page(NamedTuple):
    """Wallets that are due at the same time, in order. `at_ms`: when. `next_ms`: when those after them are due."""

    at_ms: int
    wallets: list[bytes]
    next_ms: int


def first_page(due: Sequence[tuple[bytes, int]]) -> Page | None:
    """The first wallets of an index, given `PAGE` + 1 entries from its start: wallet and due time in seconds."""
    if not due:
        return None
    at_s = due[0][1]
    wallets = [wallet for wallet, when_s in due[:PAGE] if when_s == at_s]
    after = due[len(wallets) :]
    return Page(at_s * 1000, wallets, after[0][1] * 1000 if after else NEVER_MS)


@dataclass(slots=True)
class Horizon:
    """How far a partition may go before it sweeps. `next_ms`: when the first wallet is due; `swept_ms`: up to there."""

    next_ms: int = NEVER_MS
    swept_ms: int = 0

    def until_ms(self, clock_ms: int) -> int:
        """What no batch may move the clock to, from `clock_ms`."""
        return horizon(max(clock_ms, self.swept_ms) if clock_ms else 0, self.next_ms)

    def queued(self, due: Mapping[bytes, int]) -> None:
        """A commit has queued wallets: wallet -> seconds, 0 no more."""
        self.next_ms = min([self.next_ms, *(when_s * 1000 for when_s in due.values() if when_s)])

    def swept(self, page: Page, due: Mapping[bytes, int]) -> None:
        """A page is done, and its wallets are queued again."""
        self.next_ms = page.next_ms
        self.queued(due)


class Agenda:
    """The index of those who are due, in memory: for a replay, which has no Redis. `due`: wallet -> seconds."""

    def __init__(self) -> None:
        self.due: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []

    def keep(self, due: Mapping[bytes, int]) -> None:
        """Take what a commit says: wallet -> seconds, 0 no more."""
        for wallet, when_s in due.items():
            if when_s:
                self.due[wallet] = when_s
                heapq.heappush(self._heap, (when_s, wallet))
            else:
                self.due.pop(wallet, None)

    def first(self) -> Page | None:
        """The page that is due first; it stays."""
        found: list[tuple[bytes, int]] = []
        while self._heap and len(found) <= PAGE:
            when_s, wallet = heapq.heappop(self._heap)
            if self.due.get(wallet) == when_s and (wallet, when_s) not in found[-1:]:
                found.append((wallet, when_s))
        for wallet, when_s in found:
            heapq.heappush(self._heap, (when_s, wallet))
        return first_page(found)

    def pages_until(self, horizon: Horizon, until_ms: int) -> Iterator[Page]:
        """The pages due by `until_ms`; tell `horizon` of each when it is swept, before the next is asked for."""
        while horizon.next_ms <= until_ms and (page := self.first()) is not None:
            yield page
        horizon.swept_ms = until_ms
