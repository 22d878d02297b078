"""What a command reads for a partition comes in the order in which a worker would have had it, and to its end."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest

from models.records import Record, Records, records_of
from models.state import TOUCHES, TRANSACTIONS
from streams.drain import Feeder, Log, together
from streams.errors import Refused
from streams.intake import PATIENCE_HISTORY_S, Inbox, Place


class ListLog:
    """A list is a log: it is read in pieces, and `slow` is how long the first one takes, in seconds."""

    def __init__(self, name: str, stamps: list[int], piece: int, slow: float = 0.0) -> None:
        self.place, self.end, self.piece, self.slow = Place(name, 3), len(stamps) + 2, piece, slow  # 2 markers
        self.left = [Record(n, at, b"w%d" % (n % 5), name.encode()) for n, at in enumerate(stamps)]

    def read(self) -> tuple[Records, bool]:
        time.sleep(self.slow)
        self.slow = 0
        records, self.left = self.left[: self.piece], self.left[self.piece :]
        return records_of(records), not self.left


async def fed(transactions: ListLog, touches: ListLog, buffer: int = 1000) -> tuple[list[Record], list[bytes]]:
    """Everything in the order in which a partition takes it, and the keys that were seen."""
    keys: list[bytes] = []
    logs = [cast("Log", transactions), cast("Log", touches)]
    feeder = Feeder(logs, (0, 0), keys.extend)
    inbox = Inbox(feeder.order, feeder, buffer)
    out: list[Record] = []

    async def take() -> None:
        while (taken := await inbox.gather(7)) is not None:
            out.extend(taken.records)
            await asyncio.sleep(0)

    await together(take(), feeder.feed(inbox))
    assert feeder.records == len(out)
    return out, keys


@pytest.mark.parametrize("late", [TRANSACTIONS, TOUCHES])
@pytest.mark.parametrize("buffer", [1000, 4])
def test_both_topics_come_in_one_order_however_slowly_one_is_read(late: int, buffer: int) -> None:
    slow = PATIENCE_HISTORY_S + 0.3  # a worker's patience would be over
    stamps = [*range(0, 90, 3)], [*range(1, 90, 5)]
    transactions = ListLog("x", stamps[0], 4, slow * (late == TRANSACTIONS))
    touches = ListLog("t", stamps[1], 3, slow * (late == TOUCHES))
    found, keys = asyncio.run(fed(transactions, touches, buffer))
    everything = [(at, 1, b"x") for at in stamps[0]] + [(at, 0, b"t") for at in stamps[1]]
    assert [(record.timestamp, record.value) for record in found] == [(at, name) for at, _, name in sorted(everything)]
    assert len(keys) == len(found)


def test_logs_with_nothing_left_end_at_once() -> None:
    assert asyncio.run(fed(ListLog("x", [], 5), ListLog("t", [], 5))) == ([], [])


def test_a_problem_of_one_ends_the_other() -> None:
    async def failing() -> None:
        await asyncio.sleep(0.01)
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        asyncio.run(together(asyncio.sleep(60), failing()))
