"""A refusal of ours that a service below has given, and what no endpoint began: nothing that a repeat should get."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import flask
import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from fastapi import APIRouter, FastAPI, Response
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import django_site  # noqa: F401  # sets Django up
from clients import Local, LocalWsgi, new_key
from pyidempotent import IdempotencyError, IdempotencyProcessing, idempotent
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.flask import Idempotency

PROBLEM = "application/problem+json"

#: An answer: status, content type, body.
Given = tuple[int, str, bytes]
#: Sends a request with this key, and returns the status and whether it was a replay.
Send = Callable[[str], tuple[int, bool]]


def fastapi_middleware(answer: Callable[[], Given]) -> Send:
    app = FastAPI()

    @app.post("/pay")
    async def pay() -> Response:
        status, content_type, body = answer()
        return Response(body, status, media_type=content_type)

    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend())
    return lambda key: told(Local(app).post("/pay", key))


def fastapi_endpoint(answer: Callable[[], Given]) -> Send:
    app = FastAPI()

    @app.post("/pay")
    @idempotent(MemoryBackend())
    def pay() -> Response:
        status, content_type, body = answer()
        return Response(body, status, media_type=content_type)

    return lambda key: told(Local(app).post("/pay", key))


def flask_extension(answer: Callable[[], Given]) -> Send:
    app = flask.Flask("shop")
    Idempotency(app, MemoryBackend())

    @app.post("/pay")
    def pay() -> flask.Response:
        status, content_type, body = answer()
        return flask.Response(body, status, content_type=content_type)

    return lambda key: told(LocalWsgi(app).post("/pay", key))


def flask_view(answer: Callable[[], Given]) -> Send:
    app = flask.Flask("shop")

    @app.post("/pay")
    @idempotent(MemoryBackend())
    def pay() -> flask.Response:
        status, content_type, body = answer()
        return flask.Response(body, status, content_type=content_type)

    return lambda key: told(LocalWsgi(app).post("/pay", key))


def django_view(answer: Callable[[], Given]) -> Send:
    @idempotent(MemoryBackend())
    def pay(request: Any) -> HttpResponse:
        status, content_type, body = answer()
        return HttpResponse(body, content_type=content_type, status=status)

    return lambda key: told(pay(RequestFactory().post("/pay", headers={"Idempotency-Key": key})))


def told(answer: Any) -> tuple[int, bool]:
    return answer.status_code, "idempotent-replayed" in answer.headers


FACES = [fastapi_middleware, fastapi_endpoint, flask_extension, flask_view, django_view]
KINDS = [kind for kind in IdempotencyError.__subclasses__() if kind.__module__ == "pyidempotent.exceptions"]


def refusal(error: IdempotencyError, docs: str = "") -> Given:
    problem = error.problem("/below")
    if docs:
        problem["type"] = docs + error.name
    return error.status, PROBLEM, json.dumps(problem).encode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("face", FACES)
def test_a_refusal_of_a_service_below_is_not_kept(face: Callable[..., Send], kind: type[IdempotencyError]) -> None:
    answers = [refusal(kind()), refusal(kind(), "https://docs.example.com/errors#"), (201, "text/plain", b"paid")]
    send, key = face(lambda: answers.pop(0)), new_key()
    status = kind().status
    assert [send(key) for _ in range(4)] == [(status, False), (status, False), (201, False), (201, True)]


@pytest.mark.parametrize(
    "answer",
    [
        (409, PROBLEM, b'{"type": "/errors/processing", "status": 409}'),
        (409, PROBLEM, b'{"type": "/errors/my-conflict", "effect": "none"}'),
        (409, PROBLEM, b"[]"),
        (409, PROBLEM, b"no JSON"),
        (409, "application/json", refusal(IdempotencyProcessing())[2]),
    ],
    ids=str,
)
@pytest.mark.parametrize("face", FACES)
def test_a_problem_of_somebody_else_is_kept(face: Callable[..., Send], answer: Given) -> None:
    send, key = face(lambda: answer), new_key()
    assert [send(key) for _ in range(2)] == [(409, False), (409, True)]


def test_what_no_endpoint_began_is_not_kept() -> None:
    ran = []

    async def pay(request: Any) -> PlainTextResponse:
        ran.append(request.url.path)
        return PlainTextResponse("no such order", 404)

    inner = Starlette(routes=[Route("/pay", pay, methods=["POST"]), Route("/read", pay, methods=["GET"])])
    app = FastAPI(routes=[Mount("/inner", inner), Route("/pay", pay, methods=["POST"])])
    router = APIRouter(prefix="/routed")

    @router.post("/pay")
    async def routed() -> Any:
        ran.append("/routed/pay")
        return PlainTextResponse("no such order", 404)

    app.include_router(router)
    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend())
    client = Local(app)
    for path, status in [("/nowhere", 404), ("/inner/nowhere", 404), ("/routed/nowhere", 404), ("/inner/read", 405)]:
        key = new_key()
        assert [told(client.post(path, key)) for _ in range(2)] == [(status, False)] * 2, path
    assert ran == []
    for path in ("/pay", "/inner/pay", "/routed/pay"):
        key = new_key()
        assert [told(client.post(path, key)) for _ in range(2)] == [(404, False), (404, True)], path
    assert ran == ["/pay", "/inner/pay", "/routed/pay"]
