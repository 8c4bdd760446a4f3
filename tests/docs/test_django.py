"""What docs/django.md shows is executed, and so is its example: in this process, and as a server of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.checks import run_checks
from django.db import transaction
from django.test import override_settings

import pyidempotent.django
from clients import new_key
from django_client import Browser, is_replay, refused, same_answer, site
from django_site import OURS
from pyidempotent.backends.redis import RedisBackend
from servers import RedisServer, Server, free_port

__all__ = ["site"]

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "django.md").read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def key() -> str:
    return new_key()


def executed(words: str, redis_server: RedisServer) -> dict[str, Any]:
    """The names of the one block with these words, executed but for the port of its Redis."""
    (block,) = [text for text in BLOCKS if words in text]
    names: dict[str, Any] = {"__name__": "docs"}
    exec(block.replace("redis://localhost", redis_server.url), names)
    return names


def project(names: Mapping[str, Any], redis_server: RedisServer) -> override_settings:
    """The tests' project with a block's urls."""
    urls = types.ModuleType("docs_urls")
    vars(urls)["urlpatterns"] = names["urlpatterns"]
    return override_settings(ROOT_URLCONF=urls, PYIDEMPOTENT={"BACKEND": redis_server.url})


def test_every_block_is_executed_below() -> None:
    assert len(BLOCKS) == 5


def test_the_settings(site: None, redis_server: RedisServer, key: str) -> None:
    names = executed("INSTALLED_APPS", redis_server)
    with override_settings(**{name: names[name] for name in ("MIDDLEWARE", "PYIDEMPOTENT")}):
        assert run_checks() == []
        assert same_answer(*Browser("sync").twice("/pay", key))
    assert names["INSTALLED_APPS"][-1] == pyidempotent.django.__name__


def test_the_views(site: None, redis_server: RedisServer, key: str) -> None:
    with project(executed("class Refund", redis_server), redis_server):
        browser = Browser("async")
        refused(browser.post("/pay"), 400, "key-missing", "none")
        answers = [browser.post("/pay", key, {"amount": "42"}) for _ in range(2)]
        assert same_answer(*answers)
        assert json.loads(answers[0].content) == {"charged": "42"}
        assert same_answer(*browser.twice("/report", key))
        assert not any(is_replay(answer) for answer in browser.twice("/ping", key))
        refused(browser.post("/refund"), 400, "key-missing", "none")


def test_rest_framework(site: None, redis_server: RedisServer, key: str) -> None:
    from django_views import TokenAuthentication

    names = executed("rest_framework", redis_server)
    names["Transfer"].authentication_classes = [TokenAuthentication]
    with project(names, redis_server):
        headers, body = {"Authorization": "Bearer alice"}, b'{"amount": 42}'
        answers = Browser("sync").twice("/transfers", key, body, content_type="application/json", headers=headers)
    assert json.loads(answers[0].content)["amount"] == 42
    assert same_answer(*answers)


def test_transactions(site: None, redis_server: RedisServer, key: str) -> None:
    names = executed("transaction.atomic", redis_server)
    backend = RedisBackend(redis_server.url)
    with override_settings(PYIDEMPOTENT={"BACKEND": backend}):
        with transaction.atomic():
            names["checkout"](key)
            (record,) = [found for found in backend.unfinished() if key in found.label]
        assert names["checkout"](key) == "charged 42"
        found = backend.get(id=record.id)
    assert found is not None
    assert found.state == "completed"


def test_refusals(site: None, redis_server: RedisServer, key: str) -> None:
    names = executed("EXCEPTION_HANDLER", redis_server)
    with override_settings(PYIDEMPOTENT=names["PYIDEMPOTENT"]):
        browser = Browser("sync")
        browser.post("/pay", key, b"A")
        answer = browser.post("/pay", key, b"B")
        assert (answer.status_code, answer.json()) == (422, {"error": "this key was used for something else"})
        refused(browser.post("/pay", "two words"), 400, "key-invalid", "none")


def test_the_names_that_it_tells() -> None:
    page = (ROOT / "docs" / "django.md").read_text()
    assert OURS in page
    assert set(re.findall(r"idempotency_\w+", page)) <= set(pyidempotent.django.__all__)


class Shop(Server):
    """The example, as one starts it."""

    program = (sys.executable, str(ROOT / "examples" / "django_shop.py"))

    def __init__(self, store: str) -> None:
        super().__init__()
        self.port = free_port()
        self.store = store

    def command(self) -> list[str]:
        return [*self.program, "runserver", "--noreload", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "ORDERS_STORE": self.store}

    def manage(self, *arguments: str) -> str:
        command = [*self.program, *arguments]
        done = subprocess.run(
            command, env=dict(self.environment()), capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout


def test_the_example(tmp_path: Path, key: str) -> None:
    with (
        Shop(f"sqlite:///{tmp_path}/keys.db") as shop,
        httpx.Client(base_url=f"http://127.0.0.1:{shop.port}") as client,
    ):

        def order(item: str = "book", who: str = "alice", **more: str) -> httpx.Response:
            headers = {"Authorization": f"Bearer {who}-key", "Idempotency-Key": key, **more}
            return client.post("/orders", json={"item": item}, headers=headers)

        first, again = order(), order()
        assert first.status_code == 201
        assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
        assert client.get(first.headers["location"]).json()["item"] == "book"
        assert order(item="pen").status_code == 422
        assert "idempotent-replayed" not in order(who="bob").headers
        assert order(who="nobody").status_code == 401
        missing = client.post("/orders", json={"item": "book"})
        assert (missing.status_code, missing.text) == (400, "Send an Idempotency-Key.\n")
        assert client.post("/ping", headers={"Idempotency-Key": key}).json() == {"pong": True}
        shown = shop.manage("idempotency", "get", key, "--operation", "POST /orders", "--caller", "alice")
        assert "completed" in shown
        assert shop.manage("idempotency", "list", "--json") == ""
        assert shop.manage("check") == "System check identified no issues (0 silenced).\n"
