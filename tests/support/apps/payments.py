"""Protected endpoints of every kind on the store at ``STORE``; every run is a line in the file ``RUNS``."""

import asyncio
import os
import threading
from collections import Counter, defaultdict
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

import pyidempotent
from pyidempotent import current, idempotent
from pyidempotent.backends import open_backend

app = FastAPI()
backend = open_backend(os.environ["STORE"])
LEASE = float(os.environ.get("LEASE", "30"))


def run(key: str | None = None) -> str:
    """Counts a run; its answer is like no other run's."""
    with open(os.environ["RUNS"], "a") as book:  # O_APPEND: whole lines, from any process
        book.write(f"{key or current().key}\n")
    return uuid4().hex


class Gate:
    """Where a handler waits until a test lets it go on."""

    def __init__(self) -> None:
        self.begun, self.opened = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.begun.set()
        self.opened.wait(60)


gates: defaultdict[str, Gate] = defaultdict(Gate)


@app.post("/gates/{key}/begun")
def has_begun(key: str) -> bool:
    return gates[key].begun.wait(20)


@app.post("/gates/{key}/open")
def open_gate(key: str) -> None:
    gates[key].opened.set()


@app.post("/pay")
@idempotent(backend)
async def pay(request: Request, amount: int):
    return {"charged": amount, "receipt": run()}


@app.post("/refund")
@idempotent(backend)
async def refund(request: Request, amount: int):
    return {"refunded": amount, "receipt": run()}


@app.post("/no-request")
@idempotent(backend)
async def no_request(amount: int):
    return {"charged": amount, "receipt": run()}


@app.post("/sync")
@idempotent(backend)
def pay_on_a_thread(request: Request, amount: int):
    assert threading.current_thread() is not threading.main_thread()
    return {"charged": amount, "receipt": run()}


@app.patch("/orders/{order}")
@idempotent(backend)
async def change_order(order: str, amount: int):
    return {order: amount, "receipt": run()}


@app.post("/json")
@idempotent(backend)
async def reads_json_itself(request: Request):
    return {"got": await request.json(), "receipt": run()}


@app.post("/stream")
@idempotent(backend)
async def reads_the_stream_itself(request: Request):
    chunks = [chunk async for chunk in request.stream()]
    return {"got": b"".join(chunks).decode(), "receipt": run()}


@app.post("/optional")
@idempotent(backend, required=False)
async def optional(idempotency_key: Annotated[str, Header()] = "none"):
    return {"receipt": run(idempotency_key)}


# Handlers that take their time.


@app.post("/slow")
@idempotent(backend, lease=LEASE, ttl=max(LEASE, 60))
async def slow(amount: int):
    receipt = run()
    await asyncio.to_thread(gates[current().key].wait)
    return {"charged": amount, "receipt": receipt}


@app.post("/slow-sync")
@idempotent(backend, lease=LEASE, ttl=max(LEASE, 60))
def slow_on_a_thread(amount: int):
    receipt = run()
    gates[current().key].wait()
    return {"charged": amount, "receipt": receipt}


@app.post("/slow-refuse")
@idempotent(backend, lease=LEASE, ttl=max(LEASE, 60), after_crash="refuse")
async def slow_at_most_once(amount: int):
    receipt = run()
    await asyncio.to_thread(gates[current().key].wait)
    return {"charged": amount, "receipt": receipt}


@app.post("/waits")
@idempotent(backend, wait=20)
async def repeats_wait(amount: int):
    receipt = run()
    await asyncio.to_thread(gates[current().key].wait)
    return {"charged": amount, "receipt": receipt}


@app.post("/race")
@idempotent(backend)
async def race(amount: int):
    receipt = run()
    await asyncio.sleep(0.3)  # as long as it takes the others to arrive
    return {"charged": amount, "receipt": receipt}


@app.post("/brief")
@idempotent(backend, ttl=0.5, lease=0.5)
async def brief():
    return {"receipt": run()}


# Handlers that fail.

attempts: Counter[str] = Counter()


def fail_at_first(status: int) -> None:
    """The first attempt on a key raises, the second does not; 0 is an exception that is no answer."""
    attempts[current().key] += 1
    if attempts[current().key] == 1:
        raise HTTPException(status, "at first") if status else RuntimeError("at first")


@app.post("/fails")
@idempotent(backend)
async def fails(status: int):
    receipt = run()
    fail_at_first(status)
    return {"receipt": receipt}


@app.post("/fails-sync")
@idempotent(backend)
def fails_on_a_thread(status: int):
    receipt = run()
    fail_at_first(status)
    return {"receipt": receipt}


@app.post("/fails-refuse")
@idempotent(backend, after_crash="refuse")
async def fails_at_most_once(status: int):
    receipt = run()
    fail_at_first(status)
    return {"receipt": receipt}


@app.post("/releases")
@idempotent(backend, after_crash="refuse")
async def declares_that_nothing_happened(status: int):
    receipt = run()
    if not attempts[current().key]:
        current().release()
    fail_at_first(status)
    return {"receipt": receipt}


@app.post("/answers/{status}")
@idempotent(backend)
async def answers(status: int):
    return JSONResponse({"receipt": run()}, status)


# Who calls.


async def who(authorization: Annotated[str, Header()]) -> str:
    user, _, _token = authorization.partition(" ")
    if user == "nobody":
        raise HTTPException(401, "who?")
    return user


@app.post("/transfers")
@idempotent(backend, scope=lambda user: user)
async def transfer(request: Request, amount: int, user: Annotated[str, Depends(who)]):
    return {"from": user, "receipt": run()}


@app.post("/by-authorization")
@idempotent(backend, scope=pyidempotent.by_authorization)
async def by_authorization(amount: int):
    return {"receipt": run()}


@app.post("/shared")
@idempotent(backend, scope=pyidempotent.shared)
async def shared(amount: int):
    return {"receipt": run()}


@app.post("/named/{version}")
@idempotent(backend, name="billing")
async def named(version: str, amount: int):
    return {"receipt": run()}


# Starlette without FastAPI.


@idempotent(backend)
async def plain(request: Request):
    return JSONResponse({"got": (await request.body()).decode(), "receipt": run()}, 201)


@idempotent(backend)
def plain_sync(request: Request):
    return PlainTextResponse(run())


app.router.routes += [
    Route("/plain", plain, methods=["POST"]),
    Route("/plain-sync", plain_sync, methods=["POST"]),
]
