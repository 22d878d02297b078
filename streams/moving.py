"""Wallets move from partition to partition in Redis, while nobody else may claim or commit.

1. The number of partitions becomes a multiple of what it was, so a partition splits: wallets leave p for p + n, p + 2n.
2. Counters are sums over partitions, so they stay where they are. A new partition goes on with the campaign codes of
   the one it comes from and with the clock of its wallets: nothing of its own log has been counted, and by the clock of
   the other, which has been counted to its end, all of it could be late.
3. A wallet is copied, then deleted, each guarded by a mark in a form of its own. So this may be killed anywhere and
   begun again, and whoever comes late writes nothing.
4. A worker looks at the mark of partition 0 before it claims anything: that one is the first to change and the last.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from models.hashing import partitions_of
from models.rows import unpack_rows
from models.state import Totals
from models.tallies import Tally, moved
from streams.errors import Refused
from streams.ledger import Mark, Writes
from streams.ledger_reader import LedgerReader
from streams.tenure import nonce

if TYPE_CHECKING:
    from streams.ledger import Ledger
    from streams.store import Address

#: Wallets of one commit: with all they may remember, some 5 MB.
CHUNK = 200
PAGE = 2000
TELL_S = 5.0


class Split(NamedTuple):
    """How many partitions there were, and how many there will be: a multiple."""

    old: int
    new: int


class Places:
    """Where wallets are and where they belong; blocking."""

    def __init__(self, address: Address, partitioner: str, split: Split) -> None:
        self._address, self._partitioner, self._split = address, partitioner, split

    def check(self, *, begun: bool) -> None:
        """Raises `Refused` for a wallet that is where none of its records can have come from.

        `begun`: whether wallets may already have been moved.
        """
        for page in self._stored():
            wallets = [wallet for _, wallet in page]
            old, new = (partitions_of(wallets, number, self._partitioner).tolist() for number in self._split)
            for (partition, wallet), was, will in zip(page, old, new, strict=True):
                if partition != was and not (begun and partition == will):
                    raise Refused(
                        f"wallet {wallet.decode(errors='replace')!r} is in partition {partition}, where "
                        f"{self._partitioner} does not put it: set TIDEMARK_PARTITIONER to what it was counted with"
                    )

    def pages(self) -> Iterator[dict[tuple[int, int], list[bytes]]]:
        """Page by page of all wallets: (where they are, where they belong) -> those that have to move."""
        for page in self._stored():
            found: dict[tuple[int, int], list[bytes]] = defaultdict(list)
            homes = partitions_of([wallet for _, wallet in page], self._split.new, self._partitioner).tolist()
            for (partition, wallet), home in zip(page, homes, strict=True):
                if partition != home:
                    found[partition, home].append(wallet)
            yield found

    def _stored(self) -> Iterator[list[tuple[int, bytes]]]:
        with closing(LedgerReader(self._address)) as reader:
            stored = ((partition, wallet) for partition, wallet, _ in reader.wallets())
            while page := list(islice(stored, PAGE)):
                yield page


async def read_marks(ledger: Ledger, partitions: Iterable[int]) -> dict[int, Mark | None]:
    """The marks of these partitions, also while wallets are moved; None where there is none."""
    packed = {p: (await ledger.read_strings(p, b"mark"))[0] for p in partitions}
    return {p: Mark.unpack(mark, moving=True) if mark else None for p, mark in packed.items()}


class Moving:
    """One move, or what is left of one that was killed.

    `marks`: as they are in Redis, of every partition that is not done: the old ones counted to the end of their logs,
    and those that a run before this one has marked. `moved`: wallets so far.
    """

    def __init__(self, ledger: Ledger, split: Split, marks: Mapping[int, Mark], say: Callable[[str], None]) -> None:
        self.moved = 0
        self._ledger, self._split, self._marks, self._say = ledger, split, dict(marks), say

    async def run(self, places: Places, begins: Sequence[tuple[int, ...]]) -> None:
        """Move everybody. `begins`: where the logs of each partition begin, by lane. Raises `Foreign`."""
        await self._begin(begins)
        while await self._look(places):
            pass  # until a whole look at all wallets finds none that has to move
        await self._end()

    async def _begin(self, begins: Sequence[tuple[int, ...]]) -> None:
        """Mark every partition: from here on nobody can claim it, nor commit to it, and no other run of this."""
        for partition in range(self._split.old):
            if partition in self._marks:
                await self._turn(partition, moving_to=self._split.new)
        for partition in range(self._split.old, self._split.new):
            if partition in self._marks:
                await self._turn(partition, moving_to=self._split.new)
            elif (await self._ledger.read_strings(partition, b"mark"))[
                0
            ] is None:  # else a run before this one ended it
                await self._open(partition, begins[partition])

    async def _turn(self, partition: int, moving_to: int, partitions: int | None = None) -> None:
        mark = self._marks[partition]
        number, counted = mark.number + 1, partitions or mark.partitions
        new = replace(mark, number=number, nonce=nonce(), moving_to=moving_to, partitions=counted)
        await self._ledger.commit(partition, (mark, new), b"", Writes())
        self._marks[partition] = new

    async def _open(self, partition: int, offsets: tuple[int, ...]) -> None:
        """A new partition, with the codes of the one it comes from."""
        source = partition % self._split.old
        mark = replace(self._marks[source], offsets=offsets, nonce=nonce(), clock_ms=0)
        codes = await self._ledger.read_hash(source, b"codes")
        writes = Writes({b"totals": Totals().to_json()}, {b"codes": codes} if codes else {})
        await self._ledger.commit(partition, (None, mark), b"", writes)
        self._marks[partition] = mark

    async def _look(self, places: Places) -> int:
        """Look at all wallets and move those that are not where they belong; how many there were."""
        before, told_s, pages = self.moved, time.monotonic(), places.pages()
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            for (source, target), wallets in page.items():
                for at in range(0, len(wallets), CHUNK):
                    self.moved += await self._carry(source, target, wallets[at : at + CHUNK])
            if time.monotonic() - told_s > TELL_S:
                told_s = time.monotonic()
                self._say(f"{self.moved:,} wallets moved")
        return self.moved - before

    async def _carry(self, source: int, target: int, wallets: Sequence[bytes]) -> int:
        """Copy wallets, then delete them where they were; how many. Totals count the wallets that are there."""
        ledger = self._ledger
        rows = zip(wallets, await ledger.read(source, b"w", wallets), strict=True)
        here = {wallet: row for wallet, row in rows if row is not None}  # a scan may name a wallet twice
        names = list(here)
        beside = {kind: await ledger.read(source, kind, names) for kind in (b"j", b"f")}
        copied = zip(names, await ledger.read(target, b"w", names), strict=True)
        new = [here[wallet] for wallet, row in copied if row is None]  # the others were copied by a run that was killed
        strings = {b"w:" + wallet: row for wallet, row in here.items()}
        for kind, stored in beside.items():
            found = zip(names, stored, strict=True)
            strings |= {kind + b":" + wallet: value for wallet, value in found if value is not None}
        strings[b"totals"] = with_wallets(await self._totals(target), came=new).to_json()
        newest_ms = min(self._marks[source].clock_ms, newest(here.values()))  # one wrong date does not move a clock far
        await ledger.commit(target, self._next(target, newest_ms), b"", Writes(strings, due=due_times(here)))
        left = with_wallets(await self._totals(source), went=list(here.values())).to_json()
        await ledger.discard(source, self._next(source), names, left)
        return len(here)

    def _next(self, partition: int, seen_ms: int = 0) -> tuple[Mark, Mark]:
        """The mark there is, and the one there will be; `seen_ms`: the newest event of wallets that have come."""
        mark = self._marks[partition]
        self._marks[partition] = replace(mark, nonce=nonce(), clock_ms=max(mark.clock_ms, seen_ms))
        return mark, self._marks[partition]

    async def _totals(self, partition: int) -> Totals:
        return Totals.from_json((await self._ledger.read_strings(partition, b"totals"))[0])

    async def _end(self) -> None:
        """Let the workers in: the new partitions first, partition 0 last."""
        old, new = self._split
        for partition in (*range(old, new), *range(old - 1, -1, -1)):
            if partition in self._marks:
                await self._turn(partition, moving_to=0, partitions=new)


def newest(rows: Iterable[bytes]) -> int:
    """The newest transaction of wallets with these rows, epoch ms; 0 where there is none."""
    return int(unpack_rows([*rows])["last_at_ms"].max(initial=0))


def due_times(rows: Mapping[bytes, bytes]) -> dict[bytes, int]:
    """When wallets with these rows are to be swept, epoch seconds, 0 never: the index says what the rows say."""
    return dict(zip(rows, unpack_rows([*rows.values()])["due_s"].tolist(), strict=True))


def with_wallets(totals: Totals, came: Sequence[bytes] = (), went: Sequence[bytes] = ()) -> Totals:
    """Totals after wallets with these rows came and went."""
    joined, left = (Tally.of_rows(unpack_rows([*rows])) for rows in (came, went))
    return replace(
        totals,
        wallets=totals.wallets + len(came) - len(went),
        wallets_by_segment=moved(totals.wallets_by_segment, left.wallets, joined.wallets),
        whales_by_segment=moved(totals.whales_by_segment, left.whales, joined.whales),
    )
