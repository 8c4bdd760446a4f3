"""Records of version 0.2.0, byte for byte as they stood in Redis: a retry across the upgrade finds its answer.

Each was written by the function or application of this file that has its name, and is replayed by it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pydantic
import pytest
import redis
from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import JSONResponse, StreamingResponse

from clients import Local
from pyidempotent import IdempotencyNotKept, IdempotencyProcessing, IdempotencyUnknown, attempt, idempotent
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends import Backend
from pyidempotent.backends.redis import RedisBackend
from servers import RedisServer

# The records name their classes by the module in which they were defined then.
sys.modules["tests.test_recorded"] = sys.modules[__name__]
__name__ = "tests.test_recorded"

#: Name → the end of its key in Redis and the value there.
RECORDED: dict[str, list[str]] = json.loads((Path(__file__).parent / "recorded" / "0.2.0.json").read_text())

PLAIN: list[Any] = [
    None,
    True,
    -256,
    2**70,
    -0.0,
    1.5,
    "text ünïcode 😀",
    b"\0\xff",
    [1, [2]],
    (1,),
    {"b": 1, "a": {1: None}},
    {1, 2},
    frozenset({"x"}),
    date(2026, 2, 28),
    datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
    datetime(2026, 1, 1, tzinfo=timezone.utc),
    time(1, 2, tzinfo=timezone(timedelta(hours=5))),
    timedelta(days=-1, microseconds=1),
    Decimal("1.10"),
    UUID(int=7),
    PurePosixPath("/a/b"),
]


class Colour(enum.Enum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    price: Decimal


@attrs.define
class Parcel:
    weight: float
    item: Item


class Receipt(pydantic.BaseModel):
    number: str
    at: datetime
    parcel: Any = None


class Declined(Exception):
    """A result of its own."""


RECEIPT = Receipt(number="r-1", at=datetime(2026, 1, 1, tzinfo=timezone.utc))


def functions(backend: Backend) -> dict[str, Callable[[], Any]]:
    """Calls that were recorded, by name."""

    @idempotent(backend, key="order", name="plain")
    def plain(order: str, note: str = "", at: date = date(2026, 1, 1)) -> list[Any]:
        return PLAIN

    @idempotent(backend, key="order", name="classes")
    def classes(order: str) -> dict[Colour, tuple[Point, Item, Parcel, Receipt]]:
        item = Item("pen", Decimal("1.10"))
        return {Colour.RED: (Point(1, 2), item, Parcel(1.5, item), RECEIPT)}

    @idempotent(backend, key="order", name="unnamed")
    def unnamed(order: str) -> Any:
        return Item("pen", Decimal("1.10"))

    @idempotent(backend, key="order", name="exception", store_exceptions=Declined)
    def exception(order: str) -> None:
        raise Declined(7)

    @idempotent(backend, key="order", name="not kept")
    def not_kept(order: str) -> Any:
        return object()

    def block() -> Any:
        with attempt(backend, key="evt_1", payload={"amount": 1}, name="webhook") as run:
            if not run.replayed:
                run.result = {"handled": 1}
        return run.result

    return {
        "plain": lambda: plain("a", at=date(2026, 1, 1)),
        "classes": lambda: classes("a"),
        "unnamed": lambda: unnamed("a"),
        "exception": lambda: exception("a"),
        "not kept": lambda: not_kept("a"),
        "attempt": block,
    }


def application(backend: Backend) -> Local:
    app = FastAPI()

    @app.post("/middleware")
    async def whole() -> JSONResponse:
        return JSONResponse({"number": 1}, 201, headers={"Location": "/things/7"})

    @app.post("/too-large")
    async def too_large() -> Response:
        return Response(b"x" * 3000, 201, headers={"Location": "/things/8"})

    protected = idempotent(backend)

    @app.post("/decorated/response")
    @protected
    async def response() -> JSONResponse:
        return JSONResponse({"number": 1}, 201)

    @app.post("/decorated/model")
    @protected
    async def model(response: Response) -> Receipt:
        response.headers["X-Number"] = "1"
        return RECEIPT

    @app.post("/decorated/raised")
    @protected
    async def raised() -> None:
        raise HTTPException(402, {"code": 7}, headers={"X-Why": "poor"})

    @app.post("/decorated/stream")
    @protected
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"x"]), 201, headers={"Location": "/streams/1"})

    routes = {"/decorated/*": None}
    app.add_middleware(IdempotencyMiddleware, backend=backend, max_response_bytes=2000, routes=routes)
    return Local(app)


REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "json": ("/middleware?a=1", {"json": {"amount": 1}}),
    "form": ("/middleware", {"data": {"amount": "1"}}),
    "multipart": ("/middleware", {"data": {"title": "t"}, "files": {"file": ("a.bin", b"\x00--", "x/y")}}),
    "too large": ("/too-large", {}),
    "response": ("/decorated/response", {"json": {"amount": 1}}),
    "model": ("/decorated/model", {"json": {"amount": 1}}),
    "raised": ("/decorated/raised", {"json": {"amount": 1}}),
    "stream": ("/decorated/stream", {}),
}


def key_of(name: str) -> str:
    return name.replace(" ", "-")


@pytest.fixture
def recorded(redis_server: RedisServer) -> Backend:
    """A store with everything that was recorded."""
    prefix = f"{uuid.uuid4()}:"
    client = redis.from_url(redis_server.url)
    for name, value in RECORDED.values():
        client.set(prefix + name, bytes.fromhex(value), px=60_000)
    return RedisBackend(redis_server.url, prefix=prefix)


def test_values_of_functions_are_replayed(recorded: Backend) -> None:
    calls = functions(recorded)
    assert list(map(repr, calls["plain"]())) == list(map(repr, PLAIN))
    item = Item("pen", Decimal("1.10"))
    assert calls["classes"]() == {Colour.RED: (Point(1, 2), item, Parcel(1.5, item), RECEIPT)}
    assert calls["attempt"]() == {"handled": 1}
    with pytest.raises(Declined, match="7"):
        calls["exception"]()
    with pytest.raises(IdempotencyNotKept):
        calls["not kept"]()


@pytest.mark.parametrize(
    ("state", "left", "error"),
    [
        (b"F", 86_400, IdempotencyProcessing),  # seconds that it still lives: just renewed
        (b"F", 86_300, None),  # its lease of 30 s has lapsed
        (b"U", 86_400, IdempotencyUnknown),
    ],
)
def test_records_without_a_result_are_read(
    redis_server: RedisServer, state: bytes, left: int, error: type[Exception] | None
) -> None:
    prefix, (name, value) = f"{uuid.uuid4()}:", RECORDED["plain"]
    whole = bytes.fromhex(value)
    head = whole[: 88 + int.from_bytes(whole[86:88], "big")]  # without its result
    redis.from_url(redis_server.url).set(prefix + name, head[:4] + state + head[5:], px=left * 1000)
    call = functions(RedisBackend(redis_server.url, prefix=prefix))["plain"]
    if error is None:
        assert list(map(repr, call())) == list(map(repr, PLAIN))
    else:
        with pytest.raises(error):
            call()


@pytest.mark.parametrize("name", ["json", "form", "multipart", "response", "model", "raised"])
def test_answers_are_replayed(recorded: Backend, name: str) -> None:
    path, more = REQUESTS[name]
    app = application(recorded)
    again, first = app.post(path, key_of(name), **more), app.post(path, "new", **more)
    assert again.headers["idempotent-replayed"] == "true"
    shown = ("content-type", "location", "x-number", "x-why")
    for answer in (first, again):
        assert answer.status_code == {"model": 200, "raised": 402}.get(name, 201)
    assert again.content == first.content
    assert [again.headers.get(header) for header in shown] == [first.headers.get(header) for header in shown]


@pytest.mark.parametrize(("name", "location"), [("too large", "/things/8"), ("stream", "/streams/1")])
def test_what_was_not_kept_tells_its_status_and_location(recorded: Backend, name: str, location: str) -> None:
    path, more = REQUESTS[name]
    problem = application(recorded).post(path, key_of(name), **more)
    assert problem.status_code == 410
    told = problem.json()
    assert (told["answer_status"], told["location"], told["effect"]) == (201, location, "done")


def test_a_value_of_a_class_that_no_annotation_names_is_not_made(recorded: Backend) -> None:
    with pytest.raises(IdempotencyNotKept) as told:
        functions(recorded)["unnamed"]()
    assert "test_recorded:Item, which the return annotation does not name" in str(told.value.__cause__)
