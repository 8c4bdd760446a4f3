"""Answers in ASGI: sending one, a refusal, and what an application's own handlers make of an exception."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, cast

from pyidempotent._http.rules import problem_answer
from pyidempotent._values.results import Answer
from pyidempotent.asgi._request import AsgiCall, Message, Receive, Scope, Send
from pyidempotent.exceptions import IdempotencyError


def messages_of(answer: Answer) -> tuple[Message, Message]:
    return (
        {"type": "http.response.start", "status": answer.status, "headers": answer.headers},
        {"type": "http.response.body", "body": answer.body, "more_body": False},
    )


async def send_answer(answer: Answer, send: Send) -> None:
    for message in messages_of(answer):
        await send(message)


async def refuse(error: IdempotencyError, call: AsgiCall, send: Send) -> None:
    """Answers a refusal: by the application's own handler for it, where it is Starlette's and has one."""
    handlers = _handlers(call.scope)
    if any(cls in handlers for cls in type(error).__mro__ if cls not in (Exception, BaseException)):
        await raise_(error, call, send)
    else:
        await send_answer(problem_answer(error, call.facts.path.decode("latin-1"), call.site), send)


async def raise_(error: Exception, call: AsgiCall, send: Send) -> None:
    """Raises an error as if the application had, so that its handlers apply: ours is outside of where they do."""
    starlette, scope = sys.modules.get("starlette.middleware.exceptions"), call.scope
    if starlette is None or not _is_starlette(scope):
        raise error
    handlers = {kind: handler for kind, handler in _handlers(scope).items() if kind not in (500, Exception)}

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    # Twice: a handler may itself raise an HTTPException, as it may in an endpoint.
    once = starlette.ExceptionMiddleware(failing, handlers=handlers)
    await starlette.ExceptionMiddleware(once, handlers=handlers)(dict(scope), call.again(), send)


def found_no_endpoint(scope: Scope) -> bool:
    """Whether Starlette's routing has found nothing that answers the request."""
    routing = sys.modules.get("starlette.routing")
    if routing is None or not _is_starlette(scope):
        return False
    endpoint = scope.get("endpoint")  # of a mount it is the application there, whose own routing comes next
    return endpoint is None or isinstance(endpoint, (routing.Router, sys.modules["starlette.applications"].Starlette))


def _is_starlette(scope: Scope) -> bool:
    starlette = sys.modules.get("starlette.applications")
    return starlette is not None and isinstance(scope.get("app"), starlette.Starlette)


def _handlers(scope: Scope) -> Mapping[Any, Any]:
    return cast("Mapping[Any, Any]", scope["app"].exception_handlers) if _is_starlette(scope) else {}
