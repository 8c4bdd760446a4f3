"""Keys in the application's own transaction: what is done and its record commit or roll back as one.

It knows each library of connections by one small file, which is imported only where that library is.
"""

from pyidempotent.transactions._block import transaction
from pyidempotent.transactions._decorator import transactional
from pyidempotent.transactions._tables import create_table, table_sql

__all__ = ["create_table", "table_sql", "transaction", "transactional"]
