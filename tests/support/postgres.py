"""A Postgres of the tests' own, in a folder of its own, on a free port of the loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from servers import Server, free_port

LINE = "apt-get install postgresql"


def program(name: str) -> str:
    """The path of a program of Postgres; its absence is a failure that names the line that installs it."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*"), key=lambda path: int(path.name))
    found = next(filter(None, (shutil.which(name, path=path / "bin") for path in reversed(versions))), None)
    found = found or shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is missing; install it: {LINE}")
    return found


class PostgresServer(Server):
    """Postgres with its default durability, but for what ``settings`` say. It may be started again over its data.

    Parameters:
        settings: of its configuration, by name.
    """

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self.port = free_port()
        self.settings = settings
        #: Nobody may run Postgres as root.
        self.user = "postgres" if os.getuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self.data = self.folder / "data"
        initdb = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run(
            [program("initdb"), *initdb, self.data],
            check=True,
            capture_output=True,
            user=self.user,
            cwd=self.folder,
            timeout=60,
        )

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        fixed = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder)}
        settings = [f"--{name}={value}" for name, value in {**fixed, **self.settings}.items()]
        return [program("postgres"), "-D", str(self.data), *settings]

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command(), stdout=self.log, stderr=subprocess.STDOUT, user=self.user, cwd=self.folder
        )
        ready = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        subprocess.run(
            ["sh", "-c", 'for i in $(seq 600); do "$@" && exit; sleep 0.05; done; exit 1', "-", *ready],
            check=True,
            timeout=60,
        )

    def stop(self, limit: float = 30.0) -> int | None:
        """Ends it as an administrator does who is in a hurry: open transactions are rolled back."""
        return self._end(signal.SIGINT, limit)

    def crash(self) -> None:
        """Ends it without a checkpoint, as a loss of power does (``pg_ctl stop -m immediate``)."""
        self._end(signal.SIGQUIT, 30)

    def _end(self, number: int, limit: float) -> int | None:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(limit)
        self.process = None
        return status

    def sql(self, statements: str) -> str:
        """What ``psql`` prints of some statements."""
        done = subprocess.run(
            [program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", self.url],
            input=statements,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def __enter__(self) -> PostgresServer:
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self._end(signal.SIGQUIT, 30)
        self.log.close()
        shutil.rmtree(self.folder)
