"""Event loops: many, closed, cancelled, of other makes."""

from __future__ import annotations

import asyncio
import gc
import threading
import uuid
from typing import Any

import pytest

from proxy import Proxy
from pyidempotent import IdempotencyProcessing, idempotent
from pyidempotent.backends import Backend
from pyidempotent.backends.redis import RedisBackend
from scripts import output
from servers import RedisServer

SETUP = """
    import asyncio, sys
    from pyidempotent import idempotent

    @idempotent(sys.argv[1], key="order", ttl=60, wait=5)
    async def charge(order):
        await asyncio.sleep(0.01)
        return order

    async def ten():
        assert await asyncio.gather(*(charge(f"{n % 5}{sys.argv[2]}") for n in range(10))) is not None
"""


def key() -> str:
    return str(uuid.uuid4())


def test_a_thousand_loops_leave_nothing_behind(store_url: str) -> None:
    code = """
    import gc, os, threading
    from pathlib import Path

    def loops(count):
        for _ in range(count):
            asyncio.run(charge(sys.argv[2]))
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return resident, len(os.listdir("/proc/self/fd")), threading.active_count()

    memory, *before = loops(50)
    memory_after, *after = loops(1000)
    assert memory_after - memory < 2_000_000, (memory, memory_after)
    assert after == before, (before, after)
    """
    output(SETUP + code, store_url, key())


def test_uvloop(redis_server: RedisServer) -> None:
    output(SETUP + "    import uvloop; uvloop.run(ten())", redis_server.url, key())


def test_nest_asyncio(redis_server: RedisServer) -> None:
    code = """
    import nest_asyncio
    nest_asyncio.apply()
    async def outer():
        return asyncio.get_running_loop().run_until_complete(ten())
    asyncio.run(outer())
    """
    output(SETUP + code, redis_server.url, key())


def test_a_loop_closed_with_a_claim_on_the_wire_frees_its_key(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:
        backend = RedisBackend(proxy.url, prefix=key())
        ran = []

        @idempotent(backend, key="order", ttl=60)
        async def charge(order: str) -> None:
            ran.append(order)

        asyncio.run(charge("warm"))
        loop = asyncio.new_event_loop()
        proxy.hold_answers()
        task = loop.create_task(charge("a"))
        loop.run_until_complete(asyncio.to_thread(proxy.held.wait))
        task.add_done_callback(lambda _: None)
        loop.close()  # as a program does that does not wait for its tasks
        del loop, task
        gc.collect()
        proxy.let_answers_go()
        asyncio.run(until_free(charge, "a"))
        assert ran == ["warm", "a"]


async def until_free(function: Any, order: str) -> None:
    """Calls until nobody holds the key any more; for five seconds at most, far less than the lease."""
    async with asyncio.timeout(5) if hasattr(asyncio, "timeout") else Nothing():
        while True:
            try:
                return await function(order)
            except IdempotencyProcessing:
                await asyncio.sleep(0.01)


class Nothing:
    """Before Python 3.11 there is no asyncio.timeout."""

    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *_: object) -> None: ...


def test_a_task_cancelled_while_its_claim_is_on_the_wire_frees_its_key(redis_server: RedisServer) -> None:
    async def main(proxy: Proxy) -> None:
        ran = []

        @idempotent(RedisBackend(proxy.url, prefix=key()), key="order", ttl=60)
        async def charge(order: str) -> None:
            ran.append(order)

        await charge("warm")
        for order in "abc":
            proxy.hold_answers()
            task = asyncio.create_task(charge(order))
            await asyncio.to_thread(proxy.held.wait)  # the server has answered, we have not heard
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            proxy.let_answers_go()
            await until_free(charge, order)
        assert ran == ["warm", "a", "b", "c"]

    with Proxy(redis_server.port) as proxy:
        asyncio.run(main(proxy))


def test_a_task_cancelled_at_any_moment_holds_its_key_for_the_lease_at_most(backend: Backend) -> None:
    """Before its work began the key is free at once."""

    async def main() -> None:
        @idempotent(backend, key="order", ttl=60, lease=0.05)
        async def charge(order: str) -> None:
            await asyncio.sleep(0)

        await charge("warm")
        for turn in range(60):
            task = asyncio.create_task(charge(f"order-{turn}"))
            for _ in range(turn % 12):
                await asyncio.sleep(0.0001 * (turn % 5))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until_free(charge, f"order-{turn}")

    asyncio.run(main())


def test_a_task_cancelled_when_its_answer_has_come_but_before_it_resumes_frees_its_key(
    redis_server: RedisServer,
) -> None:
    async def main() -> None:
        ran = []

        @idempotent(RedisBackend(redis_server.url, prefix=key()), key="order", ttl=60)
        async def charge(order: str) -> None:
            ran.append(order)

        await charge("warm")
        task = asyncio.create_task(charge("a"))
        await asyncio.sleep(0)  # it has sent its claim, and waits for a future
        waits_for: Any = task._fut_waiter  # type: ignore[attr-defined]
        waits_for.add_done_callback(lambda _: task.cancel())
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        await until_free(charge, "a")
        assert ran == ["warm", "a"]

    asyncio.run(main())


def test_one_function_in_three_loops_at_once(backend: Backend) -> None:
    @idempotent(backend, key="order", ttl=60)
    async def charge(order: str) -> str:
        await asyncio.sleep(0.001)
        return order

    answers: list[str] = []

    def work(name: int) -> None:
        async def main() -> None:
            for number in range(20):
                answers.append(await charge(f"{name}-{number}"))

        asyncio.run(main())

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted(f"{name}-{number}" for name in range(3) for number in range(20))


def test_a_waiting_sync_call_on_a_running_loop_is_refused_by_name(backend: Backend) -> None:
    @idempotent(backend, key="order", wait=1)
    def charge(order: str) -> None: ...

    async def main() -> None:
        charge("a")

    with pytest.raises(RuntimeError, match="would block the running event loop"):
        asyncio.run(main())


def test_a_waiting_sync_call_under_gevent_is_refused_by_name() -> None:
    code = """
    import warnings
    warnings.simplefilter("ignore")  # gevent's own
    from gevent import monkey; monkey.patch_all()
    from pyidempotent import idempotent

    @idempotent("memory://", key="order")
    def charge(order):
        return order

    @idempotent("memory://", key="order", wait=1)
    def waits(order):
        return order

    assert charge("a") == "a" == charge("a")
    try:
        waits("a")
    except RuntimeError as error:
        print(error)
    """
    assert "would block every greenlet" in output(code)


def test_a_subinterpreter_is_refused_with_an_import_error() -> None:
    code = """
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    import pyidempotent
    try:
        answer = interpreters.run_string(interpreters.create(), "import pyidempotent")
        assert "ImportError" in str(answer.type), answer
    except interpreters.RunFailedError as error:
        assert "ImportError" in str(error), error
    """
    output(code)
