"""Every command of docs/cli.md and docs/operations.md is executed, and says what it is shown to say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import pages
from commands import environment
from pyidempotent import attempt
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends import Answer, Backend
from pyidempotent.backends.redis import RedisBackend
from servers import RedisServer

SHOP = """
from fastapi import FastAPI
from pyidempotent import idempotent

app = FastAPI()

@app.post("/orders")
@idempotent("memory://")
async def orders(item: str): ...

@app.post("/login")
async def login(): ...
"""


def execute(page: str, url: str, folder: Path) -> int:
    """Runs every command of a page on a store of the test's own; how many. Each prints what it is shown to print."""
    path = f"{Path(sys.executable).parent}:{environment(None)['PATH']}"
    ran = 0
    for block in pages.commands(page):
        before = ""
        for line, shown in block:
            command = line.replace("redis://localhost", url)
            if command.startswith("export IDEMPOTENCY_URL"):
                before = f"{command}\n"
            done = subprocess.run(
                ["bash", "-c", before + command],
                env=environment(url, {"PATH": path}),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            # Words that no run changes.
            words = [word for word in shown.split() if re.fullmatch(r"[A-Za-z:/'-]+", word)]
            said = (done.stdout + done.stderr).split()
            assert [word for word in words if word not in said and word != "ago"] == [], (line, done.stdout)
            ran += 1
    return ran


def unknown(backend: Backend, key: str, operation: str) -> None:
    with pytest.raises(RuntimeError), attempt(backend, key=key, name=operation, after_crash="refuse"):
        raise RuntimeError


def requested(backend: Backend, key: str, caller: str | None) -> None:
    """An unknown record of a request: as a face would have written it."""
    app = FastAPI()

    @app.post("/pay")
    async def pay() -> None:
        raise RuntimeError

    def scope(_: object) -> str | None:
        return caller

    options = {} if caller is None else {"scope": scope}
    app.add_middleware(IdempotencyMiddleware, backend=backend, after_crash="refuse", **options)
    client = TestClient(app, raise_server_exceptions=False)
    assert client.post("/pay", headers={"Idempotency-Key": key}).status_code == 500


def test_the_page(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    with RedisServer() as server:
        backend = RedisBackend(server.url)
        unknown(backend, "order-7", "charge")
        unknown(backend, "order-10", "charge")
        requested(backend, "order-8", "alice")
        requested(backend, "order-9", None)
        (paid,) = [found for found in backend.unfinished() if "order-8" in found.label]
        answer = Answer(201, [(b"content-type", b"application/json")], b'{"charged": 42}')
        assert backend.resolve(id=paid.id, fence=paid.fence, result=answer)
        assert execute("cli", server.url, tmp_path) >= 18
        assert backend.get("order-7", operation="charge") is None
        resolved = backend.get("order-9", operation=("POST", "/pay"))
        assert resolved is not None
        assert resolved.answer is not None
        assert (resolved.answer.status, resolved.answer.body) == (201, b'{"charged": 42}')


def test_operations(tmp_path: Path) -> None:
    with RedisServer() as server:
        backend = RedisBackend(server.url)
        unknown(backend, "order-7", "charge")
        unknown(backend, "order-8", "charge")
        with attempt(backend, key="order-9", name="charge", lease=600.0):
            assert execute("operations", server.url, tmp_path) >= 8
        assert backend.get("order-7", operation="charge") is None
