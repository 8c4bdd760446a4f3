"""Connections of aiosqlite."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiosqlite

from pyidempotent.transactions._connections import Connection, State, styled
from pyidempotent.transactions._sqlite3 import state_of


def connection_of(connection: Any) -> Connection | None:
    """An ``aiosqlite.Connection``."""
    return Aiosqlite(connection) if isinstance(connection, aiosqlite.Connection) else None


class Aiosqlite:
    """An ``aiosqlite.Connection``."""

    dialect = "sqlite"
    is_async = True

    def __init__(self, connection: aiosqlite.Connection) -> None:
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
    def state(self) -> State:
        """Where it stands."""
        return state_of(self._connection)

    async def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement; its row."""
        async with await self._connection.cursor() as cursor:
            cursor.row_factory = None  # the application's own may make other rows
            await cursor.execute(styled(sql, "?{}"), values)
            return await cursor.fetchone()

    async def rollback(self) -> None:
        """Ends the transaction."""
        await self._connection.rollback()

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)
