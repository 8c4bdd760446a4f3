"""The kinds of connections that `pyidempotent.transaction` works with, as tests use them: each sync, on this thread."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import sqlalchemy
from django.db import connections
from django.db import transaction as django_transaction
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import django_site  # noqa: F401  # sets Django up
import pyidempotent

#: What the tests' transactions write.
ACCOUNTS = "CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance BIGINT NOT NULL)"


def count_statements(block: pyidempotent.transaction) -> list[str]:
    """The statements that a block runs from now on."""
    statements: list[str] = []
    run = block._claim.connection.run

    def counted(sql: str, values: Sequence[Any]) -> Any:
        statements.append(sql)
        return run(sql, values)

    block._claim.connection.run = counted  # type: ignore[method-assign]
    return statements


@dataclass
class Lane:
    """One kind of connection.

    Parameters:
        place: where the database is: a URL of Postgres, or the path of a file.
    """

    place: str
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    opened: list[Callable[[], Any]] = field(default_factory=list)

    #: Whether a connection waits inside the block of `transaction` for its first statement to begin its transaction.
    begins_by_itself = True
    is_async = False

    @property
    def is_sqlite(self) -> bool:
        return not self.place.startswith("postgresql:")

    def connect(self) -> Any:
        raise NotImplementedError

    def autocommit(self) -> Any:
        """A connection that commits each statement by itself."""
        raise NotImplementedError

    def begin(self, connection: Any) -> None:
        """Begins a transaction, as far as the library's users do so."""

    def commit(self, connection: Any) -> None:
        self.wait(connection.commit())

    def rollback(self, connection: Any) -> None:
        self.wait(connection.rollback())

    def close(self, connection: Any) -> None:
        self.wait(connection.close())

    def run(self, connection: Any, sql: str) -> list[tuple[Any, ...]]:
        """Runs a statement; its rows."""
        raise NotImplementedError

    def wait(self, result: Any) -> Any:
        """What an async library's call comes to."""
        return self.loop.run_until_complete(result) if self.is_async else result

    @contextmanager
    def transaction(self, connection: Any) -> Iterator[None]:
        """A transaction around a block, as the library's users write it."""
        self.begin(connection)
        try:
            yield
        except BaseException:
            self.rollback(connection)
            raise
        self.commit(connection)

    def block(self, connection: Any, **options: Any) -> AbstractContextManager[pyidempotent.transaction]:
        """A protected block."""
        made = pyidempotent.transaction(connection, **options)
        return _Awaited(self, made) if self.is_async else made

    def keep(self, connection: Any) -> Any:
        self.opened.append(lambda: self.close(connection))
        return connection

    def end(self) -> None:
        for close in self.opened:
            with suppress(Exception):
                close()
        self.loop.close()


class _Awaited:
    """An async context manager, as a sync one."""

    def __init__(self, lane: Lane, made: pyidempotent.transaction) -> None:
        self.lane, self.made = lane, made

    def __enter__(self) -> pyidempotent.transaction:
        return self.lane.wait(self.made.__aenter__())  # type: ignore[no-any-return]

    def __exit__(self, *error: Any) -> None:
        self.lane.wait(self.made.__aexit__(*error))


class Sqlite3(Lane):
    def connect(self) -> sqlite3.Connection:
        return self.keep(sqlite3.connect(self.place, timeout=20))  # type: ignore[no-any-return]

    def autocommit(self) -> sqlite3.Connection:
        return self.keep(sqlite3.connect(self.place, isolation_level=None))  # type: ignore[no-any-return]

    def run(self, connection: Any, sql: str) -> list[tuple[Any, ...]]:
        return connection.execute(sql).fetchall()  # type: ignore[no-any-return]


class Sqlite3Explicit(Sqlite3):
    """With BEGIN and COMMIT by hand."""

    begins_by_itself = False

    def connect(self) -> sqlite3.Connection:
        return self.autocommit()

    def begin(self, connection: Any) -> None:
        connection.execute("BEGIN IMMEDIATE")


class Aiosqlite(Lane):
    is_async = True

    def connect(self) -> aiosqlite.Connection:
        return self.keep(self.wait(aiosqlite.connect(self.place, timeout=20)))  # type: ignore[no-any-return]

    def autocommit(self) -> aiosqlite.Connection:
        return self.keep(self.wait(aiosqlite.connect(self.place, isolation_level=None)))  # type: ignore[no-any-return]

    def run(self, connection: Any, sql: str) -> list[tuple[Any, ...]]:
        return list(self.wait(connection.execute_fetchall(sql)))


class Psycopg(Lane):
    def connect(self) -> Any:
        return self.keep(psycopg.connect(self.place))

    def autocommit(self) -> Any:
        return self.keep(psycopg.connect(self.place, autocommit=True))

    def run(self, connection: Any, sql: str) -> list[tuple[Any, ...]]:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


class PsycopgBlocks(Psycopg):
    """In autocommit, with ``connection.transaction()``."""

    begins_by_itself = False

    def connect(self) -> Any:
        return self.autocommit()

    @contextmanager
    def transaction(self, connection: Any) -> Iterator[None]:
        with connection.transaction():
            yield


class AsyncPsycopg(Lane):
    is_async = True

    def connect(self) -> Any:
        return self.keep(self.wait(psycopg.AsyncConnection.connect(self.place)))

    def autocommit(self) -> Any:
        return self.keep(self.wait(psycopg.AsyncConnection.connect(self.place, autocommit=True)))

    def run(self, connection: Any, sql: str) -> list[tuple[Any, ...]]:
        cursor = self.wait(connection.execute(sql))
        return self.wait(cursor.fetchall()) if cursor.description else []


class Asyncpg(Lane):
    is_async = True
    begins_by_itself = False

    def connect(self) -> Any:
        return self.keep(self.wait(asyncpg.connect(self.place)))

    def autocommit(self) -> Any:
        return self.connect()

    def begin(self, connection: Any) -> None:
        self.run(connection, "BEGIN")

    def commit(self, connection: Any) -> None:
        self.run(connection, "COMMIT")

    def rollback(self, connection: Any) -> None:
        self.run(connection, "ROLLBACK")

    def run(self, connection: Any, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.wait(connection.fetch(sql))]


class Sqlalchemy(Lane):
    #: The driver, as SQLAlchemy's URLs name it.
    driver = "psycopg"

    @property
    def url(self) -> str:
        if self.is_sqlite:
            return f"sqlite+{self.driver}:///{self.place}" if self.driver else f"sqlite:///{self.place}"
        return self.place.replace("postgresql:", f"postgresql+{self.driver}:")

    def engine(self, **options: Any) -> Any:
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool, **options)
        self.opened.append(engine.dispose)
        return engine

    def connect(self) -> Any:
        return self.keep(self.engine().connect())

    def autocommit(self) -> Any:
        return self.keep(self.engine(isolation_level="AUTOCOMMIT").connect())

    def run(self, connection: Any, sql: str) -> list[tuple[Any, ...]]:
        result = self.wait(connection.execute(sqlalchemy.text(sql)))
        return [tuple(row) for row in result] if result.returns_rows else []


class SqlalchemyPsycopg2(Sqlalchemy):
    driver = "psycopg2"


class SqlalchemySession(Sqlalchemy):
    def connect(self) -> Any:
        return self.keep(Session(self.engine()))

    def autocommit(self) -> Any:
        return self.keep(Session(self.engine(isolation_level="AUTOCOMMIT")))


class SqlalchemyAsync(Sqlalchemy):
    is_async = True
    driver = "asyncpg"

    def engine(self, **options: Any) -> Any:
        engine = create_async_engine(self.url, poolclass=sqlalchemy.NullPool, **options)
        self.opened.append(lambda: self.wait(engine.dispose()))
        return engine

    def connect(self) -> Any:
        return self.keep(self.wait(AsyncConnection(self.engine()).start()))

    def autocommit(self) -> Any:
        return self.keep(self.wait(AsyncConnection(self.engine(isolation_level="AUTOCOMMIT")).start()))


class SqlalchemyAsyncSession(SqlalchemyAsync):
    def connect(self) -> Any:
        return self.keep(AsyncSession(self.engine()))

    def autocommit(self) -> Any:
        return self.keep(AsyncSession(self.engine(isolation_level="AUTOCOMMIT")))


class SqlalchemyAsyncPsycopg(SqlalchemyAsyncSession):
    driver = "psycopg"


class SqlalchemySqlite(SqlalchemySession):
    driver = ""


class SqlalchemyAiosqlite(SqlalchemyAsyncSession):
    driver = "aiosqlite"


class Django(Lane):
    begins_by_itself = False

    def connect(self) -> Any:
        # A connection of its own, beside that of the thread.
        alias = f"lane-{uuid.uuid4()}"
        connections.settings[alias] = {**connections.settings["default"], **self.settings()}
        self.opened.append(lambda: self.forget(alias))
        return connections[alias]

    def settings(self) -> dict[str, Any]:
        if self.is_sqlite:
            return {"ENGINE": "django.db.backends.sqlite3", "NAME": self.place}
        parts = psycopg.conninfo.conninfo_to_dict(self.place)
        names = {"NAME": "dbname", "USER": "user", "HOST": "host", "PORT": "port"}
        found = {name: parts[part] for name, part in names.items()}
        return {"ENGINE": "django.db.backends.postgresql", **found, "OPTIONS": {}}

    def autocommit(self) -> Any:
        return self.connect()

    def close(self, connection: Any) -> None:
        connection.close()

    def forget(self, alias: str) -> None:
        connections[alias].close()
        del connections[alias]
        del connections.settings[alias]

    @contextmanager
    def transaction(self, connection: Any) -> Iterator[None]:
        with django_transaction.atomic(using=connection.alias):
            yield

    def run(self, connection: Any, sql: str) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []


ON_SQLITE = {
    "sqlite3": Sqlite3,
    "sqlite3, BEGIN IMMEDIATE": Sqlite3Explicit,
    "aiosqlite": Aiosqlite,
    "SQLAlchemy, sqlite3": SqlalchemySqlite,
    "SQLAlchemy, aiosqlite": SqlalchemyAiosqlite,
    "Django, sqlite3": Django,
}
ON_POSTGRES = {
    "psycopg": Psycopg,
    "psycopg, transaction()": PsycopgBlocks,
    "psycopg, async": AsyncPsycopg,
    "asyncpg": Asyncpg,
    "SQLAlchemy, psycopg": Sqlalchemy,
    "SQLAlchemy, psycopg2": SqlalchemyPsycopg2,
    "SQLAlchemy, Session": SqlalchemySession,
    "SQLAlchemy, asyncpg": SqlalchemyAsync,
    "SQLAlchemy, AsyncSession": SqlalchemyAsyncSession,
    "SQLAlchemy, AsyncSession, psycopg": SqlalchemyAsyncPsycopg,
    "Django, psycopg": Django,
}
LANES = ON_SQLITE | ON_POSTGRES
