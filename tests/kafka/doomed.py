"""A real worker that dies or stands still at one exact moment: `python -m tests.kafka.doomed kill before-announce 3`.

A signal from outside always comes a little early or late. Here the worker's own code is wrapped before it starts, so
the signal is sent by the worker to itself between two lines of it, the same ones in every run:

- `before-announce`: the commit's reply has been read, nothing of it has been handed to Kafka's client.
- `after-announce`: Kafka has acknowledged everything that batch announces, the batch is not acknowledged.
- `before-commit`, `before-commit-of-transactions`, `before-commit-of-touches`: the batch is decided and quotes the mark
  it was decided with; nothing has been sent to Redis. The latter two: a batch with records of this topic only.

Only commits of partitions and announcements with a change of segment are counted.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from models.state import TOUCHES, TRANSACTIONS
from streams import cli
from streams.announce import Message, Outbox
from streams.ledger import Ledger

if TYPE_CHECKING:
    from streams.ledger import Mark

DEEDS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}


class Doom:
    """Strikes this process at the `after`-th call."""

    def __init__(self, deed: str, after: int) -> None:
        self._signal, self._left = DEEDS[deed], after

    def strike(self) -> None:
        """One step nearer; at the last one the signal."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._signal)


def doom_announcements(doom: Doom, moment: str) -> None:
    """Strike before or after the changes of a batch are announced."""
    announce: Any = Outbox.announce

    async def doomed(self: Outbox, messages: Sequence[Message]) -> None:
        messages = list(messages)
        has_change = any(message.topic.endswith("segment.changes") for message in messages)
        if has_change and moment == "before-announce":
            doom.strike()
        await announce(self, messages)
        if has_change and moment == "after-announce":
            doom.strike()

    Outbox.announce = doomed  # type: ignore[method-assign, assignment]  # that is what this program is for


def doom_commits(doom: Doom, concerns: Callable[[Mark, Mark], bool]) -> None:
    """Strike when a batch is about to be committed. `concerns`: whether a commit from mark to mark is meant."""
    commit: Any = Ledger.commit

    async def doomed(self: Ledger, owner: int | str, marks: tuple[Mark, Mark], *rest: Any) -> None:
        if isinstance(owner, int) and concerns(*marks):
            doom.strike()
        await commit(self, owner, marks, *rest)

    Ledger.commit = doomed  # type: ignore[method-assign, assignment]  # that is what this program is for


def moved(*lanes: int) -> Callable[[Mark, Mark], bool]:
    """Whether a commit holds records of these lanes and of no other."""

    def concerns(before: Mark, after: Mark) -> bool:
        return tuple(lane for lane in (TRANSACTIONS, TOUCHES) if before.offsets[lane] != after.offsets[lane]) == lanes

    return concerns


COMMITS: dict[str, Callable[[Mark, Mark], bool]] = {
    "before-commit": lambda before, after: before.offsets != after.offsets,
    "before-commit-of-transactions": moved(TRANSACTIONS),
    "before-commit-of-touches": moved(TOUCHES),
}


def main(deed: str, moment: str, after: str) -> None:
    """`tidemark work`, doomed."""
    doom = Doom(deed, int(after))
    if moment in COMMITS:
        doom_commits(doom, COMMITS[moment])
    else:
        doom_announcements(doom, moment)
    sys.argv = ["tidemark", "work"]
    cli.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
