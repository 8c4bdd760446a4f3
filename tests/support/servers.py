"""Servers of the tests' own, on free ports of the loopback, stopped at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

STARTUP = 60.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def installed(program: str, line: str) -> str:
    """The path of a server's program; its absence is a failure that names the line that installs it."""
    found = shutil.which(program)
    if found is None:
        raise RuntimeError(f"{program} is missing; install it: {line}")
    return found


class Server:
    """A process that listens on ``port``."""

    port: int
    #: Whether it has processes of its own, which are killed with it.
    is_group = False

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # closed in stop

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command(),
            env=dict(self.environment()),
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=self.is_group,
        )
        deadline = time.monotonic() + STARTUP
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.command()[0]} ended with {self.process.returncode}:\n{self.output()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)  # nothing tells when another process listens
        raise RuntimeError(f"{self.command()} does not listen on {self.port} after {STARTUP} s:\n{self.output()}")

    def output(self) -> str:
        """What the process has printed so far."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As ``kill -9``."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                if self.is_group:
                    os.killpg(self.process.pid, signal.SIGKILL)
                else:
                    self.process.kill()
            self.process.wait()
            self.process = None
            if self.is_group:
                self._has_left_its_port()

    def _has_left_its_port(self) -> None:
        """Returns when nothing listens any more: the children of a killed process die after it."""
        deadline = time.monotonic() + STARTUP
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                socket.create_connection(("127.0.0.1", self.port), 1).close()

    def stop(self, limit: float = 10.0) -> int | None:
        """Asks it to end; its exit status."""
        if self.process is None:
            return None
        self.process.terminate()
        try:
            return self.process.wait(limit)
        finally:
            self.kill()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self.log.close()


class RedisServer(Server):
    """Redis without persistence."""

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self.port = free_port()
        self.arguments = arguments
        self.program = installed("redis-server", "apt-get install redis-server")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return [self.program, *fixed, *self.arguments]

    def cli(self, *arguments: str) -> str:
        program = installed("redis-cli", "apt-get install redis-tools")
        done = subprocess.run(
            [program, "-p", str(self.port), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    def __enter__(self) -> RedisServer:
        super().__enter__()
        return self


class AppServer(Server):
    """An ASGI application in a file, under uvicorn, in a process of its own.

    Parameters:
        file: the Python file; its application is called ``app``.
        environment: beside this process's own.
        arguments: for uvicorn.
    """

    def __init__(self, file: Path, environment: Mapping[str, str] | None = None, *arguments: str) -> None:
        super().__init__()
        self.port = free_port()
        self.file = file
        self.extra = environment or {}
        self.arguments = arguments

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        where = ["--app-dir", str(self.file.parent), f"{self.file.stem}:app"]
        return [sys.executable, "-m", "uvicorn", *where, "--port", str(self.port), *self.arguments]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, **self.extra}

    def __enter__(self) -> AppServer:
        super().__enter__()
        return self
