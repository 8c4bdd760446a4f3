"""Connections of psycopg 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from pyidempotent.transactions._connections import Async, Connection, OfDriver, State, Sync, styled


def connection_of(connection: Any) -> Connection | None:
    """A ``psycopg.Connection`` or ``psycopg.AsyncConnection``."""
    if isinstance(connection, psycopg.Connection):
        return Psycopg(connection)
    return AsyncPsycopg(connection) if isinstance(connection, psycopg.AsyncConnection) else None


def state_of(connection: Any) -> State:
    """Where a connection of psycopg 3 or psycopg2 stands."""
    if connection.closed:
        return "closed"
    status = int(connection.info.transaction_status)  # libpq's PGTransactionStatusType
    if status == 3:
        return "failed"
    if status in (1, 2):
        return "open"
    return "autocommit" if connection.autocommit else "idle"


class _Any(OfDriver):
    """Any connection of psycopg."""

    dialect = "postgres"

    @property
    def is_held(self) -> bool:
        """Whether a block of ``connection.transaction()`` is open, or a transaction was begun by hand."""
        in_block = getattr(self._connection, "_num_transactions", 0) > 0  # it says so nowhere else
        return in_block or bool(self.is_begun and self._connection.autocommit)

    def commit(self) -> Any:
        """Commits the transaction."""
        return self._connection.commit()

    def rollback(self) -> Any:
        """Ends the transaction."""
        return self._connection.rollback()


class Psycopg(Sync, _Any):
    """A ``psycopg.Connection``."""

    def begin(self) -> None:
        """Begins a transaction where the first statement would not."""
        if self.state == "autocommit":
            self.run("BEGIN", ())

    def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement; its row."""
        # Of the plain class: the application's own may take other placeholders and make other rows.
        with psycopg.Cursor(self._connection, row_factory=tuple_row) as cursor:
            cursor.execute(styled(sql, "%s").encode(), values or None)
            return cursor.fetchone() if cursor.description else None


class AsyncPsycopg(Async, _Any):
    """A ``psycopg.AsyncConnection``."""

    async def begin(self) -> None:
        """Begins a transaction where the first statement would not."""
        if self.state == "autocommit":
            await self.run("BEGIN", ())

    async def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement; its row."""
        async with psycopg.AsyncCursor(self._connection, row_factory=tuple_row) as cursor:
            await cursor.execute(styled(sql, "%s").encode(), values or None)
            return await cursor.fetchone() if cursor.description else None
