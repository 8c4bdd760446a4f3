"""A result that can't be packed, for whatever reason: its caller gets it, a repeat is told so, and the log says why."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from django.http import HttpResponse
from django.test import RequestFactory
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from flask import Flask
from flask import Response as FlaskResponse

import django_site
from clients import Local, LocalWsgi, new_key
from modes import Mode
from pyidempotent import IdempotencyError, IdempotencyNotKept, IdempotencyProcessing, attempt, current, idempotent
from pyidempotent._http.endpoint import EndpointCall
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.celery import idempotent_task
from pyidempotent.django._view import ViewCall
from pyidempotent.flask._view import FlaskViewCall


class DetachedInstanceError(Exception):
    """What an ORM raises for a lazy attribute after the end of its session."""


@dataclasses.dataclass
class Row:
    number: int
    items: Any = dataclasses.field(init=False)

    #: What reading ``items`` raises.
    raises = DetachedInstanceError("lazy load of 'items' cannot proceed")


def _items(row: Row) -> Any:
    raise row.raises


Row.items = property(_items)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.fixture
def key() -> str:
    return new_key()


class Log:
    """What was logged about the result."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.caplog = caplog

    def said_once(self, operation: str, key: str, *words: str) -> None:
        errors = (record for record in self.caplog.records if record.levelno == logging.ERROR)
        (text,) = (record.getMessage() for record in errors if record.name == "pyidempotent")
        assert key not in self.caplog.text, "the key may be the only secret"
        for word in (operation, *words):
            assert word in text
        self.caplog.clear()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


ERRORS = [
    (DetachedInstanceError("lazy load of 'items' cannot proceed"), "DetachedInstanceError: lazy load of 'items'"),
    (RecursionError("too deep"), "RecursionError: too deep"),
    (MemoryError(), "MemoryError"),
    (KeyError("items"), "KeyError: 'items'"),
    (TypeError("no form"), "no form"),
    (ValueError("no value"), "no value"),
    (Unprintable(), "Unprintable"),
]


@pytest.mark.parametrize(("error", "why"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
def test_a_functions_caller_gets_the_value_and_a_repeat_is_told(
    backend: Backend, mode: Mode, key: str, log: Log, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    runs = []
    monkeypatch.setattr(Row, "raises", error)

    def load(order: str) -> Row:
        runs.append(order)
        return Row(len(runs))

    protected = mode.protect(load, backend, key="order", name="shop.load")
    assert protected(key).number == 1
    record = backend.get(key, operation="shop.load")
    assert record is not None
    assert record.state == "not kept"
    log.said_once("shop.load", key, record.id[:12], why)
    for _ in range(2):
        with pytest.raises(IdempotencyNotKept):
            protected(key)
    assert runs == [key]


class Zone(ZoneInfo):
    """A plain value's part that fails when it is read."""

    @property
    def key(self) -> str:
        raise DetachedInstanceError("lazy load of 'key' cannot proceed")


def test_a_blocks_result_stays_and_a_repeat_is_told(backend: Backend, key: str, log: Log) -> None:
    at = datetime(2026, 1, 1, tzinfo=Zone("Europe/Paris"))

    def block() -> Any:
        with attempt(backend, key=key, name="webhook") as run:
            run.result = at
        return run.result

    async def block_async() -> Any:
        async with attempt(backend, key=key + "b", name="webhook") as run:
            run.result = at
        return run.result

    for enter in (block, lambda: asyncio.run(block_async())):
        assert enter() is at
        log.said_once("webhook", key, "DetachedInstanceError: lazy load of 'key'")
        with pytest.raises(IdempotencyNotKept):
            enter()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_who_leaves_in_a_hurry_while_it_is_packed_is_not_held_up(
    backend: Backend, key: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    runs = []
    monkeypatch.setattr(Row, "raises", error())

    @idempotent(backend, key="order")
    def load(order: str) -> Row:
        runs.append(order)
        return Row(1)

    with pytest.raises(error):
        load(key)
    with pytest.raises(IdempotencyProcessing):
        load(key)  # held: nobody knows
    assert runs == [key]


def test_a_log_that_fails_costs_nobody_the_value(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise RuntimeError("the filter is broken")

    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: None)
    logger = logging.getLogger("pyidempotent")
    logger.addFilter(refuse)
    try:

        @idempotent(MemoryBackend(), key="order")
        def load(order: str) -> Row:
            return Row(1)

        assert load(key).number == 1
        with pytest.raises(IdempotencyNotKept):
            load(key)
    finally:
        logger.removeFilter(refuse)


# Faces whose result is an answer: packing it raises at the first look, sending it does not.


def once(looks: list[int]) -> None:
    looks.append(1)
    if len(looks) == 1:
        raise DetachedInstanceError("lazy load of 'items' cannot proceed")


def fastapi_app(backend: Backend, runs: list[str], looks: list[int], *, sync: bool) -> Local:
    app = FastAPI()

    class Lazy(Response):
        @property
        def body(self) -> bytes:
            if hasattr(self, "ready"):
                once(looks)
            return self._content

        @body.setter
        def body(self, value: bytes) -> None:
            self._content = value

    def answer() -> Response:
        runs.append(current().key)
        response = Lazy(f"run {len(runs)}", 201, headers={"Location": "/things/7"})
        response.ready = True  # type: ignore[attr-defined]
        return response

    if sync:

        @app.post("/pay")
        @idempotent(backend)
        def on_a_thread() -> Response:
            return answer()

    else:

        @app.post("/pay")
        @idempotent(backend)
        async def in_the_loop() -> Response:
            return answer()

    return Local(app)


def flask_app(backend: Backend, runs: list[str], looks: list[int]) -> LocalWsgi:
    app = Flask("shop")

    class Lazy(FlaskResponse):
        def iter_encoded(self) -> Any:
            once(looks)
            return super().iter_encoded()

    @app.post("/pay")
    @idempotent(backend)
    def pay() -> FlaskResponse:
        runs.append(current().key)
        return Lazy(f"run {len(runs)}", 201, headers={"Location": "/things/7"})

    return LocalWsgi(app)


class DjangoView:
    """A decorated view, called as Django calls it."""

    def __init__(self, backend: Backend, runs: list[str], looks: list[int]) -> None:
        class Lazy(HttpResponse):
            @property
            def content(self) -> bytes:
                once(looks)
                return b"".join(self._container)  # type: ignore[attr-defined]

            @content.setter
            def content(self, value: str) -> None:
                self._container = [value.encode()]

        def pay(request: Any) -> HttpResponse:
            runs.append(current().key)
            return Lazy(f"run {len(runs)}", status=201, headers={"Location": "/things/7"})

        self.view = idempotent(backend, name="POST /pay")(pay)

    def post(self, path: str, key: str) -> Any:
        assert django_site.FOLDER
        request = RequestFactory().post(path, headers={"Idempotency-Key": key})
        answer = self.view(request)
        answer.json = lambda: __import__("json").loads(answer.content)  # type: ignore[attr-defined]
        return answer


FACES: dict[str, tuple[Callable[..., Any], type]] = {
    "fastapi-async": (lambda *args: fastapi_app(*args, sync=False), EndpointCall),
    "fastapi-sync": (lambda *args: fastapi_app(*args, sync=True), EndpointCall),
    "flask": (flask_app, FlaskViewCall),
    "django": (DjangoView, ViewCall),
}


@pytest.mark.parametrize("face", FACES)
def test_a_client_gets_the_answer_and_a_repeat_is_told(backend: Backend, key: str, log: Log, face: str) -> None:
    runs: list[str] = []
    app = FACES[face][0](backend, runs, [])
    first = app.post("/pay", key)
    assert (first.status_code, first.headers["location"], runs) == (201, "/things/7", [key])
    log.said_once("POST /pay", key, "DetachedInstanceError: lazy load of 'items' cannot proceed")
    for _ in range(2):
        again = app.post("/pay", key)
        problem = again.json()
        assert again.status_code == 410
        assert (problem["answer_status"], problem["location"], problem["effect"]) == (201, "/things/7", "done")
    assert runs == [key]


@pytest.mark.parametrize("face", FACES)
def test_headers_that_fail_are_left_out(
    backend: Backend, key: str, log: Log, monkeypatch: pytest.MonkeyPatch, face: str
) -> None:
    def headers(call: Any, outcome: Any, /) -> Any:
        raise LookupError("no headers")

    make, cls = FACES[face]
    monkeypatch.setattr(cls, "headers", headers)
    runs: list[str] = []
    app = make(backend, runs, [])
    assert app.post("/pay", key).status_code == 201
    log.said_once("POST /pay", key, "DetachedInstanceError", "LookupError: no headers")
    problem = app.post("/pay", key)
    assert problem.status_code == 410
    assert "answer_status" not in problem.json()
    assert runs == [key]


def test_what_is_not_kept_by_rule_is_logged_without_the_key(backend: Backend, key: str, log: Log) -> None:
    app = FastAPI()

    @app.post("/stream")
    @idempotent(backend)
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"x"]))

    assert Local(app).post("/stream", key).content == b"x"
    record = backend.get(key, operation=("POST", "/stream"))
    assert record is not None
    log.said_once(f"the result of POST /stream [{record.id[:12]}]", key, "use the middleware for it")


def test_a_task_ends_with_the_value_and_a_repeat_is_told(backend: Backend, key: str, log: Log) -> None:
    app = Celery("shop", broker="memory://", set_as_current=False)
    runs = []

    def load(order: str) -> Row:
        runs.append(order)
        return Row(len(runs))

    task = app.task(base=idempotent_task(backend, key="order"), name="shop.load")(load)
    assert task.apply((key,)).get().number == 1
    log.said_once("shop.load", key, "DetachedInstanceError: lazy load of 'items' cannot proceed")
    assert isinstance(task.apply((key,)).result, IdempotencyNotKept)
    assert runs == [key]


def test_what_a_hook_raises_is_raised_and_the_key_held(backend: Backend, key: str) -> None:
    def settle(outcome: Any) -> Any:
        raise LookupError("the hook is broken")

    @idempotent(backend, key="order", settle=settle)
    def charge(order: str) -> int:
        return 1

    with pytest.raises(LookupError, match="the hook is broken"):
        charge(key)
    with pytest.raises(IdempotencyError) as told:
        charge(key)
    assert told.value.effect == "running"
