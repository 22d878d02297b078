"""The clock of a partition: event time, moved by its events and by nothing else."""

from __future__ import annotations

from models.compiled import compiled


@compiled
def tick(clock_ms: int, at_ms: int, step_ms: int) -> int:
    """The clock of a partition with an event: the newest event, raised by at most `step_ms` at a time."""
    if clock_ms == 0:
        return at_ms
    return min(max(clock_ms, at_ms), clock_ms + step_ms)
