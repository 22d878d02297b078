"""Harm to Redis, and to the wire that leads to it. Every fault is undone when its function returns."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from operator import ne
from pathlib import Path
from typing import Any

from tests.kafka.cluster import Worker
from tests.kafka.processes import free_port
from tests.kafka.scene import Fault, Scene

#: How long an outage lasts that a worker has to sit out, and how long a full or read-only Redis does.
AWAY_S, UNWRITABLE_S = 30.0, 10.0
#: An owner without traffic looks at its mark every 30 s.
LEAVE_S = 180.0
#: Commit replies that are lost in one run, and the share of commits they are taken from.
CUTS, CUT_SHARE = 60, 0.3
OVERVIEW = "overview"

#: All keys of some tags as they are at one moment, and back: scripts, so that no commit comes in between.
_TAKE = """
local out = {}
for _, tag in ipairs(ARGV) do
  for _, key in ipairs(redis.call('KEYS', '{' .. tag .. '}:*')) do
    out[#out + 1] = key
    out[#out + 1] = redis.call('DUMP', key)
  end
end
return out
"""
_PUT_BACK = """
for at = 2, 1 + ARGV[1] do
  for _, key in ipairs(redis.call('KEYS', '{' .. ARGV[at] .. '}:*')) do redis.call('DEL', key) end
end
for at = 2 + ARGV[1], #ARGV, 2 do redis.call('RESTORE', ARGV[at], 0, ARGV[at + 1]) end
"""


# ------------------------------------------------------------------ the wire


def cut_replies(scene: Scene) -> None:
    """Redis has done what it was asked and the worker does not hear of it, again and again."""
    proxy = _proxy(scene)
    scene.await_progress(0.05)
    proxy.cut_replies(CUTS, CUT_SHARE, scene.chance.randrange(1 << 30))
    scene.wait_until(lambda: proxy.cuts >= CUTS or scene.applied() >= scene.events, f"{CUTS} replies cut off")
    scene.say(f"{proxy.cuts} replies of {proxy.commits} commits cut off")
    _expect(scene, proxy.cuts >= min(CUTS, proxy.commits // 10), f"only {proxy.cuts} replies were cut off")
    _expect(scene, scene.restarts == 0, "a worker left although nobody else had written")


def unreachable(scene: Scene, how: str) -> None:
    """The wire is `refuse` or `silence` for 30 s; workers hold what they have, and go on."""
    with _holding(scene):
        getattr(_proxy(scene), how)()
        scene.pause(AWAY_S)
        _proxy(scene).carry()


def unreachable_while_claiming(scene: Scene) -> None:
    """Redis is away while partitions move: a worker is killed, and the others must claim what it had."""
    scene.await_progress(scene.chance.uniform(0.2, 0.3))
    scene.chance.choice([_proxy(scene).refuse, _proxy(scene).silence])()
    scene.pause(2)
    victim = scene.chance.choice(scene.workers)
    victim.kill()
    scene.say(f"killed {victim.name} while Redis is away")
    scene.pause(AWAY_S)
    _proxy(scene).carry()


# ------------------------------------------------------------------ the process


def killed(scene: Scene, *, lost: bool) -> None:
    """kill -9 three times. `lost`: the end of what it wrote is gone too, as after a power cut."""
    store = scene.world.store
    for kill in range(3):
        scene.await_progress(0.1 + 0.2 * kill + scene.chance.uniform(0, 0.1))
        before = scene.applied()
        store.kill()
        gone = cut_tail(store.data, scene.chance.randrange(10_000, 2_000_000)) if lost else 0
        scene.pause(scene.chance.uniform(0.5, 5))
        store.start()
        scene.say(f"redis killed at {before} records, back with {scene.applied()} ({gone} bytes cut off)")
        _expect(scene, lost or scene.applied() >= before, "Redis itself lost what it had answered")
    if lost:
        _expect(scene, _said(scene, "has another owner"), "nobody noticed that Redis had lost writes")


def cut_tail(folder: Path, size: int) -> int:
    """Cut the last bytes of what Redis appended last, at most all of it; how many."""
    newest = newest_file(folder)
    length = newest.stat().st_size
    with newest.open("r+b") as file:
        file.truncate(max(0, length - size))
    return min(size, length)


def newest_file(folder: Path) -> Path:
    """The append-only file that Redis writes to."""
    return max(folder.glob("appendonlydir/*.incr.aof"), key=lambda file: int(file.name.split(".")[2]))


def ends_itself(scene: Scene) -> None:
    """Its append-only file can grow no further, in the middle of a commit: with appendfsync always Redis then exits."""
    store = scene.world.store
    with _holding(scene):
        room = newest_file(store.data).stat().st_size + scene.chance.randrange(200_000)
        said = len(store.text)
        resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        scene.wait_until(lambda: not store.alive, "Redis ending itself")
        why = "Can't recover from AOF write error when the AOF fsync policy is 'always'"
        _expect(scene, store.wait() == 1 and why in store.text[said:], f"Redis ended otherwise: {store.tail(3)}")
        scene.pause(scene.chance.uniform(1, 10))
        store.start()  # a new process, without the limit
        scene.say(f"redis ended itself at {room} bytes, is back with {scene.applied()} records")


# ------------------------------------------------------------------ a past that comes back


def rolled_back(scene: Scene, tags: Callable[[Scene], list[str]]) -> None:
    """The keys of some tags are again as they were, under workers that know better."""
    chosen = tags(scene)
    scene.await_progress(scene.chance.uniform(0.2, 0.3))
    with scene.world.store.client() as client:
        kept: Any = client.eval(_TAKE, 0, *chosen)
    then = _marks(scene, chosen)
    scene.say(f"snapshot of {len(kept) // 2} keys of {chosen} at {scene.applied()} records")
    scene.await_progress(scene.chance.uniform(0.45, 0.55))
    # Of a mark that is still the same nothing is rolled back: the overview commits once in a thousand records.
    scene.wait_until(lambda: all(map(ne, then, _marks(scene, chosen))), "commits since the snapshot")
    owners = owners_of(scene, chosen)
    before = {name: len(worker.text) for name, worker in owners.items()}
    at = scene.applied()
    with scene.world.store.client() as client:
        client.eval(_PUT_BACK, 0, len(chosen), *chosen, *kept)
    scene.say(f"rolled back from {at} to {scene.applied()} records under {sorted(owners)}")
    _all_leave(scene, before)


def _marks(scene: Scene, tags: list[str]) -> list[Any]:
    with scene.world.store.client() as client:
        return list(client.mget([f"{{{tag}}}:mark" for tag in tags]))


def restored(scene: Scene) -> None:
    """Redis is stopped and started on an older copy of its files: a backup, put back under live workers."""
    store = scene.world.store
    scene.await_progress(scene.chance.uniform(0.2, 0.3))
    backup = scene.world.folder / "backup"
    shutil.copytree(store.data, backup)
    scene.await_progress(scene.chance.uniform(0.45, 0.55))
    owners = owners_of(scene, [str(number) for number in range(scene.world.partitions)])
    before = {name: len(worker.text) for name, worker in owners.items()}
    store.kill()
    shutil.rmtree(store.data)
    backup.rename(store.data)
    store.start()
    scene.say(f"restored a backup with {scene.applied()} records under {sorted(owners)}")
    _all_leave(scene, before)


def emptied(scene: Scene) -> None:
    """Everything is gone: nobody may go on counting from the middle."""
    scene.await_progress(scene.chance.uniform(0.3, 0.6))
    owners = owners_of(scene, [str(number) for number in range(scene.world.partitions)])
    before = {name: len(worker.text) for name, worker in owners.items()}
    with scene.world.store.client() as client:
        client.flushall()
    _all_leave(scene, before)


def some_partitions(scene: Scene) -> list[str]:
    numbers = [str(number) for number in range(scene.world.partitions)]
    return scene.chance.sample(numbers, len(numbers) // 2)


def all_partitions(scene: Scene) -> list[str]:
    return [str(number) for number in range(scene.world.partitions)]


def the_overview(_: Scene) -> list[str]:
    return [OVERVIEW]


def everything(scene: Scene) -> list[str]:
    return [*all_partitions(scene), OVERVIEW]


def owners_of(scene: Scene, tags: Iterable[str]) -> dict[str, Worker]:
    """The workers that have one of these partitions, by name: what each said last that it owns."""
    wanted, owners = set(tags), dict[str, Worker]()
    for worker in scene.workers:
        owned: set[str] = set()
        for line in _log_lines(worker.text):
            if line.get("event") == "ready":
                owned = {str(each) for each in line["partitions"]}
            elif line.get("event") == "handed over":
                owned = set()
        if worker.alive and owned & wanted:
            owners[worker.name] = worker
    return owners


def _all_leave(scene: Scene, before: dict[str, int]) -> None:
    """Each of these workers ends, and says in one line why; `before`: length of its log when it had no reason yet."""
    workers = {worker.name: worker for worker in scene.workers}
    _expect(scene, bool(before), "nobody owned what was rolled back")

    def told(name: str) -> list[str]:
        lines = workers[name].text[before[name] :].splitlines()
        return [line for line in lines if line.startswith("tidemark: ")]

    with suppress(TimeoutError):  # then the judges shall say what came of it
        scene.wait_until(lambda: all(map(told, before)), f"{sorted(before)} leaving", LEAVE_S)
    for name in before:
        text, last = workers[name].text[before[name] :], told(name)[:1]
        _expect(scene, any("another owner" in line for line in last), f"{name} did not leave, or said {last}")
        _expect(scene, "Traceback" not in text, f"{name} left with a traceback")


# ------------------------------------------------------------------ a Redis that takes no writes


def out_of_memory(scene: Scene) -> None:
    """`maxmemory` is reached and nothing may be evicted."""
    with _holding(scene), scene.world.store.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1 << 20)
        _stands_still(scene, UNWRITABLE_S)
        client.config_set("maxmemory", 0)


def snapshots_fail(scene: Scene) -> None:
    """MISCONF, Redis's answer to every write while its disk takes none: here a snapshot that cannot be put in place."""
    in_the_way = scene.world.store.data / "dump.rdb"
    with _holding(scene), scene.world.store.client() as client:
        in_the_way.mkdir()
        client.config_set("save", "86400 1000000000")
        client.bgsave()
        scene.wait_until(lambda: _bgsave(client) == "err", "a snapshot failing")
        _stands_still(scene, UNWRITABLE_S)
        in_the_way.rmdir()
        client.bgsave()
        scene.wait_until(lambda: _bgsave(client) == "ok", "a snapshot succeeding")


def read_only(scene: Scene) -> None:
    """READONLY: a failover made this Redis a replica, for a while of one that never answers."""
    with _holding(scene), scene.world.store.client() as client:
        client.replicaof("127.0.0.1", free_port())
        _stands_still(scene, UNWRITABLE_S)
        client.replicaof("NO", "ONE")


def _bgsave(client: Any) -> str:
    found = client.info("persistence")
    return "" if found["rdb_bgsave_in_progress"] else str(found["rdb_last_bgsave_status"])


def _stands_still(scene: Scene, seconds: float) -> None:
    """Nothing is committed meanwhile; a commit that was under way has a second to end."""
    scene.pause(1)
    before = scene.applied()
    scene.pause(seconds)
    _expect(scene, scene.applied() == before, "something was committed to a Redis that takes no writes")


@contextmanager
def _holding(scene: Scene) -> Iterator[None]:
    """The harm is done in the middle of the run; workers notice it, none leaves, and the same commits succeed later."""
    scene.await_progress(scene.chance.uniform(0.2, 0.4))
    restarts, before = scene.restarts, {worker: len(worker.text) for worker in scene.workers}
    began, at = time.monotonic(), scene.applied()
    yield
    scene.say(f"away for {time.monotonic() - began:.0f} s at {at} records")
    scene.wait_until(lambda: scene.applied() > at or at >= scene.events, "commits going on")
    noticed = ["redis unavailable" in worker.text[start:] for worker, start in before.items()]
    _expect(scene, any(noticed), "no worker noticed")
    _expect(scene, scene.restarts == restarts, "a worker left instead of waiting")


# ------------------------------------------------------------------ words


def _proxy(scene: Scene) -> Any:
    assert scene.proxy, "this fault needs a proxy"
    return scene.proxy


def _expect(scene: Scene, true: bool, otherwise: str) -> None:
    if not true:
        scene.wrong.append(otherwise)


def _said(scene: Scene, words: str) -> bool:
    return any(words in worker.text for worker in scene.workers)


def _log_lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError:
                continue  # the last line of a killed process


FAULTS: tuple[Fault, ...] = (
    Fault(
        "redis-replies-cut",
        f"{CUTS} commits lose their reply: the connection is cut after Redis has done them.",
        cut_replies,
        proxied=True,
    ),
    Fault("redis-refused", "Redis refuses connections for 30 s.", partial(unreachable, how="refuse"), proxied=True),
    Fault(
        "redis-silent",
        "Redis accepts and answers nothing for 30 s; what it was asked meanwhile reaches it late.",
        partial(unreachable, how="silence"),
        proxied=True,
    ),
    Fault(
        "redis-away-while-claiming",
        "Redis is away for 30 s (refused or silent) and a worker is killed meanwhile: the others claim.",
        unreachable_while_claiming,
        proxied=True,
    ),
    Fault(
        "redis-killed-always",
        "kill -9 of Redis three times, with appendfsync always.",
        partial(killed, lost=False),
    ),
    Fault(
        "redis-killed-everysec",
        "kill -9 of Redis three times, with appendfsync everysec and the end of its file lost.",
        partial(killed, lost=True),
        redis_options=("--appendfsync", "everysec"),
    ),
    Fault(
        "redis-rolled-back-partitions",
        "The keys of half the partitions are again as they were earlier, under live workers.",
        partial(rolled_back, tags=some_partitions),
    ),
    Fault(
        "redis-rolled-back-overview",
        "The keys of the overview are again as they were earlier, under live workers.",
        partial(rolled_back, tags=the_overview),
    ),
    Fault(
        "redis-rolled-back-all",
        "All keys are again as they were earlier, at once, under live workers.",
        partial(rolled_back, tags=everything),
    ),
    Fault("redis-restored", "Redis is started on an older copy of its files, under live workers.", restored),
    Fault("redis-emptied", "FLUSHALL under live workers.", emptied),
    Fault("redis-out-of-memory", "Redis is full (maxmemory, no eviction) for 10 s.", out_of_memory),
    Fault("redis-disk-full", "Redis refuses writes for 10 s (MISCONF): its disk takes none.", snapshots_fail),
    Fault(
        "redis-ends-itself",
        "Redis exits in the middle of a write: its disk takes no more of the append-only file (appendfsync always).",
        ends_itself,
    ),
    Fault("redis-read-only", "Redis is a replica of nobody (READONLY) for 10 s.", read_only),
)
