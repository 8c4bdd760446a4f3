"""`Connection`: what is asked of an application's connection, and how that is driven in sync and in async code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, Protocol, TypeVar

from pyidempotent import _frameworks

T = TypeVar("T")

#: Where a connection stands: in a transaction; in none, and the next statement begins one; in none, and each statement
#: commits by itself; in one that has failed, and can only be rolled back.
State = Literal["open", "idle", "autocommit", "failed"]

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
    def state(self) -> State:
        """Where it stands, as the driver knows without asking the database."""

    def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement, in which ``$1`` stands for the first value; its row, if it has one."""

    def rollback(self) -> Any:
        """Ends the transaction that only our statements have begun."""

    def sleep(self, seconds: float) -> Any:
        """Waits."""


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
        raise TypeError("this connection is an async one: use async with")
    try:
        ask = next(steps)
        while True:
            try:
                told = ask()
            except Exception as error:
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
    try:
        ask = next(steps)
        while True:
            try:
                told = ask()
                if inspect.isawaitable(told):
                    told = await told
            except Exception as error:
                ask = steps.throw(error)
            else:
                ask = steps.send(told)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()


@lru_cache(64)
def styled(sql: str, placeholder: str) -> str:
    """A statement with another style of placeholders; each stands there once, in order.

    >>> styled("SELECT $1, $2", "%s"), styled("SELECT $1, $2", ":p{}")
    ('SELECT %s, %s', 'SELECT :p1, :p2')
    """
    return re.sub(r"\$(\d+)", lambda place: placeholder.format(place[1]), sql)


#: A step of ours that answers at once.
asks = partial
#: What may be awaited or not.
Maybe = T | Awaitable[T]
