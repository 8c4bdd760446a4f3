"""The pages of ``docs/`` that show code: every block is executed, here, or in a file of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

import pages
from clients import Local, LocalWsgi
from pyidempotent.backends import Seal
from pyidempotent.backends.custom import Step
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.testing import check_backend
from servers import PostgresServer, RedisServer

# Pages whose blocks check themselves, by asserts: they are executed as they stand, on a Redis of the tests.
SELF_CHECKING = [
    "concepts/compared",
    "concepts/exactly-once",
    "concepts/life",
    "concepts/ways",
    "functions",
    "mcp",
    "mistakes",
    "moving",
]
EXECUTED = {
    "backends",
    "celery",
    "console",
    "consumers",
    "django",
    "events",
    "fastapi",
    "flask",
    "metrics",
    "options",
    "postgres",
    "redis",
    "sealing",
    "servers",
    "testing",
    "transactions",
}


def test_every_page_with_code_is_executed() -> None:
    assert {page for page in pages.all_pages() if pages.blocks(page)} == EXECUTED | set(SELF_CHECKING)


@pytest.mark.parametrize("page", SELF_CHECKING)
def test_a_page_that_checks_itself(
    page: str, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # for files that a block makes
    redis_server.cli("FLUSHALL")
    pages.run(page, redis_server.url)


def test_backends(redis_server: RedisServer) -> None:
    page = pages.run("backends", redis_server.url)
    assert page.charge("order-7", 42) == page.charge("order-7", 42) == "charged 42"
    page.test_my_backend()

    class Table:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.values: dict[bytes, bytes] = {}

        def get(self, key: bytes) -> bytes | None:
            return self.values.get(key)

        def compare_and_set(self, key: bytes, before: bytes | None, after: bytes | None) -> bool:
            with self.lock:
                if self.values.get(key) != before:
                    return False
                if after is None:
                    self.values.pop(key, None)
                else:
                    self.values[key] = after
                return True

    assert page.Step is Step
    check_backend(lambda: page.CompareAndSet(Table()))


def test_postgres(postgres_server: PostgresServer) -> None:
    at = "postgresql://postgres@localhost/postgres"
    page = pages.run("postgres", postgres_server.url, at=at)
    assert page.charge("order-7", 42) == page.charge("order-7", 42) == "charged 42"
    postgres_server.sql(page.migration)


def test_redis(redis_server: RedisServer) -> None:
    page = pages.run("redis", redis_server.url)
    assert page.charge("order-7", 42) == page.charge("order-7", 42) == "charged 42"


def test_sealing(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IDEMPOTENCY_SEAL_NAMES", raising=False)
    monkeypatch.setenv("IDEMPOTENCY_SEAL_KEYS", Seal.new_key())
    redis_server.cli("FLUSHALL")
    page = pages.run("sealing", redis_server.url)
    assert page.charge("order-7", 42) == page.charge("order-7", 42) == "charged 42 to the card 4242"
    found = RedisBackend(redis_server.url).get("order-7", operation="page_sealing.charge")
    assert found is not None
    assert b"4242" not in found.result
    assert page.open_session("alice") == {"user": "alice", "token": "s3cret"}
    assert page.open_session("alice") == {"user": "alice", "token": None}
    answer = page.without_cookies(page.Answer(200, [(b"X-Session", b"s"), (b"x-by", b"shop")], b""))
    assert answer.headers == [(b"x-by", b"shop")]


def test_testing(tmp_path: Path) -> None:
    (tmp_path / "test_page.py").write_text("\n".join(pages.blocks("testing")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_celery(redis_server: RedisServer) -> None:
    redis_server.cli("FLUSHALL")
    page = pages.run("celery", redis_server.url)
    first = page.charge.apply(("order-7", 42), task_id="a")
    assert page.charge.apply(("order-7", 42), task_id="a").get() == first.get()
    assert page.charge.apply(("order-7", 42), task_id="b").get() != first.get()
    assert page.refund.apply(("order-7", 42)).get() == page.refund.apply(("order-7", 42)).get() == "refunded 42"
    assert type(page.refund.apply(("order-7", 43)).result).__name__ == "IdempotencyConflict"
    assert page.ship.apply(("order-7",), retries=0).get() == "shipped in try 0"
    assert page.ship.apply(("order-7",), retries=1).get() == "shipped in try 0"


def test_console(redis_server: RedisServer) -> None:
    page = pages.run("console", redis_server.url)
    user = types.SimpleNamespace(roles=["operator"], display_name="Ann")

    async def authenticated(scope: Any, receive: Any, send: Any) -> None:
        named = dict(scope["headers"]).get(b"x-user") == b"ann"
        await page.app({**scope, "user": user if named else None}, receive, send)

    for app, named in ((Local(authenticated), {"x-user": "ann"}), (LocalWsgi(page.shop), {"x-operator": "Ann"})):
        shown = app.post("/ops/idempotency/records", method="GET", headers=named)
        assert shown.status_code == 200
        assert ">Ann</span>" in shown.text
        assert app.post("/ops/idempotency/records", method="GET").status_code == 403
