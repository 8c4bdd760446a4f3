"""Fixtures that every test may use."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from colours import colour
from faces import RESULTS, matrix
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.backends.sqlite import SqliteBackend
from servers import RedisServer

__all__ = ["backend", "colour", "redis_server"]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each of the three stores, empty."""
    if request.param == "memory":
        return MemoryBackend()
    if request.param == "sqlite":
        return SqliteBackend(tmp_path / "idempotency.db")
    server: RedisServer = request.getfixturevalue("redis_server")
    return RedisBackend(server.url, prefix=f"{uuid.uuid4()}:")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The matrix of the conformance suite, where it was played."""
    if RESULTS:
        terminalreporter.section("conformance")
        for line in matrix():
            terminalreporter.write_line(line)
