"""Connections of the standard library's ``sqlite3``."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from pyidempotent.transactions._connections import Connection, State, styled


def connection_of(connection: Any) -> Connection | None:
    """A ``sqlite3.Connection``."""
    return Sqlite3(connection) if isinstance(connection, sqlite3.Connection) else None


def state_of(connection: Any) -> State:
    """Where a connection stands."""
    if connection.in_transaction:
        return "open"
    return "autocommit" if commits_alone(connection) else "idle"


def commits_alone(connection: Any) -> bool:
    """Whether each statement commits by itself, unless a transaction is begun by hand."""
    # `autocommit` is new in Python 3.12; until then there is only `isolation_level`.
    commits = getattr(connection, "autocommit", -1)
    return connection.isolation_level is None if commits == -1 else bool(commits)


class Sqlite3:
    """A ``sqlite3.Connection``."""

    dialect = "sqlite"
    is_async = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def place(self) -> Any:
        """Itself."""
        return self._connection

    @property
    def is_begun(self) -> bool:
        """Whether a transaction is open."""
        return self._connection.in_transaction

    @property
    def is_held(self) -> bool:
        """Whether a transaction was begun by hand."""
        return self._connection.in_transaction and commits_alone(self._connection)

    @property
    def state(self) -> State:
        """Where it stands."""
        return state_of(self._connection)

    def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement; its row."""
        # Of the plain class: the application's own may make other rows.
        cursor = sqlite3.Cursor(self._connection)
        cursor.row_factory = None
        try:
            return cursor.execute(styled(sql, "?{}"), values).fetchone()
        finally:
            cursor.close()

    def begin(self) -> None:
        """Begins a transaction where the first statement would not."""
        if self.state == "autocommit":
            self.run("BEGIN IMMEDIATE", ())

    def commit(self) -> None:
        """Commits the transaction."""
        self._connection.commit()

    def rollback(self) -> None:
        """Ends the transaction."""
        self._connection.rollback()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)
