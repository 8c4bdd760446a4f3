"""The stores of the lab, each on a server or a file of its own, and what can be done to it from outside.

Files are in memory where the machine has such a folder: a loss of power is no fault of the lab's, and the speed of a
disk that others use too would be one that nobody planned.
"""

from __future__ import annotations

import contextlib
import os
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


class SmallDisk:
    """A disk that can be full: one in memory, in a mount namespace.

    Parameters:
        where: an empty folder; programs in the namespace see the disk there.
        kib: how large it is.
        is_root: whether programs in the namespace are to take themselves for root. Needs no privileges either way.
    """

    def __init__(self, where: Path, kib: int, *, is_root: bool) -> None:
        self.where = where
        program = installed("unshare", "apt-get install util-linux")
        own = ["--user", "--map-root-user" if is_root else "--map-current-user", "--keep-caps"]
        #: Who is root can have the disk without a namespace of users, in which there would be no other user.
        self.has_users = is_root or os.geteuid() != 0
        mount = f"mount -t tmpfs -o size={kib}k,mode=777 tmpfs '{where}' && echo mounted && exec cat"
        self.holder = subprocess.Popen(
            [program, *(own if self.has_users else []), "--mount", "sh", "-c", mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.holder.stdout is not None
        if self.holder.stdout.readline() != "mounted\n":
            self.__exit__()
            raise RuntimeError("a user has no mount namespace of its own here; allow kernel.unprivileged_userns_clone")
        #: The disk, as this process sees it.
        self.seen = Path(f"/proc/{self.holder.pid}/root{where}")

    def enter(self) -> list[str]:
        """What starts a program in the namespace."""
        program = installed("nsenter", "apt-get install util-linux")
        users = ["--user", "--preserve-credentials"] if self.has_users else []
        return [program, *users, "--mount", f"--wd={ROOT}", "--target", str(self.holder.pid)]

    def fill(self) -> None:
        """Takes all the room there is."""
        with contextlib.suppress(OSError), open(self.seen / "filler", "ab", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def make_room(self) -> None:
        """Gives it back."""
        (self.seen / "filler").unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        """Makes it read-only (``ro``) or not (``rw``)."""
        subprocess.run([*self.enter(), "mount", "-o", f"remount,{how}", str(self.where)], check=True)

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *error: object) -> None:
        self.holder.kill()
        self.holder.__exit__(None, None, None)


def small_disk(place: Place, kib: int, *, is_root: bool) -> SmallDisk:
    """One in a place's folder, which ends with the place."""
    where = place.folder / "disk"
    where.mkdir()
    return place.stack.enter_context(SmallDisk(where, kib, is_root=is_root))


class SqliteOnSmallDisk(Sqlite):
    """A file on a disk that can be full."""

    def __enter__(self) -> SqliteOnSmallDisk:
        self.disk = small_disk(self, 8192, is_root=True)
        return self

    @property
    def path(self) -> Path:
        """Of the file, as the workers see it."""
        return self.disk.where / "records.db"

    def enter(self) -> list[str]:
        """What starts a program in the namespace."""
        return self.disk.enter()

    def make_room(self) -> None:
        """Gives the room back."""
        self.disk.make_room()


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


class PostgresOnSmallDisk(Postgres):
    """A server on a disk that can be full. Its log of writes has small segments, and a new file for each."""

    def __init__(self, folder: Path, slots: int) -> None:
        Place.__init__(self, folder, slots)
        folder.chmod(0o711)  # the server may be another user's
        self.disk = small_disk(self, 98304, is_root=False)
        own = ("min_wal_size=2MB", "max_wal_size=4MB", "wal_recycle=off")
        try:
            self.server = PostgresServer(*own, folder=self.disk.where, enter=self.disk.enter(), wal_mib=1)
        except BaseException:
            self.stack.close()  # nobody else would
            raise

    def make_room(self) -> None:
        """Gives the room back, and starts the server again if it could not go on without: it ends itself then."""
        self.disk.make_room()
        assert self.server.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.server.process.wait(1)
            self.server.kill()
            self.server.start()


PLACES: dict[str, type[Place]] = {place.name: place for place in (Sqlite, Redis, Postgres)}
