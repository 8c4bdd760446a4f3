"""Measures how much room a record takes on each store, and writes the table into docs/operations.md: `make sizes`."""

from __future__ import annotations

import re
import secrets
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))

from pyidempotent import attempt  # noqa: E402
from pyidempotent.backends import Backend  # noqa: E402
from pyidempotent.backends.postgres import PostgresBackend  # noqa: E402
from pyidempotent.backends.redis import RedisBackend  # noqa: E402
from pyidempotent.backends.sqlite import SqliteBackend  # noqa: E402
from servers import PostgresServer, RedisServer  # noqa: E402

RESULTS = (100, 1_000, 10_000)
RECORDS = 2_000


def fill(backend: Backend, size: int) -> None:
    """Stores so many results of a size."""
    for number in range(RECORDS):
        with attempt(backend, key=f"order-{number:06}", name="shop.orders.charge") as work:
            work.result = secrets.token_hex(size // 2)  # what can't be compressed


def of_redis(size: int) -> float:
    """Bytes a record, as the server counts its memory."""
    with RedisServer() as server:

        def used() -> int:
            lines = server.cli("INFO", "memory").splitlines()
            return int(next(line for line in lines if line.startswith("used_memory:")).partition(":")[2])

        backend = RedisBackend(server.url)
        fill(backend, 1)  # what is made once is there
        server.cli("FLUSHALL")
        empty = used()
        fill(backend, size)
        return (used() - empty) / RECORDS


def of_sqlite(size: int) -> float:
    """Bytes a record of the file."""
    with tempfile.TemporaryDirectory() as folder:
        fill(SqliteBackend(f"{folder}/keys.db"), size)
        return sum(file.stat().st_size for file in Path(folder).iterdir() if file.suffix == ".db") / RECORDS


def of_postgres(size: int) -> float:
    """Bytes a record of the table with all that belongs to it."""
    with PostgresServer() as server:
        url = server.new_url()
        backend = PostgresBackend(url)
        backend.create_table()
        fill(backend, size)
        schema = re.search(r"schema=(\w+)", url)
        name = f"{schema[1] if schema else 'idempotency'}.records"
        return int(server.sql(f"SELECT pg_total_relation_size('{name}')")) / RECORDS


def main() -> None:
    """Writes the table."""
    lines = ["| bytes a record | " + " | ".join(f"a result of {size:,} bytes" for size in RESULTS) + " |"]
    lines.append("|---" + "|--:" * len(RESULTS) + "|")
    for name, measure in (
        ("Redis", of_redis),
        ("SQLite, the file", of_sqlite),
        ("Postgres, with its index", of_postgres),
    ):
        lines.append(f"| {name} | " + " | ".join(f"{measure(size):,.0f}" for size in RESULTS) + " |")
    table = "\n".join(lines)
    page = ROOT / "docs/operations.md"
    text = page.read_text()
    page.write_text(re.sub(r"(<!-- sizes -->\n)(.*?)(<!-- end -->)", rf"\1\n{table}\n\n\3", text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
