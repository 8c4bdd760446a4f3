"""The page as an ASGI application."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from pyidempotent import _native
from pyidempotent.backends import Backend, open_backend
from pyidempotent.console._request import ConsoleRequest, checked, operator_of

__all__ = ["app"]

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: The operator's name, True, or False for everybody else.
Operator = str | bool | None


def app(backend: Backend | str, *, allow: Callable[[Scope], Operator | Awaitable[Operator]] | None = None) -> App:
    """The operator's page as an ASGI application, to be mounted where it shall stand. It runs on asyncio.

    Parameters:
        backend: whose records it shows, or its URL.
        allow: gets the connection's scope and returns the operator's name, which is logged with what they change; or
            True; or False for everybody else, who get a 403. It may be ``async``. It must be given.

    Raises:
        TypeError: without ``allow``, or where there is no such backend.

    >>> page = app("memory://", allow=lambda scope: scope["user"].is_staff and scope["user"].name)
    """
    console, allowed = _native.Console(open_backend(backend).native), checked("app", allow, "connection's scope")

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        answer = allowed(scope)
        is_allowed, who = operator_of(await answer if inspect.isawaitable(answer) else answer)
        mount, path = scope.get("root_path", ""), scope["path"]
        request = ConsoleRequest(
            method=scope["method"],
            path=path[len(mount) :] if path.startswith(mount) else path,
            query=scope["query_string"].decode("latin-1"),
            headers=[(bytes(name), bytes(value)) for name, value in scope["headers"]],
            body=await _body(receive) if is_allowed else b"",
            mount=mount,
            is_secure=scope.get("scheme") == "https",
            is_allowed=is_allowed,
            who=who,
        )
        status, headers, body = await console.answer_later(request)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return page


async def _body(receive: Receive) -> bytes:
    """The body; of one that is too large no more than is needed to refuse it."""
    body, more = b"", True
    while more and len(body) <= _native.Console.MAX_BODY:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _live(receive: Receive, send: Send) -> None:
    """Starts and ends with a server whose only application this is."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
