"""`namespace=` as a callable: one application, many hosts; a tenant never gets another's answer."""

from __future__ import annotations

from collections.abc import Callable

import flask
import httpx
import pytest
from django.test import override_settings
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from clients import Local, LocalWsgi, is_replay, new_key
from django_client import Browser, site
from pyidempotent import attempt, current, idempotent
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.flask import Idempotency

__all__ = ["site"]

#: Sends a request to a host with this key.
Send = Callable[[str, str], httpx.Response]


def fastapi_middleware() -> Send:
    app = FastAPI()

    @app.post("/pay")
    async def pay() -> str:
        return current().scope.namespace

    app.add_middleware(
        IdempotencyMiddleware, backend=MemoryBackend(), namespace=lambda request: request.headers["host"]
    )
    return lambda host, key: Local(app).post("/pay", key, headers={"Host": host})


def fastapi_endpoint() -> Send:
    app = FastAPI()

    @app.post("/pay")
    @idempotent(MemoryBackend(), namespace=lambda request: request.url.hostname)
    async def pay(request: Request) -> str:
        return current().scope.namespace

    return lambda host, key: Local(app).post("/pay", key, headers={"Host": host})


def flask_extension() -> Send:
    app = flask.Flask("shop")
    Idempotency(app, MemoryBackend(), namespace=lambda request: request.host)

    @app.post("/pay")
    def pay() -> str:
        return current().scope.namespace

    return lambda host, key: LocalWsgi(app).post("/pay", key, headers={"Host": host})


def flask_view() -> Send:
    app = flask.Flask("shop")

    @app.post("/pay")
    @idempotent(MemoryBackend(), namespace=lambda request: request.host)
    def pay() -> str:
        return current().scope.namespace

    return lambda host, key: LocalWsgi(app).post("/pay", key, headers={"Host": host})


@pytest.mark.parametrize("face", [fastapi_middleware, fastapi_endpoint, flask_extension, flask_view])
def test_hosts_are_apart(face: Callable[[], Send]) -> None:
    send, key = face(), new_key()
    for host in ("alice.example", "bob.example"):
        first, again = send(host, key), send(host, key)
        assert (first.status_code, is_replay(first)) == (200, False)
        assert host in first.text
        assert (again.text, is_replay(again)) == (first.text, True)


def test_hosts_are_apart_in_django(site: None) -> None:
    backend, key = MemoryBackend(), new_key()
    with override_settings(PYIDEMPOTENT={"BACKEND": backend, "NAMESPACE": lambda request: request.get_host()}):
        browser = Browser("sync")
        for host in ("alice.example", "bob.example"):
            answers = [browser.post("/pay", key, headers={"Host": host}) for _ in range(2)]
            assert ["idempotent-replayed" in answer.headers for answer in answers] == [False, True]
            assert backend.get(key, operation=("POST", "/pay"), namespace=host) is not None


def test_tenants_of_a_function_are_apart() -> None:
    backend = MemoryBackend()

    @idempotent(backend, key="order", name="charge", namespace=lambda tenant: tenant)
    def charge(order: str, tenant: str) -> str:
        return tenant

    assert [charge("7", tenant) for tenant in ("a", "b", "a")] == ["a", "b", "a"]
    assert backend.get("7", operation="charge", namespace="a") is not None


def test_what_is_no_namespace_is_refused() -> None:
    @idempotent(MemoryBackend(), key="order", name="charge", namespace=lambda: 7)  # type: ignore[arg-type, return-value]
    def charge(order: str) -> None:
        raise AssertionError("it ran")

    with pytest.raises(TypeError, match="namespace= must return a str, not <class 'int'>"):
        charge("a")
    with pytest.raises(TypeError, match="namespace must be a str, or a callable"):
        idempotent(MemoryBackend(), namespace=7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="namespace must be a str, not <function"):
        attempt(MemoryBackend(), key="a", name="block", namespace=lambda: "a")  # type: ignore[arg-type]


def test_one_inside_is_refused_where_the_attempt_is_held_outside() -> None:
    app, backend = FastAPI(), MemoryBackend()

    @app.post("/pay")
    @idempotent(backend, namespace=lambda request: "inside")
    async def pay(request: Request) -> None: ...

    app.add_middleware(IdempotencyMiddleware, backend=backend)
    client = TestClient(app)
    with pytest.raises(TypeError, match="without namespace"):
        client.post("/pay", headers={"Idempotency-Key": new_key()})
