"""The middleware in FastAPI, Starlette, Litestar and Quart: the user's handlers, and other middleware."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import litestar
import litestar.middleware
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.background import BackgroundTask
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse

from clients import Local, is_replay, new_key, refused, same_answer
from pyidempotent import (
    IdempotencyConflict,
    IdempotencyError,
    IdempotencyKeyMissing,
    current,
    idempotent,
)
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend


class Runs(list[str]):
    """The keys of the runs so far, in order."""

    def one(self) -> str:
        self.append(current().key)
        return f"run {len(self)}"


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def key() -> str:
    return new_key()


def shop(runs: Runs, **options: Any) -> FastAPI:
    app = FastAPI()

    @app.post("/pay")
    async def pay(amount: int = 1) -> dict[str, str]:
        return {"run": runs.one(), "amount": str(amount)}

    app.add_middleware(IdempotencyMiddleware, **{"backend": MemoryBackend(), **options})
    return app


# Handlers of the user's own.


def raises(_: Any, error: Exception) -> Any:
    raise HTTPException(422, "mine")


async def raises_async(_: Any, error: Exception) -> Any:
    raise HTTPException(422, "mine")


def answers(_: Any, error: Exception) -> Any:
    return JSONResponse({"detail": "mine"}, 422)


@pytest.mark.parametrize("handler", [raises, raises_async, answers])
@pytest.mark.parametrize("kind", [IdempotencyConflict, IdempotencyError])
def test_a_handler_of_the_users_own_wins(
    runs: Runs, key: str, handler: Callable[..., Any], kind: type[IdempotencyError]
) -> None:
    app = shop(runs)
    app.add_exception_handler(kind, handler)
    client = Local(app)
    assert client.post("/pay?amount=1", key).is_success
    other = client.post("/pay?amount=2", key)
    assert (other.status_code, other.json()) == (422, {"detail": "mine"})
    assert len(runs) == 1


def test_a_handler_for_every_exception_is_not_for_ours(runs: Runs) -> None:
    app = shop(runs, required=True)
    app.add_exception_handler(Exception, answers)
    refused(Local(app).post("/pay"), 400, "key-missing", "none")


def test_a_handler_for_one_refusal_is_not_for_another(runs: Runs, key: str) -> None:
    app = shop(runs)
    app.add_exception_handler(IdempotencyKeyMissing, answers)
    client = Local(app)
    client.post("/pay?amount=1", key)
    refused(client.post("/pay?amount=2", key), 422, "conflict", "none")


def test_a_handler_of_the_users_own_may_read_the_body(runs: Runs, key: str) -> None:
    async def reads(request: Request, error: Exception) -> Any:
        return JSONResponse({"sent": await request.json()}, 422)

    app = shop(runs)
    app.add_exception_handler(IdempotencyConflict, reads)
    client = Local(app)
    client.post("/pay", key, json={"amount": 1})
    assert client.post("/pay", key, json={"amount": 2}).json() == {"sent": {"amount": 2}}


def test_who_calls_may_say_401(runs: Runs, key: str) -> None:
    def user(request: Request) -> str:
        if request.headers.get("authorization") != "Bearer good":
            raise HTTPException(401, "who?", {"WWW-Authenticate": "Bearer"})
        return "alice"

    client = Local(shop(runs, scope=user))
    answer = client.post("/pay", key, headers={"Authorization": "Bearer bad"})
    assert (answer.status_code, answer.json()) == (401, {"detail": "who?"})
    assert answer.headers["www-authenticate"] == "Bearer"
    assert runs == []
    assert client.post("/pay", key, headers={"Authorization": "Bearer good"}).is_success


def test_an_error_of_the_users_callable_is_a_500_and_nothing_runs(runs: Runs, key: str) -> None:
    client = Local(shop(runs, scope=lambda request: request.state.user))
    assert client.post("/pay", key).status_code == 500
    assert runs == []


# Inside a request.


def test_current_is_known_in_sync_and_async_endpoints(key: str) -> None:
    app = FastAPI()
    seen: dict[str, Any] = {}

    @app.post("/sync")
    def sync() -> None:
        seen["sync"] = (current().key, current().scope.operation, current().derive("charge"))

    @app.post("/async")
    async def in_the_loop() -> None:
        seen["async"] = (current().key, current().scope.operation, current().fence > 0)

    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend())
    client = Local(app)
    assert [client.post(f"/{path}", key).status_code for path in ("sync", "async")] == [200, 200]
    assert seen["sync"][:2] == (key, ("POST", b"/sync"))
    assert seen["async"] == (key, ("POST", b"/async"), True)


def test_a_handler_may_release_its_key(key: str) -> None:
    app = FastAPI()
    runs: list[int] = []

    @app.post("/pay")
    def pay() -> int:
        runs.append(1)
        if len(runs) == 1:
            current().release()
        return len(runs)

    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend(), after_crash="refuse")
    client = Local(app)
    assert [client.post("/pay", key).json() for _ in range(3)] == [1, 2, 2]


def test_settle_decides(key: str) -> None:
    app = FastAPI()
    runs: list[int] = []

    @app.post("/pay")
    def pay() -> JSONResponse:
        runs.append(1)
        return JSONResponse({"state": "pending" if len(runs) == 1 else "done"})

    def settle(outcome: Any) -> Any:
        assert outcome.status == 200
        return "release" if b"pending" in outcome.value.body else None

    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend(), settle=settle)
    client = Local(app)
    assert [client.post("/pay", key).json()["state"] for _ in range(3)] == ["pending", "done", "done"]
    assert len(runs) == 2


def decorated(runs: Runs, outer: dict[str, Any], **options: Any) -> Local:
    app = FastAPI()

    @app.post("/pay")
    @idempotent(**options)
    async def pay(amount: int = 1) -> dict[str, str]:
        return {"run": runs.one()}

    app.add_middleware(IdempotencyMiddleware, **outer)
    return Local(app)


def test_a_decorated_endpoint_joins_the_middlewares_attempt(runs: Runs, key: str) -> None:
    backend = MemoryBackend()
    outer = {"backend": backend, "ttl": 60, "lease": 5, "after_crash": "refuse"}
    client = decorated(runs, outer, backend=backend, ttl=60, after_crash="refuse")
    assert same_answer(*client.twice("/pay", key))
    assert runs == [key]
    refused(client.post("/pay?amount=2", key), 422, "conflict", "none")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ttl": 60}, "ttl"),
        ({"lease": 3}, "lease"),
        ({"backend": "memory://other"}, "backend"),
        ({"scope": lambda amount: "x"}, "scope"),
        ({"key": "amount"}, "key"),
        ({"name": "pay"}, "name"),
        ({"settle": lambda outcome: None}, "settle"),
        ({"after_crash": "refuse"}, "after_crash"),
        ({"key_format": "strict"}, "key_format"),
        ({"key_header": "X-Key"}, "key_header"),
        ({"store_exceptions": (ValueError,)}, "store_exceptions"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_the_middleware_cannot_honour_are_refused(
    runs: Runs, key: str, options: dict[str, Any], named: str
) -> None:
    app = FastAPI()
    said: list[str] = []

    @app.post("/pay")
    @idempotent(**{"backend": None, **options})
    async def pay(request: Request, amount: str = "1") -> str:
        return runs.one()

    @app.middleware("http")
    async def note(request: Request, go_on: Any) -> Any:
        try:
            return await go_on(request)
        except TypeError as error:
            said.append(str(error))
            return PlainTextResponse("refused", 500)

    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend())
    assert Local(app).post("/pay", key).status_code == 500
    (words,) = said
    assert f"without {named}:" in words
    assert "pay" in words
    assert runs == []


def test_decorated_functions_that_call_each_other_are_operations_of_their_own(runs: Runs, key: str) -> None:
    backend = MemoryBackend()
    app = FastAPI()
    charged: list[str] = []

    @idempotent(backend, key="order")
    def charge(order: str) -> str:
        charged.append(current().key)
        return f"charge {len(charged)}"

    @app.post("/pay")
    def pay() -> str:
        runs.one()
        return charge("order-7")

    app.add_middleware(IdempotencyMiddleware, backend=backend)
    client = Local(app)
    assert [client.post("/pay", one).json() for one in (key, key, new_key())] == ["charge 1"] * 3
    assert (len(runs), charged) == (2, ["order-7"])


@pytest.mark.parametrize("handled", [False, True], ids=["by itself", "by a handler of the user's own"])
def test_a_refusal_of_a_call_inside_is_no_answer_to_keep(runs: Runs, key: str, handled: bool) -> None:
    backend = MemoryBackend()
    app = FastAPI()
    begun, go = threading.Event(), threading.Event()

    @idempotent(backend, key="order")
    def charge(order: str) -> str:
        begun.set()
        go.wait(20)
        return "charged"

    @app.post("/pay")
    def pay() -> str:
        runs.one()
        return charge("order-7")

    if handled:

        @app.exception_handler(IdempotencyError)
        async def told(_: Request, error: IdempotencyError) -> JSONResponse:
            return JSONResponse({"mine": error.detail}, error.status, error.headers())

    app.add_middleware(IdempotencyMiddleware, backend=backend)
    client = Local(app)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/pay", new_key())
        assert begun.wait(20)
        busy = client.post("/pay", key)
        assert (busy.status_code, "mine" in busy.json(), busy.headers["retry-after"]) == (409, handled, "1")
        go.set()
        assert first.result().json() == "charged"
    answer = client.post("/pay", key)
    assert (answer.json(), is_replay(answer)) == ("charged", False)
    assert is_replay(client.post("/pay", key))
    assert len(runs) == 3


def test_a_cancelled_request_keeps_its_key_while_its_thread_works(key: str) -> None:
    app = FastAPI()
    begun, go = threading.Event(), threading.Event()

    @app.post("/pay")
    def pay() -> str:
        begun.set()
        go.wait(20)
        return "charged"

    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend())

    async def impatient(scope: Any, receive: Any, send: Any) -> None:
        request = asyncio.create_task(app(scope, receive, send))
        await asyncio.to_thread(begun.wait, 20)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await PlainTextResponse("too slow", 504)(scope, receive, send)

    assert Local(impatient).post("/pay", key).status_code == 504
    refused(Local(app).post("/pay", key), 409, "processing", "running", retry_after=True)
    go.set()


# Malformed answers.


@pytest.mark.parametrize("is_decorated", [False, True])
def test_an_answer_that_is_longer_than_it_said_is_not_kept(runs: Runs, key: str, is_decorated: bool) -> None:
    app, backend = FastAPI(), MemoryBackend()

    async def pay(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{runs.one()}, at some length", headers={"Content-Length": "2"})

    app.post("/pay")(idempotent(backend)(pay) if is_decorated else pay)
    if not is_decorated:
        app.add_middleware(IdempotencyMiddleware, backend=backend)
    client = Local(app)
    assert client.post("/pay", key).status_code == 200
    refused(client.post("/pay", key), 410, "not-kept", "done")
    assert len(runs) == 1


# Other middleware.


def test_the_user_that_starlette_knows_is_the_caller(runs: Runs, key: str) -> None:
    class ByHeader(AuthenticationBackend):
        async def authenticate(self, conn: Any) -> Any:
            name = conn.headers.get("authorization")
            return name and (AuthCredentials(), SimpleUser(name))

    app = shop(runs)
    app.add_middleware(AuthenticationMiddleware, backend=ByHeader())  # outside of ours
    client = Local(app)
    first = client.post("/pay", key, headers={"Authorization": "alice"})
    other = client.post("/pay", key, headers={"Authorization": "bob"})
    assert first.json() != other.json()
    assert same_answer(first, client.post("/pay", key, headers={"Authorization": "alice"}))


def test_users_with_one_name_to_display_are_not_one_caller(runs: Runs, key: str) -> None:
    class User(BaseUser):
        is_authenticated = True
        display_name = "Alex"

    class Everybody(AuthenticationBackend):
        async def authenticate(self, conn: Any) -> Any:
            return AuthCredentials(), User()

    app = shop(runs)
    app.add_middleware(AuthenticationMiddleware, backend=Everybody())
    refused(Local(app).post("/pay", key), 500, "scope-missing", "none")
    assert runs == []


def test_cross_origin_requests_see_the_replay_header_and_preflights_are_not_touched(runs: Runs, key: str) -> None:
    app = shop(runs)

    @app.post("/stream")
    async def stream() -> StreamingResponse:
        runs.one()
        return StreamingResponse(iter([b"a", b"b"]))

    app.add_middleware(
        CORSMiddleware,
        allow_origins=["https://a.example", "https://b.example"],
        allow_methods=["POST"],
        allow_headers=["Idempotency-Key"],
        expose_headers=["Idempotent-Replayed"],
    )
    client = Local(app)
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    preflight = client.post("/pay", method="OPTIONS", headers=asks)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "https://a.example")
    for path in ("/pay", "/stream"):
        for number, origin in enumerate(("https://a.example", "https://b.example")):
            answer = client.post(path, key, headers={"Origin": origin})
            assert answer.headers.get_list("access-control-allow-origin") == [origin]
            assert answer.headers.get_list("access-control-expose-headers") == ["Idempotent-Replayed"]
            assert is_replay(answer) == bool(number)
    assert len(runs) == 2


@pytest.mark.parametrize("outside", [False, True])
def test_compression_on_either_side(runs: Runs, key: str, outside: bool) -> None:
    app = FastAPI()

    @app.post("/pay")
    def pay() -> str:
        return runs.one() + "x" * 2000

    added: list[tuple[Any, dict[str, Any]]] = [
        (GZipMiddleware, {}),
        (IdempotencyMiddleware, {"backend": MemoryBackend()}),
    ]
    for middleware, options in reversed(added) if outside else added:
        app.add_middleware(middleware, **options)
    client = Local(app)
    first, again = client.twice("/pay", key, headers={"Accept-Encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    assert same_answer(first, again)
    assert len(runs) == 1


@pytest.mark.parametrize("outside", [False, True])
def test_base_http_middleware_on_either_side(runs: Runs, key: str, outside: bool) -> None:
    class Adding(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            answer = await call_next(request)
            answer.headers.append("x-added", "1")
            return answer

    app = FastAPI()

    @app.post("/pay")
    def pay() -> str:
        return runs.one()

    added: list[tuple[Any, dict[str, Any]]] = [(Adding, {}), (IdempotencyMiddleware, {"backend": MemoryBackend()})]
    for middleware, options in reversed(added) if outside else added:
        app.add_middleware(middleware, **options)
    first, again = Local(app).twice("/pay", key)
    assert same_answer(first, again)
    assert again.headers.get_list("x-added") == ["1"]


def test_background_tasks_run_once_and_their_failure_changes_nothing(runs: Runs, key: str) -> None:
    app = FastAPI()
    done: list[int] = []

    def task() -> None:
        done.append(1)
        raise RuntimeError("in the background")

    @app.post("/pay")
    def pay() -> PlainTextResponse:
        return PlainTextResponse(runs.one(), background=BackgroundTask(task))

    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend())
    assert same_answer(*Local(app).twice("/pay", key))
    assert (len(runs), len(done)) == (1, 1)


def test_events_are_as_without_us(key: str) -> None:
    app = FastAPI()

    @app.post("/events")
    async def events() -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            for number in range(3):
                yield f"data: {number}\n\n"
                await asyncio.sleep(0)

        return StreamingResponse(stream(), media_type="text/event-stream")

    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend())
    first, again = Local(app).twice("/events", key)
    assert first.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert same_answer(first, again, but=("content-length",))  # which is known now


def test_a_commit_in_a_dependency_that_fails_is_seen_by_the_middleware(key: str) -> None:
    """With scope="function" a dependency ends before the answer goes out, and its failure is the answer."""
    app = FastAPI()
    runs: list[int] = []

    async def session() -> AsyncIterator[None]:
        yield
        if len(runs) == 1:
            raise RuntimeError("the commit failed")

    @app.post("/pay")
    async def pay(_: None = Depends(session, scope="function")) -> int:
        runs.append(1)
        return len(runs)

    app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend())
    client = Local(app)
    assert [client.post("/pay", key).status_code for _ in range(3)] == [500, 200, 200]
    assert len(runs) == 2


# Frameworks that are not Starlette.


def test_litestar(key: str) -> None:
    runs: list[str] = []

    @litestar.post("/pay")
    async def pay(request: litestar.Request[Any, Any, Any]) -> dict[str, int]:
        runs.append(current().key)
        return {**await request.json(), "run": len(runs)}

    app = litestar.Litestar(
        [pay], middleware=[litestar.middleware.DefineMiddleware(IdempotencyMiddleware, backend=MemoryBackend())]
    )
    check_a_framework(app, key, runs)


def test_quart(key: str) -> None:
    from quart import Quart, request

    app = Quart(__name__)
    runs: list[str] = []

    @app.post("/pay")
    async def pay() -> Any:
        runs.append(current().key)
        return {**await request.get_json(), "run": len(runs)}

    app.asgi_app = IdempotencyMiddleware(app.asgi_app, MemoryBackend())  # type: ignore[method-assign]  # Quart's way
    check_a_framework(app, key, runs)


def check_a_framework(app: Any, key: str, runs: list[str]) -> None:
    client = Local(app)
    first, again = client.twice("/pay", key, json={"amount": 1})
    assert first.json() == {"amount": 1, "run": 1}
    assert same_answer(first, again)
    refused(client.post("/pay", key, json={"amount": 2}), 422, "conflict", "none")
    refused(client.post("/pay", "two words", json={"amount": 1}), 400, "key-invalid", "none")
    assert client.post("/pay", json={"amount": 1}).status_code >= 500  # current() outside of a run
    assert runs == [key]
