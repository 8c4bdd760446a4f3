"""A shop that charges once per Idempotency-Key. From this folder: uvicorn shop:app."""

import asyncio
import os
from pathlib import Path

from fastapi import FastAPI, Request

from pyidempotent import current, idempotent
from pyidempotent.backends.sqlite import SqliteBackend

app = FastAPI(title="Shop")
backend = SqliteBackend(os.environ.get("SHOP_STORE", "idempotency.db"))
ledger = Path(os.environ.get("SHOP_LEDGER", "ledger.txt"))

if "SHOP_METRICS" in os.environ:  # pip install "pyidempotent[prometheus]"
    from prometheus_client import make_asgi_app

    from pyidempotent.instrumentation import prometheus

    prometheus.install()
    app.mount("/metrics", make_asgi_app())


@app.post("/pay")
@idempotent(backend=backend, ttl=24 * 3600, lease=5, after_crash=os.environ.get("SHOP_AFTER_CRASH", "rerun"))
async def pay(request: Request, amount: int, bank_takes: float = 0):
    """Charges a card, at a bank that takes its time (in seconds)."""
    await asyncio.sleep(bank_takes)
    with ledger.open("a") as book:
        # What a bank would be sent as its own idempotency key: the same for every attempt of this key.
        book.write(f"{amount} {current().derive('charge')}\n")
    return {"status": "charged", "amount": amount}
