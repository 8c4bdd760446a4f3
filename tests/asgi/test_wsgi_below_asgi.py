"""A protected WSGI application below a protected ASGI one: one attempt per request, across the bridge between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import pytest
from a2wsgi import WSGIMiddleware
from asgiref.wsgi import WsgiToAsgi
from django.core.wsgi import get_wsgi_application
from fastapi import FastAPI

from clients import Local, is_replay, new_key, refused, same_answer
from django_client import site
from django_site import RUNS
from pyidempotent import idempotent
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.flask import Idempotency

__all__ = ["site"]

BACKEND = MemoryBackend()


def flask_app(is_decorated: bool) -> Any:
    app = flask.Flask("below")
    if not is_decorated:
        Idempotency(app, BACKEND, required=True)

    def pay(order: str = "") -> Any:
        RUNS.append(order)
        return {"paid": len(RUNS)}, 201

    app.add_url_rule("/pay", "pay", idempotent(BACKEND)(pay) if is_decorated else pay, methods=["POST"])
    app.add_url_rule("/pay/<order>", "order", idempotent(BACKEND)(pay) if is_decorated else pay, methods=["POST"])
    return app


BELOW: dict[str, Callable[[], Any]] = {
    "flask extension": lambda: flask_app(False),
    "flask view": lambda: flask_app(True),
    "django": get_wsgi_application,
}


@pytest.mark.parametrize("bridge", [WSGIMiddleware, WsgiToAsgi])
@pytest.mark.parametrize("below", BELOW)
def test_it_joins_the_attempt_above(site: None, below: str, bridge: Any) -> None:
    app = FastAPI()
    app.mount("/shop", bridge(BELOW[below]()))
    app.add_middleware(IdempotencyMiddleware, backend=BACKEND)
    first, again = Local(app).twice("/shop/pay")
    assert first.status_code in (200, 201)
    assert same_answer(first, again)
    assert len(RUNS) == 1


def test_whatever_the_path_looks_like(site: None) -> None:
    app = FastAPI()
    app.mount("/shop", WSGIMiddleware(flask_app(False)))
    app.add_middleware(IdempotencyMiddleware, backend=BACKEND)
    first, again = Local(app).twice("/shop/pay/a%7Eb%20%C3%BC%2B")
    assert first.status_code == 201
    assert same_answer(first, again)


def test_below_an_application_that_protects_nothing_it_protects_itself(site: None) -> None:
    app = FastAPI()
    app.mount("/shop", WSGIMiddleware(flask_app(False)))
    client, key = Local(app), new_key()
    assert same_answer(*client.twice("/shop/pay", key))
    refused(client.post("/shop/pay"), 400, "key-missing", "none")
    assert not is_replay(client.post("/shop/pay/7", key))
    assert len(RUNS) == 2
