"""FastAPI's documentation (``/docs``, ``/openapi.json``) of what is protected.

The protection itself is `pyidempotent.idempotent` on an endpoint, or `pyidempotent.asgi.IdempotencyMiddleware`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fastapi.routing
from fastapi import FastAPI

from pyidempotent._calls.function import Function
from pyidempotent._http.rules import REPLAYED, SAFE_METHODS
from pyidempotent._options import Site
from pyidempotent.asgi._middleware import middleware_of
from pyidempotent.exceptions import (
    IdempotencyConflict,
    IdempotencyError,
    IdempotencyKeyMissing,
    IdempotencyNotKept,
    IdempotencyProcessing,
)

__all__ = ["document"]

#: What is told of each status: those that a client has to deal with.
_ANSWERS: tuple[tuple[str, type[IdempotencyError], str], ...] = (
    ("400", IdempotencyKeyMissing, "The key is missing or malformed."),
    ("409", IdempotencyProcessing, "The first request with this key is still being processed, or its outcome unknown."),
    ("410", IdempotencyNotKept, "The first request with this key is done, but its answer was not kept."),
    ("422", IdempotencyConflict, "The key was used with another request."),
)

_PROBLEM = "IdempotencyProblem"

_PROBLEM_SCHEMA: dict[str, Any] = {
    "title": _PROBLEM,
    "description": "A problem document (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "effect"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "effect": {
            "type": "string",
            "enum": ["none", "running", "done", "unknown"],
            "description": "What became of the effect of the request.",
        },
    },
}


def document(app: FastAPI) -> None:
    """Shows the key's header, the refusals and the replay header for every operation that is protected.

    Operations are protected by the middleware of the application, or by ``@idempotent`` on their endpoints. All others
    stay as they were.

    Parameters:
        app: the application; call this once, at any time before its documentation is asked for.

    >>> from fastapi import FastAPI
    >>> from pyidempotent.asgi import IdempotencyMiddleware
    >>> app = FastAPI()
    >>> @app.post("/pay")
    ... async def pay(amount: int) -> int:
    ...     return amount
    >>> app.add_middleware(IdempotencyMiddleware, backend="memory://")
    >>> document(app)
    >>> sorted(app.openapi()["paths"]["/pay"]["post"]["responses"])
    ['200', '400', '409', '410', '422']
    """
    plain = app.openapi
    shown: list[dict[str, Any]] = []

    def openapi() -> dict[str, Any]:
        schema = plain()
        # FastAPI keeps what it made; only what is new is added to.
        if not any(schema is known for known in shown):
            shown[:] = [schema]
            for operation, site in _protected(app, schema):
                _show(operation, site)
                schema.setdefault("components", {}).setdefault("schemas", {})[_PROBLEM] = _PROBLEM_SCHEMA
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _protected(app: FastAPI, schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Site]]:
    """The operations that are protected, and by which options."""
    middleware = middleware_of(app)
    decorated: dict[tuple[str, str], Function] = {}
    # Newer releases of FastAPI keep included routers as they are, and tell where their routes end up.
    routes: Any = getattr(fastapi.routing, "iter_route_contexts", iter)(app.routes)
    for route in routes:
        plan = getattr(getattr(route, "endpoint", None), "__idempotent__", None)
        if isinstance(plan, Function) and plan.takes_key_from_header:
            decorated |= {(route.path_format, method): plan for method in {*(route.methods or ())} - SAFE_METHODS}
    for path, operations in schema.get("paths", {}).items():
        for method, operation in operations.items():
            own = decorated.get((path, method.upper()))
            if own is not None:
                yield operation, own.site
            elif middleware is not None:
                plan = middleware.routes.plan_for(path)
                if plan is not None and method.upper() in plan.methods and "key" not in plan.asked:
                    yield operation, plan.site


def _show(operation: dict[str, Any], site: Site) -> None:
    parameters: list[dict[str, Any]] = operation.setdefault("parameters", [])
    name = site.key_header
    found = [p for p in parameters if p.get("in") == "header" and p.get("name", "").lower() == name.lower()]
    if not found:
        words = "A value of your choice, new for every operation: a repeat with the same key gets the first answer."
        found = [{"name": name, "in": "header", "description": words}]
        parameters.extend(found)
    for parameter in found:
        parameter["required"] = site.required
        parameter["schema"] = {"type": "string", "minLength": 1, "maxLength": 255, "title": name}
    responses = operation.setdefault("responses", {})
    for status, response in responses.items():
        if status.startswith("2"):
            words = "Present, and `true`, where this is the stored answer to an earlier request with the same key."
            header = {"description": words, "schema": {"type": "string", "enum": ["true"]}}
            response.setdefault("headers", {})["-".join(p.title() for p in REPLAYED[0].decode().split("-"))] = header
    for status, error, description in _ANSWERS:
        response = responses.setdefault(status, {"description": description})
        example = error().problem()
        content = {"schema": {"$ref": f"#/components/schemas/{_PROBLEM}"}, "example": example}
        response.setdefault("content", {})["application/problem+json"] = content
