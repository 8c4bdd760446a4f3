"""Records in PostgreSQL 13 or later."""

from __future__ import annotations

from datetime import timedelta

from pyidempotent import _native
from pyidempotent.backends._backend import Backend
from pyidempotent.backends.seal import Sealing, sealing

__all__ = ["PostgresBackend", "schema_sql"]


def schema_sql(schema: str = "idempotency") -> str:
    """The SQL that makes what `PostgresBackend` needs in a database, for a tool that migrates databases.

    A schema, a table, an index and functions. It changes nothing that is there already, and may run in a transaction.

    Parameters:
        schema: the schema in the database, by 1 to 63 letters, digits and underscores.

    Raises:
        ValueError: for a name that a schema can't have.

    >>> "CREATE TABLE IF NOT EXISTS" in schema_sql()
    True
    """
    return _native.postgres_schema(schema)


class PostgresBackend(Backend):
    """Records in PostgreSQL: one row per record, on the server's clock.

    What it needs in the database is made by `create_table`, or by a migration with `schema_sql`; never by itself. A few
    connections are shared by all operations of a process.

    Parameters:
        url: ``postgresql://user:password@host:5432/database``. Options after ``?``: ``sslmode`` (``require``:
            encrypted, and the server's certificate is checked), ``sslrootcert``, ``sslcert``, ``sslkey``, ``schema``,
            ``connections`` (the most that a process opens, 10), ``pooler`` (``yes`` or ``no``; else it is found out),
            ``listen_url`` (the server without its pooler, for waiters to be woken). Several hosts are tried in turn.
        schema: the schema in the database, ``idempotency`` unless told, here or in the URL.
        time_limit: the longest that an operation may take, connecting included, in seconds.
        seal: the keys that results are encrypted with before they leave the process: a `Seal`, or what makes one.

    Raises:
        TypeError: for anything but a URL.
        ValueError: for a URL that can't be read.

    >>> backend = PostgresBackend("postgresql://app@localhost/shop")
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str | None = None,
        time_limit: float | timedelta = 5.0,
        seal: Sealing | None = None,
    ) -> None:
        from pyidempotent._values.durations import seconds

        if not isinstance(url, str):
            example = "postgresql://user:password@host/database"
            raise TypeError(f"PostgresBackend takes a URL like {example!r}, not {type(url).__qualname__}")
        settings = (url, schema, seconds("time_limit", time_limit), sealing(seal))
        shared = Backend._shared.get(("postgres", *settings)) or _native.Backend.postgres(*settings)
        super().__init__(Backend._shared.setdefault(("postgres", *settings), shared))

    def create_table(self) -> None:
        """Makes what is missing in the database, or of an earlier version: a schema, a table, an index and functions.

        Records stay. Run it once, before the first call, as a user that may create a schema in the database; the
        application's own user needs ``USAGE`` on the schema and ``SELECT, INSERT, UPDATE, DELETE`` on its table.

        Raises:
            IdempotencyStoreUnavailable: where the server can't be reached, or does not permit it.
        """
        self.native.create_table()
