"""Connections of aiosqlite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aiosqlite

from pyidempotent.transactions._connections import Async, Connection, styled
from pyidempotent.transactions._sqlite3 import AnySqlite


def connection_of(connection: Any) -> Connection | None:
    """An ``aiosqlite.Connection``."""
    return Aiosqlite(connection) if isinstance(connection, aiosqlite.Connection) else None


class Aiosqlite(Async, AnySqlite):
    """An ``aiosqlite.Connection``."""

    async def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement; its row."""
        async with await self._connection.cursor() as cursor:
            cursor.row_factory = None  # the application's own may make other rows
            await cursor.execute(styled(sql, "?{}"), values)
            return await cursor.fetchone()

    async def begin(self) -> None:
        """Begins a transaction where the first statement would not."""
        if self.state == "autocommit":
            await self.run("BEGIN IMMEDIATE", ())

    async def commit(self) -> None:
        """Commits the transaction."""
        await self._connection.commit()

    async def rollback(self) -> None:
        """Ends the transaction."""
        await self._connection.rollback()
