"""Celery workers of the tests' own, in process groups of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from celery import Celery
from celery.backends.redis import RedisBackend
from celery.result import AsyncResult

from clients import APPS
from servers import STARTUP, RedisServer


class Polling(RedisBackend):  # type: ignore[misc]  # Celery is untyped
    """Looks for results instead of subscribing to them: nothing is left to unsubscribe when its server is gone."""

    def on_task_call(self, producer: Any, task_id: str) -> None: ...

    def add_pending_result(self, result: AsyncResult, *_: Any, **__: Any) -> AsyncResult:
        return result

    remove_pending_result = add_pending_result

    def wait_for_pending(self, result: AsyncResult, timeout: float, propagate: bool = True, **_: Any) -> Any:
        deadline = time.monotonic() + timeout
        while not result.ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{result.id} is {result.state} after {timeout} s")
            time.sleep(0.02)
        return result.maybe_throw(propagate=propagate)


class Worker:
    """A worker of ``apps/tasks.py``, and a client of its broker.

    Parameters:
        server: the broker, the result backend, and by default the store.
        folder: where bodies write what they did.
        pool: ``prefork``, ``threads``, ``solo`` or ``gevent``.
        environment: for the application.
    """

    def __init__(self, server: RedisServer, folder: Path, pool: str, **environment: str) -> None:
        self.pool = pool
        self.folder = folder
        self.book = folder / "book"
        self.book.touch()
        broker = f"{server.url}/1"
        own = {"BROKER": broker, "STORE": f"{server.url}/0", "FOLDER": str(folder), **environment}
        self.environment = {**os.environ, **own}
        self.client = Celery("tests", broker=broker, backend=f"workers:Polling+{broker}")
        self.process: subprocess.Popen[bytes] | None = None
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # closed at the exit

    def start(self) -> None:
        """Starts it, and returns when it takes messages."""
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", self.pool, "-c", "2", "-l", "INFO"]
        said = self.output().count(" ready.")
        self.process = subprocess.Popen(
            [*command, *quiet],
            cwd=APPS,
            env=self.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.until(lambda: self.output().count(" ready.") > said, STARTUP)

    def kill(self) -> None:
        """As ``kill -9`` of its whole process group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def wait_for_redelivery(self) -> None:
        """Until a worker that starts takes back what a killed one had; one that runs already looks seldom."""
        timeout = float(self.environment["VISIBILITY"])
        broker = redis.from_url(self.environment["BROKER"])
        self.until(lambda: not broker.zcount("unacked_index", time.time() - timeout, "+inf"))

    def output(self) -> str:
        """What it has printed so far."""
        end = self.log.tell()
        self.log.seek(0)
        text = self.log.read().decode(errors="replace")
        self.log.seek(end)
        return text

    def send(self, task: str, *args: Any, **options: Any) -> AsyncResult:
        """Sends a message; its result to come."""
        return self.client.send_task(f"tasks.{task}", args, **options)

    def lines(self, *words: Any) -> list[str]:
        """The lines of the book that begin with these words."""
        wanted = [str(word) for word in words]
        return [line for line in self.book.read_text().splitlines() if line.split()[: len(wanted)] == wanted]

    def open(self, gate: str) -> None:
        """Lets a body go on that waits at this gate."""
        (self.folder / f"gate-{gate}").touch()

    def until(self, happens: Callable[[], Any], limit: float = 20) -> Any:
        """Asks again until the answer is true; for what other processes do."""
        deadline = time.monotonic() + limit
        while not (answer := happens()):
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"it does not happen:\n{self.output()}")
            time.sleep(0.02)
        return answer

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self.client.close()
        self.log.close()
