"""The tables that hold the keys beside the application's own, on SQLite."""

from __future__ import annotations

from typing import Any

from pyidempotent import _native
from pyidempotent.transactions._connections import Steps, asks, connection_of, drive


def table_sql() -> str:
    """The SQL that makes the tables on SQLite, for a tool that migrates databases. It changes nothing that is there.

    On Postgres there is `pyidempotent.backends.postgres.schema_sql`.

    >>> print(table_sql().splitlines()[1])
    CREATE TABLE IF NOT EXISTS idempotency_results (
    """
    return _native.sqlite_tables()


def create_table(connection: Any) -> None:
    """Makes the tables in the SQLite database of a connection, where they are not there. The caller commits.

    On Postgres there is `pyidempotent.backends.postgres.PostgresBackend.create_table`.

    Parameters:
        connection: one that `transaction` takes, but no async one.

    >>> import sqlite3
    >>> from pyidempotent.transactions import create_table
    >>> connection = sqlite3.connect(":memory:")
    >>> create_table(connection)
    >>> connection.commit()
    """
    own = connection_of(connection)
    if own.dialect != "sqlite":
        raise TypeError(
            "create_table() makes the tables of SQLite; on Postgres call PostgresBackend(url).create_table(), or run "
            "pyidempotent.backends.postgres.schema_sql() in a migration"
        )

    def steps() -> Steps[None]:
        for statement in table_sql().split(";\n"):
            if statement.strip():
                yield asks(own.run, statement, ())

    drive(own, steps())
