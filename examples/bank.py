"""A bank that charges once per Idempotency-Key. From this folder: uvicorn bank:app --port 8001."""

import os
import time
from pathlib import Path

from fastapi import FastAPI, Request

from pyidempotent import idempotent

app = FastAPI(title="Bank")
ledger = Path(os.environ.get("BANK_LEDGER", "ledger.txt"))


@app.post("/charges")
@idempotent(backend=os.environ.get("BANK_STORE", "sqlite:///bank.db"), wait=10)
def charge(request: Request, amount: int, takes: float = 0):
    """Charges a card, and takes its time (in seconds)."""
    with ledger.open("a") as book:
        book.write(f"{amount} {request.headers['idempotency-key']}\n")
    time.sleep(takes)
    return {"receipt": len(ledger.read_text().splitlines())}
