"""The options of a decorated endpoint, its page in the documentation, and odd requests; in this process."""

from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Header, HTTPException, Request, Response
from pydantic import BaseModel
from starlette.responses import JSONResponse

from clients import Local, is_replay, new_key, refused, same_answer
from pyidempotent import current, idempotent
from pyidempotent.backends import Backend
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


def endpoint(backend: Backend, runs: Runs, *, sync: bool = False, **options: Any) -> Local:
    """An application with one endpoint, ``/``."""
    app = FastAPI()
    protected: Callable[..., Any] = idempotent(backend, **options)

    if sync:

        @app.post("/")
        @protected
        def on_a_thread(size: int = 1):
            return {"run": runs.one(), "text": "x" * size}

    else:

        @app.post("/")
        @protected
        async def in_the_loop(size: int = 1):
            return {"run": runs.one(), "text": "x" * size}

    return Local(app)


SYNC_AND_ASYNC = pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])


@SYNC_AND_ASYNC
def test_a_body_over_the_cap_is_refused(backend: Backend, runs: Runs, key: str, sync: bool) -> None:
    app = endpoint(backend, runs, sync=sync, max_request_bytes=10)

    async def chunks():
        for _ in range(4):
            yield b"abc"

    for body in (b"x" * 11, chunks()):  # with its length declared, and without
        problem = refused(app.post("/", key, content=body), 413, "payload-too-large", "none")
        assert "10 bytes" in problem["detail"]
    assert runs == []
    assert same_answer(*app.twice("/", key, content=b"x" * 10))


@pytest.mark.parametrize("length", ["\u00b2", "-1", "ten"])
def test_a_content_length_that_is_no_number_is_not_read(runs: Runs, key: str, length: str) -> None:
    app = endpoint("memory://", runs)  # type: ignore[arg-type]  # a URL is a backend too
    headers = httpx.Headers([(b"content-length", length.encode("latin-1")), (b"idempotency-key", key.encode())])
    assert app.post("/", None, headers=headers, content=b"x").is_success


@SYNC_AND_ASYNC
def test_a_result_over_the_cap_is_not_kept(
    backend: Backend, runs: Runs, key: str, sync: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = endpoint(backend, runs, sync=sync, max_response_bytes=200)
    assert same_answer(*app.twice("/"))
    first, again = app.twice("/?size=300", key)
    assert len(first.json()["text"]) == 300
    assert refused(again, 410, "not-kept", "done")["answer_status"] == 200
    assert runs.count(key) == 1
    assert "max_response_bytes is 200" in caplog.text


def test_the_answer_that_was_not_kept_tells_its_status_and_location(backend: Backend, runs: Runs, key: str) -> None:
    app = FastAPI()

    @app.post("/declared", status_code=201)
    @idempotent(backend, max_response_bytes=1)
    async def declared():
        return runs.one()

    @app.post("/injected")
    @idempotent(backend, max_response_bytes=1)
    async def injected(response: Response):
        response.status_code, response.headers["Location"] = 202, "/jobs/1"
        return runs.one()

    @app.post("/unstorable")
    @idempotent(backend)
    async def unstorable():
        return {runs.one(): object}  # which FastAPI can't render either

    problem = refused(Local(app).twice("/declared", key)[1], 410, "not-kept", "done")
    assert problem["answer_status"] == 201
    problem = refused(Local(app).twice("/injected", key)[1], 410, "not-kept", "done")
    assert (problem["answer_status"], problem["location"]) == (202, "/jobs/1")
    refused(Local(app).twice("/unstorable", key)[1], 410, "not-kept", "done")
    assert runs == [key] * 3


def test_strict_takes_only_a_quoted_key(backend: Backend, runs: Runs, key: str) -> None:
    app = endpoint(backend, runs, key_format="strict")
    refused(app.post("/", key), 400, "key-invalid", "none")
    assert same_answer(*app.twice("/", f'"{key}"'))
    assert runs == [key]


@SYNC_AND_ASYNC
def test_the_key_may_be_in_another_header(backend: Backend, runs: Runs, key: str, sync: bool) -> None:
    app = endpoint(backend, runs, sync=sync, key_header="X-Request-Key")
    refused(app.post("/", key), 400, "key-missing", "none")
    first, again = (app.post("/", headers={"x-request-key": key}) for _ in range(2))
    assert same_answer(first, again)
    assert [p["name"] for p in app.app.openapi()["paths"]["/"]["post"]["parameters"]] == ["size", "X-Request-Key"]


def test_the_key_may_be_an_argument(backend: Backend, runs: Runs) -> None:
    app = FastAPI()

    class Order(BaseModel):
        id: str
        amount: int

    @app.post("/")
    @idempotent(backend, key=lambda order: order.id)
    async def place(request: Request, order: Order):
        return {"amount": order.amount, "run": runs.one()}

    first, again = (Local(app).post("/", json={"id": "order-7", "amount": 1}) for _ in range(2))
    assert same_answer(first, again)
    refused(Local(app).post("/", json={"id": "order-7", "amount": 2}), 422, "conflict", "none")
    assert runs == ["order-7"]
    assert "parameters" not in app.openapi()["paths"]["/"]["post"]  # no header to show


def test_fingerprint_says_what_tells_requests_apart(backend: Backend, runs: Runs, key: str) -> None:
    app = FastAPI()

    @app.post("/")
    @idempotent(backend, fingerprint=lambda amount: amount)
    async def pay(amount: int, trace: str = ""):
        return runs.one()

    first, again = Local(app).post("/?amount=1", key), Local(app).post("/?trace=a&amount=1", key)
    assert same_answer(first, again)
    refused(Local(app).post("/?amount=2", key), 422, "conflict", "none")


def test_settle_sees_the_status_and_decides(backend: Backend, runs: Runs, key: str) -> None:
    seen = []

    def settle(outcome: Any) -> str | None:
        seen.append(outcome.status)
        return {404: "release", 500: "store"}.get(outcome.status)

    app = FastAPI()

    @app.post("/{status}")
    @idempotent(backend, settle=settle)
    async def answer(status: int):
        runs.one()
        if status == 404:
            raise HTTPException(404)
        return JSONResponse({}, status)

    local = Local(app)
    assert not is_replay(local.twice("/404", key)[1])
    assert is_replay(local.twice("/500", key)[1])
    assert is_replay(local.twice("/200", key)[1])
    assert seen == [404, 404, 500, 200]


# The documentation.


def documented(backend: Backend | None, **arguments: Any) -> dict[str, Any]:
    app = FastAPI()

    async def pay(request: Request, amount: int, response: Response) -> dict[str, int]:
        """Pays."""
        return {}

    async def bare():
        return {}

    for path, function in (("/pay", pay), ("/bare", bare)):
        app.post(path)(function if backend is None else idempotent(backend, **arguments)(function))
    return app.openapi()  # type: ignore[no-any-return]


def test_the_documentation_shows_the_key_header_and_nothing_else(backend: Backend) -> None:
    ours, without = documented(backend), documented(None)
    parameters = ours["paths"]["/pay"]["post"]["parameters"]
    (added,) = [p for p in parameters if p not in without["paths"]["/pay"]["post"]["parameters"]]
    assert (added["name"], added["in"], added["required"]) == ("Idempotency-Key", "header", False)
    assert added["description"]
    parameters.remove(added)
    assert ours["paths"]["/pay"] == without["paths"]["/pay"]
    # FastAPI says 422 of every endpoint that takes anything, as the key header is.
    bare = ours["paths"]["/bare"]["post"]
    assert [p["name"] for p in bare.pop("parameters")] == ["Idempotency-Key"]
    assert bare["responses"].pop("422")
    assert bare == without["paths"]["/bare"]["post"]
    assert ours["components"] == without["components"]


def test_an_endpoints_own_key_header_is_shown_once(backend: Backend, runs: Runs) -> None:
    app = FastAPI()

    class Tracing(BaseModel):
        x_trace: str

    @app.post("/annotated")
    @idempotent(backend)
    async def annotated(idempotency_key: Annotated[str, Header()]):
        return [idempotency_key, runs.one()]

    @app.post("/default")
    @idempotent(backend)
    async def default(key: str = Header(alias="IDEMPOTENCY-KEY")):
        return [key, runs.one()]

    @app.post("/model")
    @idempotent(backend)
    async def model(headers: Annotated[Tracing, Header()]):
        return [headers.x_trace, runs.one()]

    @app.post("/other")
    @idempotent(backend)
    async def other(x_trace: str = Header()):
        return [x_trace, runs.one()]

    shown = {
        path: [p["name"].lower() for p in operations["post"]["parameters"]]
        for path, operations in app.openapi()["paths"].items()
    }
    only = ["idempotency-key"]
    assert shown == {"/annotated": only, "/default": only, "/model": ["x-trace"], "/other": ["x-trace", *only]}
    for path in shown:
        first, again = Local(app).twice(path, headers={"X-Trace": "t"})
        assert first.is_success
        assert same_answer(first, again)


@pytest.mark.parametrize("key_option", ["order", lambda order: order])
def test_an_endpoint_with_a_key_of_its_own_answers_as_any_other(key_option: Any) -> None:
    """Without a parameter for the request."""
    app, ran = FastAPI(), []

    @app.post("/pay")
    @idempotent(MemoryBackend(), key=key_option)
    async def pay(order: int, amount: int) -> int:
        ran.append(order)
        return amount

    client = Local(app)
    assert same_answer(client.post("/pay?order=7&amount=1"), client.post("/pay?order=7&amount=1"))
    refused(client.post("/pay?order=7&amount=2"), 422, "conflict", "none")
    assert ran == [7]
    parameters = app.openapi()["paths"]["/pay"]["post"]["parameters"]
    assert [parameter["name"] for parameter in parameters] == ["order", "amount"]
