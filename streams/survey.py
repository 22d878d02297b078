"""What a file of events holds, read without deciding: what cannot be judged is refused before it is replayed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.console import opened
from streams.errors import TidemarkError
from streams.lines import BadLine
from streams.replay import arrivals

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from streams.replay import Arrival


@dataclass(frozen=True, slots=True)
class Survey:
    """Times of the earliest and the latest record, epoch ms, and the keys of all."""

    begin_ms: int
    end_ms: int
    wallets: frozenset[str]


def survey(file: Path) -> Survey:
    """Read all of a file, which takes seconds for a million lines.

    Raises `TidemarkError` for a file that is none, holds no event, or has a line that is no event.
    """
    keys: set[bytes | None] = set()
    begin_ms, end_ms = math.inf, 0
    for _, record in arrivals_of(file):
        keys.add(record.key)
        begin_ms, end_ms = min(begin_ms, record.timestamp), max(end_ms, record.timestamp)
    if not keys:
        raise no_event(file)
    return Survey(int(begin_ms), end_ms, frozenset(key.decode() for key in keys if key is not None))


def arrivals_of(file: Path) -> Generator[Arrival, None, None]:
    """The records of a file of NDJSON. Raises `TidemarkError`."""
    with opened(file) as lines:
        try:
            yield from arrivals(lines)
        except BadLine as problem:
            raise TidemarkError(f"{file}, {problem}") from problem


def no_event(file: Path) -> TidemarkError:
    """What there is to say of a file without a line."""
    return TidemarkError(f"{file} holds no event: `tidemark simulate` and `tidemark convert` write what is read here")
