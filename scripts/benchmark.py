"""How fast is it? One worker on a real Kafka and Redis, beside the Python peers, on the same records in one run."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from models.rules import Rules
from scripts.phases import phases
from tests.kafka.cluster import KafkaServer, RedisServer
from tests.kafka.processes import REPOSITORY, wait_until
from tests.kafka.world import World

PEERS = REPOSITORY.parent / "shared" / "peers"
PEER_PACKAGES = (
    "quixstreams==3.28.1",
    "bytewax==0.21.1",
    "faust-streaming==0.15.3",
    "aiokafka==0.14.0",
    "river",
    "redis",
)
PARTITIONS = 12
CHANNELS = ("email", "push", "social")
ASSETS = ("BTC", "ETH", "SOL", "USDC", "USDT", "MATIC", "AAVE", "UNI", "LINK", "DOGE", "AVAX", "DOT")
PRODUCTS = ("spot", "wallet", "staking", "lending", "derivatives")
COUNTRIES = ("US", "GB", "DE", "JP")
START_MS = 1_775_000_000_000
#: Event time between two records: 100,000 a day, so that the model learns in the middle of it.
GAP_MS = 864


def records(count: int, wallets: int) -> Iterator[tuple[str, bytes, bytes, int]]:
    """Topic, key, value, time: the peers' own heavy-tailed traffic (their produce.py), times in milliseconds."""
    chance = random.Random(20261120)
    scale = [chance.lognormvariate(4, 2) for _ in range(wallets)]
    breadth = [1 + min(11, int(chance.expovariate(0.5))) for _ in range(wallets)]
    for number in range(count):
        wallet = min(wallets - 1, int(wallets * chance.random() ** 2.2))
        at_ms = START_MS + number * GAP_MS
        event: dict[str, Any] = {"event_id": f"e{number}", "wallet_id": f"w{wallet}", "occurred_at": at_ms}
        if number % 10 == 0:
            topic = "campaign.touches"
            event |= {
                "campaign_id": f"c{chance.randrange(6)}",
                "channel": chance.choice(CHANNELS),
                "variant": chance.choice("AB"),
                "cost_usd": round(chance.random() * 0.5, 4),
            }
        else:
            topic, usd = "wallet.transactions", scale[wallet] * chance.lognormvariate(0, 1)
            event |= {
                "kind": "trade",
                "product": PRODUCTS[wallet % 5],
                "asset": ASSETS[chance.randrange(breadth[wallet])],
                "quantity": str(round(usd / 100, 6)),
                "usd_value": round(usd, 2),
                "fee_usd": round(usd * 0.001, 6),
                "leverage": 5.0 if wallet % 5 == 4 else None,
                "jurisdiction": COUNTRIES[wallet % 4],
            }
        yield topic, event["wallet_id"].encode(), json.dumps(event).encode(), at_ms


def fill(bootstrap: str, count: int, wallets: int) -> None:
    """Make the topics under the names the peers read, and fill them."""
    inputs = {"num_partitions": PARTITIONS, "replication_factor": 1, "configs": {"retention.ms": "-1"}}
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        admin.create_topics({"wallet.transactions": inputs, "campaign.touches": inputs, "segment.changes": inputs})
    with closing(KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, batch_size=1 << 18)) as producer:
        for topic, key, value, at_ms in records(count, wallets):
            producer.send(topic, value, key=key, timestamp_ms=at_ms)
        producer.flush()


# ------------------------------------------------------------------ Tidemark


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used so far, all its threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Memory a process has resident now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_tidemark(world: World, count: int) -> dict[str, Any]:
    """The whole job over a backlog; warm: measured from 40 % of the records to the end."""
    world.transactions, world.touches = "wallet.transactions", "campaign.touches"
    world.run("topics", "create")
    began = time.perf_counter()
    worker = world.worker("bench")
    wait_until(lambda: world.applied() >= 0.4 * count, "40 % of the records", 600)
    warm, warm_cpu, warm_at = world.applied(), cpu_seconds(worker.pid), time.perf_counter()
    wait_until(lambda: world.applied() >= count, "all records", 600)
    cpu, seconds = cpu_seconds(worker.pid), time.perf_counter()
    resident = resident_mb(worker.pid)
    totals, segments = world.ask("totals"), world.ask("segments")
    worker.terminate()
    if worker.wait() != 0:
        raise RuntimeError(f"the worker ended badly:\n{worker.tail()}")
    return {
        "events_per_cpu_second": round((count - warm) / (cpu - warm_cpu)),
        "events_per_second": round((count - warm) / (seconds - warm_at)),
        "events_per_cpu_second_with_start": round(count / cpu),
        "seconds": round(seconds - began, 1),
        "rss_mb": round(resident),
        "segment_changes": totals["segment_changes"],
        "catalogue_version": totals["catalogue_version"],
        "segments": len([row for row in segments if row["wallets"] and row["segment"] != "unassigned"]),
    }


# ------------------------------------------------------------------ the peers


def peer_python() -> Path:
    """An environment of the peers' own, made once: their packages are none of ours."""
    folder = REPOSITORY / ".cache" / "peers"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEER_PACKAGES], check=True)
        (folder / "complete").touch()
    return python


def measure_peer(name: str, bootstrap: str, count: int, port: int) -> float:
    """Events per CPU-second as the peer's own meter prints them, over its whole run."""
    python, script = str(peer_python()), str(PEERS / f"job_{name}.py")
    commands = {
        "plain": [python, script, bootstrap, str(count), str(port)],
        "quix": [python, script, bootstrap, str(count), str(port)],
        "bytewax": [python, "-m", "bytewax.run", "job_bytewax"],
        "faust": [python, "-m", "faust", "-A", "job_faust", "worker", "-l", "warn"],
    }
    settings = {"BS": bootstrap, "N": str(count), "RP": str(port), "P": str(PARTITIONS)}
    environment = {**os.environ, **settings, "PYTHONPATH": str(PEERS), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            commands[name], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
    found = re.search(r"ev_per_cpu_s=(\d+)", done.stdout + done.stderr)
    if not found:
        raise RuntimeError(f"the peer {name} printed no result:\n{(done.stdout + done.stderr)[-2000:]}")
    return float(found[1])


def measure_peers(names: list[str], kafka: KafkaServer, folder: Path, count: int) -> dict[str, float]:
    """Each peer on the same topics, with a Redis of its own without fsync, which is in its favour."""
    out = {}
    for name in names:
        say(f"peer {name} …")
        own = folder / name
        own.mkdir()
        with RedisServer(own) as store:
            store.start()
            with store.client() as client:
                client.config_set("appendfsync", "no")
            out[name] = measure_peer(name, kafka.bootstrap, count, store.port)
    return out


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Events per worker CPU-second for the whole job (Kafka in, exact commit in Redis, changes out)."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=main.__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--wallets", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="fewer events and only the two fastest peers")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    given = parser.parse_args()
    count = min(given.events, 150_000) if given.quick else given.events
    peers = ["plain", "bytewax"] if given.quick else ["plain", "bytewax", "quix", "faust"]
    if given.no_peers or not PEERS.is_dir():
        say("no peers: " + ("not asked for" if given.no_peers else "../shared/peers is not here"))
        peers = []
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as name:
        folder = Path(name)
        with KafkaServer(folder) as kafka, RedisServer(folder) as store:
            kafka.start()
            store.start()
            say(f"{count} records of {given.wallets} wallets …")
            fill(kafka.bootstrap, count, given.wallets)
            world = World(kafka, store, folder, PARTITIONS)
            say("tidemark …")
            result = measure_tidemark(world, count)
            world.close()
            say("phases …")
            batches = phases(list(records(min(count, 100_000), given.wallets)), Rules())
            # The peers stop after N of the records they read, so a slow one is given fewer of the same.
            result["python_peers"] = measure_peers(peers, kafka, folder, min(count, 100_000))
    result["phases_us"] = batches
    best = max(result["python_peers"].values(), default=0)
    result["times_best_python_peer"] = round(result["events_per_cpu_second"] / best, 2) if best else None
    report(result, as_json=given.json)


def report(result: dict[str, Any], *, as_json: bool) -> None:
    """One JSON object, or the same for people."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:34} {value}")


if __name__ == "__main__":
    main()
