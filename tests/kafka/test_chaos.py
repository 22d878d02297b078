"""A few of the faults of scripts/chaos, small, over the same topics with bad records of every kind, so that one run
without faults serves them all. The judges find what they look for, too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kafka.chaos import FAULTS, Chaos, described, table
from tests.kafka.cluster import READY, KafkaServer, Worker
from tests.kafka.faultless import Content, Trace, differences, missing, repeats
from tests.kafka.inputs import Inputs
from tests.kafka.scene import RESTART_S, Outcome, Scene
from tests.kafka.world import World

SEED, EVENTS, PARTITIONS = 3, 6000, 6
#: Records a second of live streams: workers join and leave while they come.
RATE = 300


@pytest.fixture(scope="module")
def chaos(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """Events, and topics that are full of them, are made once for all faults of this file."""
    kept = Chaos(kafka, tmp_path_factory.mktemp("chaos"), PARTITIONS, RATE)
    yield kept
    kept.close()


@pytest.mark.parametrize(
    "name",
    [
        "worker-killed-before-announce",
        "worker-killed-after-announce",
        "zombie-touches",
        "zombie-between-claim-and-commit",
        "polls-span-rebalances",
        "redis-replies-cut",
        "redis-rolled-back-partitions",
        "poison",
    ],
)
def test_nothing_is_wrong_lost_or_contradicted_under(name: str, chaos: Chaos) -> None:
    fault = FAULTS[name]
    if not fault.live:  # a live stream is sent as it is in its file, which cannot hold all bad records
        fault = replace(fault, stream=FAULTS["poison"].stream)
    outcome = chaos.run(fault, seed=SEED, events=EVENTS)
    assert (outcome.wrong, outcome.lost, outcome.conflicting) == ([], 0, 0)


def test_every_fault_has_a_name_of_its_own_and_says_what_it_is() -> None:
    assert all(fault.name == name and fault.what.endswith(".") for name, fault in FAULTS.items())


# ------------------------------------------------------------------ who is frozen

ENDS_AT_ONCE = ""
IS_READY = f"""
import time
print('{READY}', flush=True)
time.sleep(600)
"""
#: And some time after it goes on it says so again.
COMES_BACK = f"""
import signal, time
def again(*_):
    time.sleep(0.5)
    print('{READY}', flush=True)
signal.signal(signal.SIGCONT, again)
{IS_READY}
"""


def scene_of(worker: Worker, world: World) -> Scene:
    scene = Scene(world, FAULTS["zombie"], Inputs(Path(), [], {}, Path(), 0), SEED)
    scene.workers.append(worker)
    return scene


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_who_was_frozen_is_waited_for_until_it_is_back(world: World, tmp_path: Path) -> None:
    with Worker({}, tmp_path / "worker.log", program(COMES_BACK)).start() as worker:
        worker.await_words(READY)
        pid = worker.pid
        scene_of(worker, world).freeze_for(worker, 0.1)
        assert (worker.pid, worker.text.count(READY)) == (pid, 2)


def test_who_had_ended_when_it_was_frozen_is_not_waited_for(world: World, tmp_path: Path) -> None:
    """Another is in its place by then, which has been ready all the time: it never says so again."""
    with Worker({}, tmp_path / "worker.log", program(IS_READY), program(ENDS_AT_ONCE)).start() as worker:
        worker.wait()
        pid, scene = worker.pid, scene_of(worker, world)
        scene.freeze_for(worker, RESTART_S + 2)
        assert worker.pid != pid
        assert worker.alive


# ------------------------------------------------------------------ the judges

ROW = {"segment": "s1", "campaign_id": "c", "channel": "email", "rule": "last"}
MONEY = {"revenue_micros": 5, "cost_micros": 2, "conversions_micros": 1}
TOLD: dict[tuple[str, int], Counter[Content]] = {
    ("w1", 1): Counter({(b"entered", ()): 1}),
    ("w1", 2): Counter({(b"moved", ()): 1}),
}
OTHER: Counter[Content] = Counter({(b"left", ()): 1})
TRACE = Trace({b"{0}:w:w1": b"row"}, [ROW | MONEY], TOLD)


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (replace(TRACE, stored={}), "in Redis"),
        (replace(TRACE, stored={b"{0}:w:w1": b"another"}), "in Redis"),
        (replace(TRACE, stored={b"{0}:w:w1": b"row", b"{1}:w:w1": b"row"}), "in Redis"),
        (replace(TRACE, roi=[ROW | MONEY | {"segment": "s2"}]), "roi by segment"),
        (replace(TRACE, roi=[ROW | MONEY | {"cost_micros": 3}]), "roi by segment"),
        (replace(TRACE, announced={("w1", 1): TOLD["w1", 1]}), "announced"),
        (replace(TRACE, announced=TOLD | {("w1", 2): OTHER}), "announced"),
        (replace(TRACE, announced=TOLD | {("w1", 3): OTHER}), "announced"),
    ],
)
def test_whatever_differs_from_a_run_without_faults_is_told(left: Trace, says: str) -> None:
    assert all(sentence.startswith(says) for sentence in differences(left, TRACE))
    assert list(differences(left, TRACE))


def test_an_announcement_that_came_twice_is_counted_and_no_difference() -> None:
    twice = replace(TRACE, announced={key: Counter(dict.fromkeys(of, 2)) for key, of in TOLD.items()})
    assert list(differences(twice, TRACE)) == []
    assert repeats(twice.announced) == (2, 0)
    assert missing(twice, TRACE) == 0


def test_one_that_never_came_is_lost_and_one_with_two_contents_conflicts() -> None:
    other = replace(TRACE, announced={("w1", 2): TOLD["w1", 2] + OTHER})
    assert missing(other, TRACE) == 2
    assert repeats(other.announced) == (0, 1)


def test_the_table_adds_up_the_runs_of_a_fault() -> None:
    runs = [
        Outcome("killed", 1, 1000, [], 0, 3, 0, 7.5, 0, 20.0),
        Outcome("killed", 2, 1000, ["totals.wallets is 1, the oracle has 2"], 4, 1, 0, 6.0, 1, 20.0),
    ]
    assert list(table(runs))[-1] == "| killed | 2 | 2,000 | 1 | 4 | 4 | 7.5 |"
    assert [described(run)["exact"] for run in runs] == [True, False]
