"""Odd requests and odd applications; in this process."""

import logging
from typing import TYPE_CHECKING, Annotated

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import pyidempotent
from clients import Local, is_replay, new_key, refused, same_answer
from pyidempotent import IdempotencyConflict, IdempotencyError, current, idempotent
from pyidempotent.backends import Backend

if TYPE_CHECKING:
    from decimal import Decimal as Session


class Order(BaseModel):
    id: str


class Declined(HTTPException):
    def __init__(self, reason: str) -> None:
        super().__init__(402, reason, {"X-Reason": reason})
        self.reason = reason


@pytest.fixture
def key() -> str:
    return new_key()


@pytest.fixture
def runs() -> list[str]:
    return []


# Bodies.

BODIES = {
    "empty": b"",
    "lone surrogate": b'{"text": "\\ud800"}',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "not UTF-8": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_any_body_is_compared_as_bytes(backend: Backend, runs: list[str], key: str, body: bytes) -> None:
    app = FastAPI()

    @app.post("/")
    @idempotent(backend)
    async def size(request: Request):
        runs.append(current().key)
        return len(await request.body())

    first, again = Local(app).twice("/", key, content=body)
    assert first.json() == len(body)
    assert same_answer(first, again)
    refused(Local(app).post("/", key, content=body + b" "), 422, "conflict", "none")
    assert runs == [key]


def test_a_body_that_a_dependency_has_read_is_compared_too(backend: Backend, key: str) -> None:
    app = FastAPI()

    async def signature(request: Request) -> int:
        return len(await request.body())

    @app.post("/")
    @idempotent(backend)
    def pay(signature: Annotated[int, Depends(signature)]):
        return signature

    assert same_answer(*Local(app).twice("/", key, content=b"abc"))
    refused(Local(app).post("/", key, content=b"abd"), 422, "conflict", "none")


# Annotations.


def test_a_parameter_called_request_may_be_something_else(backend: Backend, key: str) -> None:
    app = FastAPI()

    @app.post("/")
    @idempotent(backend, scope=pyidempotent.by_authorization)
    async def place(request: Order):
        return request.id

    for token in ("a", "b"):
        first, again = Local(app).twice("/", key, json={"id": "7"}, headers={"Authorization": token})
        assert first.json() == "7"
        assert same_answer(first, again)


def test_an_annotation_that_only_a_type_checker_can_resolve_spoils_no_other(backend: Backend, key: str) -> None:
    app = FastAPI()

    def session() -> str:
        return "session"

    @app.post("/")
    @idempotent(backend, scope=lambda request: request.headers["x-user"])
    async def pay(
        request: "Request",
        amount: "int",
        response: "Response",
        session: "Session" = Depends(session),  # noqa: B008  # the annotation is not resolved
    ):
        response.status_code = 201
        return [session, amount]

    first, again = Local(app).twice("/?amount=1", key, headers={"X-User": "a"})
    assert (first.status_code, first.json()) == (201, ["session", 1])
    assert same_answer(first, again)


# Exceptions of the application's own.


def test_a_raised_answer_of_the_applications_own_class_reaches_its_handler_again(backend: Backend, key: str) -> None:
    app = FastAPI()

    @app.exception_handler(Declined)
    async def declined(_: Request, error: Declined):
        return JSONResponse({"reason": error.reason}, error.status_code, error.headers)

    @app.post("/")
    @idempotent(backend)
    async def pay():
        raise Declined("no cover")

    first, again = Local(app).twice("/", key)
    assert (first.status_code, first.json(), first.headers["x-reason"]) == (402, {"reason": "no cover"}, "no cover")
    assert same_answer(first, again)


def test_a_raised_answer_of_a_class_of_ones_own_is_replayed(backend: Backend, key: str, runs: list[str]) -> None:
    class Nameless(HTTPException):
        pass

    app = FastAPI()

    @app.post("/")
    @idempotent(backend)
    async def pay():
        runs.append(current().key)
        raise Nameless(418, "a teapot")

    first, again = Local(app).twice("/", key)
    assert (first.status_code, first.json()) == (418, {"detail": "a teapot"})
    assert same_answer(first, again)
    assert runs == [key]


# A decorated dependency.


@pytest.mark.parametrize("has_handler", [True, False])
def test_a_refused_dependency_keeps_its_endpoint_from_running(
    backend: Backend, key: str, runs: list[str], has_handler: bool
) -> None:
    app = FastAPI()

    if has_handler:

        @app.exception_handler(IdempotencyError)
        async def answer(request: Request, error: IdempotencyError):
            return JSONResponse(error.problem(request.url.path), error.status, error.headers())

    @idempotent(backend)
    async def once(amount: int):
        return amount

    async def outer(once: Annotated[int, Depends(once)]):
        return once

    @app.post("/")
    async def pay(amount: Annotated[int, Depends(outer)]):
        runs.append(str(amount))
        return amount

    local = Local(app)
    assert local.post("/?amount=1", key).json() == 1
    conflict, missing = local.post("/?amount=2", key), local.post("/?amount=1")
    if has_handler:
        refused(conflict, 422, "conflict", "none")
        refused(missing, 400, "key-missing", "none")
    assert (conflict.is_success, missing.is_success) == (False, False)
    assert runs == ["1"]


# Callers.


class Tokens(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        user, _, _ = conn.headers.get("authorization", "").partition(" ")
        return (AuthCredentials(), SimpleUser(user)) if user else None


def test_the_user_that_the_framework_knows_is_the_caller(backend: Backend, key: str, runs: list[str]) -> None:
    @idempotent(backend)
    async def pay(request: Request):
        runs.append(request.user.display_name)
        return PlainTextResponse(request.user.display_name)

    routes = [Route("/", pay, methods=["POST"])]
    app = Starlette(routes=routes, middleware=[Middleware(AuthenticationMiddleware, backend=Tokens())])
    local = Local(app)
    first = local.post("/", key, headers={"Authorization": "alice old"})
    assert same_answer(first, local.post("/", key, headers={"Authorization": "alice fresh"}))
    assert local.post("/", key, headers={"Authorization": "bob old"}).text == "bob"
    assert not is_replay(local.post("/", key))
    assert runs == ["alice", "bob", ""]


def test_a_scope_that_names_nobody_is_refused(backend: Backend, key: str, runs: list[str]) -> None:
    app = FastAPI()

    @app.post("/")
    @idempotent(backend, scope=lambda request: request.headers.get("x-user"))
    async def pay():
        runs.append(current().key)

    refused(Local(app).post("/", key), 500, "scope-missing", "none")
    assert runs == []
    assert Local(app).post("/", key, headers={"X-User": ""}).is_success


def test_cookies_are_warned_about_once(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    name = new_key()

    @app.post("/")
    @idempotent(backend, name=name)
    async def pay():
        return 1

    for _ in range(2):
        assert Local(app).post("/", new_key(), headers={"Cookie": "a=b"}).is_success
    (warning,) = [record for record in caplog.records if record.getMessage().startswith(name)]
    assert warning.levelno == logging.WARNING
    assert "scope=" in warning.getMessage()


# Paths.


@pytest.mark.parametrize("has_raw_path", [True, False])
def test_the_same_path_behind_two_mounts_is_two_operations(backend: Backend, key: str, has_raw_path: bool) -> None:
    @idempotent(backend)
    async def pay(request: Request):
        return PlainTextResponse(current().scope.operation[1])

    inner = Mount("/eu", routes=[Route("/pay/{order}", pay, methods=["POST"])])
    other = Mount("/us", app=Starlette(routes=[Route("/pay/{order}", pay, methods=["POST"])]))
    app = Starlette(routes=[inner, other])

    async def served(scope, receive, send):
        if not has_raw_path:
            scope.pop("raw_path", None)  # not every server tells it
        await app(scope, receive, send)

    eu, us = (Local(served).post(f"/{mount}/pay/a%20b?x=1", key) for mount in ("eu", "us"))
    assert (eu.text, us.text) == ("/eu/pay/a%20b", "/us/pay/a%20b")
    assert not is_replay(us)
    refused(Local(served).post("/us/pay/a%20b?x=2", key), 422, "conflict", "none")


def test_a_refusal_is_an_exception_with_everything_for_an_answer() -> None:
    error = IdempotencyConflict("why", limit=3)
    assert error.status == 422
    assert error.problem("/pay")["limit"] == 3
    assert error.headers() == {"content-type": "application/problem+json"}
