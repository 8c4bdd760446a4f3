"""What observers and the log are told, and that neither can harm a call."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asgi_client import Client
from pyidempotent import IdempotencyConflict, IdempotencyError, IdempotencyKeyMissing, idempotent, transaction
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.instrumentation import Event, dropped, flush, observe
from pyidempotent.transactions import create_table
from scripts import output
from servers import RedisServer

#: Observers are told of the whole process: also of what threads of other tests still do.
OWN = {"shop.charge", "POST /pay"}


class Seen:
    """The facts about this file's operations that an observer was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        if event.operation in OWN:
            self.events.append(event)

    def names(self) -> list[str]:
        assert flush()
        told = [event.name for event in self.events]
        self.events.clear()
        return told


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    observation = observe(seen)
    yield seen
    observation.stop()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_call_a_repeat_and_another_payload(seen: Seen, mode: str) -> None:
    def charge(order: str, amount: int) -> str:
        return "charged"

    async def charge_async(order: str, amount: int) -> str:
        return "charged"

    options: dict[str, Any] = {"backend": MemoryBackend(), "key": "order", "name": "shop.charge"}
    protected: Any = idempotent(**options)(charge if mode == "sync" else charge_async)
    call: Any = protected if mode == "sync" else lambda *arguments: asyncio.run(protected(*arguments))
    call("key-secret", 42)
    call("key-secret", 42)
    with pytest.raises(IdempotencyConflict) as refused:
        call("key-secret", 43)

    assert flush()
    claimed, completed, replayed, conflict = seen.events
    assert [event.name for event in seen.events] == ["claimed", "completed", "replayed", "conflict"]
    assert {event.operation for event in seen.events} == {"shop.charge"}
    assert {event.record_id for event in seen.events} == {refused.value.record_id}
    assert refused.value.operation == "shop.charge"
    assert claimed.store == "memory"
    assert claimed.fence == completed.fence is not None
    assert claimed.details == {"takes_over": False, "lease": 30.0}
    assert completed.details["bytes"] == replayed.details["bytes"]
    for event in seen.events:
        said = f"{event} {event!r} {event.details}"
        assert "key-secret" not in said
        assert event.record_id is not None
        assert event.record_id in said
    assert conflict.details == {}


def test_a_request_that_is_refused_before_its_claim(seen: Seen) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nothing runs")

    protected = IdempotencyMiddleware(
        app, backend=MemoryBackend(), required=True, scope=lambda scope: "alice", max_request_bytes=10
    )
    asyncio.run(Client(protected, "").status())
    asyncio.run(Client(protected).post({"type": "http.request", "body": b"x" * 11, "more_body": False}))
    assert flush()
    assert [(event.name, event.details, event.operation) for event in seen.events] == [
        ("refused", {"reason": "key-missing"}, "POST /pay"),
        ("refused", {"reason": "payload-too-large"}, "POST /pay"),
    ]


def test_a_function_that_gets_no_key(seen: Seen) -> None:
    @idempotent(backend=MemoryBackend(), key=lambda order: None, name="shop.charge")
    def charge(order: str) -> None:
        raise AssertionError("nothing runs")

    with pytest.raises(IdempotencyKeyMissing) as refused:
        charge("a")
    assert (refused.value.operation, refused.value.record_id) == ("shop.charge", None)
    assert seen.names() == ["refused"]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_error_of_the_store_names_its_record(seen: Seen, mode: str) -> None:
    with RedisServer() as server:
        url = server.url

    @idempotent(backend=url, key="order", name="shop.charge")
    def charge(order: str) -> None: ...

    @idempotent(backend=url, key="order", name="shop.charge")
    async def charge_async(order: str) -> None: ...

    with pytest.raises(IdempotencyError) as refused:
        charge("a") if mode == "sync" else asyncio.run(charge_async("a"))
    assert flush()
    (unavailable,) = [event for event in seen.events if event.name == "unavailable"]
    assert (refused.value.operation, refused.value.record_id) == ("shop.charge", unavailable.record_id)


def test_an_observer_that_raises_or_hangs_harms_no_call(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: raised.append(told.exc_value))
    is_free = threading.Event()
    hanging = observe(lambda event: is_free.wait(30))
    raising = observe(lambda event: 1 / 0)

    @idempotent(backend=MemoryBackend(), key="order", name="shop.charge")
    def charge(order: str) -> str:
        return "charged"

    before = dropped()
    for _ in range(12_000):
        assert charge("a") == "charged"
    assert dropped() > before
    assert not flush(0.01)
    is_free.set()
    hanging.stop()
    raising.stop()
    assert seen.names()[:2] == ["claimed", "completed"]
    assert isinstance(raised[0], ZeroDivisionError)


def test_a_flush_ends_while_the_process_goes_on() -> None:
    is_over = threading.Event()

    @idempotent(backend=MemoryBackend(), key="order")
    def charge(order: str) -> str:
        return "charged"

    def goes_on(event: Event) -> None:
        if event.name == "replayed" and not is_over.is_set():
            charge("a")

    observation = observe(goes_on)
    try:
        charge("a")
        charge("a")
        assert flush(20)
    finally:
        is_over.set()
        assert flush()
        observation.stop()


def test_what_is_no_callable() -> None:
    with pytest.raises(TypeError, match="takes a callable"):
        observe("metrics")  # type: ignore[arg-type]


def test_the_log_has_replays_where_it_is_asked_for_them(caplog: pytest.LogCaptureFixture) -> None:
    @idempotent(backend=MemoryBackend(), key="order", name="shop.charge")
    def charge(order: str) -> str:
        return "charged"

    def lines() -> list[tuple[str, str]]:
        assert flush()
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    charge("a")
    with caplog.at_level(logging.DEBUG, "pyidempotent"):
        for _ in range(65):  # a busy process asks for the level now and then
            charge("a")
        said = _until(lines)
    assert said[0][0] == "DEBUG"
    assert "a repeat gets the result of the record" in said[0][1]
    assert "shop.charge" in said[0][1]


def _until(lines: Any) -> list[tuple[str, str]]:
    """The log's lines, once its thread has handed one over."""
    is_there = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: is_there.set()  # type: ignore[method-assign]
    logging.getLogger("pyidempotent").addHandler(handler)
    try:
        if not lines():
            assert is_there.wait(10)
    finally:
        logging.getLogger("pyidempotent").removeHandler(handler)
    found: list[tuple[str, str]] = lines()
    return found


def test_observers_are_told_of_the_last_event_before_the_process_ends_and_in_a_child() -> None:
    code = """
    import os, sys
    from pyidempotent import idempotent
    from pyidempotent.backends.memory import MemoryBackend
    from pyidempotent.instrumentation import observe

    observe(lambda event: event.name == "completed" and print(os.getpid() == parent, event.operation))
    parent = os.getpid()

    @idempotent(backend=MemoryBackend(), key="order", name="charge")
    def charge(order):
        return order

    charge("a")
    if os.fork():
        os.wait()
    else:
        charge("b")
    """
    told = output(code).splitlines()
    assert sorted(told) == ["False charge", "True charge"]


def test_a_key_in_the_application_s_own_transaction(seen: Seen) -> None:
    connection = sqlite3.connect(":memory:")
    with connection:
        create_table(connection)

    def charge(payload: int, *, fails: bool = False) -> None:
        with connection, transaction(connection, key="order", payload=payload, name="shop.charge") as op:
            if fails:
                raise ZeroDivisionError
            if not op.replayed:
                op.result = 1

    with pytest.raises(ZeroDivisionError):
        charge(1, fails=True)
    charge(1)
    charge(1)
    with pytest.raises(IdempotencyConflict):
        charge(2)
    assert seen.names() == ["claimed", "released", "claimed", "completed", "replayed", "conflict"]
    connection.close()
