"""Orders behind the middleware, which protects every POST with a key. From this folder: uvicorn orders:app."""

import os
from typing import Annotated
from uuid import uuid4

from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel

from pyidempotent import current
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.fastapi import document

#: Who may order, by the API key that they send.
CUSTOMERS = {"Bearer alice-key": "alice", "Bearer bob-key": "bob"}


class Order(BaseModel):
    """What is ordered."""

    item: str
    quantity: int = 1


def customer(request: Request) -> str:
    """Who asks: a key belongs to one customer, and nobody reads another's answer."""
    name = CUSTOMERS.get(request.headers.get("authorization", ""))
    if name is None:
        raise HTTPException(401, "send 'Authorization: Bearer alice-key'")
    return name


app = FastAPI(title="Orders")
orders: dict[str, dict[str, str | int]] = {}


@app.post("/orders", status_code=201)
async def order(order: Order, response: Response, authorization: Annotated[str, Header()]):
    """Places an order."""
    number = uuid4().hex
    # What a warehouse would be sent as its own idempotency key: the same for every attempt of this key.
    warehouse_key = current().derive("warehouse")
    orders[number] = {"item": order.item, "quantity": order.quantity, "warehouse_key": warehouse_key}
    response.headers["Location"] = f"/orders/{number}"
    return {"order": number, **orders[number]}


@app.get("/orders/{number}")
async def look(number: str):
    """Looks an order up."""
    if number not in orders:
        raise HTTPException(404)
    return orders[number]


@app.post("/ping")
async def ping():
    """Has no effect, and needs no protection."""
    return {"pong": True}


app.add_middleware(
    IdempotencyMiddleware,
    backend=os.environ.get("ORDERS_STORE", "sqlite:///idempotency.db"),
    ttl=24 * 3600,
    scope=customer,
    routes={"/orders": {"required": True}, "/ping": None},
)
# Added later is further out: its headers are those of each request, not of the stored answer.
app.add_middleware(CORSMiddleware, allow_origins=["*"], expose_headers=["Idempotent-Replayed"])
document(app)
