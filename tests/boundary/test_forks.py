"""Processes that fork: what a parent used is not the child's, and both go on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from scripts import output
from servers import PostgresServer, RedisServer, Server, free_port

SETUP = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which is what this is about
    import asyncio, os, sys, threading
    from pyidempotent import IdempotencyProcessing, idempotent

    @idempotent(sys.argv[1], key="order", ttl=60)
    def charge(order):
        return os.getpid()

    @idempotent(sys.argv[1], key="order", ttl=60)
    async def charge_async(order):
        return os.getpid()

    def wait(child):
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'i.db'}"
    if request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        return postgres.new_url()
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


def key() -> str:
    return str(uuid.uuid4())


def test_a_child_works_sync_and_async_and_so_does_its_parent(url: str) -> None:
    code = """
    key = sys.argv[2]
    assert charge(key) == os.getpid()
    asyncio.run(charge_async(key))
    child = os.fork()
    if child == 0:
        # Another process: memory is its own there, and empty; the others replay.
        assert charge(key) == (os.getpid() if sys.argv[1] == "memory://" else os.getppid())
        assert asyncio.run(charge_async("a" + key)) == os.getpid()
        threads = [threading.Thread(target=charge, args=(f"c{n}{key}",)) for n in range(4)]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        os._exit(0)
    assert charge("b" + key) == os.getpid()
    wait(child)
    assert charge(key) == os.getpid()
    assert asyncio.run(charge_async("d" + key)) == os.getpid()
    """
    output(SETUP + code, url, key())


def test_a_child_of_a_child_works(url: str) -> None:
    code = """
    charge("0" + sys.argv[2])
    if (child := os.fork()) == 0:
        charge("1" + sys.argv[2])
        if (grandchild := os.fork()) == 0:
            assert charge("2" + sys.argv[2]) == os.getpid()
            os._exit(0)
        wait(grandchild)
        os._exit(0)
    wait(child)
    """
    output(SETUP + code, url, key())


def test_forks_while_other_threads_are_at_it_leave_nothing_locked_or_damaged(url: str, tmp_path: Path) -> None:
    code = """
    stop = threading.Event()

    def hammer(name):
        number = 0
        while not stop.is_set():
            charge(f"{name}-{number}-{sys.argv[2]}")
            number += 1

    threads = [threading.Thread(target=hammer, args=(n,)) for n in range(3)]
    [thread.start() for thread in threads]
    for number in range(15):
        if (child := os.fork()) == 0:
            for n in range(5):
                assert charge(f"child-{number}-{n}-{sys.argv[2]}") == os.getpid()
            os._exit(0)
        wait(child)
    stop.set()
    [thread.join() for thread in threads]
    assert charge(f"after-{sys.argv[2]}") == os.getpid()
    """
    output(SETUP + code, url, key())
    if url.startswith("sqlite"):
        look = "sqlite3.connect(sys.argv[1]).execute('PRAGMA integrity_check').fetchone()[0]"
        check = f"import sqlite3, sys; print({look})"
        checked = subprocess.check_output([sys.executable, "-c", check, tmp_path / "i.db"], text=True)
        assert checked.strip() == "ok"


def test_a_child_forked_by_a_handler_releases_nothing_when_it_exits(url: str) -> None:
    code = """
    @idempotent(sys.argv[1], key="order", ttl=60, lease=5)
    def forks(order):
        if (child := os.fork()) == 0:
            sys.exit(0)  # through every frame of ours
        wait(child)
        try:
            forks(order)
        except IdempotencyProcessing:
            return "still held"

    child = forks(sys.argv[2])
    assert child == "still held", child
    assert forks(sys.argv[2]) == "still held"
    """
    output(SETUP + code, url, key())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, redis_server: RedisServer, tmp_path: Path) -> None:
    module = tmp_path / "workers.py"
    module.write_text(
        "import os, sys\n"
        "from pyidempotent import IdempotencyProcessing, idempotent\n"
        "@idempotent(os.environ['STORE'], key='order', ttl=60, wait=10)\n"
        "def charge(order):\n"
        "    with open(os.environ['RUNS'], 'a') as book:\n"
        "        book.write('x')\n"
        "    return order\n"
    )
    code = """
    import multiprocessing, sys
    import workers
    if __name__ == "__main__":
        workers.charge("warm" + sys.argv[2])
        with multiprocessing.get_context(sys.argv[1]).Pool(4) as pool:
            assert pool.map(workers.charge, [sys.argv[2]] * 40) == [sys.argv[2]] * 40
    """
    runs = tmp_path / "runs"
    paths = {"STORE": redis_server.url, "RUNS": str(runs), "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    output(code, method, key(), environment=paths)
    assert runs.read_text() == "xx"


class Gunicorn(Server):
    """Four workers, forked from a process that has used the backend already."""

    def __init__(self, folder: Path, store: str) -> None:
        super().__init__()
        self.port = free_port()
        self.folder = folder
        self.store = store

    def command(self) -> list[str]:
        options = ["--preload", "--workers", "4", "--bind", f"127.0.0.1:{self.port}", "--log-level", "warning"]
        return [sys.executable, "-m", "gunicorn", "--chdir", str(self.folder), *options, "preloaded:app"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "STORE": self.store, "RUNS": str(self.folder / "runs")}


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def gunicorn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gunicorn]:
    (tmp_path / "preloaded.py").write_text(
        "import os\n"
        "from pyidempotent import IdempotencyProcessing, idempotent\n"
        "@idempotent(os.environ['STORE'], key='order', ttl=60, wait=10)\n"
        "def charge(order):\n"
        "    with open(os.environ['RUNS'], 'a') as book:\n"
        "        book.write(order + '\\n')\n"
        "    return order\n"
        "charge('used before the fork')\n"
        "def app(environ, start_response):\n"
        "    body = charge(environ['PATH_INFO']).encode()\n"
        "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
        "    return [body]\n"
    )
    stores: dict[str, Callable[[], str]] = {
        "sqlite": lambda: f"sqlite:///{tmp_path / 'i.db'}",
        "redis": lambda: str(request.getfixturevalue("redis_server").url),
        "postgres": lambda: str(request.getfixturevalue("postgres_server").new_url()),
    }
    store = stores[request.param]()
    with Gunicorn(tmp_path, store) as server:
        yield server


def test_gunicorn_with_preload_runs_once_over_its_workers(gunicorn: Gunicorn) -> None:
    path = "/" + key()
    answers: list[int] = []
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=20) as client:

        def ask() -> None:
            for _ in range(5):
                answers.append(client.get(f"http://127.0.0.1:{gunicorn.port}{path}").status_code)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [200] * 40, gunicorn.output()
    assert (gunicorn.folder / "runs").read_text().split("\n").count(path) == 1
    assert gunicorn.stop() == 0, gunicorn.output()
