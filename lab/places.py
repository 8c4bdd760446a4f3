"""The stores of the lab, each on a server or a file of its own, and what can be done to it from outside.

Files are in memory where the machine has such a folder: a loss of power is no fault of the lab's, and the speed of a
disk that others use too would be one that nobody planned.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab import ROOT  # noqa: F401  # the servers are found by it
from proxy import Proxy
from servers import PostgresServer, RedisServer

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
    #: One proxy a slot; none where there is no network.
    proxies: list[Proxy]

    def __init__(self, folder: Path, slots: int) -> None:
        self.folder, self.slots = folder, slots
        self.proxies = []
        self.stack = contextlib.ExitStack()

    def url(self, slot: int) -> str:
        """The store's URL for the processes of a slot."""
        raise NotImplementedError

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
