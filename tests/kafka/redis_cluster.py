"""A Redis Cluster of real nodes, and a world on it."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.kafka.cluster import RedisServer
from tests.kafka.processes import free_port, wait_until
from tests.kafka.world import World, records_read

SLOTS = 16_384


class RedisCluster:
    """Nodes without replicas that share the slots evenly; `url` names the first."""

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        self._buses = [free_port() for _ in range(nodes)]
        self.nodes = [RedisServer(_made(folder / f"node-{at}"), _options(bus)) for at, bus in enumerate(self._buses)]
        self.url = self.nodes[0].url
        self._running = ExitStack()

    def start(self) -> Self:
        """Start all nodes and let them agree who has which slot."""
        for node in self.nodes:
            self._running.enter_context(node)
            node.start()
        first, last = self.nodes[0], len(self.nodes)
        for at, node in enumerate(self.nodes):
            begin, end = at * SLOTS // last, (at + 1) * SLOTS // last - 1
            command(node, "CLUSTER", "ADDSLOTSRANGE", begin, end)
            command(node, "CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        for node, bus in list(zip(self.nodes, self._buses, strict=True))[1:]:
            command(first, "CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(self._agrees, "the nodes agreeing")
        return self

    def node_of(self, key: str) -> RedisServer:
        """The node that has the key's slot."""
        slot = int(command(self.nodes[0], "CLUSTER", "KEYSLOT", key))
        for begin, end, (_, port, *_), *_ in command(self.nodes[0], "CLUSTER", "SLOTS"):
            if begin <= slot <= end:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(key)

    def begin_move(self, key: str) -> tuple[RedisServer, RedisServer]:
        """The slot of `key` starts to leave its node, so far without any key; from where to where."""
        source = self.node_of(key)
        target = next(node for node in self.nodes if node is not source)
        slot = command(source, "CLUSTER", "KEYSLOT", key)
        command(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", command(source, "CLUSTER", "MYID"))
        command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", command(target, "CLUSTER", "MYID"))
        return source, target

    def move_keys(self, key: str, source: RedisServer, target: RedisServer, pause_s: float = 0.0) -> None:
        """All keys of the slot that are still at the source follow, ten at a time."""
        slot = command(source, "CLUSTER", "KEYSLOT", key)
        while keys := command(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            command(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            time.sleep(pause_s)

    def end_move(self, key: str, source: RedisServer, target: RedisServer) -> None:
        """What is still at the source follows, and the slot is the target's."""
        self.move_keys(key, source, target)
        slot, owner = command(source, "CLUSTER", "KEYSLOT", key), command(target, "CLUSTER", "MYID")
        for node in (target, source, *self.nodes):
            command(node, "CLUSTER", "SETSLOT", slot, "NODE", owner)

    def _agrees(self) -> bool:
        infos = [bytes(command(node, "CLUSTER", "INFO")).decode() for node in self.nodes]
        all_known = f"cluster_known_nodes:{len(self.nodes)}\r"
        return all("cluster_state:ok" in info and all_known in info for info in infos)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()


class ClusteredWorld(World):
    """A world whose Redis is a cluster."""

    def __init__(self, kafka: Any, store: RedisCluster, folder: Path, partitions: int = 4) -> None:
        super().__init__(kafka, store.nodes[0], folder, partitions)
        self.cluster = store
        self._totals: dict[int, bytes] = {}

    def settings(self, **changed: object) -> dict[str, str]:
        return super().settings(**{"redis_cluster": True} | changed)

    def applied(self) -> int:
        """What was known last of a partition whose node is away or whose slot moves."""
        for node in self.cluster.nodes:
            with node.client() as client:
                for number in range(self.partitions):
                    with suppress(redis.RedisError):  # away, or not this node's
                        self._totals[number] = client.get(f"{{{number}}}:totals") or b""
        return sum(records_read(json.loads(totals)) for totals in self._totals.values() if totals)


def command(node: RedisServer, *words: object) -> Any:
    """What one node replies to a command, raw."""
    with node.client() as client:
        return client.execute_command(*words)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _options(bus: int) -> list[str]:
    announced = ["--cluster-announce-ip", "127.0.0.1", "--cluster-port", str(bus)]
    return ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", *announced]
