"""Connections of aiosqlite."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiosqlite

from pyidempotent.transactions._connections import Connection, State, styled
from pyidempotent.transactions._sqlite3 import commits_alone, state_of


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
    def is_held(self) -> bool:
        """Whether a transaction was begun by hand."""
        return self._connection.in_transaction and commits_alone(self._connection)

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

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)
