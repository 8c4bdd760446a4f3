"""What goes wrong around a call: interrupts, exits, a store that hangs or is cut off, a loop that is blocked."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from clients import until
from proxy import Proxy
from pyidempotent import IdempotencyProcessing, IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends import Backend
from pyidempotent.backends.redis import RedisBackend
from scripts import line, output, start
from servers import AppServer, RedisServer


def key() -> str:
    return str(uuid.uuid4())


INTERRUPTED = """
    import signal, sys, threading, time
    from pyidempotent import idempotent
    from pyidempotent.backends.redis import RedisBackend

    @idempotent(RedisBackend(sys.argv[1], time_limit=20), key="order", wait=20)
    def charge(order):
        return order

    try:
        print("calls", flush=True)
        charge(sys.argv[2])
        print("answered")
    except KeyboardInterrupt:
        print(time.clock_gettime(time.CLOCK_MONOTONIC))
"""


def interrupted_after(url: str, order: str, begun: threading.Event | None = None) -> float:
    """Seconds from Ctrl-C to the KeyboardInterrupt of a program that waits for ``order``."""
    process = start(INTERRUPTED, url, order)
    assert line(process) == "calls"
    if begun is not None:
        assert begun.wait(10)
    else:
        time.sleep(0.5)  # nothing tells that it waits for its turn
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    printed, complaints = process.communicate(timeout=10)
    assert complaints == ""
    return float(printed) - sent


def test_ctrl_c_ends_a_sync_call_that_waits_for_its_leader(redis_server: RedisServer) -> None:
    order, go = key(), threading.Event()

    @idempotent(redis_server.url, key="order", name="__main__.charge")
    def lead(order: str) -> None:
        assert go.wait(30)

    leader = threading.Thread(target=lead, args=(order,))
    leader.start()
    try:
        took = [interrupted_after(redis_server.url, order) for _ in range(3)]
        assert min(took) < 0.2
    finally:
        go.set()
        leader.join()


def test_ctrl_c_ends_a_sync_call_to_a_store_that_hangs(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:
        proxy.hold_answers()
        assert interrupted_after(proxy.url, key(), proxy.held) < 0.2


def test_a_store_that_hangs_is_an_error_within_the_time_limit(redis_server: RedisServer) -> None:
    ran = []
    with Proxy(redis_server.port) as proxy:

        @idempotent(RedisBackend(proxy.url, prefix=key(), time_limit=0.3), key="order")
        def charge(order: str) -> None:
            ran.append(order)

        charge("warm")
        proxy.hold_answers()
        began = time.monotonic()
        with pytest.raises(IdempotencyStoreUnavailable, match="300ms"):
            charge("a")
        assert time.monotonic() - began < 1
        proxy.let_answers_go()
        # The claim that nobody heard of is given back, long before its lease ends.
        until_free(lambda: charge("a"))
    assert ran == ["warm", "a"]


def until_free(call: Callable[[], object]) -> None:
    def is_free() -> bool:
        try:
            call()
        except (IdempotencyProcessing, IdempotencyStoreUnavailable):
            return False
        return True

    until(is_free)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_cut_around_a_claim_runs_once(redis_server: RedisServer, when: str) -> None:
    ran = []
    with Proxy(redis_server.port) as proxy:

        @idempotent(RedisBackend(proxy.url, prefix=key()), key="order")
        def charge(order: str) -> str:
            ran.append(order)
            return order

        charge("warm")
        proxy.cut_before_commands() if when == "before" else proxy.cut_after_commands()
        assert charge("a") == "a"  # sent again at once: its token makes that harmless
        assert proxy.was_cut.is_set()
        assert charge("a") == "a"
    assert ran == ["warm", "a"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_cut_around_a_completion_keeps_the_result(redis_server: RedisServer, when: str) -> None:
    ran = []
    with Proxy(redis_server.port) as proxy:

        @idempotent(RedisBackend(proxy.url, prefix=key()), key="order")
        async def charge(order: str) -> str:
            ran.append(order)
            if order == "a":
                proxy.cut_before_commands() if when == "before" else proxy.cut_after_commands()
            return order

        async def main() -> None:
            await charge("warm")
            assert await charge("a") == "a"
            assert proxy.was_cut.is_set()
            assert await charge("a") == "a"

        asyncio.run(main())
    assert ran == ["warm", "a"]


def test_a_connection_lost_while_idle_is_opened_again(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:

        @idempotent(RedisBackend(proxy.url, prefix=key()), key="order")
        def charge(order: str) -> str:
            return order

        for number in range(5):
            assert charge(f"order-{number}") == f"order-{number}"
            proxy.drop_all()


def test_a_store_that_is_down_at_completion_gets_the_result_when_it_is_back() -> None:
    with RedisServer() as server:
        ran = []

        @idempotent(RedisBackend(server.url, time_limit=0.3), key="order", ttl=60)
        def charge(order: str) -> str:
            ran.append(order)
            if order == "a":
                server.signal(signal.SIGSTOP)
            return order

        charge("warm")
        assert charge("a") == "a"  # the caller gets the answer all the same
        server.signal(signal.SIGCONT)
        until_free(lambda: charge("a"))
        assert ran == ["warm", "a"]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_exit_waits_for_what_is_under_way(mode: str, redis_server: RedisServer, tmp_path: Path) -> None:
    code = """
    import asyncio, sys
    from pyidempotent import idempotent

    @idempotent(sys.argv[2], key="order")
    async def charge(order):
        raise SystemExit if sys.argv[1] == "async" else KeyboardInterrupt

    @idempotent(sys.argv[2], key="order", after_crash="refuse")
    def exits(order):
        sys.exit(0)

    if sys.argv[1] == "async":
        try:
            asyncio.run(charge(sys.argv[3]))
        except SystemExit:
            pass
    exits(sys.argv[3] + "sync")
    """
    order = key()
    output(code, mode, redis_server.url, order, complains="nobody knows whether the effect of the record")
    backend = RedisBackend(redis_server.url)
    if mode == "async":
        interrupted = backend.get(order, operation="__main__.charge")
        assert interrupted is not None
        assert interrupted.state == "in flight"  # nobody knows what it did: it is held until its lease ends
    held = backend.get(order + "sync", operation="__main__.exits")
    assert held is not None
    assert held.state == "unknown"


def test_a_handler_that_blocks_its_loop_keeps_its_lease(backend: Backend) -> None:
    running, done, met = threading.Event(), threading.Event(), []

    @idempotent(backend, key="order", lease=0.3, name="charge")
    async def charge(order: str) -> str:
        running.set()
        time.sleep(1.0)  # three leases, in which no loop turns
        return order

    @idempotent(backend, key="order", name="charge")
    def look(order: str) -> None:
        raise AssertionError("it ran beside a live attempt")

    def watch() -> None:
        running.wait()
        while not done.wait(0.02):
            try:
                look("a")
            except IdempotencyProcessing as error:
                met.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()

    async def main() -> str:
        try:
            return await charge("a")
        finally:
            done.set()

    assert asyncio.run(main()) == "a"
    watcher.join()
    assert len(met) > 10


def test_sigterm_finishes_and_records_what_is_under_way(redis_server: RedisServer, tmp_path: Path) -> None:
    app = tmp_path / "slow.py"
    app.write_text(
        "import asyncio, os\n"
        "from fastapi import FastAPI, Request\n"
        "from pyidempotent import idempotent\n"
        "app = FastAPI()\n"
        "@app.post('/pay')\n"
        "@idempotent(os.environ['STORE'])\n"
        "async def pay(request: Request):\n"
        "    print('runs', flush=True)\n"
        "    await asyncio.sleep(0.7)\n"
        "    return 'paid'\n"
    )
    import httpx

    headers, answers = {"Idempotency-Key": key()}, []
    with AppServer(app, {"STORE": redis_server.url}) as server:
        client = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{server.url}/pay", headers=headers, timeout=10))
        )
        client.start()
        until(lambda: "runs" in server.output())
        server.stop()
        client.join()
    assert answers[0].json() == "paid"
    with AppServer(app, {"STORE": redis_server.url}) as server:
        again = httpx.post(f"{server.url}/pay", headers=headers)
        assert (again.json(), again.headers["idempotent-replayed"]) == ("paid", "true")
        assert "runs" not in server.output()
