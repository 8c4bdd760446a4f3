"""Fixtures of the tests and of the scenarios."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from postgres import PostgresServer
from pyidempotent.transactions import table_sql
from servers import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for all tests of a session; each has keys of its own there."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One Postgres for all tests of a session, with the schema of the keys."""
    with PostgresServer() as server:
        server.sql(table_sql("postgres"))
        yield server
