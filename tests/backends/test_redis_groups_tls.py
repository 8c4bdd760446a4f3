"""Sentinels and clusters over TLS: every connection is verified, also those to servers that others have named."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio.cluster
import redis.sentinel
import trustme

from clients import until
from pyidempotent import IdempotencyStoreUnavailable, attempt
from pyidempotent.backends.redis import RedisBackend
from redis_groups import ClusterNode, Sentinel
from servers import RedisServer, free_port


@dataclass
class Certificates:
    """What a server of 127.0.0.1 has, and the authority that vouches for it."""

    authority: str
    options: list[str]

    @property
    def client(self) -> dict[str, Any]:
        """The settings of a redis-py client."""
        return {"ssl": True, "ssl_ca_certs": self.authority}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    authority, files = trustme.CA(), {name: folder / name for name in ("ca.pem", "server.pem", "server.key")}
    authority.cert_pem.write_to_path(files["ca.pem"])
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(files["server.pem"])
    issued.private_key_pem.write_to_path(files["server.key"])
    told = {"tls-cert-file": "server.pem", "tls-key-file": "server.key", "tls-ca-cert-file": "ca.pem"}
    options = [f"{option} {files[name]}" for option, name in told.items()]
    return Certificates(str(files["ca.pem"]), [*options, "tls-auth-clients no"])


def words(options: list[str]) -> list[str]:
    """Lines of a file, as arguments."""
    return [word for option in options for word in f"--{option}".split(" ")]


@pytest.fixture(scope="module")
def sentinel(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A sentinel's port for TLS; it names the server's."""
    folder, port, its_port = tmp_path_factory.mktemp("sentinel"), free_port(), free_port()
    settings = [f"tls-port {its_port}", "tls-replication yes", *certificates.options]
    with (
        RedisServer("--tls-port", str(port), *words(certificates.options)),
        Sentinel(folder, "shop", port, *settings),
    ):
        yield its_port


def works(backend: RedisBackend) -> None:
    with attempt(backend, key=uuid.uuid4().hex, name="work"):
        assert len(backend.unfinished()) == 1


def test_sentinels_and_the_server_that_they_name_are_verified(certificates: Certificates, sentinel: int) -> None:
    hosts = [("127.0.0.1", sentinel)]
    both = redis.sentinel.Sentinel(hosts, sentinel_kwargs=certificates.client, **certificates.client)
    works(RedisBackend(both.master_for("shop")))
    with pytest.raises(IdempotencyStoreUnavailable, match="certificate"):
        works(RedisBackend(f"rediss+sentinel://127.0.0.1:{sentinel}/shop"))
    with pytest.raises(IdempotencyStoreUnavailable, match="can't be reached"):
        works(RedisBackend(f"redis+sentinel://127.0.0.1:{sentinel}/shop"))


def test_other_certificates_for_sentinels_can_not_be_carried_over(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text("another authority")
    theirs = {**certificates.client, "ssl_ca_certs": str(tmp_path / "other.pem")}
    client = redis.sentinel.Sentinel([("127.0.0.1", 1)], sentinel_kwargs=theirs, **certificates.client)
    with pytest.raises(TypeError, match="other TLS settings for sentinels"):
        RedisBackend(client.master_for("shop"))


def test_a_cluster_s_nodes_are_verified(certificates: Certificates, tmp_path: Path) -> None:
    node, port = ClusterNode(tmp_path, 1000), free_port()
    node.arguments = (*node.arguments, "--tls-port", str(port), "--tls-cluster", "yes", *words(certificates.options))
    with node:
        node.cli("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        until(lambda: "cluster_state:ok" in node.cli("CLUSTER", "INFO"))
        works(RedisBackend(redis.asyncio.cluster.RedisCluster(host="127.0.0.1", port=port, **certificates.client)))
        with pytest.raises(IdempotencyStoreUnavailable, match="certificate"):
            works(RedisBackend(f"rediss+cluster://127.0.0.1:{port}"))
