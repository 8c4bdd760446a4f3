"""Redis over TLS: with a client's certificates, verified, and never without."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import trustme

from pyidempotent import IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends.redis import RedisBackend
from servers import RedisServer, free_port


@dataclass
class Tls:
    """A server that speaks TLS and wants a client's certificate."""

    port: int
    authority: str
    certificate: str
    key: str

    def client(self, **more: Any) -> dict[str, Any]:
        """The settings of a redis-py client."""
        pair = {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        return {"host": "localhost", "port": self.port, "ssl": True, "ssl_ca_certs": self.authority, **pair, **more}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    paths: dict[str, Path] = {
        name: folder / name for name in ("ca.pem", "server.pem", "server.key", "me.pem", "me.key")
    }
    authority.cert_pem.write_to_path(paths["ca.pem"])
    for name in ("server", "me"):
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(paths[f"{name}.pem"])
        issued.private_key_pem.write_to_path(paths[f"{name}.key"])
    port = free_port()
    files = {"--tls-cert-file": "server.pem", "--tls-key-file": "server.key", "--tls-ca-cert-file": "ca.pem"}
    options = [word for option, name in files.items() for word in (option, str(paths[name]))]
    with RedisServer("--tls-port", str(port), *options):
        yield Tls(port, *(str(paths[name]) for name in ("ca.pem", "me.pem", "me.key")))


@pytest.mark.parametrize("make", [redis.Redis, redis.asyncio.Redis])
def test_a_clients_certificates_are_carried_over(tls: Tls, make: Any) -> None:
    backend = RedisBackend(make(**tls.client()), prefix=f"{uuid.uuid4()}:")
    ran = []

    @idempotent(backend, key="order")
    async def charge(order: str) -> str:
        ran.append(order)
        return order

    assert [asyncio.run(charge("a")) for _ in range(2)] == ["a", "a"]
    assert ran == ["a"]


def test_an_unknown_authority_is_refused(tls: Tls) -> None:
    @idempotent(f"rediss://localhost:{tls.port}", key="order")
    def charge(order: str) -> None:
        raise AssertionError("it ran")

    with pytest.raises(IdempotencyStoreUnavailable, match=r"can't be reached.*certificate"):
        charge("a")


def test_a_server_by_another_name_is_refused(tls: Tls) -> None:
    @idempotent(RedisBackend(redis.Redis(**tls.client(host="127.0.0.2"))), key="order")
    def charge(order: str) -> None:
        raise AssertionError("it ran")

    with pytest.raises(IdempotencyStoreUnavailable, match="can't be reached"):
        charge("a")
