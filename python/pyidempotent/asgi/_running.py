"""A request that runs under a claim: its answer is captured on its way out."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import Token

from pyidempotent._calls.current import CurrentAttempt, _current, asgi_fence
from pyidempotent._calls.flow import Flow, advance_async, enter, hurry, leave
from pyidempotent._http.client_left import Departure
from pyidempotent._http.endpoint import ATTEMPT
from pyidempotent._native import Capture
from pyidempotent._values.results import Answer
from pyidempotent.asgi._answers import found_no_endpoint, messages_of, refuse
from pyidempotent.asgi._request import Application, AsgiCall, Message, Send, read_body
from pyidempotent.exceptions import IdempotencyError

#: Extensions by which an answer would be sent past us.
_PAST = ("http.response.pathsend", "http.response.zerocopysend")


class Running:
    """A request that runs: its answer is captured on its way out, and stored before its last byte goes."""

    __slots__ = (
        "_call",
        "_departure",
        "_entered",
        "_flow",
        "_held",
        "_is_replaced",
        "_is_settled",
        "_is_unread",
        "_running",
        "_seen",
        "_send",
    )

    def __init__(self, call: AsgiCall, flow: Flow, running: CurrentAttempt, send: Send) -> None:
        self._call = call
        self._flow = flow
        self._running = running
        self._send = send
        self._seen = Capture(call.site.max_response_bytes)
        #: The answer's start, while it is held: until the answer is whole another one may take its place.
        self._held: Message | None = None
        self._is_settled = False
        self._is_replaced = False
        self._is_unread = True
        #: Of the client, once it has left.
        self._departure: Departure | None = None

    async def run(self, app: Application) -> None:
        """Runs the application."""
        scope = self._call.scope
        # The very scope, in which middleware further out finds what routing leaves there.
        scope[ATTEMPT] = self._call.site
        offered = scope.get("extensions")
        if offered:
            scope["extensions"] = {name: value for name, value in offered.items() if name not in _PAST}
        self._entered: Token[CurrentAttempt | None] = enter(self._running)
        asgi_fence.set(self._running.fence)
        try:
            try:
                await app(scope, self.receive, self.send)
            finally:
                del scope[ATTEMPT]
                if offered:
                    scope["extensions"] = offered
        except IdempotencyError as error:  # of a protected call inside
            await self._fail(error)
            if self._seen.status is not None:
                raise
            await refuse(error, self._call, self._send)
        except Exception as error:
            await self._fail(error)
            raise
        except BaseException:
            # What it began may go on, on a thread of its own.
            self._hurry()
            raise
        else:
            if not self._is_settled:
                self._seen.break_off()
                await self._settle(None)
        finally:
            if self._departure is not None:
                self._departure.tell()
            leave(self._entered)

    async def receive(self) -> Message:
        """What the application receives: the whole body, and then the server's own messages."""
        if self._is_unread:
            self._is_unread = False
            return {"type": "http.request", "body": await read_body(self._call), "more_body": False}
        if self._departure is None:
            message = await self._call.receive()
            if message["type"] != "http.disconnect" or self._is_settled:
                return message
        # From here on the server is not asked: some say it once, and then nothing any more.
        await self._client_left().until_told()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """What the application sends."""
        kind, seen = message["type"], self._seen
        if self._is_settled:
            if self._is_replaced:
                return
        elif kind == "http.response.start" and seen.status is None:
            if seen.start_message(message):
                self._held = message
                return
            # It may stream, and its client may wait for its start.
        elif kind == "http.response.body" and seen.status is not None and seen.add_message(message):
            instead = await self._settle(None)
            messages = (message,) if self._held is None else (self._held, message)
            if instead is not None and self._held is not None:
                self._is_replaced, messages = True, messages_of(instead)
            self._held = None
            await self._send_last(messages)
            return
        held, self._held = self._held, None
        try:
            if held is not None:
                await self._send(held)
            await self._send(message)
        except Exception as error:
            if not self._is_for_nobody(error):
                raise

    async def _send_last(self, messages: Iterable[Message]) -> None:
        """Sends the end of an answer where `current` does not find the attempt: what a server sets up with it, as the
        timer of an idle connection, has this context, and is not to keep the attempt."""
        nested = None if self._leave() else enter(None)
        try:
            for message in messages:
                await self._send(message)
        except Exception as error:
            if not self._is_for_nobody(error):
                raise
        finally:
            if self._departure is not None:
                self._departure.tell()
            if nested is None:
                self._entered = enter(self._running)
            else:
                leave(nested)

    def _client_left(self) -> Departure:
        if self._departure is None:
            self._departure = Departure(self._call.site.grace)
        return self._departure

    def _is_for_nobody(self, error: Exception) -> bool:
        """Whether this is what a server raises where the client has left, and the application is not to know."""
        if self._departure is None and not isinstance(error, OSError):  # which ASGI has for it, since 2.4
            return False
        return not self._client_left().is_told

    def _leave(self) -> bool:
        """Takes back that the attempt was entered; False where it can't: something else was entered after it."""
        if _current.get() is not self._running:
            return False
        try:
            leave(self._entered)
        except ValueError:  # in a task of the application's own, which has a copy
            return False
        return True

    async def _settle(self, error: Exception | None) -> Answer | None:
        """Ends the attempt; the answer of the attempt that completed in its place."""
        self._is_settled = True
        if self._seen.status == 404 and found_no_endpoint(self._call.scope):
            self._running.release()
        outcome = self._seen.outcome(error)
        ended = await advance_async(self._call, self._flow, outcome, read_body)
        return None if ended is outcome else ended.value

    async def _fail(self, error: Exception) -> None:
        """The application has raised; where it was told before that its client has left, that may be why."""
        if self._departure is not None and self._departure.is_told:
            self._hurry()
        elif not self._is_settled:
            await self._settle(error)

    def _hurry(self) -> None:
        """Ends the attempt, and waits for nobody."""
        if not self._is_settled:
            self._is_settled = True
            hurry(self._running)
