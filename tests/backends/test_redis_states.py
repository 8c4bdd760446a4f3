"""A Redis that answers, but takes no writes, or whose keys somebody has touched."""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from clients import until
from proxy import until_answered
from pyidempotent import IdempotencyProcessing, IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends.redis import RedisBackend
from servers import RedisServer


@contextlib.contextmanager
def too_few_replicas(server: RedisServer, _: Path) -> Iterator[None]:
    server.cli("CONFIG", "SET", "min-replicas-to-write", "1")
    yield
    server.cli("CONFIG", "SET", "min-replicas-to-write", "0")


@contextlib.contextmanager
def cannot_save(server: RedisServer, folder: Path) -> Iterator[None]:
    shutil.rmtree(folder)
    server.cli("CONFIG", "SET", "save", "3600 1000")  # a server that is not to save minds no failure
    server.cli("BGSAVE")
    until(lambda: "rdb_last_bgsave_status:err" in server.cli("INFO", "persistence"))
    yield
    server.cli("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")


@contextlib.contextmanager
def busy(server: RedisServer, _: Path) -> Iterator[None]:
    server.cli("CONFIG", "SET", "lua-time-limit", "50")

    def spin() -> None:
        with redis.from_url(server.url) as client, pytest.raises(redis.ResponseError, match="killed"):
            client.eval("while true do end", 0)

    spins = threading.Thread(target=spin)
    spins.start()
    until(lambda: "BUSY" in server.cli("PING"))
    yield
    server.cli("SCRIPT", "KILL")
    spins.join()


STATES = {"NOREPLICAS": too_few_replicas, "MISCONF": cannot_save, "BUSY": busy}
State = Callable[[RedisServer, Path], contextlib.AbstractContextManager[None]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "redis").mkdir()
    return tmp_path / "redis"


@pytest.fixture
def server(folder: Path) -> Iterator[RedisServer]:
    with RedisServer("--dir", str(folder)) as server:
        yield server


@pytest.mark.parametrize(("word", "state"), STATES.items(), ids=STATES)
def test_a_refused_claim_is_told_as_what_it_is_and_leaves_nothing(
    server: RedisServer, folder: Path, word: str, state: State
) -> None:
    ran: list[str] = []
    backend = RedisBackend(server.url)

    @idempotent(backend, key="order", name="charge", lease=60, ttl=600)
    def charge(order: str) -> str:
        ran.append(order)
        return order

    charge("warm")
    with state(server, folder), pytest.raises(IdempotencyStoreUnavailable, match=word) as refused:
        charge("a")
    assert "connection" not in str(refused.value), "the connection did not fail"
    assert ran == ["warm"]
    assert backend.get("a", operation="charge") is None
    assert charge("a") == "a"  # at once
    assert ran == ["warm", "a"]


@pytest.mark.parametrize(("word", "state"), STATES.items(), ids=STATES)
def test_a_result_that_was_refused_is_stored_later(server: RedisServer, folder: Path, word: str, state: State) -> None:
    ran: list[str] = []
    with contextlib.ExitStack() as refuses:

        @idempotent(RedisBackend(server.url), key="order", lease=60, ttl=600)
        def charge(order: str) -> str:
            ran.append(order)
            if order == "a":
                refuses.enter_context(state(server, folder))
            return order

        charge("warm")
        assert charge("a") == "a"
    assert until_answered(lambda: charge("a")) == "a"
    assert ran == ["warm", "a"]


def test_a_claim_whose_expiry_somebody_removed_is_live(redis_server: RedisServer) -> None:
    prefix = f"{uuid.uuid4()}:"
    backend = RedisBackend(redis_server.url, prefix=prefix)
    ran, runs, may_end = [], threading.Event(), threading.Event()

    @idempotent(backend, key="order", name="charge", lease=30, ttl=60)
    def charge(order: str) -> str:
        ran.append(order)
        runs.set()
        assert may_end.wait(20)
        return "charged"

    first = threading.Thread(target=charge, args=("a",))
    first.start()
    try:
        assert runs.wait(10)
        assert redis_server.cli("PERSIST", redis_server.cli("KEYS", f"{prefix}*")) == "1"
        record = backend.get("a", operation="charge")
        assert record is not None
        state = record.state
        threading.Timer(2, may_end.set).start()  # a second body would end, too
        with pytest.raises(IdempotencyProcessing):
            charge("a")
    finally:
        may_end.set()
        first.join()
    assert state == "in flight"
    assert charge("a") == "charged"
    assert ran == ["a"]
