"""Starlette behind the middleware; everything in the loop."""

from handler import ROUTES, STORE, Handler
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette_answer import answer_of

from pyidempotent import idempotent, shared
from pyidempotent.asgi import IdempotencyMiddleware

METHODS = ["POST", "PATCH", "GET", "PUT", "DELETE"]


async def handle(request: Request) -> Response:
    handler = Handler(request.headers["x-run"], request.headers.get("x-do", ""))
    if handler.waits_first:
        await handler.wait_async()
    return answer_of(handler, await request.body(), handler.chunks_async())


def user(request: Request) -> str:
    return request.headers["x-user"]


anywhere = [Route("/{rest:path}", handle, methods=METHODS)]
app = Starlette(
    routes=[
        Mount("/mount-a", routes=anywhere),
        Mount("/mount-b", routes=anywhere),
        Route("/joined/{rest:path}", idempotent()(handle), methods=METHODS),
        *anywhere,
    ],
    middleware=[
        Middleware(
            IdempotencyMiddleware,
            STORE,
            routes={**ROUTES, "/owned/*": {"scope": user}, "/shared/*": {"scope": shared}},
        )
    ],
)
