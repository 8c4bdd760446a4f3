"""Middleware for any ASGI application: stores and replays whole HTTP answers, byte for byte.

    app.add_middleware(IdempotencyMiddleware, backend="redis://localhost", scope=lambda request: request.user.id)

1. A request is protected if its method is POST or PATCH, or as ``methods=`` says, and it has a key, or its route
   requires one. Everything else reaches the application with the server's own ``receive`` and ``send``; a lifespan's
   end waits for the store.
2. The body is read first, up to ``max_request_bytes``: it is part of the payload. The application reads it again.
3. An answer streams while it is captured. The part that ends it is held until the record is stored.
4. A client that leaves does not end the work: the application receives ``http.disconnect`` only when its answer is
   whole, or when ``disconnect_grace`` has passed. Until then nothing that the server's ``send`` raises for a client
   that has left reaches it either.

Middleware replays before the application's own authorization runs: stand inside of the middleware that authenticates,
and outside of what only decorates answers. ``@idempotent`` on an endpoint runs after its dependencies.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextvars import Token
from typing import TYPE_CHECKING, Any, cast

from pyidempotent._current import CurrentAttempt, _current, asgi_fence
from pyidempotent._departure import Departure
from pyidempotent._drain import drain
from pyidempotent._flow import Flow, advance_async, enter, hurry, leave, protect
from pyidempotent._http import METHODS, SAFE_METHODS, HeaderView, problem_answer, too_large, who_of
from pyidempotent._native import Capture, Facts
from pyidempotent._plan import Asked, Plan, RequestCall, Routes
from pyidempotent._requests import ATTEMPT, scope_caller
from pyidempotent._results import Answer, Outcome
from pyidempotent._site import Options, Site
from pyidempotent.backends import Backend
from pyidempotent.exceptions import IdempotencyError

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["IdempotencyMiddleware", "Request"]

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


class IdempotencyMiddleware:
    """Protects the requests of an ASGI application.

    Parameters:
        app: the application.
        backend: a backend or its URL.
        routes: options of their own for some paths: a pattern of the path (``"/webhooks/*"``) and a dict of options,
            or None to leave the path out. ``{id}`` stands for one segment. The first pattern that fits counts.
        methods: the methods that are protected: POST and PATCH unless told, never GET, HEAD, OPTIONS or TRACE.
        key: a callable on the request that returns the key, instead of the header.
        name: the operation's name, instead of the request's method and path.
        scope: who calls: a callable on the request, `by_authorization` or `shared`.
        fingerprint: a callable on the request that returns what tells two requests apart, instead of method, path,
            query, content type and body.
        options: as for `idempotent`; ``required`` is False unless told.

    The callables may be async, and may read the body, which the application reads again. The request is Starlette's, or
    a `Request` where there is no Starlette.

    Raises:
        TypeError, ValueError: at construction, for options that can't be. Inside of a running loop, where Starlette
            makes its middleware, they fail the server's start, and every request of a server without a lifespan.

    >>> async def application(scope, receive, send):
    ...     await send({"type": "http.response.start", "status": 204, "headers": []})
    ...     await send({"type": "http.response.body"})
    >>> routes = {"/pay": {"required": True}, "/health": None}
    >>> protected = IdempotencyMiddleware(application, "memory://", routes=routes)
    """

    def __init__(
        self,
        app: Application,
        backend: Backend | str | None = None,
        *,
        routes: Mapping[str, Mapping[str, Any] | None] | None = None,
        methods: Iterable[str] = METHODS,
        key: Asked | None = None,
        name: str | None = None,
        scope: Asked | None = None,
        fingerprint: Asked | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.app = app
        #: What is wrong with the options, where a server has begun to start.
        self._mistake: Exception | None = None
        whole: dict[str, Any] = {"key": key, "name": name, "scope": scope, "fingerprint": fingerprint, **options}
        whole["methods"] = methods
        try:
            if backend is None:
                raise TypeError(
                    "the middleware needs a backend: pass backend=, a backend or a URL like 'redis://localhost'"
                )
            self.routes = Routes({"backend": backend, "required": False, **whole}, routes)
        except Exception as error:
            # Starlette makes its middleware in the lifespan, and servers take an error there for "there is none".
            if asyncio._get_running_loop() is None:
                raise
            self._mistake = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if self._mistake is not None:
            await _refuse_to_start(self._mistake, scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self.app(scope, receive, drained(send) if scope["type"] == "lifespan" else send)
            return
        routes = self.routes
        plan = routes.plan_for(path_within(scope)) if routes.patterns else routes.default
        if plan is None or scope["method"] not in plan.methods or not plan.concerns(scope["headers"]):
            await self.app(scope, receive, send)
            return
        held: Site | None = scope.get(ATTEMPT)
        if held is not None:  # another middleware's, further out
            held.refuse_inside("An application inside", plan.own, plan.site)
            await self.app(scope, receive, send)
            return
        call = _Request(plan, Facts.of_scope(scope), scope, receive)
        try:
            if plan.asked:
                if "fingerprint" in plan.asked:
                    await read_body(call)  # its limit holds, whether or not it is looked at
                await call.ask_async(request_of(scope, _Again(call).receive))
            flow = protect(call)
            begun = await advance_async(call, flow, None, read_body)
        except IdempotencyError as error:
            await _refuse(error, call, send)
        except _Cut:
            return  # nothing was claimed, and nobody is there to be told
        except Exception as error:  # of a callable of the user's, which may say 401
            await _raise(error, call, send)
        else:
            if type(begun) is Outcome:
                await _send(begun.value, send)
            elif begun is None:  # `key=` found none, and none is required
                await self.app(scope, call.again(), send)
            else:
                await _Running(call, flow, begun, send).run(self.app)


def middleware_of(app: Any) -> IdempotencyMiddleware | None:
    """The middleware that an application of Starlette's or FastAPI's was given by ``add_middleware``, made anew."""
    for added in app.user_middleware:
        if isinstance(added.cls, type) and issubclass(added.cls, IdempotencyMiddleware):
            # Older releases of Starlette call them options, and have no positional ones.
            options = added.kwargs if hasattr(added, "kwargs") else added.options
            made: IdempotencyMiddleware = added.cls(app, *getattr(added, "args", ()), **options)
            return made
    return None


class _Request(RequestCall):
    """A request on its way to the application."""

    __slots__ = ("content", "receive", "scope")

    def __init__(self, plan: Plan, facts: Facts, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        #: The body, once it is read.
        self.content: bytes | None = None

    def user(self) -> bytes | None:
        """The user that stands in the scope, or whom the server has authenticated."""
        return scope_caller(self.scope, self.site, who_of(self.facts))

    def again(self) -> Receive:
        """What receives the body that was read, and then the server's own messages."""
        return self.receive if self.content is None else _Again(self).receive


class _Again:
    """Receives the whole body, which is read where it was not yet, and then the server's own messages."""

    __slots__ = ("_call", "_is_unread")

    def __init__(self, call: _Request) -> None:
        self._call = call
        self._is_unread = True

    async def receive(self) -> Message:
        """The next message."""
        if self._is_unread:
            self._is_unread = False
            return {"type": "http.request", "body": await read_body(self._call), "more_body": False}
        return await self._call.receive()


class _Cut(Exception):
    """The client went before its request was whole."""


async def read_body(call: _Request) -> bytes:
    """The body, at most ``max_request_bytes``."""
    if call.content is not None:
        return call.content
    limit, size, chunks = call.site.max_request_bytes, 0, []
    call.facts.refuse_declared(limit)
    more = True
    while more:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise _Cut
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise too_large(limit)
        more = message.get("more_body", False)
    call.content = b"".join(chunks)
    return call.content


#: Extensions by which an answer would be sent past us.
_PAST = ("http.response.pathsend", "http.response.zerocopysend")


class _Running:
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

    def __init__(self, call: _Request, flow: Flow, running: CurrentAttempt, send: Send) -> None:
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
            await _refuse(error, self._call, self._send)
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
                self._is_replaced, messages = True, _messages(instead)
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
        if self._seen.status == 404 and _found_no_endpoint(self._call.scope):
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


async def _refuse_to_start(mistake: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Fails the server's start, and every request where the server starts all the same."""
    if scope["type"] != "lifespan":
        raise mistake
    await receive()
    message = f"IdempotencyMiddleware can't work: {type(mistake).__name__}: {mistake}"
    await send({"type": "lifespan.startup.failed", "message": message})


def drained(send: Send) -> Send:
    """A lifespan's ``send``: before the server is told that the application is down, what is on its way to the store
    gets five seconds. Servers that end by a signal leave no other moment."""

    async def waiting(message: Message) -> None:
        if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await drain()
        await send(message)

    return waiting


def _messages(answer: Answer) -> tuple[Message, Message]:
    return (
        {"type": "http.response.start", "status": answer.status, "headers": answer.headers},
        {"type": "http.response.body", "body": answer.body, "more_body": False},
    )


async def _send(answer: Answer, send: Send) -> None:
    for message in _messages(answer):
        await send(message)


async def _refuse(error: IdempotencyError, call: _Request, send: Send) -> None:
    """Answers a refusal: by the application's own handler for it, where it is Starlette's and has one."""
    handlers = _handlers(call.scope)
    if any(cls in handlers for cls in type(error).__mro__ if cls not in (Exception, BaseException)):
        await _raise(error, call, send)
    else:
        await _send(problem_answer(error, call.facts.path.decode("latin-1"), call.site), send)


async def _raise(error: Exception, call: _Request, send: Send) -> None:
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


def _found_no_endpoint(scope: Scope) -> bool:
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
