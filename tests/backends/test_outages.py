"""The store goes away while operations run, and comes back. `lab/` does so under load."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable

import pytest

from clients import until
from proxy import Proxy, until_answered
from pyidempotent import IdempotencyProcessing, IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends.postgres import PostgresBackend
from pyidempotent.backends.redis import RedisBackend
from servers import PostgresServer, RedisServer


def key() -> str:
    return str(uuid.uuid4())


@pytest.mark.parametrize("lease", [1.0, 3.0])
@pytest.mark.parametrize("work", ["ended", "runs"])
def test_a_process_does_not_take_over_from_itself(redis_server: RedisServer, work: str, lease: float) -> None:
    orders = [f"order-{number}" for number in range(20)]
    ran: Counter[str] = Counter()
    everyone_runs, may_end = threading.Barrier(len(orders) + 1), threading.Event()
    with Proxy(redis_server.port) as proxy, contextlib.ExitStack() as ends:

        @idempotent(RedisBackend(proxy.url, prefix=key(), time_limit=0.3), key="order", lease=lease, ttl=60)
        def charge(order: str) -> str:
            ran[order] += 1
            if ran[order] == 1:
                everyone_runs.wait(10)
            may_end.wait(30)
            return order

        def lead(order: str) -> None:
            """Its claim may be late on a busy machine, and is asked for again."""
            while not everyone_runs.broken:
                with contextlib.suppress(IdempotencyProcessing, IdempotencyStoreUnavailable):
                    charge(order)
                    return

        def client(order: str) -> None:
            """Its first call was given up; it repeats until another one replays."""
            first.wait(20)
            time.sleep(orders.index(order) * 0.3 / len(orders))  # clients do not repeat at one moment
            while not stops.wait(0.3):
                with contextlib.suppress(IdempotencyProcessing, IdempotencyStoreUnavailable):
                    charge(order)
                    return

        first, stops = threading.Event(), threading.Event()
        # Whatever fails, no thread goes on beside the tests that follow.
        for event in (stops, first, may_end):
            ends.callback(event.set)
        leaders = [threading.Thread(target=lead, args=(order,)) for order in orders]
        clients = [threading.Thread(target=client, args=(order,)) for order in orders]
        for thread in leaders + clients:
            thread.start()
        everyone_runs.wait(10)
        proxy.refuse()
        if work == "ended":
            may_end.set()
            for leader in leaders:
                leader.join(10)
        first.set()
        time.sleep(2.5 * lease + 0.2)  # the outage; its end lies between two tries of what is pending
        proxy.listen()
        if work == "runs":
            time.sleep(1.5 * lease)  # the work goes on
            may_end.set()
        for thread in leaders + clients:
            thread.join(15)
        stops.set()
        assert not any(thread.is_alive() for thread in clients), "a key is blocked"
    again = {order: runs for order, runs in ran.items() if runs > 1}
    assert (len(ran), again) == (len(orders), {})


@pytest.mark.parametrize("store", ["redis", "postgres"])
def test_a_distant_server_is_reached_again_however_many_ask(
    redis_server: RedisServer, postgres_server: PostgresServer, store: str
) -> None:
    server = redis_server if store == "redis" else postgres_server
    with Proxy(server.port) as proxy:
        url = server.url.replace(str(server.port), str(proxy.port))
        backend = RedisBackend(url, time_limit=1) if store == "redis" else PostgresBackend(url, time_limit=1)

        @idempotent(backend, key="order", name=key())
        async def charge(order: int) -> int:
            return order

        async def ask(order: int) -> bool:
            with contextlib.suppress(IdempotencyStoreUnavailable):
                return await charge(order) == order
            return False

        async def until_one_is_answered() -> float:
            proxy.latency = 0.05  # several round trips open a connection
            proxy.lose_all()
            calls: list[asyncio.Task[bool]] = []
            returned = float("inf")
            began = time.monotonic()
            while not any(call.done() and call.result() for call in calls):
                calls.append(asyncio.create_task(ask(len(calls))))
                await asyncio.sleep(0.01)  # clients come one after another: at any time some have little of theirs left
                if returned == float("inf") and time.monotonic() - began > 2:
                    proxy.let_all_go()
                    returned = time.monotonic()
                if time.monotonic() - began > 12:
                    break
            took = time.monotonic() - returned
            await asyncio.gather(*calls)
            return took

        assert asyncio.run(until_one_is_answered()) < 5


def away_with_the_password(server: RedisServer) -> Callable[[], object]:
    server.cli("CONFIG", "SET", "requirepass", "other")
    server.cli("-a", "other", "CLIENT", "KILL", "TYPE", "normal")
    return lambda: server.cli("-a", "other", "CONFIG", "SET", "requirepass", "")


def another_password(server: RedisServer) -> Callable[[], object]:
    server.cli("ACL", "SETUSER", "shop", "resetpass", ">other")
    server.cli("CLIENT", "KILL", "USER", "shop")
    return lambda: server.cli("ACL", "SETUSER", "shop", "resetpass", ">secret")


def no_permission(server: RedisServer) -> Callable[[], object]:
    server.cli("ACL", "SETUSER", "shop", "-@scripting")
    return lambda: server.cli("ACL", "SETUSER", "shop", "+@scripting")


@pytest.mark.parametrize(
    ("user", "break_it"),
    [("", away_with_the_password), ("shop:secret@", another_password), ("shop:secret@", no_permission)],
)
@pytest.mark.parametrize("lease", [1.0, 20.0])
def test_a_result_is_kept_until_the_server_takes_us_again(
    user: str, break_it: Callable[[RedisServer], Callable[[], object]], lease: float
) -> None:
    ran = []
    with RedisServer() as server:
        server.cli("ACL", "SETUSER", "shop", "on", ">secret", "~*", "&*", "+@all")
        url = f"redis://{user}127.0.0.1:{server.port}"
        mends: list[threading.Timer] = []

        @idempotent(RedisBackend(url, time_limit=0.3), key="order", lease=lease, ttl=60)
        def charge(order: str) -> str:
            ran.append(order)
            if order == "a":
                mends.append(threading.Timer(2.0, break_it(server)))
                mends[0].start()
            return order

        charge("warm")
        assert charge("a") == "a"  # the caller has the answer all the same
        mends[0].join()
        assert until_answered(lambda: charge("a")) == "a"
    assert ran == ["warm", "a"]


def test_a_result_is_sent_again_as_soon_as_the_store_has_answered_somebody(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:
        prefix = key()
        # Another engine: its looking is not what tells the first one.
        observer = RedisBackend(redis_server.url, prefix=prefix)

        @idempotent(RedisBackend(proxy.url, prefix=prefix, time_limit=0.3), key="order", name="charge", ttl=60)
        def charge(order: str) -> str:
            if order == "a":
                proxy.answer_itself("LOADING Redis is loading the dataset in memory")
                proxy.drop_all()
            return order

        charge("warm")
        charge("a")
        time.sleep(3)  # the pauses between tries have grown
        # Just now one was in vain: the next one by itself is a whole pause away.
        proxy.answered.clear()
        proxy.answered.wait(3)
        proxy.answer_itself(None)
        charge("b")
        succeeded = time.monotonic()

        def is_there() -> bool:
            record = observer.get("a", operation="charge")
            return record is not None and record.state == "completed"

        until(is_there)
        assert time.monotonic() - succeeded < 0.5
