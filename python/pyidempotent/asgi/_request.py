"""A request in ASGI: as callables of the user's see it, and on its way to the application."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from pyidempotent._http.routes import Plan, RequestCall
from pyidempotent._http.rules import HeaderView, too_large, who_of
from pyidempotent._http.starlette import scope_caller
from pyidempotent._native import Facts

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Request:
    """The request, as callables of the user's see it where there is no Starlette, which has a richer one.

    Parameters:
        scope: the ASGI scope.
        receive: what the body can be had from, in a ``fingerprint=``.

    >>> request = Request({"method": "POST", "path": "/pay", "headers": [(b"x-user", b"alice")]})
    >>> request.headers["X-User"]
    'alice'
    """

    def __init__(self, scope: Scope, receive: Receive | None = None) -> None:
        self.scope = scope
        self._receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = HeaderView(scope["headers"])

    async def body(self) -> bytes:
        """The whole body."""
        if self._receive is None:
            raise RuntimeError("this request came without its body")
        return cast("bytes", (await self._receive())["body"])


def request_of(scope: Scope, receive: Receive) -> Any:
    """Starlette's request where Starlette is there, else our own view."""
    starlette = sys.modules.get("starlette.requests")
    return Request(scope, receive) if starlette is None else starlette.Request(scope, receive)


def path_within(scope: Scope) -> str:
    """The path as the application knows it: without what it is mounted under."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


class AsgiCall(RequestCall):
    """A request on its way to the application."""

    __slots__ = ("content", "receive", "scope")

    def __init__(self, plan: Plan, facts: Facts, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        #: The body, once it is read.
        self.content: bytes | None = None

    def user(self) -> bytes | None:
        """The user that stands in the scope, or whom the server has authenticated."""
        scope = self.scope
        if scope.get("user") is None and not scope.get("extensions"):
            return None  # as most requests
        return scope_caller(scope, self.site, who_of(self.facts))

    def again(self) -> Receive:
        """What receives the body that was read, and then the server's own messages."""
        return self.receive if self.content is None else Again(self).receive


class Again:
    """Receives the whole body, which is read where it was not yet, and then the server's own messages."""

    __slots__ = ("_call", "_is_unread")

    def __init__(self, call: AsgiCall) -> None:
        self._call = call
        self._is_unread = True

    async def receive(self) -> Message:
        """The next message."""
        if self._is_unread:
            self._is_unread = False
            return {"type": "http.request", "body": await read_body(self._call), "more_body": False}
        return await self._call.receive()


class Cut(Exception):
    """The client went before its request was whole."""


async def read_body(call: AsgiCall) -> bytes:
    """The body, at most ``max_request_bytes``."""
    if call.content is not None:
        return call.content
    limit, size, chunks = call.site.max_request_bytes, 0, []
    call.facts.refuse_declared(limit)
    more = True
    while more:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise Cut
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise too_large(limit)
        more = message.get("more_body", False)
    call.content = b"".join(chunks)
    return call.content
