"""FastAPI with the decorator on each endpoint."""

from typing import Any

from fastapi import FastAPI, Request, Response
from handler import ROUTES, STORE, Handler
from starlette_answer import answer_of

from pyidempotent import idempotent, shared


async def handle(request: Request) -> Response:
    handler = Handler(request.headers["x-run"], request.headers.get("x-do", ""))
    if handler.waits_first:
        await handler.wait_async()
    return answer_of(handler, await request.body(), handler.chunks_async())


def add(app: FastAPI, path: str, options: dict[str, Any] | None) -> None:
    protected = handle if options is None else idempotent(STORE, **{"required": False, **options})(handle)
    app.add_api_route(path, protected, methods=["POST", "PATCH"])
    app.add_api_route(path, handle, methods=["GET", "PUT", "DELETE"])


app = FastAPI()
for pattern, options in ROUTES.items():
    add(app, pattern.replace("*", "{rest:path}"), options)
add(app, "/owned/{rest:path}", {"scope": lambda request: request.headers["x-user"]})
add(app, "/shared/{rest:path}", {"scope": shared})
for mounted in ("/mount-a", "/mount-b"):
    inner = FastAPI()
    add(inner, "/{rest:path}", {})
    app.mount(mounted, inner)
add(app, "/{rest:path}", {})
