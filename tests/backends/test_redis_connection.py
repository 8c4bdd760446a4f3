"""The connection to Redis: how it is set up, and when another one is made."""

from __future__ import annotations

import os
import re
import socket
import stat
import time
import uuid
from pathlib import Path

import pytest

from clients import until
from proxy import Proxy
from pyidempotent import IdempotencyStoreUnavailable, idempotent
from servers import RedisServer, free_port


def sockets_to(port: int) -> list[socket.socket]:
    """The sockets of this process that are connected to a port of the loopback."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode):
                continue
            one = socket.socket(fileno=os.dup(int(name)))
            if one.family == socket.AF_INET and one.getpeername()[1] == port:
                found.append(one)
        except OSError:
            continue  # closed meanwhile, or not connected
    return found


def test_commands_go_out_at_once_and_a_dead_peer_is_noticed() -> None:
    with RedisServer() as server:

        @idempotent(server.url, key="order")
        def charge(order: str) -> str:
            return order

        charge("a")
        connected = sockets_to(server.port)
        assert connected
        for one in connected:
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
            one.close()


def test_a_node_of_a_cluster_is_refused_by_name(tmp_path: Path) -> None:
    with RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--dir", str(tmp_path)) as server:

        @idempotent(server.url, key="order")
        def charge(order: str) -> str:
            raise AssertionError("it ran")

        with pytest.raises(IdempotencyStoreUnavailable, match="node of a cluster"):
            charge("a")


def test_a_name_that_moves_to_the_promoted_replica_is_followed() -> None:
    with RedisServer() as primary, RedisServer() as replica, Proxy(primary.port) as name:

        @idempotent(name.url, key="order")
        def charge(order: str) -> str:
            return order

        charge("before")
        # The old primary stays, as a replica, and keeps its connections.
        name.target = replica.port
        primary.cli("REPLICAOF", "127.0.0.1", str(replica.port))
        moved, refused = time.monotonic(), []
        while True:
            order = uuid.uuid4().hex
            try:
                assert charge(order) == order
                break
            except IdempotencyStoreUnavailable as error:
                refused.append(str(error))
                assert time.monotonic() < moved + 2, refused
        assert replica.cli("DBSIZE") == "1"


def refused_by(server: RedisServer, url: str, caplog: pytest.LogCaptureFixture, says: str) -> None:
    """Nothing runs, the log says why once, and nobody is told to try again."""

    @idempotent(url, key="order")
    def charge(order: str) -> str:
        raise AssertionError("it ran")

    for number in range(3):
        with pytest.raises(IdempotencyStoreUnavailable, match=says) as refused:
            charge(f"order-{number}")
        assert refused.value.retry_after is None
        assert "retry-after" not in refused.value.headers()
    until(lambda: len([line for line in caplog.messages if re.search(says, line)]) == 1)


def test_a_wrong_password_is_said_once_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer("--requirepass", "right") as server:
        refused_by(server, f"redis://:wrong@127.0.0.1:{server.port}", caplog, "refused us")


def test_a_missing_password_is_said_once_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer("--requirepass", "right") as server:
        refused_by(server, server.url, caplog, "wants a password|refused us")


def test_a_permission_that_is_missing_is_said_once_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server:
        server.cli("ACL", "SETUSER", "shop", "on", ">secret", "~*", "&*", "+@all", "-evalsha")
        url = f"redis://shop:secret@127.0.0.1:{server.port}"
        refused_by(server, url, caplog, "does not permit this user a command")


def test_a_record_of_a_newer_version_is_said_once_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server:

        @idempotent(server.url, key="order")
        def charge(order: str) -> str:
            return order

        charge("a")
        (name,) = server.cli("KEYS", "*").split()
        server.cli("SETRANGE", name, "3", "2")
        for _ in range(3):
            with pytest.raises(IdempotencyStoreUnavailable, match="newer than this library reads") as refused:
                charge("a")
            assert refused.value.retry_after is None
        until(lambda: len([line for line in caplog.messages if "newer than this library reads" in line]) == 1)
        assert server.cli("GETRANGE", name, "0", "3") == "idm2"
