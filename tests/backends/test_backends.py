"""Backends: how they are reached, shared, and looked after by operators."""

from __future__ import annotations

import asyncio
import datetime
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from pyidempotent import IdempotencyError, IdempotencyUnknown, attempt, idempotent
from pyidempotent.backends import Answer, Backend, open_backend
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.backends.sqlite import SqliteBackend
from servers import RedisServer, free_port


def protect(backend: Any, runs: list[str]) -> Callable[[str], str]:
    @idempotent(backend, key="order", name="shop.charge")
    def charge(order: str) -> str:
        runs.append(order)
        return f"charged {order}"

    return charge


@pytest.mark.parametrize("make", [redis.from_url, redis.asyncio.from_url, str])
def test_redis_is_reached_by_a_client_or_a_url(redis_server: RedisServer, make: Callable[[str], Any]) -> None:
    runs: list[str] = []
    prefix = f"{uuid.uuid4()}:"
    charge = protect(RedisBackend(make(f"{redis_server.url}/3"), prefix=prefix), runs)
    assert charge("a") == charge("a")
    assert runs == ["a"]
    assert len(redis.from_url(f"{redis_server.url}/3").keys(f"{prefix}*")) == 1


def test_redis_by_user_password_and_unix_socket(tmp_path: Path) -> None:
    socket = str(tmp_path / "redis.sock")
    with RedisServer("--unixsocket", socket) as server:
        server.cli("ACL", "SETUSER", "shop", "on", ">s3/cr@t", "~*", "&*", "+@all")
        server.cli("ACL", "SETUSER", "open", "on", "nopass", "~*", "&*", "+@all")
        server.cli("ACL", "SETUSER", "default", "off")
        ways: list[Any] = [
            redis.Redis(port=server.port, username="shop", password="s3/cr@t"),
            redis.Redis(unix_socket_path=socket, username="shop", password="s3/cr@t", db=1),
            f"redis://shop:s3%2Fcr%40t@127.0.0.1:{server.port}",
            f"unix://{socket}?user=shop&pass=s3%2Fcr%40t&db=1",
            f"redis://shop:s3%2Fcr%40t@127.0.0.1:{server.port}/7?db=1&protocol=3",
            redis.from_url(f"redis://shop:s3%2Fcr%40t@127.0.0.1:{server.port}/7?db=1"),
            f"redis://open@127.0.0.1:{server.port}",
            redis.Redis(port=server.port, username="open"),
            redis.Redis(unix_socket_path=socket, username="open"),
        ]
        runs: list[str] = []
        for way in ways:
            assert protect(RedisBackend(way), runs)("a") == "charged a"
    assert runs == ["a", "a"], "once in database 0, once in 1"


def test_equal_urls_are_one_store_and_others_are_not(tmp_path: Path) -> None:
    runs: list[str] = []
    sqlite = f"sqlite:///{tmp_path}/a.db"
    for url in ["memory://", "memory://", sqlite, sqlite, "memory://other", f"sqlite:///{tmp_path}/b.db"]:
        protect(url, runs)("equal")
    assert len(runs) == 4
    assert open_backend(sqlite).native is SqliteBackend(tmp_path / "a.db").native
    assert MemoryBackend().native is not MemoryBackend().native


def test_making_a_backend_does_no_io(tmp_path: Path) -> None:
    RedisBackend(f"redis://127.0.0.1:{free_port()}")
    SqliteBackend(tmp_path / "i.db")
    assert list(tmp_path.iterdir()) == []


def test_an_operator_sees_what_stands_under_a_key(backend: Backend) -> None:
    begun, go = threading.Event(), threading.Event()

    @idempotent(backend, key="order", name="shop.charge", lease=20, scope=lambda order: "ann", namespace="eu")
    def charge(order: str) -> None:
        begun.set()
        go.wait(10)

    where: dict[str, Any] = {"operation": "shop.charge", "caller": "ann", "namespace": "eu"}
    assert backend.get("a", **where) is None
    thread = threading.Thread(target=charge, args=("a",))
    thread.start()
    begun.wait()
    running = backend.get("a", **where)
    go.set()
    thread.join()
    done = backend.get("a", **where)
    assert running is not None
    assert done is not None
    assert (running.state, done.state) == ("in flight", "completed")
    assert 0 < running.lease_left <= 20
    assert done.fence == running.fence
    assert "shop.charge" in done.label
    assert "a" in done.label
    assert backend.get("a", operation="shop.charge") is None, "another caller's key is another key"


def test_an_operator_resolves_an_unknown_outcome(backend: Backend) -> None:
    runs: list[str] = []

    @idempotent(backend, key="order", name="shop.charge", after_crash="refuse")
    def charge(order: str) -> str:
        runs.append(order)
        if len(runs) <= 2:
            raise ValueError("nobody knows")
        return "charged"

    for order in ("paid", "not paid"):
        with pytest.raises(ValueError, match="nobody knows"):
            charge(order)
        with pytest.raises(IdempotencyUnknown):
            charge(order)
        record = backend.get(order, operation="shop.charge")
        assert record is not None
        assert record.state == "unknown"
        assert not backend.resolve(order, operation="shop.charge", fence=record.fence + 1), "another attempt's fence"
        word = {"result": "charged, says the bank"} if order == "paid" else {}
        assert backend.resolve(order, operation="shop.charge", fence=record.fence, **word)
    assert charge("paid") == "charged, says the bank"
    assert charge("not paid") == "charged" == charge("not paid")
    assert runs == ["paid", "not paid", "not paid"]


def test_an_operator_names_an_endpoint_by_method_and_path(backend: Backend) -> None:
    for path in ("/pay", b"/pay"):
        assert backend.get("a", operation=("POST", path)) is None  # type: ignore[arg-type]  # both are right


def test_purge_removes_what_has_expired(backend: Backend) -> None:
    @idempotent(backend, key="order", ttl=0.05)
    def charge(order: str) -> None: ...

    for number in range(5):
        charge(f"order-{number}")
    threading.Event().wait(0.1)  # for time to pass
    assert backend.purge() in (0, 4, 5), "Redis does it by itself; a store may have done it in passing"
    assert backend.purge() == 0


def test_a_list_is_of_one_prefix_and_of_records_only() -> None:
    with RedisServer() as server:
        one, two = (RedisBackend(server.url, prefix=prefix) for prefix in ("a*[b]\\:", "a*[b]\\:c:"))
        client = redis.from_url(server.url)
        client.set(b"a*[b]\\:" + b"0" * 64, "somebody's")
        client.rpush(b"a*[b]\\:" + b"1" * 64, "a list")
        with attempt(one, key="mine", name="w"), attempt(two, key="other", name="w"):
            for number in range(1500):  # more than one step looks at
                client.set(f"x{number}", "")
            assert [record.label for record in one.unfinished()] == ["w mine"]
            assert [record.label for record in two.unfinished()] == ["w other"]


def test_an_operator_names_a_record_by_its_id(backend: Backend) -> None:
    with pytest.raises(ValueError, match="boom"), attempt(backend, key="k", name="w", after_crash="refuse"):
        raise ValueError("boom")
    (record,) = backend.unfinished()
    assert (record.label, record.state, record.answer) == ("w k", "unknown", None)
    again = backend.get(id=record.id)
    assert again is not None
    assert (again.label, again.fence, again.id) == (record.label, record.fence, record.id)
    assert not backend.resolve(id=record.id, fence=record.fence + 1, result=Answer(201, [], b"done"))
    assert backend.resolve(id=record.id, fence=record.fence, result=Answer(201, [(b"x-a", b"1")], b"done"))
    found = backend.get("k", operation="w")
    assert found is not None
    assert found.answer == Answer(201, [(b"x-a", b"1")], b"done")
    assert backend.unfinished() == []
    for bad in ("", "f00", "zz" * 32, None):
        with pytest.raises((ValueError, TypeError), match=r"is not the id of a record|say which record"):
            backend.get(id=bad)
    with pytest.raises(ValueError, match="limit must be a number of 1 or more"):
        backend.unfinished(0)


def test_records_are_listed_page_by_page(backend: Backend) -> None:
    for number in range(25):
        with attempt(backend, key=str(number), name="w") as work:
            work.result = "x" * number
    with attempt(backend, key="running", name="w"):
        found, pages, after = {}, 0, None
        while True:
            page = backend.records(states=["completed"], limit=10, after=after)
            found |= {record.label: record for record in page.records}
            pages, after = pages + 1, page.next
            if after is None:
                break
        assert set(found) == {f"w {number}" for number in range(25)}
        assert pages <= 4
        (running,) = backend.records(states=["in flight"]).records
    assert (running.label, running.state, running.result) == ("w running", "in flight", b"")
    now = datetime.datetime.now(datetime.timezone.utc)
    for record in found.values():
        assert record.ttl_left is not None
        assert 0 < record.ttl_left <= 86400
        assert abs(now - record.begun) < datetime.timedelta(minutes=5)
    sizes = [found[f"w {number}"].size for number in (11, 24)]
    assert None not in sizes
    assert sizes[1] - sizes[0] == 13  # type: ignore[operator]
    with pytest.raises(ValueError, match="there is no state 'done'"):
        backend.records(states=["done"])
    with pytest.raises(IdempotencyError, match="is no place in a list of this store"):
        backend.records(after="nowhere")


def test_redis_restarted_between_two_calls() -> None:
    with RedisServer() as server:
        runs: list[str] = []
        charge = protect(server.url, runs)
        charge("a")
        server.kill()
        server.start()
        assert charge("b") == "charged b"

        async def again() -> str:
            @idempotent(server.url, key="order", name="shop.charge")
            async def charge_async(order: str) -> str:
                raise AssertionError("it ran")

            return await charge_async("b")

        assert asyncio.run(again()) == "charged b"


def test_a_server_that_may_evict_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer("--maxmemory-policy", "allkeys-lru") as server:
        charge = protect(server.url, [])
        charge("a")
        deadline = threading.Event()
        for _ in range(100):  # logged by another thread
            if "maxmemory-policy is allkeys-lru; set it to noeviction" in caplog.text:
                return
            deadline.wait(0.02)
    raise AssertionError(caplog.text)


WORKER = """
from fastapi import FastAPI, Request
from pyidempotent import idempotent

app = FastAPI()

@app.post("/pay")
@idempotent("memory://")
async def pay(request: Request) -> None: ...

@app.post("/refund")
@idempotent("memory://")
async def refund(request: Request) -> None: ...
"""


@pytest.mark.parametrize(
    ("command", "warnings"),
    [
        (["uvicorn", "worker:app", "--workers", "2"], 2),
        (["uvicorn", "worker:app"], 0),
    ],
    ids=["two workers", "one"],
)
def test_memory_under_several_workers_is_warned_about(tmp_path: Path, command: list[str], warnings: int) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--port", str(port)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if sum("Application startup complete" in line for line in lines) == max(warnings, 1):
            break
    process.terminate()
    lines += process.stderr.readlines()
    process.wait(20)
    assert sum("this is one of 2 workers" in line for line in lines) == warnings
