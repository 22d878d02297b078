"""What an operator sees of real workers: their pages and their log, in good days and in bad ones."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections import Counter
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kafka.cluster import Worker
from tests.kafka.processes import PATIENCE_S, free_port, wait_until
from tests.kafka.world import World

EVENTS = 6000
#: label -> value, sorted, beside the name of the sample
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Pages:
    """A worker's pages, asked as a probe does."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body; status 0: nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as answer:
            with answer:
                return answer.code, answer.read().decode()
        except (URLError, ConnectionError, TimeoutError) as problem:
            return 0, str(problem)

    def judged(self, path: str) -> tuple[int, dict[str, Any]]:
        status, body = self.ask(path)
        return status, json.loads(body) if status else {}

    def await_status(self, path: str, status: int, seconds: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for an answer of this status; what it says."""
        wait_until(lambda: self.ask(path)[0] == status, f"{path} answering {status}, now {self.ask(path)}", seconds)
        return self.judged(path)[1]

    @property
    def is_ready(self) -> bool:
        return self.ask("/ready")[0] == 200

    def await_work(self, seconds: float = PATIENCE_S) -> None:
        """Wait until it is ready and has partitions."""
        wait_until(lambda: "works on" in self.judged("/ready")[1].get("why", ""), "a worker at work", seconds)

    def metrics(self) -> Series:
        status, body = self.ask("/metrics")
        assert status == 200
        families = text_string_to_metric_families(body)
        return {(each.name, tuple(sorted(each.labels.items()))): each.value for one in families for each in one.samples}

    def total(self, name: str, **labels: str) -> int:
        """The sum of the series of this name that have these labels."""
        found = self.metrics().items()
        return int(sum(value for (each, its), value in found if each == name and labels.items() <= dict(its).items()))

    def labels(self, name: str) -> set[tuple[str, ...]]:
        """The label values of the series of this name, without their labels."""
        return {tuple(value for _, value in its) for each, its in self.metrics() if each == name}


def season(world: World, events: int = EVENTS) -> None:
    """Topics with a season of bad, late and repeated records."""
    world.run("topics", "create")
    words = ("--seed", "5", "--wallets", "200", "--days", "60", "--late", ".02", "--duplicates", ".02", "--bad", ".02")
    lines = world.run("simulate", *words).splitlines(keepends=True)
    assert len(lines) >= events
    world.run("produce", stdin=b"".join(lines[:events]))


def started(world: World, name: str, *first: str, **settings: object) -> tuple[Worker, Pages]:
    port = free_port()
    return world.worker(name, *first, http_port=port, **settings), Pages(port)


def stopped(*workers: Worker) -> None:
    for worker in workers:
        worker.terminate()
    assert [worker.wait() for worker in workers] == [0] * len(workers)


def halved(one: Pages, other: Pages) -> bool:
    """Whether each of two workers has two of the four partitions, and no rebalance goes on."""
    having = [pages.labels("tidemark_event_time_lag_seconds") for pages in (one, other)]
    return list(map(len, having)) == [2, 2] and not having[0] & having[1] and one.is_ready and other.is_ready


def test_a_crash_of_compiled_code_says_where(world: World) -> None:
    world.run("topics", "create")
    worker = world.worker("worker")
    wait_until(lambda: worker.is_ready, "a worker at work")
    os.kill(worker.pid, signal.SIGSEGV)
    assert worker.wait() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in worker.text
    assert "Current thread" in worker.text


def test_the_metrics_agree_with_the_totals(world: World) -> None:
    season(world)
    worker, pages = started(world, "worker", log_level="DEBUG", allowed_lateness=60_000)
    world.await_applied(EVENTS)
    totals: dict[str, Any] = {}

    def settled() -> bool:
        totals.update(world.ask("totals"))
        return pages.total("tidemark_segment_changes_total") == int(totals["segment_changes"])

    wait_until(settled, "the last batch counted")
    pages.await_status("/ready", 200)
    wait_until(lambda: pages.total("tidemark_consumer_lag_records") == 0, "no lag")
    outcome = {each: pages.total("tidemark_events_total", outcome=each) for each in ("accepted", "late", "duplicate")}
    assert outcome["accepted"] + outcome["late"] == totals["transactions"] + totals["touches"]
    assert outcome["late"] == totals["late"] > 0
    assert outcome["duplicate"] == totals["duplicates"] > 0
    for topic, name in ((world.transactions, "transactions"), (world.touches, "touches")):
        in_time, late = (pages.total("tidemark_events_total", topic=topic, outcome=o) for o in ("accepted", "late"))
        assert in_time + late == totals[name] > 0
    reasons = {labels[0]: pages.total("tidemark_rejected_total", reason=labels[0])
               for labels in pages.labels("tidemark_rejected_total")}  # fmt: skip
    assert {reason: count for reason, count in reasons.items() if count} == totals["rejected"]
    assert pages.total("tidemark_events_total", outcome="rejected") == sum(totals["rejected"].values())
    assert pages.total("tidemark_events_total") == EVENTS == pages.total("tidemark_batch_records_sum")
    assert pages.total("tidemark_beyond_memory_total") == totals["beyond_memory"]
    assert pages.total("tidemark_catalogue_version") >= totals["catalogue_version"]
    # a sweep commits, too, and is no batch
    assert pages.total("tidemark_commit_duration_seconds_count") >= pages.total("tidemark_batch_records_count") > 0
    assert pages.total("tidemark_wallet_cache_misses_total") >= totals["wallets"]
    assert pages.total("tidemark_wallet_cache_hits_total") > 0
    assert pages.labels("tidemark_event_time_lag_seconds") == {(str(number),) for number in range(world.partitions)}
    batches = pages.total("tidemark_batch_records_count")
    stopped(worker)
    _the_log_tells_it(worker.text, batches)


def _the_log_tells_it(text: str, batches: int) -> None:
    """A line a batch, a line a second, nothing else that often; every line is JSON."""
    lines = [json.loads(line) for line in text.splitlines()]
    of_batches = [line for line in lines if line["event"] == "batch"]
    worked = [line for line in lines if line["event"] == "worked"]
    assert len(of_batches) == batches == sum(line["batches"] for line in worked)
    assert sum(line["records"] for line in of_batches) == EVENTS == sum(line["records"] for line in worked)
    assert {"partition", "commit", "offsets", "records", "load_s", "step_s", "commit_s"} <= of_batches[0].keys()
    assert {"lag", "behind_s", "seconds", "changes", "rejected"} <= worked[0].keys()
    others = Counter(line["event"] for line in lines) - Counter(line["event"] for line in of_batches + worked)
    assert others.total() < len(worked) + 100, others


def test_without_redis_a_worker_lives_and_is_not_ready(world: World) -> None:
    world.run("topics", "create")
    worker, pages = started(world, "worker")
    assert pages.await_status("/ready", 200)["why"].startswith("it works on partition 0, partition 1")
    world.store.kill()
    said = pages.await_status("/ready", 503)
    assert not said["ready"]
    assert said["why"].startswith("Redis has not taken a command for")
    assert pages.ask("/live")[0] == 200
    assert pages.total("tidemark_ready") == 0
    world.store.start()
    pages.await_status("/ready", 200)
    stopped(worker)
    assert pages.ask("/ready")[0] == 0


def test_partitions_leave_the_pages_of_the_worker_they_leave(world: World) -> None:
    world.run("topics", "create")
    one, its = started(world, "one")
    its.await_status("/ready", 200)
    everything = {(str(number),) for number in range(world.partitions)}
    assert its.labels("tidemark_event_time_lag_seconds") == everything
    wait_until(lambda: len(its.labels("tidemark_consumer_lag_records")) == 9, "the lag of both inputs and the digests")
    other, others = started(world, "other")
    others.await_status("/ready", 200)
    its.await_status("/ready", 200)

    def shared() -> bool:
        having = [pages.labels("tidemark_consumer_lag_records") for pages in (its, others)]
        return sum(map(len, having)) == len(having[0] | having[1]) == 9 and halved(its, others)

    wait_until(shared, "two partitions with each, every lag told by one worker")
    assert its.total("tidemark_rebalances_total") >= 2
    stopped(one, other)


def test_a_worker_with_nothing_to_do_is_ready(world: World) -> None:
    world.partitions = 1
    world.run("topics", "create")
    one, its = started(world, "one")
    its.await_status("/ready", 200)
    spare, spares = started(world, "spare")
    assert "no partition for it" in spares.await_status("/ready", 200)["why"]
    assert spares.labels("tidemark_consumer_lag_records") == set()
    stopped(one)
    spares.await_work()
    stopped(spare)


def test_a_named_worker_that_restarts_moves_no_partition_of_the_others(world: World) -> None:
    season(world, 3000)
    (one, its), (other, others) = (
        started(world, name, instance_id=name, session_timeout_ms=60_000) for name in ("one", "other")
    )
    for pages in (its, others):
        pages.await_status("/ready", 200)
    wait_until(lambda: halved(its, others), "two partitions with each")
    world.await_applied(3000)
    before, had = its.total("tidemark_rebalances_total"), others.labels("tidemark_event_time_lag_seconds")
    log = len(one.text)
    stopped(other)
    other.start()
    others.await_status("/ready", 200)
    assert others.labels("tidemark_event_time_lag_seconds") == had
    more = world.run("simulate", "--seed", "6", "--wallets", "50", "--days", "20").splitlines(keepends=True)
    world.run("produce", stdin=b"".join(more[:1000]))
    world.await_applied(4000)
    assert its.total("tidemark_rebalances_total") == before
    assert "handed over" not in one.text[log:]
    stopped(one, other)


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("ended", "the task that fetches of Kafka's client ended"),
        ("silent", "Kafka has answered none of its fetches"),
        ("loop", "its loop has not turned"),
    ],
)
def test_a_worker_that_died_quietly_does_not_live(world: World, way: str, says: str) -> None:
    world.run("topics", "create")
    _, pages = started(world, "worker", "-m", "tests.kafka.quiet", way)
    wait_until(lambda: pages.ask("/live")[0] == 503, f"/live answering 503, now {pages.ask('/live')}")
    said = pages.judged("/live")[1]
    assert not said["live"]
    assert said["why"].startswith(says)
    assert pages.ask("/ready")[0] == 503


def test_a_port_that_is_taken_is_one_line(world: World) -> None:
    world.run("topics", "create")
    _, pages = started(world, "first")
    pages.await_status("/live", 200)
    done = world.command("work", http_port=pages.port)
    assert done.returncode == 1
    (said,) = done.stderr.decode().splitlines()
    assert said.startswith(
        f"tidemark: port {pages.port} of 127.0.0.1 is taken: end what listens there, or choose another"
    )
    done = world.command("work", http_port=pages.port, http_host="192.0.2.1")
    assert done.returncode == 2
    assert b"TIDEMARK_HTTP_HOST" in done.stderr
