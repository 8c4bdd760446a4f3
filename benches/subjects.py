"""One subject of the benchmark, in an environment of its own: reads cases as JSON lines, answers microseconds per call.

    python subjects.py ours|idemkit|original|redis-py|floor

Everyone decorates the same function, gets the same arguments and stores the same result.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# The five lines' own payload, and the result that everyone stores.
AMOUNT = 42


def result(amount: int) -> dict[str, Any]:
    return {"status": "charged", "amount": amount}


Protected = Callable[..., Awaitable[Any]]


def starlette_request(key: str) -> Any:
    from starlette.requests import Request

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/pay",
        "raw_path": b"/pay",
        "query_string": b"amount=42",
        "headers": [(b"host", b"localhost"), (b"idempotency-key", key.encode())],
    }
    request = Request(scope)
    request._body = b""
    return request


def ours(case: dict[str, Any]) -> Protected:
    from pyidempotent import idempotent
    from pyidempotent.backends.memory import MemoryBackend
    from pyidempotent.backends.sqlite import SqliteBackend

    backend: Any = case["url"]
    if case["store"] == "memory":
        backend = MemoryBackend()
    elif case["store"] == "sqlite":
        backend = SqliteBackend(case["url"])

    if case["form"] == "request":

        @idempotent(backend, ttl=3600, name=case["name"])
        async def pay(request: Any, amount: int) -> dict[str, Any]:
            return result(amount)

        def call(key: str) -> Awaitable[Any]:
            return pay(starlette_request(key), AMOUNT)

        return call
    if case["form"] == "sync":

        @idempotent(backend, key="order", ttl=3600, name=case["name"])
        def charge(order: str, amount: int) -> dict[str, Any]:
            return result(amount)

        return lambda key: charge(key, AMOUNT)

    @idempotent(backend, key="order", ttl=3600, name=case["name"])
    async def charge_async(order: str, amount: int) -> dict[str, Any]:
        return result(amount)

    return lambda key: charge_async(key, AMOUNT)


def idemkit(case: dict[str, Any]) -> Protected:
    from idemkit import InMemoryBackend, MethodConfig, idempotent

    backend: Any
    if case["store"] == "memory":
        backend = InMemoryBackend()
    elif case["store"] == "postgres":
        from idemkit.backends.postgres import PostgresBackend, init_pg

        with ThreadPoolExecutor(1) as pool:  # this thread has a loop that runs
            pool.submit(asyncio.run, init_pg(case["url"])).result()
        backend = PostgresBackend.from_url(case["url"])
    else:
        import redis.asyncio
        from idemkit.backends.redis import RedisBackend

        backend = RedisBackend(redis.asyncio.from_url(case["url"]))

    @idempotent(backend=backend, config=MethodConfig(key_fields=["order"], version=case["name"]))
    async def charge(order: str, amount: int) -> dict[str, Any]:
        return result(amount)

    return lambda key: charge(key, AMOUNT)


def original(case: dict[str, Any]) -> Protected:
    from pyidempotent import idempotent
    from pyidempotent.backends.memory import MemoryBackend

    backend: Any
    if case["store"] == "memory":
        backend = MemoryBackend()
    else:
        import redis.asyncio

        from pyidempotent.backends.redis import RedisBackend

        backend = RedisBackend(redis.asyncio.from_url(case["url"]), prefix=case["name"])
    if case["form"] == "request":

        @idempotent(backend=backend)
        async def pay(request: Any, amount: int) -> dict[str, Any]:
            return result(amount)

        return lambda key: pay(starlette_request(key), AMOUNT)

    @idempotent(backend=backend, key_extractor=lambda order, amount, **_: order)
    async def charge(order: str, amount: int) -> dict[str, Any]:
        return result(amount)

    return lambda key: charge(key, AMOUNT)


def redis_py(case: dict[str, Any]) -> Protected:
    """A bare GET: what a round trip costs in Python."""
    value = b"x" * 100
    if case["form"] == "sync":
        import redis

        client = redis.from_url(case["url"])
        client.set("bench:get", value)
        return lambda key: client.get("bench:get")
    import redis.asyncio

    client = redis.asyncio.from_url(case["url"])
    return lambda key: client.get("bench:get")


def floor(case: dict[str, Any]) -> Protected:
    """A bare GET, or a SELECT by primary key, over a connection and a bridge like our own: the least for a replay."""
    from pyidempotent import _native

    if case["store"] == "postgres":
        select = _native.bare_select(case["url"])
        return lambda key: select(b"bench:select")
    get = _native.bare_get(case["url"])  # only in a build with the feature `bench`
    return lambda key: get("bench:get")


SUBJECTS = {"ours": ours, "idemkit": idemkit, "original": original, "redis-py": redis_py, "floor": floor}


async def measure(call: Protected, keys: list[str], concurrency: int) -> float:
    """Microseconds per call, the wall's."""
    pending = iter(keys)

    async def worker() -> None:
        for key in pending:
            await call(key)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return (time.perf_counter() - began) / len(keys) * 1e6


def measure_threads(call: Callable[[str], Any], keys: list[str], threads: int) -> float:
    """The same from threads."""
    share = len(keys) // threads

    def work(part: list[str]) -> None:
        for key in part:
            call(key)

    workers = [threading.Thread(target=work, args=(keys[n * share : (n + 1) * share],)) for n in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - began) / (share * threads) * 1e6


async def wake(case: dict[str, Any]) -> list[float]:
    """Milliseconds from a leader's end to its waiter's answer, each."""
    from pyidempotent import idempotent

    took = []
    for number in range(case["count"]):
        go, ended = asyncio.Event(), 0.0

        @idempotent(case["url"], key="order", wait=10, name=case["name"])
        async def lead(order: str) -> int:
            await go.wait()  # noqa: B023  # of this round
            return 1

        leader = asyncio.create_task(lead(f"wake-{number}"))
        await asyncio.sleep(0.005)
        waiter = asyncio.create_task(lead(f"wake-{number}"))
        await asyncio.sleep(0.02)
        go.set()
        await leader
        ended = time.perf_counter()
        await waiter
        took.append((time.perf_counter() - ended) * 1e3)
    return took


def resident() -> int:
    """The resident set, in bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


def growth(count: int) -> float:
    """Bytes of resident set per record of the memory store, with results of 200 bytes."""
    from pyidempotent import idempotent
    from pyidempotent.backends.memory import MemoryBackend

    @idempotent(MemoryBackend(max_entries=2 * count, max_bytes=1 << 40), key="order", ttl=3600)
    def charge(order: str) -> bytes:
        return b"x" * 200

    for number in range(1000):
        charge(f"warm-{number}")
    gc.collect()
    before = resident()
    for number in range(count):
        charge(f"order-{number}")
    gc.collect()
    return (resident() - before) / count


def run(subject: str, case: dict[str, Any]) -> Any:
    """One case: warm up, then measure."""
    if case["do"] == "wake":
        return asyncio.run(wake(case))
    if case["do"] == "growth":
        return growth(case["count"])
    prefix = uuid.uuid4().hex
    case = {**case, "name": prefix}
    fresh = itertools.count()
    count = case["count"]
    keys = [f"order-{next(fresh)}" for _ in range(count)] if case["do"] == "first" else ["order"] * count
    warm = [f"warm-{n}" for n in range(min(count, 200))]
    if case["form"] == "sync":
        call: Any = SUBJECTS[subject](case)
        for key in [*warm, "order"]:
            call(key)
        return measure_threads(call, keys, case["concurrency"])

    async def all_of_it() -> float:
        call = SUBJECTS[subject](case)
        if subject == "redis-py":
            import redis.asyncio

            await redis.asyncio.from_url(case["url"]).set("bench:get", b"x" * 100)
        for key in [*warm, "order"]:
            await call(key)
        await measure(call, warm, case["concurrency"])
        gc.collect()
        return await measure(call, keys, case["concurrency"])

    if not case["metrics"]:
        return asyncio.run(all_of_it())
    from pyidempotent.instrumentation import prometheus

    prometheus.install()
    try:
        return asyncio.run(all_of_it())
    finally:
        prometheus.stop()


def main() -> None:
    subject = sys.argv[1]
    for line in sys.stdin:
        print(json.dumps(run(subject, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
