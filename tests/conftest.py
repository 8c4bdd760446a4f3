"""Fixtures that every test may use."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from fixtures import postgres, postgres_server, redis_server
from modes import mode
from pyidempotent.backends import Backend, open_backend
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.backends.redis import RedisBackend
from servers import PostgresServer, RedisServer

__all__ = ["backend", "mode", "postgres", "postgres_server", "redis_server"]


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of each of the stores; all but Redis are empty."""
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/idempotency.db"
    if request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        return postgres.new_url()
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
def backend(store_url: str) -> Backend:
    """Each of the stores, empty."""
    if store_url == "memory://":
        return MemoryBackend()
    if store_url.startswith("redis:"):
        return RedisBackend(store_url, prefix=f"{uuid.uuid4()}:")
    return open_backend(store_url)
