"""Fixtures of the tests and of the scenarios."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyidempotent.backends.postgres import PostgresBackend
from servers import PostgresServer, RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for all tests of a session; each has keys of its own there."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One Postgres for all tests of a session; each has a schema or keys of its own there."""
    from pyidempotent.backends.postgres import PostgresBackend

    with PostgresServer() as server:
        PostgresBackend(server.url).create_table()
        yield server


@pytest.fixture(scope="session")
def postgres(postgres_server: PostgresServer) -> PostgresServer:
    """The same server, where the schema of the usual name is made: an application's transactions use that one."""
    PostgresBackend(postgres_server.url, time_limit=20).create_table()
    return postgres_server
