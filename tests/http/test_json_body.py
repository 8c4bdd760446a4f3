"""`fingerprint=pyidempotent.json_body`: a JSON body is compared by what it says, on every face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import pytest
from django.test import override_settings
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from clients import Local, LocalWsgi, is_replay, new_key
from django_client import Browser, site
from pyidempotent import idempotent, json_body
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.celery import idempotent_task
from pyidempotent.flask import Idempotency

__all__ = ["site"]

#: Sends a body with a key.
Send = Callable[..., Any]


def asgi_middleware() -> Send:
    app = FastAPI()

    @app.post("/pay")
    async def pay(request: Request) -> str:
        return (await request.body()).decode()

    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend(), fingerprint=json_body)
    return Local(app).post


def fastapi_endpoint() -> Send:
    app = FastAPI()

    @app.post("/pay")
    @idempotent(MemoryBackend(), fingerprint=json_body)
    async def pay(request: Request) -> str:
        return (await request.body()).decode()

    return Local(app).post


def fastapi_sync_endpoint() -> Send:
    app = FastAPI()

    @app.post("/pay")
    @idempotent(MemoryBackend(), fingerprint=json_body)
    def pay(body: dict[str, Any]) -> str:
        return str(body)

    return Local(app).post


def flask_extension() -> Send:
    app = flask.Flask("shop")
    Idempotency(app, MemoryBackend(), fingerprint=json_body)

    @app.post("/pay")
    def pay() -> str:
        return flask.request.get_data(as_text=True)

    return LocalWsgi(app).post


def flask_view() -> Send:
    app = flask.Flask("shop")

    @app.post("/pay")
    @idempotent(MemoryBackend(), fingerprint=json_body)
    def pay() -> str:
        return flask.request.get_data(as_text=True)

    return LocalWsgi(app).post


FACES = (asgi_middleware, fastapi_endpoint, fastapi_sync_endpoint, flask_extension, flask_view)


def check(send: Send) -> None:
    key, json = new_key(), {"Content-Type": "application/json"}
    first = send("/pay", key, content=b'{"amount": 10, "to": "a"}', headers=json)
    again = send("/pay", key, content=b'{"to":"\\u0061","amount":1e1}', headers=json)
    other = send("/pay", key, content=b'{"amount": 11, "to": "a"}', headers=json)
    typed = send("/pay", key, content=b'{"amount": 10, "to": "a"}', headers={"Content-Type": "application/x+json"})
    assert first.status_code == 200, first.text
    assert (again.status_code, is_replay(again), again.text) == (200, True, first.text)
    assert (other.status_code, typed.status_code) == (422, 422)


@pytest.mark.parametrize("face", FACES)
def test_equal_values_are_one_request(face: Callable[[], Send]) -> None:
    check(face())


@pytest.mark.parametrize("face", [asgi_middleware, fastapi_endpoint, flask_extension, flask_view])
def test_what_is_no_json_counts_byte_for_byte(face: Callable[[], Send]) -> None:
    send = face()
    for content_type, body, other in (
        ("text/plain", b"[1]", b"[1 ]"),
        ("application/json", b'{"a":1,"a":2}', b'{"a":1, "a":2}'),
        ("application/json", b"[9007199254740993]", b"[9007199254740992]"),
        ("application/json", b"{", b"{ "),
    ):
        key = new_key()
        sent = [send("/pay", key, content=body, headers={"Content-Type": content_type}) for body in (body, other, body)]
        assert [(answer.status_code, is_replay(answer)) for answer in sent] == [(200, False), (422, False), (200, True)]


@pytest.mark.parametrize("given", [json_body, "pyidempotent.json_body"])
def test_in_django(site: None, given: Any) -> None:
    with override_settings(PYIDEMPOTENT={"BACKEND": MemoryBackend(), "FINGERPRINT": given}):
        browser, key = Browser("sync"), new_key()
        bodies = '{"amount": 1, "to": 2}', '{"to":2,"amount":1.0}', '{"to":3,"amount":1.0}'
        sent = [browser.post("/pay", key, body, content_type="application/json") for body in bodies]
        assert [answer.status_code for answer in sent] == [sent[0].status_code, sent[0].status_code, 422]
        assert "idempotent-replayed" in sent[1].headers


def test_what_has_no_body_is_told() -> None:
    @idempotent("memory://", key="order", fingerprint=json_body)
    def charge(order: str) -> None:
        raise AssertionError("it ran")

    with pytest.raises(TypeError, match="compares the body of an HTTP request"):
        charge("7")
    with pytest.raises(TypeError, match="compares the body of an HTTP request"):
        idempotent_task("memory://", fingerprint=json_body)


def test_inside_of_middleware_without_it_it_is_refused() -> None:
    app, backend = FastAPI(), MemoryBackend()

    @app.post("/pay")
    @idempotent(backend, fingerprint=json_body)
    async def pay(request: Request) -> None: ...

    app.add_middleware(IdempotencyMiddleware, backend=backend)
    with pytest.raises(TypeError, match="without fingerprint"):
        TestClient(app).post("/pay", headers={"Idempotency-Key": new_key()})
