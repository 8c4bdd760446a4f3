"""Servers that speak Redis's protocol: Valkey, and KeyDB as far as its own words tell."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import uuid
from collections.abc import Iterator

import pytest

from proxy import Proxy
from pyidempotent import IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.testing import check_backend
from servers import RedisServer, ValkeyServer


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    if sys.version_info < (3, 11):
        pytest.skip("there is no wheel of Valkey for it")
    with ValkeyServer() as server:
        assert "server_name:valkey" in server.cli("INFO", "server")
        yield server


def test_the_rules_of_stores_hold_on_valkey(valkey: ValkeyServer) -> None:
    check_backend(lambda: RedisBackend(valkey.url, prefix=f"{uuid.uuid4()}:"))


def test_waiters_are_woken_on_valkey(valkey: ValkeyServer) -> None:
    backend = RedisBackend(valkey.url, prefix=f"{uuid.uuid4()}:")
    begun, subscribed = threading.Event(), threading.Event()

    @idempotent(backend, key="order", wait=30)
    def charge(order: str) -> str:
        begun.set()
        subscribed.wait(30)
        return order

    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(charge("a"))) for _ in range(2)]
    threads[0].start()
    begun.wait(30)
    threads[1].start()
    while not valkey.cli("PUBSUB", "CHANNELS"):
        assert threads[1].is_alive()
    subscribed.set()
    for thread in threads:
        thread.join()
    assert answers == ["a", "a"]


def test_what_operators_see_on_valkey(valkey: ValkeyServer) -> None:
    backend = RedisBackend(valkey.url, prefix=f"{uuid.uuid4()}:")
    listed: list[str] = []

    @idempotent(backend, key="order", name="charge")
    def charge(order: str) -> None:
        listed.extend(record.label for record in backend.unfinished())

    charge("a")
    assert listed == ["charge a"]


class KeyDB(Proxy):
    """A Redis that calls itself a KeyDB, and says of its role what that does."""

    def __init__(self, port: int, role: str) -> None:
        super().__init__(port)
        self.says = {rb"redis_version:[\d.]+": b"redis_version:6.3.4", rb"role:master": f"role:{role}".encode()}

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if b"\r\n# Server\r\n" in data[:64]:
                    header, _, info = data.partition(b"\r\n")
                    while len(info) < int(header[1:]) + 2:
                        info += server.recv(65536)
                    for pattern, words in self.says.items():
                        info = re.sub(pattern, words, info)
                    data = b"$%d\r\n%s" % (len(info) - 2, info)
                client.sendall(data)
        self._close(client)


def test_a_keydb_that_merges_what_others_write_is_refused_by_name(redis_server: RedisServer) -> None:
    with KeyDB(redis_server.port, "active-replica") as keydb:

        @idempotent(RedisBackend(keydb.url, prefix=f"{uuid.uuid4()}:"), key="order")
        def charge(order: str) -> None:
            raise AssertionError("it ran")

        with pytest.raises(IdempotencyStoreUnavailable, match=r"is a KeyDB that merges .*active-replica no") as refused:
            charge("a")
        assert refused.value.retry_after is None


def test_any_other_keydb_serves(redis_server: RedisServer) -> None:
    with KeyDB(redis_server.port, "master") as keydb:

        @idempotent(RedisBackend(keydb.url, prefix=f"{uuid.uuid4()}:"), key="order")
        def charge(order: str) -> str:
            return order

        assert charge("a") == charge("a") == "a"
