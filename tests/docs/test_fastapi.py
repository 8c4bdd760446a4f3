"""What docs/fastapi.md shows is executed, and so is its example; each in this process, on a real Redis or in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import examples
import pages
from clients import Local, is_replay, new_key, refused, same_answer
from servers import RedisServer


@pytest.fixture
def key() -> str:
    return new_key()


def application(words: str, redis_server: RedisServer) -> tuple[Local, dict[str, Any]]:
    """The one block with these words, executed but for the port of its Redis; and its names."""
    names: dict[str, Any] = {"__name__": "docs"}
    exec(pages.block("fastapi", words).replace("redis://localhost", redis_server.url), names)
    return Local(names["app"]), names


def test_every_block_is_executed_below() -> None:
    assert len(pages.blocks("fastapi")) == 5


def test_the_middleware(redis_server: RedisServer, key: str) -> None:
    client, _ = application("def who(", redis_server)
    first, again = client.twice("/orders?item=book", key, headers={"X-User": "alice"})
    assert first.status_code == 201
    assert same_answer(first, again)
    other = client.post("/orders?item=book", key, headers={"X-User": "bob"})
    assert not is_replay(other)
    refused(client.post("/orders?item=book"), 400, "key-missing", "none")
    assert client.post("/internal/x", key).status_code == 404


def test_commits(redis_server: RedisServer, key: str) -> None:
    client, names = application('scope="function"', redis_server)
    assert same_answer(*client.twice("/orders?item=book", key))

    def fails(self: Any) -> None:
        raise RuntimeError("the database is gone")

    commit, names["Session"].commit = names["Session"].commit, fails
    other = new_key()
    assert client.post("/orders?item=pen", other).status_code == 500
    names["Session"].commit = commit
    answer = client.post("/orders?item=pen", other)
    assert (answer.status_code, is_replay(answer)) == (200, False)


def test_the_end_of_a_process(redis_server: RedisServer, key: str) -> None:
    client, names = application("lifespan=lifespan", redis_server)
    assert same_answer(*client.twice("/orders?item=book", key))

    async def live() -> None:
        async with names["lifespan"](names["app"]):
            pass

    asyncio.run(live())


def test_refusals(redis_server: RedisServer, key: str) -> None:
    client, _ = application("problem_docs", redis_server)
    client.post("/orders?item=book", key)
    other = client.post("/orders?item=pen", key)
    assert (other.status_code, other.json()) == (422, {"detail": "Idempotency-Key already used with different payload"})
    malformed = client.post("/orders?item=pen", "two words")
    assert malformed.json()["type"] == "https://docs.example.com/errors#key-invalid"
    assert malformed.headers["link"] == '<https://docs.example.com/errors#key-invalid>; rel="describedby"'


def test_documentation(redis_server: RedisServer) -> None:
    client, _ = application("document(app)", redis_server)
    shown = client.post("/openapi.json", method="GET").json()["paths"]["/orders"]["post"]
    assert {"400", "409", "410", "422"} <= set(shown["responses"])


def test_the_example(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_STORE", "memory://")
    orders = examples.load("orders")
    client = Local(orders.app)
    alice, bob = {"Authorization": "Bearer alice-key"}, {"Authorization": "Bearer bob-key"}
    book = {"json": {"item": "book"}}
    first, again = client.twice("/orders", key, headers={**alice, "Origin": "https://shop.example"}, **book)
    assert first.status_code == 201
    assert same_answer(first, again)
    assert again.headers["access-control-expose-headers"] == "Idempotent-Replayed"
    assert client.post(first.headers["location"], method="GET").json()["item"] == "book"
    assert not is_replay(client.post("/orders", key, headers=bob, **book))
    assert len(orders.orders) == 2
    assert client.post("/orders", key, **book).status_code == 401
    refused(client.post("/orders", headers=alice, **book), 400, "key-missing", "none")
    refused(client.post("/orders", key, headers=alice, json={"item": "pen"}), 422, "conflict", "none")
    assert [is_replay(client.post("/ping", key)) for _ in range(2)] == [False, False]
    assert "409" in client.post("/openapi.json", method="GET").json()["paths"]["/orders"]["post"]["responses"]
