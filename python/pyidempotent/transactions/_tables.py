"""The tables that hold the keys beside the application's own."""

from __future__ import annotations

from typing import Any, Literal

from pyidempotent import _native
from pyidempotent.transactions._connections import asks, connection_of, drive

Dialect = Literal["sqlite"]


def table_sql(dialect: Dialect) -> str:
    """The statements that make the tables, for a migration. They do nothing where the tables are there.

    >>> print(table_sql("sqlite").splitlines()[1])
    CREATE TABLE IF NOT EXISTS idempotency_results (
    """
    return "\n".join(_native.transaction_schema(dialect)) + "\n"


def create_table(connection: Any) -> None:
    """Makes the tables in the database of a connection, where they are not there. The caller commits.

    Parameters:
        connection: one that `transaction` takes, but no async one.

    >>> import sqlite3
    >>> from pyidempotent.transactions import create_table
    >>> connection = sqlite3.connect(":memory:")
    >>> create_table(connection)
    >>> connection.commit()
    """
    own = connection_of(connection)

    def steps() -> Any:
        for statement in _native.transaction_schema(own.dialect):
            yield asks(own.run, statement, ())

    drive(own, steps())
