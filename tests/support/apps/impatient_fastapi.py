"""FastAPI behind the middleware, with other middleware inside of it; see `impatient`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import impatient
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware

from pyidempotent import idempotent
from pyidempotent.asgi import IdempotencyMiddleware

app = FastAPI()


async def stream(key: str, kind: str) -> AsyncIterator[bytes]:
    for part in impatient.parts_of(kind):
        impatient.note(key, "part")
        yield part
        await asyncio.sleep(impatient.pause_of(kind))


async def answer(request: Request) -> Response:
    key, kind = request.headers["idempotency-key"], request.path_params["kind"]
    impatient.note(key)
    if kind not in ("trickle", "endless"):
        await asyncio.sleep(impatient.WORK)
    if kind == "json":
        return JSONResponse({"charged": key})
    if kind == "file":
        return FileResponse(impatient.FILE)
    return StreamingResponse(stream(key, kind), media_type="text/plain")


async def passes(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


def protected(*inside: tuple[type, dict[str, Any]], around: bool = False) -> FastAPI:
    own = FastAPI()
    own.add_route("/{kind}", answer, methods=["POST"])
    for middleware, options in inside:
        own.add_middleware(middleware, **options)
    routes = {f"*/{kind}": options for kind, options in impatient.ROUTES.items()}
    own.add_middleware(IdempotencyMiddleware, backend=impatient.STORE, lease=impatient.LEASE, routes=routes)
    if around:
        own.add_middleware(GZipMiddleware)
        own.add_middleware(BaseHTTPMiddleware, dispatch=passes)
    return own


app.mount("/plain", protected())
app.mount("/gzip", protected((GZipMiddleware, {})))
app.mount("/base", protected((BaseHTTPMiddleware, {"dispatch": passes})))
app.mount("/both", protected((GZipMiddleware, {}), (BaseHTTPMiddleware, {"dispatch": passes})))
app.mount("/around", protected(around=True))


@app.post("/decorated/{kind}")
@idempotent(impatient.STORE, lease=impatient.LEASE)
async def decorated(request: Request, kind: str) -> Any:
    return await answer(request)
