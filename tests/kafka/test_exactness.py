"""Counters are exact and nothing is lost, whoever is killed: the small version of scripts/check-exact."""

from __future__ import annotations

import pytest

from tests.kafka.exactness import Trial, run_trial
from tests.kafka.world import World


@pytest.mark.parametrize("rate", [None, 3000], ids=["backlog", "live"])
def test_totals_and_roi_equal_the_oracle_under_three_kills(world: World, rate: int | None) -> None:
    finding = run_trial(world, Trial(events=30_000, wallets=600, rate=rate))
    assert finding.wrong == []
    assert finding.facts["changes"] > 0


def test_a_worker_that_stays_while_another_comes_and_goes_counts_exactly(world: World) -> None:
    # A random storm does not catch a cache that survives a partition's journey there and back; this does.
    finding = run_trial(world, Trial(events=30_000, wallets=600, rate=2500, visits=5))
    assert finding.wrong == []
