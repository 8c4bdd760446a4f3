"""The stores of the lab, each on a server or a file of its own, and what can be done to it from outside.

Files are in memory where the machine has such a folder: a loss of power is no fault of the lab's, and the speed of a
disk that others use too would be one that nobody planned.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab import ROOT
from proxy import Proxy
from servers import PostgresServer, RedisServer, installed

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="lab-", dir=MEMORY) as made:
        yield Path(made)


class Place:
    """A store; each slot of the workers has its own way there.

    Parameters:
        folder: for its files.
        slots: how many ways.
    """

    name = ""
    #: What keys in the store begin with, where it is not the product's own; for Redis.
    prefix = ""
    #: One proxy a slot; none where there is no network.
    proxies: list[Proxy]

    def __init__(self, folder: Path, slots: int) -> None:
        self.folder, self.slots = folder, slots
        self.proxies = []
        self.stack = contextlib.ExitStack()

    def url(self, slot: int) -> str:
        """The store's URL for the processes of a slot."""
        raise NotImplementedError

    def enter(self) -> list[str]:
        """What starts a program where it finds the store."""
        return []

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()


class Sqlite(Place):
    """A file."""

    name = "sqlite"

    @property
    def path(self) -> Path:
        """Of the file."""
        return self.folder / "records.db"

    def url(self, slot: int) -> str:
        """The file's URL, whatever the slot."""
        return f"sqlite:///{self.path}"


#: How large the disk is that gets full, in KiB.
SMALL = 8192


class SqliteOnSmallDisk(Sqlite):
    """A file on a disk that can be full: one in memory, in a mount namespace, which needs no privileges."""

    def __enter__(self) -> SqliteOnSmallDisk:
        program = installed("unshare", "apt-get install util-linux")
        where = self.folder / "disk"
        where.mkdir()
        mount = f"mount -t tmpfs -o size={SMALL}k,mode=777 tmpfs '{where}' && echo mounted && exec cat"
        self.holder = subprocess.Popen(
            [program, "--user", "--map-root-user", "--mount", "sh", "-c", mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stack.enter_context(self.holder)
        self.stack.callback(self.holder.kill)
        assert self.holder.stdout is not None
        if self.holder.stdout.readline() != "mounted\n":
            raise RuntimeError("a user has no mount namespace of its own here; allow kernel.unprivileged_userns_clone")
        #: The disk, as this process sees it.
        self.disk = Path(f"/proc/{self.holder.pid}/root{where}")
        return self

    @property
    def path(self) -> Path:
        """Of the file, as the workers see it."""
        return self.folder / "disk" / "records.db"

    def enter(self) -> list[str]:
        """What starts a program in the namespace."""
        program = installed("nsenter", "apt-get install util-linux")
        return [
            program,
            "--user",
            "--mount",
            "--preserve-credentials",
            f"--wd={ROOT}",
            "--target",
            str(self.holder.pid),
        ]

    def fill(self) -> None:
        """Takes all the room there is."""
        with contextlib.suppress(OSError), open(self.disk / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def remount(self, how: str) -> None:
        """Makes it read-only (``ro``) or not (``rw``)."""
        subprocess.run([*self.enter(), "mount", "-o", f"remount,{how}", str(self.path.parent)], check=True)

    def make_room(self) -> None:
        """Gives it back."""
        (self.disk / "filler").unlink(missing_ok=True)


class Redis(Place):
    """A server that keeps what it has acknowledged, each slot behind a proxy of its own."""

    name = "redis"

    def __init__(self, folder: Path, slots: int) -> None:
        super().__init__(folder, slots)
        keeps = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder))
        self.server = RedisServer(*keeps)

    def url(self, slot: int) -> str:
        """The URL of the slot's proxy."""
        return self.proxies[slot].url

    def __enter__(self) -> Redis:
        self.stack.enter_context(self.server)
        self.proxies = [self.stack.enter_context(Proxy(self.server.port)) for _ in range(self.slots)]
        return self


class Postgres(Place):
    """A server with its default durability, each slot behind a proxy of its own."""

    name = "postgres"

    def __init__(self, folder: Path, slots: int) -> None:
        super().__init__(folder, slots)
        self.server = PostgresServer(within=MEMORY)

    def url(self, slot: int) -> str:
        """The URL of the slot's proxy."""
        return f"postgresql://postgres@127.0.0.1:{self.proxies[slot].port}/postgres"

    def __enter__(self) -> Postgres:
        from pyidempotent.backends.postgres import PostgresBackend

        self.stack.enter_context(self.server)
        PostgresBackend(self.server.url, time_limit=20).create_table()
        self.proxies = [self.stack.enter_context(Proxy(self.server.port)) for _ in range(self.slots)]
        return self


PLACES: dict[str, type[Place]] = {place.name: place for place in (Sqlite, Redis, Postgres)}
