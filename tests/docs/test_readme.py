"""What the README shows is executed, word for word but for the port of its Redis."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from clients import LocalWsgi, is_replay, refused, same_answer
from pyidempotent import current, idempotent
from pyidempotent.testing import Rehearsal
from servers import AppServer, RedisServer

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def block(words: str) -> str:
    """The one block with these words."""
    (found,) = [text for text in BLOCKS if words in text]
    return found


def write(block: str, folder: Path, server: RedisServer) -> Path:
    file = folder / "readme.py"
    file.write_text(block.replace("redis://localhost", server.url))
    return file


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


def test_every_block_is_executed_below() -> None:
    assert len(BLOCKS) == 10


def test_the_five_lines(tmp_path: Path, redis_server: RedisServer, key: str) -> None:
    with AppServer(write(block('@app.post("/pay")'), tmp_path, redis_server)) as app:
        send = {"url": f"{app.url}/pay", "params": {"amount": 42}, "headers": {"Idempotency-Key": key}}
        first, again = httpx.post(**send), httpx.post(**send)
        assert (first.status_code, first.json()) == (200, {"status": "charged", "amount": 42})
        assert "idempotent-replayed" not in first.headers
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        other = httpx.post(**{**send, "params": {"amount": 43}})
        assert (other.status_code, other.headers["content-type"]) == (422, "application/problem+json")
        assert httpx.post(**{**send, "headers": {}}).status_code == 400


def test_the_applications_own_handler(tmp_path: Path, redis_server: RedisServer, key: str) -> None:
    with AppServer(write(block("conflict_handler"), tmp_path, redis_server)) as app:
        send = {"url": f"{app.url}/orders", "params": {"item": "book"}, "headers": {"Idempotency-Key": key}}
        assert httpx.post(**send).json() == {"order_id": "ord_123", "item": "book"}
        assert httpx.post(**send).headers["idempotent-replayed"] == "true"
        other = httpx.post(**{**send, "params": {"item": "pen"}})
        assert other.status_code == 422
        assert other.json() == {"detail": "Idempotency-Key already used with different payload"}


def test_callers(tmp_path: Path, redis_server: RedisServer, key: str) -> None:
    with AppServer(write(block("TOKENS"), tmp_path, redis_server)) as app:

        def transfer(token: str) -> httpx.Response:
            headers = {"Idempotency-Key": key, "Authorization": token}
            return httpx.post(f"{app.url}/transfers", params={"amount": 5}, headers=headers)

        assert transfer("Bearer s3cret").json() == {"from": "alice", "amount": 5}
        assert transfer("Bearer s3cret").headers["idempotent-replayed"] == "true"
        assert transfer("Bearer 0ther").json() == {"from": "bob", "amount": 5}
        assert transfer("Bearer wrong").status_code == 401


def test_the_middleware(tmp_path: Path, redis_server: RedisServer, key: str) -> None:
    with AppServer(write(block("add_middleware"), tmp_path, redis_server)) as app:

        def send(token: str, amount: int = 5) -> httpx.Response:
            headers = {"Idempotency-Key": key, "Authorization": token}
            return httpx.post(f"{app.url}/invoices", params={"amount": amount}, headers=headers)

        first, again = send("a"), send("a")
        assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        assert "idempotent-replayed" not in send("b").headers
        assert send("a", 6).status_code == 422
        assert httpx.post(f"{app.url}/invoices", params={"amount": 5}).status_code == 400


def test_the_extension(redis_server: RedisServer, key: str) -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(block("from flask import").replace("redis://localhost", redis_server.url), namespace)
    client = LocalWsgi(namespace["app"])
    assert same_answer(*client.twice("/invoices?amount=5", key, headers={"X-User": "a"}))
    assert not is_replay(client.post("/invoices?amount=5", key, headers={"X-User": "b"}))
    refused(client.post("/invoices?amount=5", headers={"X-User": "a"}), 400, "key-missing", "none")


@pytest.mark.parametrize("words", ["def charge(", "backend.resolve("])
def test_scripts(words: str, tmp_path: Path, redis_server: RedisServer) -> None:
    file = write(block(words), tmp_path, redis_server)
    done = subprocess.run([sys.executable, file], cwd=tmp_path, env=os.environ, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_task(redis_server: RedisServer) -> None:
    redis_server.cli("FLUSHALL")
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(block("idempotent_task").replace("redis://localhost", redis_server.url), namespace)
    for _ in range(2):
        assert namespace["ship"].apply(("order-7", "Rome")).get() == "shipped to Rome"
    assert namespace["ship"].apply(("order-7", "Oslo")).state == "FAILURE"


def test_a_rehearsal(idempotency: Rehearsal) -> None:
    keys: list[str] = []
    bank = SimpleNamespace(keys=keys, charge=lambda amount, key: keys.append(key))

    @idempotent("redis://localhost", key="order", lease=30)
    def pay(order: str, amount: int) -> str:
        bank.charge(amount, current().derive("charge"))
        return "paid"

    namespace: dict[str, Any] = {"bank": bank, "pay": pay}
    exec(block("def test_a_crash_after_the_charge"), namespace)
    namespace["test_a_crash_after_the_charge"](idempotency)
    assert len(keys) == 2


def test_djangos_setting(redis_server: RedisServer) -> None:
    import django_site  # sets Django up
    from pyidempotent.django._configuration import Configuration

    names = {"INSTALLED_APPS": [], "MIDDLEWARE": []}
    exec(block("INSTALLED_APPS").replace("redis://localhost", redis_server.url), names)
    assert names["MIDDLEWARE"] == [django_site.OURS]
    assert Configuration(names["PYIDEMPOTENT"]).routes.default.site.required is False


def test_its_links_work_on_a_package_index_too() -> None:
    """They lead to the repository, and what they name is there."""
    text = re.sub(r"^```.*?^```", "", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    repository = r"https://(?:github|raw\.githubusercontent)\.com/pyidempotent/pyidempotent/(?:blob/)?main/"
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    for target in targets:
        path = re.match(repository + r"([^#]+)", target)
        assert target.startswith("#") or (path and (ROOT / path[1]).exists()), target
