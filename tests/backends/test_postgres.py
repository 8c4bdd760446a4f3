"""Postgres from Python: its URL, its schema, poolers, encryption."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from pyidempotent import IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends import Backend, open_backend
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.backends.postgres import PostgresBackend, schema_sql
from servers import PgBouncer, PostgresServer


def ran(backend: Backend | str) -> list[str]:
    """Who ran, of two calls in sync code and two in async code."""
    ran = []
    unique = str(uuid.uuid4())

    @idempotent(backend, key="order")
    def charge(order: str) -> str:
        ran.append("sync")
        return order

    @idempotent(backend, key="order")
    async def charge_async(order: str) -> str:
        ran.append("async")
        return order

    assert charge(unique) == charge(unique) == unique
    assert [asyncio.run(charge_async(unique)) for _ in range(2)] == [unique] * 2
    return ran


def test_a_schema_is_made_once_and_only_when_it_is_asked_for(postgres_server: PostgresServer) -> None:
    schema = f"t{uuid.uuid4().hex}"
    backend = PostgresBackend(postgres_server.url, schema=schema)

    @idempotent(backend, key="order")
    def charge(order: str) -> None:
        raise AssertionError("it ran")

    with pytest.raises(IdempotencyStoreUnavailable, match=r"create_table\(\)"):
        charge("7")
    assert postgres_server.sql(f"SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'") == "0"
    backend.create_table()
    backend.create_table()
    assert ran(backend) == ["sync", "async"]
    assert ran(f"{postgres_server.url}?schema={schema}") == ["sync", "async"]


def test_a_migration_makes_the_same(postgres_server: PostgresServer) -> None:
    schema = f"t{uuid.uuid4().hex}"
    for _ in range(2):
        postgres_server.sql(schema_sql(schema))
    assert ran(PostgresBackend(postgres_server.url, schema=schema)) == ["sync", "async"]
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        schema_sql("a b")


def test_what_was_purged_is_counted(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_url()
    backend = PostgresBackend(url)
    schema = url.partition("schema=")[2]
    postgres_server.sql(
        f"INSERT INTO {schema}.records SELECT decode(to_hex(n), 'escape'), '', 0, 1 FROM generate_series(1, 9) n"
    )
    assert (backend.purge(), backend.purge()) == (9, 0)


def test_behind_a_pooler(postgres_server: PostgresServer) -> None:
    with PgBouncer(postgres_server) as pooler:
        assert ran(pooler.url) == ["sync", "async"]
        assert ran(f"{pooler.url}?pooler=yes") == ["sync", "async"]


def test_equal_urls_share_a_store_and_any_scheme_of_ours_leads_to_it() -> None:
    urls = ["postgresql://localhost/a", "postgres://localhost/a"]
    opened = [open_backend(url) for url in urls]
    assert all(isinstance(backend, PostgresBackend) for backend in opened)
    assert opened[0].native is PostgresBackend(urls[0]).native
    assert opened[0].native is not PostgresBackend(urls[0], schema="b").native


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+psycopg://u:secret@h/d", "another scheme"),
        ("postgresql://u:secret@h:port/d", "can't be read"),
        ("postgresql://u:secret@h/d?sslmode=prefer", "choose require or disable"),
        ("postgresql://u:secret@h/d?schema=a-b", "letters, digits and underscores"),
        ("postgresql://u:secret@h/d?ssl=1", "'ssl'|\"ssl\""),
    ],
)
def test_a_url_that_cannot_be_read_says_why_and_no_password(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        open_backend(url)
    assert "secret" not in str(caught.value)


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(TypeError, match="PostgresBackend takes a URL like"):
        PostgresBackend(object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="time_limit must be more than 0"):
        PostgresBackend("postgresql://localhost/a", time_limit=0)
    with pytest.raises(TypeError, match="only a store in Postgres"):
        MemoryBackend().native.create_table()


@dataclass
class Tls:
    """A server that talks encrypted alone, to those who show a certificate."""

    url: str
    files: dict[str, Path]

    def at(self, host: str = "localhost", **options: str) -> str:
        more = "".join(f"&{name}={self.files.get(value, value)}" for name, value in options.items())
        return self.url.replace("127.0.0.1", host) + f"?sslmode=require{more}"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    authority, server = trustme.CA(), PostgresServer()
    mine = tmp_path_factory.mktemp("tls")
    files = {name: mine / name for name in ("ca.pem", "me.pem", "me.key")}
    authority.cert_pem.write_to_path(files["ca.pem"])
    theirs = {"ssl_ca_file": "ca.pem", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key"}
    authority.cert_pem.write_to_path(server.folder / "ca.pem")
    for folder, name in ((server.folder, "server"), (mine, "me")):
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
    (server.folder / "server.key").chmod(0o600)
    hba = server.folder / "data" / "pg_hba.conf"
    hba.write_text("hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n")
    if os.geteuid() == 0:
        for file in (hba, *(server.folder / name for name in theirs.values())):
            os.chown(file, 65534, 65534)
    server.settings += ["ssl=on", *(f"{setting}={server.folder / name}" for setting, name in theirs.items())]
    with server:
        yield Tls(server.url, files)


def test_encrypted_with_a_clients_certificate(tls: Tls) -> None:
    url = tls.at(sslrootcert="ca.pem", sslcert="me.pem", sslkey="me.key")
    PostgresBackend(url).create_table()
    assert ran(url) == ["sync", "async"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ({"sslcert": "me.pem", "sslkey": "me.key"}, "sslrootcert"),
        ({"sslrootcert": "ca.pem"}, "28000|certificate"),
        (
            {"host": "127.0.0.1", "sslrootcert": "ca.pem", "sslcert": "me.pem", "sslkey": "me.key"},
            "check its certificate and name",
        ),
        ({"sslrootcert": "missing.pem"}, "missing.pem"),
        ({"sslrootcert": "me.key"}, "holds no certificate"),
    ],
)
def test_what_is_not_verified_is_refused(tls: Tls, url: dict[str, str], says: str) -> None:
    with pytest.raises(IdempotencyStoreUnavailable, match=says):
        PostgresBackend(tls.at(**url)).create_table()


def test_a_server_that_wants_encryption_is_not_talked_to_without(tls: Tls) -> None:
    with pytest.raises(IdempotencyStoreUnavailable, match="sslmode"):
        PostgresBackend(tls.url).create_table()


def test_encrypted_to_a_pooler(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """It is found out that a pooler stands there, also over TLS."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    pooler = PgBouncer(postgres_server, encrypted=("pooler.pem", "pooler.key"))
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(pooler.folder / "pooler.pem")
    issued.private_key_pem.write_to_path(pooler.folder / "pooler.key")
    if os.geteuid() == 0:
        for name in ("pooler.pem", "pooler.key"):
            os.chown(pooler.folder / name, 65534, 65534)
    with pooler:
        url = pooler.url.replace("127.0.0.1", "localhost")
        for trusting in ("sslmode=require", "sslmode=verify-full", "sslmode=require&pooler=yes"):
            assert ran(f"{url}?{trusting}&sslrootcert={tmp_path / 'ca.pem'}") == ["sync", "async"]
        with pytest.raises(IdempotencyStoreUnavailable, match="certificate"):
            ran(f"{url}?sslmode=require")
        with pytest.raises(IdempotencyStoreUnavailable, match=r"sslmode|SSL|TLS"):
            ran(url)
