"""A claim whose answer is lost on the wire, comes too late, or is read too late."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import redis

from clients import until
from proxy import Proxy, until_answered
from pyidempotent import IdempotencyStoreUnavailable, IdempotencyUnknown, idempotent
from pyidempotent.backends.redis import RedisBackend
from scripts import line, start
from servers import RedisServer

(RELEASE,) = (Path(__file__).parents[2] / "crates").glob("*/src/**/release.lua")


def key() -> str:
    return str(uuid.uuid4())


@contextlib.contextmanager
def releases(server: RedisServer) -> Iterator[list[float]]:
    """When a release reached the server, by the server's clock."""
    name = hashlib.sha1(RELEASE.read_bytes()).hexdigest()
    times: list[float] = []
    with redis.from_url(server.url, socket_timeout=None) as client, client.monitor() as monitor:

        def watch() -> None:
            for command in monitor.listen():
                if "no more releases" in command["command"]:
                    return
                if command["client_type"] != "lua" and name in command["command"]:
                    times.append(command["time"])

        watcher = threading.Thread(target=watch)
        watcher.start()
        yield times
        client.echo("no more releases")
        watcher.join()


CLAIMS, STALL, TRIES = 300, 3.0, 5


@pytest.mark.parametrize("stalls", ["the network", "the server"])
def test_a_stall_is_not_followed_by_a_storm_of_releases(stalls: str) -> None:
    ran: list[str] = []
    orders = [str(number) for number in range(CLAIMS)]
    with RedisServer() as server, Proxy(server.port) as proxy, releases(server) as sent:

        @idempotent(RedisBackend(proxy.url), key="order", lease=60, ttl=600)
        async def charge(order: str) -> str:
            if order == "fails":
                raise ValueError(order)
            ran.append(order)
            return order

        async def fails() -> None:
            # Its release leaves the script with the server: none below is sent twice for want of it.
            with pytest.raises(ValueError, match="fails"):
                await charge("fails")

        async def everyone() -> list[str | BaseException]:
            return await asyncio.gather(*map(charge, orders), return_exceptions=True)

        asyncio.run(fails())
        until(lambda: sent)
        sent.clear()
        proxy.hold_answers() if stalls == "the network" else server.signal(signal.SIGSTOP)
        began, stalled_at = time.monotonic(), time.time()
        answers = asyncio.run(everyone())
        assert {type(answer) for answer in answers} == {IdempotencyStoreUnavailable}
        took = time.monotonic() - began
        assert took < STALL, "the claims end within the time limit of 1 s"
        time.sleep(STALL - took)  # the stall goes on for its whole length
        proxy.let_answers_go() if stalls == "the network" else server.signal(signal.SIGCONT)

        # For 30 s, or until none has come for 5 s.
        ends = time.monotonic() + 30
        while time.monotonic() < ends and not (sent and time.time() - max(sent[-1], stalled_at + STALL) > 5):
            time.sleep(0.1)  # nothing tells that no more will come
        assert len(sent) <= TRIES * CLAIMS + 100, "about five tries each"
        if stalls == "the network":  # what is sent to a server that stands still is executed when it goes on
            # The claims failed after a second, and the first releases may have been sent together with them.
            known_down = [at for at in sent if stalled_at + 1.5 < at < stalled_at + STALL]
            assert len(known_down) <= 20, "a look whether the store is back, not one for every claim"
        assert asyncio.run(everyone()) == orders, "every claim was given back, long before its lease ended"
    assert sorted(ran) == sorted(orders)


@contextlib.contextmanager
def lost_answer(proxy: Proxy, second: str) -> Iterator[None]:
    """The next command is executed, its answer is lost, and its second sending certainly is not executed.

    At the end of the block the server is reached again.
    """
    with contextlib.ExitStack() as stack:
        if second == "refused":
            proxy.refuse_new()
            stack.callback(proxy.listen)
        elif second == "LOADING":
            proxy.answer_itself("LOADING Redis is loading the dataset in memory")
            stack.callback(proxy.answer_itself, None)
        else:
            # A replica that has no data yet.
            replica = stack.enter_context(RedisServer("--replicaof", "127.0.0.1", "1"))

            def come_back(server: int = proxy.target) -> None:
                proxy.target = server
                proxy.drop_all()

            proxy.target = replica.port
            stack.callback(come_back)
        proxy.cut_after_commands()
        yield
        assert proxy.was_cut.is_set()


def charging(proxy: Proxy, prefix: str, ran: list[str], **options: Any) -> Callable[[str], str]:
    """A function behind the proxy, whose connection and scripts are there."""

    @idempotent(RedisBackend(proxy.url, prefix=prefix, time_limit=0.5), key="order", name="charge", ttl=600, **options)
    def charge(order: str) -> str:
        ran.append(order)
        return order

    charge("warm")
    return charge


@pytest.mark.parametrize("after_crash", ["rerun", "refuse"])
@pytest.mark.parametrize("second", ["refused", "LOADING", "READONLY"])
def test_a_claim_whose_answer_was_lost_is_given_back(redis_server: RedisServer, second: str, after_crash: str) -> None:
    ran: list[str] = []
    prefix = key()
    observer = RedisBackend(redis_server.url, prefix=prefix)
    with Proxy(redis_server.port) as proxy:
        charge = charging(proxy, prefix, ran, lease=60, after_crash=after_crash)
        with lost_answer(proxy, second):
            with pytest.raises(IdempotencyStoreUnavailable):
                charge("a")
            held = observer.get("a", operation="charge")
            assert held is not None
            assert held.state == "in flight"
        assert until_answered(lambda: charge("a")) == "a"
    assert ran == ["warm", "a"]


@pytest.mark.parametrize("second", ["refused", "time-out"])
@pytest.mark.parametrize("after_crash", ["rerun", "refuse"])
def test_a_claim_is_given_back_after_an_outage_longer_than_its_lease(
    redis_server: RedisServer, second: str, after_crash: str
) -> None:
    ran: list[str] = []
    prefix = key()
    observer = RedisBackend(redis_server.url, prefix=prefix)
    with Proxy(redis_server.port) as proxy:
        charge = charging(proxy, prefix, ran, lease=1, after_crash=after_crash)
        with contextlib.ExitStack() as outage:
            if second == "refused":
                outage.enter_context(lost_answer(proxy, "refused"))
            else:
                proxy.hold_answers()
            with pytest.raises(IdempotencyStoreUnavailable):
                charge("a")
            if second == "time-out":
                proxy.refuse()
                outage.callback(proxy.listen)
                proxy.let_answers_go()

            def has_lapsed() -> bool:
                held = observer.get("a", operation="charge")
                return held is not None and held.state == "lapsed"

            until(has_lapsed)
            time.sleep(2)  # the outage goes on
        if after_crash == "rerun":
            until(lambda: observer.get("a", operation="charge") is None)  # by itself: nobody takes it over
        assert until_answered(lambda: charge("a"), IdempotencyUnknown) == "a"
    assert ran == ["warm", "a"]


STOPPED = """
    import asyncio, sys
    from pyidempotent import IdempotencyError, idempotent
    from pyidempotent.backends.redis import RedisBackend

    how, url, prefix = sys.argv[1:]
    protected = idempotent(RedisBackend(url, prefix=prefix, time_limit=30), key="order", name="charge", lease=1, ttl=60)

    @protected
    def charge(order):
        print("runs", order)
        return "the first"

    @protected
    async def charge_async(order):
        print("runs", order)
        return "the first"

    def call(order):
        try:
            print("answered", charge(order) if how == "sync" else asyncio.run(charge_async(order)))
        except IdempotencyError as error:
            print("refused", type(error).__name__)

    call("warm")
    for line in sys.stdin:
        call(line.strip())
"""


def is_stopped(process: Popen[str]) -> bool:
    return ") T " in Path(f"/proc/{process.pid}/stat").read_text()


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("successor", ["has completed", "runs", "is not there"])
def test_a_process_stopped_before_its_body_does_not_start_on_a_claim_that_has_lapsed(
    redis_server: RedisServer, successor: str, how: str
) -> None:
    prefix = key()
    backend = RedisBackend(redis_server.url, prefix=prefix)
    runs, may_end = threading.Event(), threading.Event()

    @idempotent(backend, key="order", name="charge", ttl=60)
    def charge(order: str) -> str:
        runs.set()
        assert may_end.wait(20)
        return "the successor"

    def has_lapsed() -> bool:
        record = backend.get("a", operation="charge")
        assert record is not None
        return record.state == "lapsed"

    with Proxy(redis_server.port) as proxy, start(STOPPED, how, proxy.url, prefix) as process:
        try:
            assert [line(process), line(process)] == ["runs warm", "answered the first"]
            assert process.stdin is not None
            proxy.hold_answers()
            process.stdin.write("a\n")
            process.stdin.flush()
            assert proxy.held.wait(10)
            process.send_signal(signal.SIGSTOP)
            until(lambda: is_stopped(process))
            proxy.let_answers_go()  # into its socket, where it finds it when it goes on
            until(has_lapsed)
            other = threading.Thread(target=charge, args=("a",))
            if successor != "is not there":
                other.start()
                assert runs.wait(10)
            if successor == "has completed":
                may_end.set()
                other.join()
            process.send_signal(signal.SIGCONT)
            said = line(process)
            if successor == "is not there":
                assert (said, line(process)) == ("runs a", "answered the first")
            else:
                seen = {"has completed": "answered the successor", "runs": "refused IdempotencyProcessing"}
                assert said == seen[successor]
        finally:
            may_end.set()
            process.kill()
    if successor == "runs":
        other.join()
