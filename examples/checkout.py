"""A checkout that charges at a bank. From this folder: uvicorn checkout:app.

However often a client repeats its order, and wherever this process crashes, the bank sees one key per order.
"""

import os

import httpx
from fastapi import FastAPI, Request

from pyidempotent import current, idempotent

app = FastAPI(title="Checkout")
bank = httpx.AsyncClient(base_url=os.environ.get("BANK", "http://localhost:8001"), timeout=30)


@app.post("/orders")
@idempotent(backend=os.environ.get("CHECKOUT_STORE", "sqlite:///checkout.db"), lease=2)
async def order(request: Request, amount: int, bank_takes: float = 0):
    """Charges for an order."""
    charge = await bank.post(
        "/charges",
        params={"amount": amount, "takes": bank_takes},
        headers={"Idempotency-Key": current().derive("charge")},
    )
    charge.raise_for_status()
    return {"amount": amount, "receipt": charge.json()["receipt"]}
