"""`Connection`: what is asked of an application's connection, and how that is driven in sync and in async code."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Literal, Protocol, TypeVar
from weakref import WeakKeyDictionary

from pyidempotent import _frameworks

T = TypeVar("T")

#: Where a connection stands: in a transaction; in none, and the next statement begins one; in none, and each statement
#: commits by itself; in one that has failed, and can only be rolled back; nowhere, as it is closed.
State = Literal["open", "idle", "autocommit", "failed", "closed"]

#: What is to be done on a connection: a call that returns what came of it, or an awaitable of that.
Steps = Generator[Callable[[], Any], Any, T]


class Connection(Protocol):
    """A connection or a session of the application's."""

    @property
    def dialect(self) -> str:
        """What it is connected to, by its name in the extension."""

    @property
    def is_async(self) -> bool:
        """Whether what it does is awaited."""

    @property
    def place(self) -> Any:
        """Whatever has the tables if this connection has: itself, or where it comes from."""

    @property
    def is_begun(self) -> bool:
        """Whether the application has begun a transaction, though the database may not know of it yet."""

    @property
    def is_held(self) -> bool:
        """Whether the code around us has begun the transaction in so many words, and ends it."""

    @property
    def state(self) -> State:
        """Where it stands, as the driver knows without asking the database."""

    def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement, in which ``$1`` stands for the first value; its row, if it has one."""

    def begin(self) -> Any:
        """Begins a transaction where the first statement would not."""

    def commit(self) -> Any:
        """Commits the transaction that we have begun."""

    def rollback(self) -> Any:
        """Ends the transaction that we or our statements have begun."""

    def sleep(self, seconds: float) -> Any:
        """Waits."""


class Sync:
    """What every sync connection has."""

    is_async = False

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)


class Async:
    """What every async connection has."""

    is_async = True

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)


class OfDriver:
    """What every connection of a driver has, whose module says where one stands: `state_of`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def place(self) -> Any:
        """Itself."""
        return self._connection

    @property
    def is_begun(self) -> bool:
        """Whether a transaction is open."""
        return self.state == "open"

    @property
    def state(self) -> State:
        """Where it stands."""
        return state_of(self._connection)


def connection_of(connection: Any) -> Connection:
    """An application's connection, as we work with it.

    Raises:
        TypeError: where it is none, or of a library that we do not know.
    """
    found: Connection | None = _frameworks.connection_of(connection)
    if found is None:
        kind = type(connection)
        raise TypeError(
            f"transaction() takes a connection or a session of {', '.join(_frameworks.connection_libraries())}, not "
            f"{kind.__module__}.{kind.__qualname__}"
        )
    return found


def drive(connection: Connection, steps: Steps[T]) -> T:
    """Does what steps ask for, on this thread; what they return."""
    if connection.is_async:
        steps.close()
        raise TypeError("this connection is an async one: use async with, or an async function")
    try:
        ask = next(steps)
        while True:
            try:
                told = ask()
            except BaseException as error:
                ask = steps.throw(error)
            else:
                ask = steps.send(told)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()


async def drive_async(connection: Connection, steps: Steps[T]) -> T:
    """Does what steps ask for, in the running loop; what they return."""
    if not connection.is_async:
        steps.close()
        raise TypeError("this connection is a sync one: use with, or a function that is not async")
    try:
        ask = next(steps)
        while True:
            try:
                told = await ask()
            except BaseException as error:
                ask = steps.throw(error)
            else:
                ask = steps.send(told)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()


#: The places where the tables were found → in which schemas.
_ready: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def is_known(connection: Connection, schema: str) -> bool:
    """Whether a connection has found the tables before."""
    try:
        return schema in _ready.get(connection.place, ())
    except TypeError:  # nothing refers to it weakly
        return False


def know(connection: Connection, schema: str) -> None:
    """A connection has found the tables."""
    with suppress(TypeError):
        _ready.setdefault(connection.place, set()).add(schema)


#: A database, as others name it → its name in the extension.
_DIALECTS = {"postgresql": "postgres", "sqlite": "sqlite"}


def dialect_of(name: str) -> str:
    """A database by the name of SQLAlchemy's or of Django's.

    Raises:
        TypeError: for one that we do not know.
    """
    if name not in _DIALECTS:
        raise TypeError(f"transaction() works with {' and '.join(_DIALECTS)}, not with {name}")
    return _DIALECTS[name]


#: The first part of a driver's module → where its connections are known.
_DRIVERS = {
    "aiosqlite": "_sqlite3",
    "asyncpg": "_asyncpg",
    "psycopg": "_psycopg",
    "psycopg2": "_psycopg",
    "sqlite3": "_sqlite3",
}


def state_of(driver: Any) -> State:
    """Where a driver's connection stands.

    Raises:
        TypeError: for a driver that we do not know.
    """
    for cls in type(driver).__mro__:
        if module := _DRIVERS.get(cls.__module__.partition(".")[0]):
            state: State = import_module(f"pyidempotent.transactions.{module}").state_of(driver)
            return state
    raise TypeError(f"transaction() knows the drivers {', '.join(_DRIVERS)}, not {type(driver).__module__}")


@lru_cache(64)
def styled(sql: str, placeholder: str) -> str:
    """A statement with another style of placeholders; each stands there once, in order.

    >>> styled("SELECT $1, $2", "%s"), styled("SELECT $1, $2", ":p{}")
    ('SELECT %s, %s', 'SELECT :p1, :p2')
    """
    return re.sub(r"\$(\d+)", lambda place: placeholder.format(place[1]), sql)


#: A call, to be made when its turn comes.
asks = partial
