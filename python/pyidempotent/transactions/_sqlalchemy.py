"""Connections and sessions of SQLAlchemy 2, sync and async, over any driver that is known."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, LargeBinary, bindparam, text
from sqlalchemy.engine import Connection as SqlalchemyConnection

from pyidempotent.transactions._connections import Async, Connection, State, Sync, dialect_of, state_of, styled


def connection_of(connection: Any) -> Connection | None:
    """A ``Connection``, ``Session``, ``scoped_session``, ``AsyncConnection``, ``AsyncSession`` or
    ``async_scoped_session``.
    """
    orm, extension = sys.modules.get("sqlalchemy.orm"), sys.modules.get("sqlalchemy.ext.asyncio")
    if orm is not None and isinstance(connection, orm.scoped_session):
        connection = connection()
    if extension is not None and isinstance(connection, extension.async_scoped_session):
        connection = connection()
    if isinstance(connection, SqlalchemyConnection):
        return OfConnection(connection, connection)
    if orm is not None and isinstance(connection, orm.Session):
        return OfSession(connection, connection.get_bind())
    if extension is not None and isinstance(connection, extension.AsyncConnection):
        return OfAsyncConnection(connection, connection)
    if extension is not None and isinstance(connection, extension.AsyncSession):
        return OfAsyncSession(connection, connection.get_bind())
    return None


def _run(connection: SqlalchemyConnection, sql: str, values: Sequence[Any]) -> Any:
    """Runs a statement; its row."""
    if values:
        statement = text(styled(sql, ":p{}")).bindparams(
            *(
                bindparam(f"p{number}", value, BigInteger() if isinstance(value, int) else LargeBinary())
                for number, value in enumerate(values, 1)
            )
        )
        result = connection.execute(statement)
    else:
        result = connection.exec_driver_sql(sql)
    if not result.returns_rows:
        return None
    row = result.first()
    return None if row is None else tuple(row)


class _Any:
    """Any connection or session."""

    def __init__(self, owner: Any, bind: Any) -> None:
        self._owner = owner
        self._engine = bind.engine
        self.dialect = dialect_of(bind.dialect.name)
        #: The connection that the last statement ran on.
        self._used: SqlalchemyConnection | None = None

    @property
    def place(self) -> Any:
        """The engine."""
        return self._engine

    @property
    def is_begun(self) -> bool:
        """Whether the application has begun a transaction; the driver begins it with its first statement."""
        return bool(self._owner.in_transaction())

    @property
    def is_held(self) -> bool:
        """Whether a transaction was begun by ``begin()``, and not by the first statement; or a savepoint."""
        owner = getattr(self._owner, "sync_session", None) or getattr(self._owner, "sync_connection", self._owner)
        if owner.in_nested_transaction():
            return True
        origin = getattr(owner.get_transaction(), "origin", None)
        if origin is not None:
            return bool(origin.name != "AUTOBEGIN")
        # A plain connection does not tell; a block of `with connection.begin()` or `engine.begin()` does.
        return self.is_begun and getattr(owner, "_trans_context_manager", None) is not None

    @property
    def state(self) -> State:
        """Where it stands."""
        if getattr(self._owner, "closed", False):  # a session can be used again
            return "closed"
        if self.is_begun and not getattr(self._owner, "is_active", True):
            return "failed"
        # Before the first statement of the transaction the driver's word does not count.
        if self._used is None or self._used.closed or not self.is_begun:
            return "idle"
        return state_of(self._used.connection.driver_connection)

    def commit(self) -> Any:
        """Commits the transaction."""
        return self._owner.commit()

    def rollback(self) -> Any:
        """Ends the transaction."""
        return self._owner.rollback()


class OfConnection(Sync, _Any):
    """A ``Connection``."""

    def _connection(self) -> SqlalchemyConnection:
        used: SqlalchemyConnection = self._owner
        return used

    def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement; its row."""
        self._used = self._connection()
        return _run(self._used, sql, values)

    def begin(self) -> None:
        """Nothing: the first statement begins a transaction."""


class OfSession(OfConnection):
    """A ``Session``."""

    def _connection(self) -> SqlalchemyConnection:
        # Its own `execute` would flush first what the application has not flushed yet.
        used: SqlalchemyConnection = self._owner.connection()
        return used


class OfAsyncConnection(Async, _Any):
    """An ``AsyncConnection``."""

    async def _connection(self) -> Any:
        return self._owner

    async def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement; its row."""
        connection = await self._connection()
        self._used = connection.sync_connection
        return await connection.run_sync(_run, sql, values)

    async def begin(self) -> None:
        """Nothing: the first statement begins a transaction."""


class OfAsyncSession(OfAsyncConnection):
    """An ``AsyncSession``."""

    async def _connection(self) -> Any:
        return await self._owner.connection()
