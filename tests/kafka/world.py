"""A world of its own for one test: topics, group and Redis that nobody else uses, on the broker of the session."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from tests.kafka.cluster import KafkaServer, RedisServer, Worker, clean_environment
from tests.kafka.processes import PATIENCE_S, REPOSITORY, wait_until


class World:
    """Names nobody else uses, the settings that point to them, and the processes started with these.

    Keyword arguments of its methods are settings: `world.worker("a", batch_records=7)` sets TIDEMARK_BATCH_RECORDS.
    `inputs`: another world whose input topics are read here too. `seen`: where a witness writes down in which order
    records are taken; None: there is none.
    """

    def __init__(
        self, kafka: KafkaServer, store: RedisServer, folder: Path, partitions: int = 4, inputs: World | None = None
    ) -> None:
        self.kafka = kafka
        self.store = store
        self.folder = folder
        self.partitions = partitions
        self.bootstrap = kafka.bootstrap
        self.redis_url = store.url
        self.name = f"t{uuid.uuid4().hex[:12]}"
        self.prefix = f"{self.name}."
        self.group = self.name
        self.transactions: str = inputs.transactions if inputs else f"{self.prefix}wallet.transactions"
        self.touches: str = inputs.touches if inputs else f"{self.prefix}campaign.touches"
        self.seen: Path | None = None
        self._workers: list[Worker] = []

    def topic(self, name: str) -> str:
        """What an input topic of the contract is called here."""
        return {"wallet.transactions": self.transactions, "campaign.touches": self.touches}[name]

    def settings(self, **changed: object) -> dict[str, str]:
        """The `TIDEMARK_*` variables of this world."""
        ours: dict[str, object] = {
            "kafka": self.bootstrap,
            "redis": self.redis_url,
            "topic_transactions": self.transactions,
            "topic_touches": self.touches,
            "prefix": self.prefix,
            "group": self.group,
            "partitions": self.partitions,
        }
        return {f"TIDEMARK_{name.upper()}": str(value) for name, value in (ours | changed).items()}

    def environment(self, **changed: object) -> dict[str, str]:
        """A whole environment for a child process, nothing of Tidemark's inherited."""
        return clean_environment() | self.settings(**changed)

    def words(self, *words: str) -> list[str]:
        """`tidemark` with these words, to be run in the repository."""
        program = ("streams",) if self.seen is None else ("tests.kafka.witness", str(self.seen))
        return [sys.executable, "-m", *program, *words]

    def command(
        self, *words: str, stdin: bytes = b"", seconds: float = PATIENCE_S, **changed: object
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `tidemark` with these words to its end, whatever its exit code."""
        return subprocess.run(
            self.words(*words),
            cwd=REPOSITORY,
            env=self.environment(**changed),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=seconds,
        )

    def run(self, *words: str, stdin: bytes = b"", seconds: float = PATIENCE_S, **changed: object) -> bytes:
        """The standard output of a command that has to succeed."""
        done = self.command(*words, stdin=stdin, seconds=seconds, **changed)
        assert done.returncode == 0, f"tidemark {' '.join(words)}: exit {done.returncode}\n{done.stderr.decode()}"
        return done.stdout

    def ask(self, *words: str) -> Any:
        """What a read-out says with `--json`."""
        return json.loads(self.run(*words, "--json"))

    def lines(self, *words: str) -> list[Any]:
        """What a read-out that streams NDJSON says with `--json`."""
        return [json.loads(line) for line in self.run(*words, "--json").splitlines()]

    def worker(self, name: str, *first: str, **changed: object) -> Worker:
        """A started worker; it ends with the test at the latest. Its output: `<name>.log` in the test's folder.

        `first`: what Python runs instead of `-m streams work` when it is started the first time.
        """
        doomed = [sys.executable, *first] if first else ()
        worker = Worker(self.environment(**changed), self.folder / f"{name}.log", self.words("work"), doomed)
        self._workers.append(worker)
        return worker.start()

    def applied(self) -> int:
        """Records whose effects are committed: transactions, touches, repeats and rejected ones.

        Read from Redis at once: starting a read-out takes longer than thousands of records.
        """
        with self.store.client() as client:
            stored = client.mget([f"{{{number}}}:totals" for number in range(self.partitions)])
        return sum(records_read(json.loads(totals)) for totals in stored if totals)

    def await_applied(self, records: int, seconds: float = PATIENCE_S) -> None:
        """Wait until at least so many records are committed; fail at once if no worker is left to commit them."""

        def reached_or_hopeless() -> bool:
            return self.applied() >= records or not any(worker.alive for worker in self._workers)

        wait_until(reached_or_hopeless, f"{records} records committed, {self.applied()} now", seconds)
        if self.applied() < records:
            ended = [f"{worker.name} ended; its last words:\n{worker.tail()}" for worker in self._workers]
            raise RuntimeError("\n".join(["no worker is left", *ended]))

    def await_no_lag(self, seconds: float = PATIENCE_S) -> None:
        """Wait until every partition's mark has reached the end of both its logs."""
        wait_until(lambda: all(row["lag"] == 0 for row in self.ask("lag")), "lag 0 everywhere", seconds)

    def ends(self) -> dict[int, tuple[int, ...]]:
        """Where the logs of each partition end, transactions and touches."""
        options = {
            "bootstrap_servers": self.bootstrap,
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
        }
        with closing(KafkaConsumer(**options)) as consumer:
            numbers = sorted(consumer.partitions_for_topic(self.transactions) or ())
            places = [[TopicPartition(topic, n) for topic in (self.transactions, self.touches)] for n in numbers]
            ends = consumer.end_offsets([place for both in places for place in both])
        return {n: tuple(ends[place] for place in both) for n, both in zip(numbers, places, strict=True)}

    def close(self) -> None:
        """End all workers and delete the topics, so that the broker of the session stays light."""
        for worker in self._workers:
            worker.stop()
        if not self.kafka.alive:
            return
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            names = [name for name in admin.list_topics() if name.startswith(self.prefix)]
            if names:
                admin.delete_topics(names)


def records_read(totals: Mapping[str, Any]) -> int:
    """Every record of the inputs is in exactly one of these."""
    counted = totals["transactions"] + totals["touches"] + totals["duplicates"]
    return int(counted + sum(totals["rejected"].values()))
