"""Options, as type checkers must accept and refuse them on every face; checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyidempotent import attempt, idempotent, json_body, shared, transaction, transactional
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends import Seal
from pyidempotent.celery import idempotent_task
from pyidempotent.django import idempotency_options
from pyidempotent.flask import Idempotency

if TYPE_CHECKING:
    from fastapi import FastAPI
    from typing_extensions import assert_type

    application: Any = None
    flask = Idempotency()

    # Every face takes its own.
    idempotent("memory://", key="order", wait=1, max_request_bytes=1, store_exceptions=ValueError)
    idempotent(backend="memory://", fingerprint=json_body, scope=shared, namespace=lambda request: "shop")
    idempotent_task("memory://", key=lambda order: order, retry_after=5, store_exceptions=(ValueError, KeyError))
    IdempotencyMiddleware(application, "memory://", methods=["PUT"], routes={"/pay": {"ttl": 9}, "/health": None})
    IdempotencyMiddleware(application, backend="memory://", routes={"/pay": {"backend": "sqlite:///pay.db"}})
    FastAPI().add_middleware(IdempotencyMiddleware, backend="memory://", ttl=60, required=True)
    Idempotency(backend="memory://", routes={"/pay": {"required": True}}, scope=lambda request: request.path)
    flask.options(methods=("PUT",), backend="memory://", key=lambda request: request.path)
    idempotency_options("memory://", key=lambda request: request.path, problem_docs="https://docs.example.com/")
    assert_type(attempt("memory://", key="a", payload={"a": 1}, caller=7, wait=1).replayed, bool)
    transactional("session", fingerprint=json_body, scope=shared, wait=1)
    transactional(lambda: application, key="order")
    assert_type(transaction(application, key="a", payload={"a": 1}, caller=7, wait=1).replayed, bool)
    idempotent("memory://", redact=lambda value: None)
    transaction(application, key="a", seal=Seal("a key"), redact=str)
    transactional("session", seal=["new", b"old"])
    some: dict[str, Any] = {"ttl": 60}
    idempotent("memory://", **some)

    # A misspelt option.
    idempotent("memory://", tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    transactional("session", tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    transaction(application, key="a", tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    attempt("memory://", key="a", tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    idempotent_task("memory://", tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    IdempotencyMiddleware(application, "memory://", tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    FastAPI().add_middleware(IdempotencyMiddleware, tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Idempotency(tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    flask.options(tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    idempotency_options(tll=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Idempotency(routes={"/pay": {"tll": 3}})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]

    # An option of another face.
    idempotent("memory://", methods=["PUT"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    idempotent("memory://", seal="a key")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    idempotent("memory://", payload=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    transactional("session", lease=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    transaction(application, key="a", lease=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    attempt("memory://", key="a", scope=shared)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    idempotent_task("memory://", wait=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    idempotent_task("memory://", key_header="X-Key")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    IdempotencyMiddleware(application, store_exceptions=OSError)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Idempotency(caller="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    flask.options(routes={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    idempotency_options(routes={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Idempotency(routes={"/pay": {"payload": 3}})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]

    # A value of the wrong type, and one that is missing.
    idempotent("memory://", ttl="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    idempotent_task("memory://", required="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    IdempotencyMiddleware(application, key="order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Idempotency(scope=lambda: "a")  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    Idempotency(routes={"/pay": {"ttl": "3"}})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    attempt("memory://", key="a", namespace=len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    attempt("memory://")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
