"""What docs/flask.md shows is executed, and so is its example; each in this process, on a real Redis or in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import examples
import pages
from clients import LocalWsgi, is_replay, new_key, refused, same_answer
from servers import RedisServer


@pytest.fixture
def key() -> str:
    return new_key()


def names(words: str, redis_server: RedisServer) -> dict[str, Any]:
    """The names of the one block with these words, executed but for the port of its Redis."""
    found: dict[str, Any] = {"__name__": "docs"}
    exec(pages.block("flask", words).replace("redis://localhost", redis_server.url), found)
    return found


def test_every_block_is_executed_below() -> None:
    assert len(pages.blocks("flask")) == 6


def test_the_five_lines(redis_server: RedisServer, key: str) -> None:
    client = LocalWsgi(names("def pay():\n    return {", redis_server)["app"])
    first, again = client.twice("/pay?amount=42", key)
    assert (first.status_code, first.json()) == (201, {"status": "charged", "amount": 42})
    assert same_answer(first, again)


def test_options(redis_server: RedisServer) -> None:
    client = LocalWsgi(names("create_app", redis_server)["create_app"]())
    refused(client.post("/orders"), 400, "key-missing", "none")
    assert same_answer(*client.twice("/orders"))
    assert not is_replay(client.twice("/orders", method="PATCH")[1])
    assert not is_replay(client.twice("/hooks/github")[1])


def test_callers(redis_server: RedisServer, key: str) -> None:
    client = LocalWsgi(names("TOKENS", redis_server)["app"])
    alice, bob = {"Authorization": "Bearer s3cret"}, {"Authorization": "Bearer 0ther"}
    assert same_answer(*client.twice("/transfers", key, headers=alice))
    assert client.post("/transfers", key, headers=bob).json() == {"from": "bob"}
    assert client.post("/transfers", key, headers={"Authorization": "wrong"}).status_code == 401


def test_commits(redis_server: RedisServer, key: str) -> None:
    app = names("sqlite3", redis_server)["app"]
    client = LocalWsgi(app)
    fails = [True, False, False]

    @app.before_request
    def close() -> None:
        from flask import g

        if fails.pop(0):
            g.database.close()

    with pytest.raises(Exception, match="closed database"):
        client.post("/orders", key)
    assert same_answer(*client.twice("/orders", key))


def test_on_a_view(redis_server: RedisServer, key: str) -> None:
    client = LocalWsgi(names("/refunds/", redis_server)["app"])
    assert same_answer(*client.twice("/charges?card=good", key))
    stolen = client.twice("/charges?card=stolen")
    assert (stolen[0].status_code, same_answer(*stolen)) == (409, True)
    first, again = (client.post(f"/refunds/{key}") for _ in range(2))
    assert same_answer(first, again)


def test_refusals(redis_server: RedisServer, key: str) -> None:
    client = LocalWsgi(names("problem_docs", redis_server)["app"])
    client.post("/pay", key, content=b"A")
    answer = client.post("/pay", key, content=b"B")
    assert (answer.status_code, answer.json()) == (422, {"error": "this key was used for something else"})
    malformed = client.post("/pay", "two words")
    assert malformed.json()["type"] == "https://docs.example.com/errors#key-invalid"
    assert malformed.headers["link"] == '<https://docs.example.com/errors#key-invalid>; rel="describedby"'


def test_the_example(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_STORE", f"sqlite:///{tmp_path}/idempotency.db")
    monkeypatch.setenv("SHOP_DATABASE", f"{tmp_path}/shop.db")
    client = LocalWsgi(examples.load("flask_shop").create_app())
    alice, bob = {"Authorization": "Bearer alice-key"}, {"Authorization": "Bearer bob-key"}
    book = {"json": {"item": "book"}}
    first, again = client.twice("/orders", key, headers=alice, **book)
    assert first.status_code == 201
    assert same_answer(first, again)
    assert client.post(first.headers["location"], method="GET", headers=alice).json()["item"] == "book"
    assert client.post(first.headers["location"], method="GET", headers=bob).status_code == 404
    assert not is_replay(client.post("/orders", key, headers=bob, **book))
    assert client.post("/orders", key, **book).status_code == 401
    refused(client.post("/orders", headers=alice, **book), 400, "key-missing", "none")
    refused(client.post("/orders", key, headers=alice, json={"item": "pen"}), 422, "conflict", "none")
    assert [is_replay(client.post("/ping", key, headers=alice)) for _ in range(2)] == [False, False]
