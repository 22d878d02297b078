"""A replayed backlog does not outrun the model: segments are found in the middle of it, and money lands in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from streams.simulate import SimulationPlan, write
from tests.kafka.world import World


@pytest.mark.parametrize("run", [1, 2])
def test_sixty_days_replayed_at_once_end_in_named_segments(world: World, run: int) -> None:
    events = world.folder / "events.ndjson"
    start = datetime.now(UTC).date() - timedelta(days=62)
    with events.open("w", encoding="utf-8") as out:
        write(SimulationPlan(seed=11, wallets=600, days=60, start=start, events=40_000), out)
    world.run("topics", "create")
    world.run("produce", str(events))
    worker = world.worker("worker")
    world.await_applied(40_000, seconds=200)
    world.await_no_lag()
    worker.terminate()
    assert worker.wait() == 0
    segments = {row["segment"]: row for row in world.ask("segments")}
    unassigned = segments.pop("unassigned")
    inhabited = [row for row in segments.values() if row["wallets"]]
    assert len({row["name"] for row in inhabited}) >= 3
    assert unassigned["share"] < 0.5
    revenue = dict.fromkeys(("unassigned", "named"), 0)
    for row in world.ask("roi"):
        if row["rule"] == "last":
            revenue["unassigned" if row["segment"] == "unassigned" else "named"] += row["revenue_micros"]
    assert revenue["named"] > revenue["unassigned"]
