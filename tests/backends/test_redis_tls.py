"""Redis over TLS: with a client's certificates, verified, and never without."""

from __future__ import annotations

import asyncio
import ssl
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
import redis.asyncio
import trustme

from backends_in_use import runs_once
from clients import until
from pyidempotent import IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends.redis import RedisBackend
from servers import RedisServer, free_port


@dataclass
class Tls:
    """A server on 127.0.0.1 that speaks TLS and wants a client's certificate.

    Its own names localhost and redis.internal.
    """

    port: int
    authority: str
    certificate: str
    key: str

    def client(self, **more: Any) -> dict[str, Any]:
        """The settings of a redis-py client."""
        pair = {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        return {"host": "localhost", "port": self.port, "ssl": True, "ssl_ca_certs": self.authority, **pair, **more}

    def url(self, host: str = "localhost", **more: str) -> str:
        files = {"ssl_ca_certs": self.authority, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        query = urlencode({name: value for name, value in {**files, **more}.items() if value})
        return f"rediss://{host}:{self.port}?{query}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    paths: dict[str, Path] = {
        name: folder / name for name in ("ca.pem", "server.pem", "server.key", "me.pem", "me.key")
    }
    authority.cert_pem.write_to_path(paths["ca.pem"])
    for name, hosts in (("server", ("localhost", "redis.internal")), ("me", ("me",))):
        issued = authority.issue_cert(*hosts)
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


def is_refused(backend: RedisBackend, says: str) -> None:
    @idempotent(backend, key="order")
    def charge(order: str) -> None:
        raise AssertionError("it ran")

    with pytest.raises(IdempotencyStoreUnavailable, match=says):
        charge("a")


OTHER_NAME = r"can't be reached.*not valid for name"
UNKNOWN_AUTHORITY = r"can't be reached.*(UnknownIssuer|unknown issuer)"


def test_a_server_by_another_name_is_refused(tls: Tls) -> None:
    is_refused(RedisBackend(redis.Redis(**tls.client(host="127.0.0.1"))), OTHER_NAME)
    is_refused(RedisBackend(tls.url("127.0.0.1")), OTHER_NAME)
    is_refused(RedisBackend(tls.url(ssl_server_hostname="redis.example")), OTHER_NAME)


def test_a_url_names_the_files(tls: Tls) -> None:
    runs_once(RedisBackend(tls.url()))


def test_a_certificate_and_its_key_may_be_one_file(tls: Tls, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Path(tls.certificate).read_bytes() + Path(tls.key).read_bytes())
    runs_once(RedisBackend(tls.url(ssl_certfile=str(both), ssl_keyfile="")))


def test_without_the_client_s_certificate_the_server_refuses(tls: Tls) -> None:
    is_refused(RedisBackend(tls.url(ssl_certfile="", ssl_keyfile="")), "the Redis server")


def test_the_server_may_have_another_name_than_its_host(tls: Tls) -> None:
    runs_once(RedisBackend(tls.url("127.0.0.1", ssl_server_hostname="redis.internal")))


def test_who_waits_at_a_server_by_another_name_is_answered(tls: Tls) -> None:
    begun, may_end = threading.Event(), threading.Event()

    @idempotent(RedisBackend(tls.url("127.0.0.1", ssl_server_hostname="redis.internal")), key="order", wait=20)
    def charge(order: str) -> str:
        begun.set()
        may_end.wait(20)
        return order

    order, answers = str(uuid.uuid4()), []
    threads = [threading.Thread(target=lambda: answers.append(charge(order))) for _ in range(2)]
    threads[0].start()
    begun.wait(20)
    threads[1].start()
    may_end.set()
    for thread in threads:
        thread.join()
    assert answers == [order, order]


def warned(caplog: pytest.LogCaptureFixture, says: str) -> None:
    until(lambda: [says in line for line in caplog.messages].count(True) == 1)


def test_a_name_that_is_not_to_be_checked_is_not_and_the_log_says_so_once(
    tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    runs_once(RedisBackend(tls.url("127.0.0.1", ssl_check_hostname="False")))
    warned(caplog, "the name in its certificate is not checked (ssl_check_hostname=false)")


def test_the_authority_is_checked_where_the_name_is_not(tls: Tls, tmp_path: Path) -> None:
    another = tmp_path / "another.pem"
    trustme.CA().cert_pem.write_to_path(another)
    is_refused(RedisBackend(tls.url(ssl_ca_certs=str(another), ssl_check_hostname="no")), UNKNOWN_AUTHORITY)


def test_nothing_is_verified_where_that_is_asked_by_name_and_the_log_says_so_once(
    tls: Tls, caplog: pytest.LogCaptureFixture
) -> None:
    is_refused(RedisBackend(tls.url(ssl_ca_certs="")), UNKNOWN_AUTHORITY)
    runs_once(RedisBackend(tls.url("127.0.0.1", ssl_ca_certs="", ssl_cert_reqs="none")))
    warned(caplog, "its certificate is not checked (ssl_cert_reqs=none)")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"ssl_cert_reqs": "none"}, "its certificate is not checked"),
        ({"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}, "its certificate is not checked"),
        ({"ssl_check_hostname": False, "host": "127.0.0.1"}, "the name in its certificate is not checked"),
    ],
)
def test_what_a_client_does_not_verify_is_carried_over(
    tls: Tls, more: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    runs_once(RedisBackend(redis.Redis(**tls.client(**more)), prefix=f"{uuid.uuid4()}:"))
    warned(caplog, says)


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_can_not_be_read_is_said_at_once(tls: Tls, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"the file of {name} can't be read: .*nowhere.pem"):
        RedisBackend(tls.url(**{name: str(tmp_path / "nowhere.pem")}))
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(ValueError, match=r"can't be used: .*(certificate|key)"):
        RedisBackend(tls.url(**{name: str(empty)}))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("rediss://localhost#insecure", "ssl_cert_reqs=none"),
        ("redis://localhost?ssl_cert_reqs=none", "ssl_cert_reqs is for connections over TLS"),
        ("rediss://localhost?ssl_cert_reqs=no", "required or none"),
        ("rediss://localhost?ssl_check_hostname=perhaps", "true or false"),
        ("rediss+cluster://localhost?ssl_keyfile=/dev/null", "without ssl_certfile"),
        ("rediss://localhost?ssl_ciphers=all", '"ssl_ciphers" is not known'),
    ],
)
def test_what_a_url_can_not_say_is_said_at_once(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RedisBackend(url)
