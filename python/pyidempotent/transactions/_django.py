"""Connections of Django, by any alias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy

from pyidempotent.transactions._connections import Connection, State, Sync, dialect_of, state_of, styled


def connection_of(connection: Any) -> Connection | None:
    """``django.db.connection``, or one of ``django.db.connections``."""
    if isinstance(connection, ConnectionProxy):
        connection = connection._connections[connection._alias]
    return Django(connection) if isinstance(connection, BaseDatabaseWrapper) else None


class Django(Sync):
    """A connection of Django's."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._block: Any = None
        self.dialect = dialect_of(connection.vendor)

    @property
    def place(self) -> Any:
        """The driver's connection, where there is one."""
        return self._connection.connection

    @property
    def is_begun(self) -> bool:
        """Whether an atomic block is open."""
        return bool(self._connection.in_atomic_block)

    @property
    def is_held(self) -> bool:
        """Whether an atomic block is open."""
        return self.is_begun

    @property
    def state(self) -> State:
        """Where it stands."""
        wrapper = self._connection
        if wrapper.in_atomic_block and wrapper.needs_rollback:
            return "failed"
        if wrapper.connection is None:
            return "idle" if wrapper.in_atomic_block or not wrapper.get_autocommit() else "autocommit"
        return state_of(wrapper.connection)

    def run(self, sql: str, values: Sequence[Any]) -> Any:
        """Runs a statement; its row."""
        with self._connection.cursor() as cursor:
            cursor.execute(styled(sql, "%s"), values or None)
            return cursor.fetchone() if cursor.description else None

    def begin(self) -> None:
        """Begins an atomic block."""
        self._block = transaction.atomic(self._connection.alias)
        self._block.__enter__()

    def commit(self) -> None:
        """Ends the atomic block, and commits it."""
        self._block.__exit__(None, None, None)

    def rollback(self) -> None:
        """Ends the atomic block, and rolls it back."""
        self._connection.set_rollback(True)
        self._block.__exit__(None, None, None)
