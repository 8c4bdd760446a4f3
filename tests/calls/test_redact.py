"""`redact=`: the first caller gets the whole, what is stored and replayed has less."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from flask import Flask

from asgi_client import App, body, protected, start
from clients import LocalWsgi, new_key
from modes import Mode
from pyidempotent import IdempotencyNotKept, attempt, idempotent
from pyidempotent.backends import Answer
from pyidempotent.backends.memory import MemoryBackend

CARD = {"card": "4242", "amount": 42}


def without_card(value: Any) -> Any:
    value.pop("card")
    return value


def without_body(answer: Answer) -> Answer:
    headers = [(name, value) for name, value in answer.headers if name.lower() != b"x-secret"]
    return Answer(answer.status, headers, answer.body.replace(b"4242", b"-"))


def test_a_repeat_gets_what_is_left(mode: Mode) -> None:
    backend = MemoryBackend()
    charge = mode.protect(lambda order: dict(CARD), backend, key="order", name="charge", redact=without_card)
    assert charge("a") == CARD  # though the callable changes what it is given
    assert charge("a") == charge("a") == {"amount": 42}
    found = backend.get("a", operation="charge")
    assert found is not None
    assert b"4242" not in found.result


def test_a_block_s_result() -> None:
    backend, results = MemoryBackend(), []
    for _ in range(2):
        with attempt(backend, key="a", redact=without_card) as run:
            if not run.replayed:
                run.result = dict(CARD)
        results.append(run.result)
    assert results == [CARD, {"amount": 42}]


def test_exceptions_are_stored_as_they_are() -> None:
    @idempotent(MemoryBackend(), key="order", store_exceptions=ValueError, redact=lambda value: 1 // 0)
    def charge(order: str) -> str:
        raise ValueError("no such card")

    for _ in range(2):
        with pytest.raises(ValueError, match="no such card"):
            charge("a")


@pytest.mark.parametrize(
    ("redact", "why"),
    [
        (lambda value: 1 // 0, "redact= failed: ZeroDivisionError"),
        (lambda value: object(), "object"),
    ],
)
def test_nothing_is_kept_where_it_fails(
    redact: Callable[[Any], Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = MemoryBackend()

    @idempotent(backend, key="order", name="charge", redact=redact)
    def charge(order: str) -> dict[str, Any]:
        return dict(CARD)

    assert charge("a") == CARD
    assert why in caplog.text
    with pytest.raises(IdempotencyNotKept):
        charge("a")
    found = backend.get("a", operation="charge")
    assert found is not None
    assert b"4242" not in found.result


def test_an_answer_of_middleware() -> None:
    whole = b'{"card":"4242"}'
    app = App(start(201, (b"content-length", b"15"), (b"x-secret", b"s")), body(whole))
    client = protected(app, redact=without_body)

    async def twice() -> list[list[dict[str, Any]]]:
        return [await client.post(), await client.post()]

    (first_start, first_body), (again_start, again_body) = asyncio.run(twice())
    assert first_body["body"] == whole
    assert again_body["body"] == b'{"card":"-"}'
    headers = dict(again_start["headers"])
    assert headers[b"content-length"] == b"12"
    assert b"x-secret" not in headers
    assert b"x-secret" in dict(first_start["headers"])
    assert (again_start["status"], app.runs) == (201, 1)


def test_what_is_no_answer_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    client = protected(App(), redact=lambda answer: answer.body)

    async def twice() -> list[int]:
        return [await client.status(), await client.status()]

    with caplog.at_level(logging.ERROR):
        assert asyncio.run(twice()) == [200, 410]
    assert "it must return an Answer, not a bytes" in caplog.text


def test_endpoints_of_fastapi() -> None:
    app, backend = FastAPI(), MemoryBackend()

    @app.post("/value")
    @idempotent(backend, redact=without_card)
    async def value(request: Request, response: Response) -> dict[str, Any]:
        response.headers["x-by"] = "value"
        return dict(CARD)

    @app.post("/answer")
    @idempotent(backend, redact=without_body)
    async def answer(request: Request) -> JSONResponse:
        return JSONResponse(CARD)

    client, key = TestClient(app), {"Idempotency-Key": new_key()}
    assert client.post("/value", headers=key).json() == CARD
    again = client.post("/value", headers=key)
    assert (again.json(), again.headers["x-by"]) == ({"amount": 42}, "value")
    assert client.post("/answer", headers=key).json() == CARD
    assert client.post("/answer", headers=key).json() == {"card": "-", "amount": 42}


def test_views_of_flask() -> None:
    app = Flask("shop")

    @app.post("/pay")
    @idempotent(MemoryBackend(), redact=without_body)
    def pay() -> Any:
        return CARD

    client, key = LocalWsgi(app), new_key()
    assert client.post("/pay", key).json() == CARD
    again = client.post("/pay", key)
    assert again.status_code == 200
    assert "4242" not in again.text
