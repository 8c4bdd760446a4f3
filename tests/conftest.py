"""Fixtures that every test may use."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from fixtures import postgres, postgres_server, redis_server
from modes import mode
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.backends.postgres import PostgresBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.backends.sqlite import SqliteBackend
from servers import PostgresServer, RedisServer

__all__ = ["backend", "mode", "postgres", "postgres_server", "redis_server"]


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each of the stores, empty."""
    if request.param == "memory":
        return MemoryBackend()
    if request.param == "sqlite":
        return SqliteBackend(tmp_path / "idempotency.db")
    if request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        return PostgresBackend(postgres.new_url())
    server: RedisServer = request.getfixturevalue("redis_server")
    return RedisBackend(server.url, prefix=f"{uuid.uuid4()}:")
