"""Claims and completions that count only when replicas, or disks, have them: on Redis and Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from backends_in_use import runs_once
from proxy import Proxy
from pyidempotent import IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.testing import check_backend
from redis_groups import RedisCluster, RedisSentinels
from servers import RedisServer, ValkeyServer

SERVERS = [
    RedisServer,
    pytest.param(ValkeyServer, marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="there is no wheel for it")),
]


@contextlib.contextmanager
def following(primary: RedisServer, *arguments: str) -> Iterator[RedisServer]:
    """A replica that has what the primary has."""
    with type(primary)("--replicaof", f"127.0.0.1 {primary.port}", *arguments) as replica:
        with redis.Redis(port=primary.port, single_connection_client=True) as client:
            client.set("caught", "up")
            assert client.wait(1, 20_000) == 1
        yield replica


def is_not_confirmed(backend: RedisBackend, says: str, limit: float) -> None:
    @idempotent(backend, key="order")
    def charge(order: str) -> None:
        raise AssertionError("it ran")

    began = time.monotonic()
    with pytest.raises(IdempotencyStoreUnavailable, match=says):
        charge(str(uuid.uuid4()))
    assert time.monotonic() - began < limit * 3


@pytest.mark.parametrize("make", SERVERS)
def test_the_rules_of_stores_hold_with_confirmations(make: type[RedisServer]) -> None:
    with make("--repl-diskless-sync-delay", "0") as primary, following(primary):
        check_backend(lambda: RedisBackend(primary.url, prefix=f"{uuid.uuid4()}:", replicas=1, time_limit=5))


@pytest.mark.parametrize("make", SERVERS)
def test_what_a_stopped_replica_has_not_heard_does_not_run(make: type[RedisServer]) -> None:
    with make("--repl-diskless-sync-delay", "0") as primary, following(primary) as replica:
        backend = RedisBackend(f"{primary.url}?replicas=1", time_limit=2)
        runs_once(backend)
        replica.signal(signal.SIGSTOP)
        is_not_confirmed(backend, "has written, but replicas=1 could not be confirmed", 2)
        runs_once(RedisBackend(primary.url))  # without
        replica.signal(signal.SIGCONT)

        @idempotent(backend, key="order", wait=20)
        async def charge(order: str) -> str:
            return order

        assert asyncio.run(charge("after")) == "after"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there is no wheel of Valkey for it")
def test_what_is_on_disk_counts_with_aof(tmp_path: Path) -> None:
    (tmp_path / "replica").mkdir()
    files = ("--appendonly", "yes", "--appendfsync", "everysec")
    with (
        ValkeyServer("--repl-diskless-sync-delay", "0", *files, "--dir", str(tmp_path)) as primary,
        following(primary, *files, "--dir", str(tmp_path / "replica")) as replica,
    ):
        for aof in (1, 2):
            runs_once(RedisBackend(primary.url, aof=aof, replicas=1, time_limit=10))
        replica.signal(signal.SIGSTOP)
        runs_once(RedisBackend(primary.url, aof=1, time_limit=10))
        is_not_confirmed(RedisBackend(primary.url, aof=2, time_limit=3), "aof=2 could not be confirmed", 3)
        replica.signal(signal.SIGCONT)
    with ValkeyServer() as server:
        is_not_confirmed(RedisBackend(server.url, aof=1), "keeps no file that aof= could mean; set appendonly yes", 1)
        assert server.cli("DBSIZE") == "0"


def test_replicas_of_a_primary_behind_sentinels() -> None:
    with RedisSentinels() as group:
        runs_once(RedisBackend(group.url, replicas=1, time_limit=5))
        group.replica().signal(signal.SIGSTOP)
        is_not_confirmed(RedisBackend(group.url, replicas=1, time_limit=2), "replicas=1 could not be confirmed", 2)


def test_each_node_of_a_cluster_asks_its_own_replicas() -> None:
    with RedisCluster(replicas=1, timeout=5000) as cluster:
        for number in range(20):  # on all nodes
            runs_once(RedisBackend(cluster.url, replicas=1, time_limit=10, prefix=f"{number}:"))
        # Each has been asked where its own keys lie, and its replica has what it wrote.
        for primary in cluster.primaries:
            assert "cmdstat_wait:" in primary.cli("INFO", "commandstats")
            assert cluster.replica_of(primary).cli("DBSIZE") == primary.cli("DBSIZE") != "0"


class Moving(Proxy):
    """A name that leads each new connection to the next server, and stays with the last."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)
        super().__init__(ports[0])

    @property
    def target(self) -> int:
        return self.ports.pop(0) if len(self.ports) > 1 else self.ports[0]

    @target.setter
    def target(self, port: int) -> None: ...


def test_another_server_by_the_same_name_confirms_nothing() -> None:
    with (
        RedisServer() as first,
        RedisServer("--repl-diskless-sync-delay", "0") as second,
        following(second),
        Moving(first.port, second.port) as name,
    ):
        backend = RedisBackend(name.url, replicas=1, time_limit=5)
        is_not_confirmed(backend, "another server answers there by now", 5)


def test_numbers_of_servers_are_checked() -> None:
    for name in ("replicas", "aof"):
        with pytest.raises(ValueError, match=f"{name} must be a number of servers, not -1"):
            RedisBackend("redis://localhost", **{name: -1})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"{name}=all is not a number of servers"):
            RedisBackend(f"redis://localhost?{name}=all")
