"""FastAPI behind the middleware; its endpoint runs on a thread, and who calls is asked in the loop."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from handler import ROUTES, STORE, Handler
from starlette_answer import answer_of

from pyidempotent import idempotent, shared
from pyidempotent.asgi import IdempotencyMiddleware

METHODS = ["POST", "PATCH", "GET", "PUT", "DELETE"]


async def content(request: Request) -> bytes:
    return await request.body()


def handle(request: Request, body: Annotated[bytes, Depends(content)]) -> Response:
    handler = Handler(request.headers["x-run"], request.headers.get("x-do", ""))
    if handler.waits_first:
        handler.wait()
    return answer_of(handler, body, handler.chunks())


async def user(request: Request) -> str:
    return request.headers["x-user"]


app = FastAPI()
for mounted in ("/mount-a", "/mount-b"):
    inner = FastAPI()
    inner.add_api_route("/{rest:path}", handle, methods=METHODS)
    app.mount(mounted, inner)
app.add_api_route("/joined/{rest:path}", idempotent()(handle), methods=METHODS)
app.add_api_route("/{rest:path}", handle, methods=METHODS)
app.add_middleware(
    IdempotencyMiddleware,
    backend=STORE,
    routes={**ROUTES, "/owned/*": {"scope": user}, "/shared/*": {"scope": shared}},
)
