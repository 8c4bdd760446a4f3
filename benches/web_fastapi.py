"""The FastAPI application that the web benchmark loads: `SUBJECT` says who protects it, `STORE` where records live."""

import os

from fastapi import FastAPI

app = FastAPI()
subject, store = os.environ["SUBJECT"], os.environ.get("STORE", "memory://")


@app.post("/pay")
async def pay(amount: int) -> dict[str, str | int]:
    return {"status": "charged", "amount": amount}


@app.get("/pay")
async def look(amount: int) -> dict[str, str | int]:
    return {"status": "charged", "amount": amount}


if subject == "ours":
    from pyidempotent.asgi import IdempotencyMiddleware

    app.add_middleware(IdempotencyMiddleware, backend=store)
elif subject == "floor":
    from web_floor import Middleware as Floor

    app.add_middleware(Floor)
elif subject == "idemkit":
    from idemkit import HttpConfig, InMemoryBackend
    from idemkit import IdempotencyMiddleware as Middleware

    if store == "memory://":
        backend = InMemoryBackend()
    else:
        import redis.asyncio
        from idemkit.backends.redis import RedisBackend

        backend = RedisBackend(redis.asyncio.from_url(store))
    app.add_middleware(Middleware, backend=backend, config=HttpConfig(scope=lambda request: "anonymous"))
