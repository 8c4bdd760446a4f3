"""Protected endpoints on the FastAPI that is installed, asked and checked by this script; it prints the version."""

import asyncio
from typing import Annotated, Any
from uuid import uuid4

import fastapi
import httpx
from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response, UploadFile
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from pyidempotent import IdempotencyConflict, IdempotencyError, idempotent
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.fastapi import document

backend = MemoryBackend()
app = FastAPI()


@app.post("/pay")
@idempotent(backend)
async def pay(request: Request, amount: int):
    return {"amount": amount, "receipt": uuid4().hex}


@app.post("/sync")
@idempotent(backend)
def pay_on_a_thread(amount: int):
    return JSONResponse({"amount": amount, "receipt": uuid4().hex}, 201)


@app.post("/json")
@idempotent(backend)
async def reads_json_itself(request: Request):
    return {"got": await request.json(), "receipt": uuid4().hex}


@app.post("/json-sync")
@idempotent(backend)
def has_a_body_parsed(sent: dict[str, int]):
    return {"got": sent, "receipt": uuid4().hex}


@app.post("/upload")
@idempotent(backend)
async def upload(file: UploadFile, title: Annotated[str, Form()]):
    return {"title": title, "size": len(await file.read()), "receipt": uuid4().hex}


def who() -> str:
    return "alice"


@app.post("/injected", status_code=202)
@idempotent(backend, scope=lambda user: user)
async def injected(response: Response, user: Annotated[str, Depends(who)]):
    response.headers["X-Receipt"] = uuid4().hex
    return {"user": user}


@app.post("/nothing", status_code=204)
@idempotent(backend)
async def nothing() -> None: ...


@app.post("/raises")
@idempotent(backend)
async def raises_an_answer():
    raise HTTPException(402, uuid4().hex)


@idempotent(backend)
async def plain(request: Request) -> Response:
    return PlainTextResponse(uuid4().hex)


behind = FastAPI()


@behind.post("/pay")
async def pay_behind(amount: int):
    return {"amount": amount, "receipt": uuid4().hex}


behind.add_middleware(IdempotencyMiddleware, backend=backend, required=True)
document(behind)


async def used(_: Request, error: Exception) -> Response:
    raise HTTPException(422, "used")


async def mine(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"mine: {type(error).__name__}", 422)


def inner(kind: type[Starlette], handler: Any = None) -> Starlette:
    within = kind(exception_handlers={IdempotencyError: handler} if handler else {})
    within.router.routes.append(Route("/plain", plain, methods=["POST"]))
    return within


outer = Starlette(
    routes=[
        Mount("/fastapi", app),
        Mount("/behind", behind),
        Mount("/raising", inner(FastAPI, used)),
        Mount("/mine", inner(Starlette, mine)),
        Mount("/default", inner(Starlette)),
    ],
    exception_handlers={IdempotencyConflict: mine},
)


async def check(client: httpx.AsyncClient, path: str, first_sent: dict[str, Any], other_sent: dict[str, Any]) -> str:
    """First, replay, conflict, missing key; the conflict's text."""
    headers = {"Idempotency-Key": uuid4().hex}
    first, again = [await client.post(path, headers=headers, **first_sent) for _ in range(2)]
    assert first.status_code in (200, 201, 202, 204, 402), (path, first.text)
    assert "idempotent-replayed" not in first.headers, path
    assert (again.status_code, again.content) == (first.status_code, first.content), (path, again.text)
    assert again.headers["idempotent-replayed"] == "true", path
    assert {**again.headers, "idempotent-replayed": ""} == {**first.headers, "idempotent-replayed": ""}, path
    conflict = await client.post(path, headers=headers, **other_sent)
    assert conflict.status_code == 422, (path, conflict.text)
    missing = await client.post(path, **first_sent)
    assert missing.status_code in (400, 422), (path, missing.text)
    return conflict.text


def uploaded(content: bytes) -> dict[str, Any]:
    return {"data": {"title": "a"}, "files": {"file": ("a.txt", content)}}


async def main() -> None:
    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
        one, two = {"params": {"amount": 1}}, {"params": {"amount": 2}}
        for path in ("pay", "sync", "injected", "nothing", "raises"):
            problem = await check(client, f"/fastapi/{path}", one, two)
            assert f'"instance":"/fastapi/{path}"' in problem, problem
        await check(client, "/fastapi/json", {"json": {"a": 1}}, {"json": {"a": 2}})
        await check(client, "/fastapi/json-sync", {"json": {"a": 1}}, {"json": {"a": 2}})
        await check(client, "/fastapi/upload", uploaded(b"one"), uploaded(b"two"))
        assert '"instance":"/behind/pay"' in await check(client, "/behind/pay", one, two)
        assert "used" in await check(client, "/raising/plain", one, two)
        assert await check(client, "/mine/plain", one, two) == "mine: IdempotencyConflict"
        assert '"effect":"none"' in await check(client, "/default/plain", one, two)
        invalid = await client.post("/fastapi/pay?amount=x", headers={"Idempotency-Key": "k"})
        assert (invalid.status_code, "effect" in invalid.text) == (422, False)
    assert {"400", "409", "410", "422"} <= set(behind.openapi()["paths"]["/pay"]["post"]["responses"])
    for path, operations in app.openapi()["paths"].items():
        (key,) = [found for found in operations["post"]["parameters"] if found["in"] == "header"]
        assert (key["name"], key["required"]) == ("Idempotency-Key", False), path
        assert all("idempotent" not in found["name"] for found in operations["post"]["parameters"]), path


asyncio.run(main())
print(fastapi.__version__)
