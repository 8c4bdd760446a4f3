"""Exception handlers of the application's own, for our errors and for others."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from clients import Local, is_replay, new_key, refused, same_answer
from pyidempotent import IdempotencyConflict, IdempotencyError, IdempotencyKeyMissing, idempotent
from pyidempotent.backends.memory import MemoryBackend


@pytest.fixture
def key() -> str:
    return new_key()


def protect(app: Starlette, mode: str = "async") -> Starlette:
    """The application with ``/pay``, of FastAPI or Starlette, in the loop or on a thread."""
    protected = idempotent(MemoryBackend())

    if isinstance(app, FastAPI):

        async def pay(amount: int = 1) -> int:
            return amount

        def pay_on_a_thread(amount: int = 1) -> int:
            return amount

        app.post("/pay")(protected(pay if mode == "async" else pay_on_a_thread))
    else:

        async def plain(request: Request) -> Response:
            return Response("paid")

        def plain_on_a_thread(request: Request) -> Response:
            return Response("paid")

        endpoint = protected(plain if mode == "async" else plain_on_a_thread)
        app.router.routes.append(Route("/pay", endpoint, methods=["POST"]))
    return app


def conflict(app: Starlette, key: str, path: str = "/pay") -> httpx.Response:
    """The answer to the second of two requests with one key."""
    client = Local(app)
    first = client.post(path, key, params={"amount": 1})
    assert first.is_success
    answer = client.post(path, key, params={"amount": 2})
    assert same_answer(first, client.post(path, key, params={"amount": 1}))
    return answer


async def raises(_: Request, error: Exception) -> Response:
    raise HTTPException(422, "used")


async def answers(_: Request, error: Any) -> Response:
    return JSONResponse({**error.problem(), "mine": True}, error.status, {"X-Mine": "1"})


def answers_on_a_thread(_: Request, error: Any) -> Response:
    return JSONResponse({**error.problem(), "mine": True}, error.status, {"X-Mine": "1"})


KINDS = pytest.mark.parametrize("kind", [FastAPI, Starlette])


@KINDS
@pytest.mark.parametrize("mode", ["async", "sync"])
@pytest.mark.parametrize("error", [IdempotencyConflict, IdempotencyError])
@pytest.mark.parametrize("handler", [answers, answers_on_a_thread])
def test_a_handler_of_the_applications_own_wins(
    key: str, kind: type[Starlette], mode: str, error: type[IdempotencyError], handler: Any
) -> None:
    answer = conflict(protect(kind(exception_handlers={error: handler}), mode), key)
    assert (answer.status_code, answer.headers["x-mine"], answer.json()["mine"]) == (422, "1", True)


@KINDS
@pytest.mark.parametrize("mode", ["async", "sync"])
@pytest.mark.parametrize("error", [IdempotencyConflict, IdempotencyError])
def test_a_handler_may_raise_an_http_exception(
    key: str, kind: type[Starlette], mode: str, error: type[IdempotencyError]
) -> None:
    answer = conflict(protect(kind(exception_handlers={error: raises}), mode), key)
    assert (answer.status_code, "used" in answer.text, "effect" in answer.text) == (422, True, False)


def test_a_handler_gets_every_refusal_as_it_is(key: str) -> None:
    seen: list[Exception] = []

    async def handler(_: Request, error: Exception) -> Response:
        seen.append(error)
        return Response(status_code=418)

    client = Local(protect(FastAPI(exception_handlers={IdempotencyError: handler})))
    assert client.post("/pay").status_code == 418
    assert client.post("/pay", "no good").status_code == 418
    assert client.post("/pay", key, headers={"Authorization": "Bearer x"}).status_code == 418
    assert [type(error).__name__ for error in seen] == [
        "IdempotencyKeyMissing",
        "IdempotencyKeyInvalid",
        "IdempotencyScopeMissing",
    ]


@pytest.mark.parametrize("other", [IdempotencyKeyMissing, Exception, HTTPException, 422, 500])
def test_a_handler_for_something_else_leaves_it_to_us(key: str, other: Any) -> None:
    refused(conflict(protect(FastAPI(exception_handlers={other: answers})), key), 422, "conflict", "none")


def test_the_refusal_of_a_request_without_a_key_names_the_header() -> None:
    app = FastAPI()

    @app.post("/pay")
    @idempotent(MemoryBackend(), key_header="X-Request-Key")
    async def pay() -> None: ...

    detail = refused(Local(app).post("/pay"), 400, "key-missing", "none")["detail"]
    assert "X-Request-Key" in detail
    assert "Idempotency-Key" not in detail


def marked(name: str) -> Any:
    async def handler(_: Request, error: Exception) -> Response:
        return JSONResponse({"by": name}, 422)

    return handler


@KINDS
def test_the_innermost_applications_handler_wins(key: str, kind: type[Starlette]) -> None:
    inner = protect(kind(exception_handlers={IdempotencyConflict: marked("inner")}))
    outer = Starlette(routes=[Mount("/in", inner)], exception_handlers={IdempotencyConflict: marked("outer")})
    assert conflict(outer, key, "/in/pay").json() == {"by": "inner"}


@KINDS
def test_an_outer_applications_handler_is_not_asked(key: str, kind: type[Starlette]) -> None:
    outer = FastAPI(exception_handlers={IdempotencyConflict: marked("outer")})
    outer.mount("/in", protect(kind()))
    refused(conflict(outer, key, "/in/pay"), 422, "conflict", "none")


class OutOfTea(Exception):
    pass


def test_what_dependencies_and_validation_raise_goes_its_own_way(key: str) -> None:
    async def refuses() -> None:
        raise HTTPException(418, "teapot", {"X-Why": "tea"})

    async def fails() -> None:
        raise OutOfTea

    handlers: dict[Any, Any] = {
        IdempotencyError: raises,
        OutOfTea: marked("tea"),
        RequestValidationError: marked("validation"),
    }
    app = FastAPI(exception_handlers=handlers)

    @app.post("/refuses", dependencies=[Depends(refuses)])
    @app.post("/fails", dependencies=[Depends(fails)])
    @app.post("/validates")
    @idempotent(MemoryBackend())
    async def pay(amount: int = 1) -> int:
        return amount

    client = Local(app)
    for _ in range(2):
        refusal = client.post("/refuses", key)
        assert (refusal.status_code, refusal.headers["x-why"], is_replay(refusal)) == (418, "tea", False)
        assert client.post("/fails", key).json() == {"by": "tea"}
        assert client.post("/validates?amount=x", key).json() == {"by": "validation"}
    assert not is_replay(client.post("/validates", key))
