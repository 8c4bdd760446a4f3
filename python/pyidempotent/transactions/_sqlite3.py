"""Connections of the standard library's ``sqlite3``."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from pyidempotent.transactions._connections import Connection, OfDriver, State, Sync, styled


def connection_of(connection: Any) -> Connection | None:
    """A ``sqlite3.Connection``."""
    return Sqlite3(connection) if isinstance(connection, sqlite3.Connection) else None


def state_of(connection: Any) -> State:
    """Where a connection stands."""
    try:
        if connection.in_transaction:
            return "open"
        return "autocommit" if commits_alone(connection) else "idle"
    except (ValueError, sqlite3.ProgrammingError):  # aiosqlite's, and the module's
        return "closed"


def commits_alone(connection: Any) -> bool:
    """Whether each statement commits by itself, unless a transaction is begun by hand."""
    # `autocommit` is new in Python 3.12; until then there is only `isolation_level`.
    commits = getattr(connection, "autocommit", -1)
    return connection.isolation_level is None if commits == -1 else bool(commits)


class AnySqlite(OfDriver):
    """A connection of ``sqlite3`` or of aiosqlite."""

    dialect = "sqlite"

    @property
    def is_held(self) -> bool:
        """Whether a transaction was begun by hand."""
        return self.is_begun and commits_alone(self._connection)


class Sqlite3(Sync, AnySqlite):
    """A ``sqlite3.Connection``."""

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
