"""Harm to workers: killed, frozen, sent away and called back, at random and at the worst moments.

The worst moments are met exactly by tests/kafka/doomed.py: a real worker that gives itself the signal there.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING

from tests.kafka.faultless import announced_too_early
from tests.kafka.scene import LIVE, Fault, Scene

if TYPE_CHECKING:
    from tests.kafka.cluster import Worker

#: Longer than the workers' session timeout: by then a frozen one has lost its partitions.
FROZEN_S = 9.0
KILLS, VISITS = 5, 5
#: Commits so small that each holds records of one topic only.
SINGLE = {"batch_records": 1}


def doomed(scene: Scene, deed: str, moment: str, after: int, **settings: object) -> Worker:
    """One more worker, that will strike itself; started again it is like any other."""
    return scene.add_worker("-m", "tests.kafka.doomed", deed, moment, str(after), **settings)


def somebody(scene: Scene) -> Worker:
    """One of those that live."""
    scene.wait_until(lambda: any(worker.alive for worker in scene.workers), "somebody alive")
    return scene.chance.choice([worker for worker in scene.workers if worker.alive])


# ------------------------------------------------------------------ killed


def killed(scene: Scene) -> None:
    """`kill -9` at random moments, another worker each time."""
    for kill in range(KILLS):
        scene.await_progress((kill + scene.chance.uniform(0.1, 0.9)) / (KILLS + 1))
        victim = somebody(scene)
        victim.kill()
        scene.say(f"killed {victim.name} at {scene.applied()} records")


def killed_at(scene: Scene, moment: str) -> None:
    """Every worker is killed at this moment of a batch, one in its first batch with a change, others some later.

    Nobody starts them again until all are dead: then nothing moves, and what was announced must have been committed.
    """
    scene.stop_supervising()
    doomed_ones = [doomed(scene, "kill", moment, after) for after in (1, 3, 8)]
    scene.wait_until(
        lambda: not any(worker.alive for worker in doomed_ones) or scene.applied() >= scene.events,
        f"all killed {moment}",
    )
    killed_ones = [worker for worker in doomed_ones if not worker.alive and worker.wait() == -signal.SIGKILL]
    scene.say(f"{len(killed_ones)} workers killed {moment}, {scene.applied()} records")
    for worker in doomed_ones:
        how = f"ended with {worker.wait()}: {worker.tail(1)}" if not worker.alive else "lives on: too few events"
        scene.expect(worker in killed_ones, f"{worker.name} was not killed {moment}, it {how}")
    early = list(announced_too_early(scene.world)) if not any(worker.alive for worker in doomed_ones) else []
    scene.expect(not early, f"announced and not committed: {early[:5]}")
    scene.resume_supervising()


# ------------------------------------------------------------------ sent away


def terminated(scene: Scene) -> None:
    """SIGTERM to each in turn, each comes back."""
    for number, worker in enumerate(list(scene.workers)):
        scene.await_progress((number + 0.5) / (len(scene.workers) + 1))
        scene.restart(worker)
        scene.say(f"{worker.name} went and came back at {scene.applied()} records")


def rolling_restart(scene: Scene) -> None:
    """All workers one after the other, each as soon as the one before works again."""
    scene.await_progress(0.2)
    for worker in list(scene.workers):
        scene.restart(worker)
        scene.await_ready(worker)
        scene.say(f"{worker.name} restarted at {scene.applied()} records")
    scene.expect(scene.restarts == 0, "a worker left that nobody had asked to")


def come_and_go(scene: Scene) -> None:
    """Workers join and leave at random, kindly and not."""
    steps = 8
    for step in range(steps):
        scene.await_progress((step + scene.chance.random()) * 0.8 / steps)
        joins = len(scene.workers) < 2 or (len(scene.workers) < 5 and scene.chance.random() < 0.5)
        if joins:
            worker = scene.add_worker()
        else:
            worker = scene.chance.choice(scene.workers)
            if scene.chance.random() < 0.3:
                worker.kill()
                scene.workers.remove(worker)
            else:
                scene.dismiss(worker)
        scene.say(f"{worker.name} {'joined' if joins else 'left'} at {scene.applied()} records")


def there_and_back(scene: Scene, words: tuple[str, ...] = ()) -> None:
    """A -> B -> A: one worker stays while another comes, works on half of the partitions, and goes again."""
    scene.add_worker(*words)
    for visit in range(VISITS):
        scene.await_progress((visit + 0.3) / (VISITS + 1))
        visitor = scene.add_worker(*words)
        scene.await_ready(visitor)
        scene.await_progress((visit + 0.8) / (VISITS + 1))
        scene.dismiss(visitor)
        scene.say(f"{visitor.name} came and went, {scene.applied()} records")


# ------------------------------------------------------------------ frozen


def zombie(scene: Scene) -> None:
    """Frozen at a random moment until its partitions belong to others, then it goes on where it stood."""
    for share in (0.15, 0.5):
        scene.await_progress(share + scene.chance.uniform(0, 0.1))
        scene.freeze_for(somebody(scene), FROZEN_S)


def zombie_commits(scene: Scene, moment: str) -> None:
    """Frozen with a batch in its hands; it thaws when the new owners have gone on, and first of all commits it."""
    worker = doomed(scene, "freeze", moment, scene.chance.randrange(3, 12), **SINGLE)
    scene.await_frozen(worker)
    for _ in range(2):
        scene.add_worker()
    before = scene.standings()
    scene.say(f"{worker.name} stands still {moment} at {scene.applied()} records")
    scene.pause(FROZEN_S)
    scene.await_moves(before)
    scene.stop_supervising()
    worker.thaw()
    scene.await_end(worker)
    scene.expect("another owner" in worker.text, f"{worker.name} did not say that it has been replaced")
    scene.resume_supervising()


def zombie_between_claim_and_commit(scene: Scene) -> None:
    """The old owner's commit arrives when the new one has claimed and not yet committed: the old one has to go."""
    scene.stop_supervising()
    old = doomed(scene, "freeze", "before-commit", 20)
    scene.await_frozen(old)
    # Alone in the group when the old one's session has ended, so it claims every partition, and before its first
    # commit, of whatever partition, it stands still: the mark of each is as the claim has left it.
    new = doomed(scene, "freeze", "before-commit", 1)
    scene.await_frozen(new)
    before = scene.standings()
    scene.say(f"claimed by {new.name}; the commit of {old.name} arrives now, at {scene.applied()} records")
    old.thaw()
    scene.wait_until(lambda: "foreign mark" in old.text or scene.standings() != before, "the old owner's commit")
    scene.expect(scene.standings() == before, "the old owner's commit was accepted")
    before = scene.standings()
    new.thaw()
    scene.wait_until(lambda: not new.alive or scene.standings() != before, "the new owner committing")
    scene.expect(new.alive, f"the new owner was thrown out by the old one: {new.tail(3)}")
    scene.await_end(old)
    scene.expect("another owner" in old.text, f"the old owner did not leave as one: {old.tail(3)}")
    scene.resume_supervising()


FAULTS: tuple[Fault, ...] = (
    Fault("worker-killed", f"kill -9 of a worker at {KILLS} random moments.", killed),
    Fault(
        "worker-killed-before-announce",
        "kill -9 exactly between the commit and the announcement of what it decided.",
        partial(killed_at, moment="before-announce"),
        workers=0,
    ),
    Fault(
        "worker-killed-after-announce",
        "kill -9 exactly between the announcement and the acknowledgement to Kafka.",
        partial(killed_at, moment="after-announce"),
        workers=0,
    ),
    Fault("worker-terminated", "SIGTERM to each worker in turn, on a backlog.", terminated),
    Fault(
        "rolling-restart",
        "All workers are restarted one after the other, under live load.",
        rolling_restart,
        live=True,
        settings=LIVE,
    ),
    Fault(
        "workers-come-and-go",
        "Workers join and leave at random, killed or asked to, under live load.",
        come_and_go,
        live=True,
        settings=LIVE,
    ),
    Fault(
        "there-and-back",
        f"One worker stays while another takes half of its partitions and gives them back, {VISITS} times.",
        there_and_back,
        workers=0,
        settings={"batch_records": 10},
    ),
    Fault(
        "polls-span-rebalances",
        "The same under live load with slow polls, that begin before a rebalance and bring records after its seek.",
        partial(there_and_back, words=("-m", "tests.kafka.dawdling")),
        workers=0,
        live=True,
        settings=LIVE,
    ),
    Fault(
        "zombie",
        "SIGSTOP past the session timeout at random moments, then SIGCONT, twice.",
        zombie,
        live=True,
        settings=LIVE,
    ),
    Fault(
        "zombie-transactions",
        "A worker freezes with a batch of transactions only in its hands, and commits it when others have gone on.",
        partial(zombie_commits, moment="before-commit-of-transactions"),
        workers=0,
    ),
    Fault(
        "zombie-touches",
        "A worker freezes with a batch of touches only in its hands, and commits it when others have gone on.",
        partial(zombie_commits, moment="before-commit-of-touches"),
        workers=0,
    ),
    Fault(
        "zombie-between-claim-and-commit",
        "A zombie's commit arrives when the new owner has claimed and not yet committed.",
        zombie_between_claim_and_commit,
        workers=0,
    ),
)
