"""Several Redis servers that take over from each other: a primary with replicas under Sentinels, and a cluster."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loopback.redis import RedisServer, free_port, redis_binary

LIMIT = 40.0
"""Seconds for a group to come together."""

HANDSHAKE = 5.0
"""Seconds after which nodes are introduced to each other again."""

SERVICE = "mymaster"

SLOTS = 16384


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "the Redis servers do not come together"
        time.sleep(0.05)


def is_synced(replica: RedisServer) -> bool:
    return b"master_link_status:up" in replica.ask("INFO", "replication")


@dataclass
class SentinelGroup:
    """Two servers, one of them the primary, and the Sentinels that watch them."""

    servers: list[RedisServer]
    sentinels: list[RedisServer]

    @property
    def url(self) -> str:
        where = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{where}/{SERVICE}?db=0"


@contextmanager
def running_sentinels(directory: Path, count: int = 3) -> Generator[SentinelGroup, None, None]:
    """Servers and Sentinels while the context is open; the first server is the primary."""
    first, second = (RedisServer(_made(directory / name)) for name in ("first", "second"))
    group = SentinelGroup([first, second], [])
    try:
        first.start()
        second.start()
        second.ask("REPLICAOF", "127.0.0.1", f"{first.port}")
        until(lambda: is_synced(second))
        for number in range(count):
            sentinel = Sentinel(_made(directory / f"sentinel{number}"))
            group.sentinels.append(sentinel)
            sentinel.watch(first.port, quorum=count // 2 + 1)
        until(
            lambda: all(
                f"slaves=1,sentinels={count}".encode() in sentinel.ask("INFO", "sentinel")
                for sentinel in group.sentinels
            )
        )
        yield group
    finally:
        for server in (*group.servers, *group.sentinels):
            server.kill()


class Sentinel(RedisServer):
    """A Sentinel that finds a primary down after half a second."""

    def watch(self, port: int, quorum: int) -> None:
        binary, config = redis_binary(), self.directory / "sentinel.conf"
        assert binary is not None
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {port} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 4000\n"
        )
        self._process = subprocess.Popen([binary, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
        until(self._answers)


@dataclass
class RedisCluster:
    """Three nodes with a third of the slots each, and a replica of the one that has a certain key."""

    owner: RedisServer
    replica: RedisServer
    others: list[RedisServer] = field(default_factory=list[RedisServer])

    @property
    def nodes(self) -> list[RedisServer]:
        return [self.owner, self.replica, *self.others]


def have_met(nodes: Sequence[RedisServer]) -> bool:
    """Whether all know all; introduces them, again and again: a handshake that takes too long is forgotten."""
    for node in nodes[1:]:
        assert nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", str(node.port)) == b"+OK\r\n"
    end = time.monotonic() + HANDSHAKE
    while not (met := all(b"cluster_known_nodes:4" in node.ask("CLUSTER", "INFO") for node in nodes)):
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return met


@contextmanager
def running_cluster(directory: Path, key: str) -> Generator[RedisCluster, None, None]:
    """A cluster while the context is open, in which every node knows all."""
    nodes = [cluster_node(directory / f"node{number}") for number in range(4)]
    *masters, replica = nodes
    try:
        for node in nodes:
            node.start()
        slot = masters[0].number("CLUSTER", "KEYSLOT", key)
        owner = masters[slot * 3 // SLOTS]
        for number, node in enumerate(masters):
            slots = [str(each) for each in range(SLOTS) if each * 3 // SLOTS == number]
            assert node.ask("CLUSTER", "ADDSLOTS", *slots) == b"+OK\r\n"
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        until(lambda: have_met(nodes))
        until(lambda: all(b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in masters))
        owner_id = owner.ask("CLUSTER", "MYID").split(b"\r\n")[1]
        assert replica.ask("CLUSTER", "REPLICATE", owner_id) == b"+OK\r\n"
        until(lambda: is_synced(replica))
        until(lambda: all(b"slave " + owner_id in node.ask("CLUSTER", "NODES") for node in masters))
        yield RedisCluster(owner, replica, [node for node in masters if node is not owner])
    finally:
        for node in nodes:
            node.kill()


def cluster_node(directory: Path) -> RedisServer:
    """A node that is not started yet."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    server = RedisServer(_made(directory), *options, "--cluster-replica-validity-factor", "0")
    while server.port > 55_000:  # the cluster's own port is this one plus 10,000
        server.port = free_port()
    return server


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
