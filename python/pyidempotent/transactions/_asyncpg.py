"""Connections of asyncpg, and what its pool gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pyidempotent.transactions._connections import Async, Connection, OfDriver, State


def connection_of(connection: Any) -> Connection | None:
    """An ``asyncpg.Connection``, of a pool or not."""
    return Asyncpg(connection) if isinstance(connection, asyncpg.Connection | PoolConnectionProxy) else None


def state_of(connection: Any) -> State:
    """Where a connection stands. It does not know whether a transaction has failed."""
    return "open" if connection.is_in_transaction() else "autocommit"


class Asyncpg(Async, OfDriver):
    """An ``asyncpg.Connection``."""

    dialect = "postgres"

    @property
    def is_held(self) -> bool:
        """Whether a transaction is open: it begins none by itself."""
        return self.is_begun

    async def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement; its row."""
        row = await self._connection.fetchrow(sql, *values)
        return None if row is None else tuple(row)

    async def begin(self) -> None:
        """Begins a transaction."""
        await self._connection.execute("BEGIN")

    async def commit(self) -> None:
        """Commits the transaction."""
        await self._connection.execute("COMMIT")

    async def rollback(self) -> None:
        """Ends the transaction."""
        if self._connection.is_in_transaction():
            await self._connection.execute("ROLLBACK")
