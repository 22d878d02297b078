"""The reference job of `../shared/peers` on other engines: events per CPU-second by their own meters."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.bench_stage import Stage, environment, say
from tests.kafka.cluster import RedisServer
from tests.kafka.processes import REPOSITORY

PEERS = REPOSITORY.parent / "shared" / "peers"
PACKAGES = (
    "quixstreams==3.28.1",
    "bytewax==0.21.1",
    "faust-streaming==0.15.3",
    "aiokafka==0.14.0",
    "river",
    "redis",
)
PYTHON_PEERS = ("plain", "bytewax", "quix", "faust")
#: Peer -> the POM that builds it, its class and more words for Java, and the folder Maven builds into.
JVM_PEERS = {
    "kafka-streams": ("pom.xml", ("peers.StreamsPeer",), "target"),
    "flink": (
        "pom-flink.xml",
        (
            "--add-opens",
            "java.base/java.util=ALL-UNNAMED",
            "--add-opens",
            "java.base/java.lang=ALL-UNNAMED",
            "peers.FlinkPeer",
        ),
        "target-flink",
    ),
}
PATIENCE_S = 900


def python_peers(names: Sequence[str], stage: Stage, partitions: int, count: int) -> dict[str, float]:
    """Events per CPU-second over each peer's whole run of `count` events."""
    python = str(environment("peers", PACKAGES))
    out = {}
    for name in names:
        say(f"peer {name} …")
        with own_redis(stage, name) as store:
            arguments = [stage.kafka.bootstrap, str(count), str(store.port)]
            script = str(PEERS / f"job_{name}.py")
            command = {
                "bytewax": [python, "-m", "bytewax.run", "job_bytewax"],
                "faust": [python, "-m", "faust", "-A", "job_faust", "worker", "-l", "warn"],
            }.get(name, [python, script, *arguments])
            settings = {"BS": arguments[0], "N": arguments[1], "RP": arguments[2], "P": str(partitions)}
            settings |= {"PYTHONPATH": str(PEERS), "PYTHONDONTWRITEBYTECODE": "1"}
            out[name] = result(name, run(command, settings), r"ev_per_cpu_s=(\d+)")
    return out


def jvm_peers(stage: Stage, topics: tuple[str, str, str], count: int) -> dict[str, float]:
    """Events per CPU-second over the second half of each run: by then it is warm. `topics`: both inputs, the output."""
    out = {}
    for name, (pom, words, target) in JVM_PEERS.items():
        say(f"peer {name}: {count} records …")
        built = build(pom, target)
        with own_redis(stage, name) as store:
            settings = {"BS": stage.kafka.bootstrap, "N": str(count), "RP": str(store.port)}
            settings |= dict(zip(("TX", "TT", "OUT"), topics, strict=True))
            command = ["java", "-Xmx1g", "-cp", f"{built}/classes:{built}/lib/*", *words]
            out[name] = result(name, run(command, settings), r"second_half .*?ev_per_cpu_s=(\d+)")
    return out


def own_redis(stage: Stage, name: str) -> RedisServer:
    """A Redis of the peer's own, never syncing to disk, which is in its favour."""
    folder = stage.folder / name
    folder.mkdir()
    store = RedisServer(folder).start()
    with store.client() as client:
        client.config_set("appendfsync", "no")
    return store


def build(pom: str, target: str) -> Path:
    """Where the classes and jars of a JVM peer are, built by Maven once into `.cache/`."""
    folder = REPOSITORY / ".cache" / "peers-jvm"
    if not (folder / target / "complete").exists():
        say(f"Maven builds {pom} once …")
        if not folder.exists():
            shutil.copytree(PEERS / "jvm", folder)
            folder.chmod(0o755)  # what is shared may be read-only
        maven = [str(shutil.which("mvn")), "-q", "-B", "-f", pom, "package"]
        subprocess.run(maven, cwd=folder, check=True, stdout=sys.stderr)
        (folder / target / "complete").touch()
    return folder / target


def run(command: Sequence[str], settings: Mapping[str, str]) -> str:
    """All that a peer printed, run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    return done.stdout + done.stderr


def result(name: str, printed: str, pattern: str) -> float:
    """The figure in what a peer printed."""
    found = re.search(pattern, printed)
    if not found:
        raise RuntimeError(f"the peer {name} printed no result:\n{printed[-2000:]}")
    return float(found[1])
