"""An ASGI application that sends what it is told, and a client of it: messages are made by hand."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from clients import new_key
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend

Message = dict[str, Any]


class Client:
    """Sends requests to an application, message by message, as a server would."""

    def __init__(self, app: Any, key: str | None = None) -> None:
        self.app = app
        self.key = new_key() if key is None else key

    def scope(self, **more: Any) -> Message:
        headers = [(b"idempotency-key", self.key.encode())] if self.key else []
        plain = {"method": "POST", "path": "/pay", "raw_path": b"/pay", "query_string": b"", "headers": headers}
        return {"type": "http", "asgi": {"version": "3.0"}, "extensions": {}, **plain, **more}

    async def post(
        self, *request: Message, send: Callable[[Message], Awaitable[None]] | None = None, **scope: Any
    ) -> list[Message]:
        """The messages that the server is sent."""
        pending = list(request or [{"type": "http.request", "body": b"A", "more_body": False}])
        sent: list[Message] = []

        async def receive() -> Message:
            return pending.pop(0) if pending else {"type": "http.disconnect"}

        async def note(message: Message) -> None:
            sent.append(message)
            if send is not None:
                await send(message)

        await self.app(self.scope(**scope), receive, note)
        return sent

    async def status(self, **scope: Any) -> int:
        """The status of the answer."""
        return int((await self.post(**scope))[0]["status"])

    async def status_or(self, error: type[Exception]) -> int | None:
        """The status of the answer; None where this is raised."""
        try:
            return await self.status()
        except error:
            return None


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [*headers]}


def body(content: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


class App:
    """An application that sends these messages; an exception among them is raised."""

    def __init__(self, *messages: Message | BaseException) -> None:
        self.messages = messages or (start(200, (b"content-length", b"2")), body(b"ok"))
        self.runs = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs += 1
        for message in self.messages:
            if isinstance(message, BaseException):
                raise message
            await send(dict(message))


def protected(app: Any, **options: Any) -> Client:
    return Client(IdempotencyMiddleware(app, **{"backend": MemoryBackend(), **options}))


def problem(messages: list[Message]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(messages[1]["body"])
    return found
