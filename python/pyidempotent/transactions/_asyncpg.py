"""Connections of asyncpg, and what its pool gives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from pyidempotent.transactions._connections import Async, Connection, OfDriver, State


def connection_of(connection: Any) -> Connection | None:
    """An ``asyncpg.Connection``, of a pool or not."""
    return Asyncpg(connection) if isinstance(connection, asyncpg.Connection | PoolConnectionProxy) else None


def state_of(connection: Any) -> State:
    """Where a connection stands. It does not know whether a transaction has failed.

    Raises:
        RuntimeError: in another event loop than the connection's, where a statement would leave it unusable.
    """
    if getattr(connection, "_loop", None) not in (None, asyncio.get_running_loop()):
        raise RuntimeError("the connection belongs to a different loop: use it in the event loop that made it")
    if connection.is_closed():
        return "closed"
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
