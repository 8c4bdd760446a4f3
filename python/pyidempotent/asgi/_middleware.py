"""The middleware: which requests are protected, and how they begin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pyidempotent._calls.flow import advance_async, protect
from pyidempotent._http.endpoint import ATTEMPT
from pyidempotent._http.routes import MIDDLEWARE, Routes
from pyidempotent._http.rules import SAFE_METHODS
from pyidempotent._lifecycle import drain
from pyidempotent._native import Facts
from pyidempotent._options import Site
from pyidempotent._options.table import MiddlewareOptions
from pyidempotent._values.results import Outcome
from pyidempotent.asgi._answers import raise_, refuse, send_answer
from pyidempotent.asgi._request import (
    Again,
    Application,
    AsgiCall,
    Cut,
    Message,
    Receive,
    Scope,
    Send,
    path_within,
    read_body,
    request_of,
)
from pyidempotent.asgi._running import Running
from pyidempotent.backends import Backend
from pyidempotent.exceptions import IdempotencyError

if TYPE_CHECKING:
    from typing_extensions import Unpack


@MIDDLEWARE.shows
class IdempotencyMiddleware:
    """Protects the requests of an ASGI application.

    Parameters:
        app: the application.
        backend: a backend or its URL.
        options: each by its name, where an editor shows what it means. docs/options.md has all of them.

    The callables may be async, and may read the body, which the application reads again. The request is Starlette's, or
    a `Request` where there is no Starlette.

    Raises:
        TypeError, ValueError: at construction, for options that can't be. Inside of a running loop, where Starlette
            makes its middleware, they fail the server's start, and every request of a server without a lifespan.

    >>> async def application(scope, receive, send):
    ...     await send({"type": "http.response.start", "status": 204, "headers": []})
    ...     await send({"type": "http.response.body"})
    >>> protected = IdempotencyMiddleware(
    ...     application, "memory://", routes={"/pay": {"required": True}, "/health": None}
    ... )
    """

    def __init__(
        self, app: Application, backend: Backend | str | None = None, **options: Unpack[MiddlewareOptions]
    ) -> None:
        self.app = app
        #: What is wrong with the options, where a server has begun to start.
        self._mistake: Exception | None = None
        try:
            if backend is None:
                raise TypeError(
                    "the middleware needs a backend: pass backend=, a backend or a URL like 'redis://localhost'"
                )
            self.routes = Routes({"backend": backend, **options})
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
            held.refuse_inside("An application inside", plan.site)
            await self.app(scope, receive, send)
            return
        call = AsgiCall(plan, Facts.of_scope(scope), scope, receive)
        try:
            if plan.asked:
                if "fingerprint" in plan.asked:
                    await read_body(call)  # its limit holds, whether or not it is looked at
                await call.ask_async(request_of(scope, Again(call).receive))
            flow = protect(call)
            begun = await advance_async(call, flow, None, read_body)
        except IdempotencyError as error:
            await refuse(error, call, send)
        except Cut:
            return  # nothing was claimed, and nobody is there to be told
        except Exception as error:  # of a callable of the user's, which may say 401
            await raise_(error, call, send)
        else:
            if type(begun) is Outcome:
                await send_answer(begun.value, send)
            elif begun is None:  # `key=` found none, and none is required
                await self.app(scope, call.again(), send)
            else:
                await Running(call, flow, begun, send).run(self.app)


def middleware_of(app: Any) -> IdempotencyMiddleware | None:
    """The middleware that an application of Starlette's or FastAPI's was given by ``add_middleware``, made anew."""
    for added in app.user_middleware:
        if isinstance(added.cls, type) and issubclass(added.cls, IdempotencyMiddleware):
            # Older releases of Starlette call them options, and have no positional ones.
            options = added.kwargs if hasattr(added, "kwargs") else added.options
            made: IdempotencyMiddleware = added.cls(app, *getattr(added, "args", ()), **options)
            return made
    return None


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
