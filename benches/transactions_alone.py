"""What `transaction()` adds to a business transaction of three statements, on Postgres and on SQLite with their default
durability: medians of interleaved rounds, one transaction at a time. Run by transactions.py; prints a table.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))
from pyidempotent import transaction  # noqa: E402
from pyidempotent.backends.postgres import PostgresBackend  # noqa: E402
from pyidempotent.transactions import create_table  # noqa: E402
from servers import PostgresServer  # noqa: E402  # the tests' own

ROUNDS = int(os.environ.get("ROUNDS", "20"))
EACH = 50
TABLES = [
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
    "CREATE TABLE transfers (id TEXT NOT NULL)",
    "INSERT INTO accounts VALUES (1, 1000000), (2, 0)",
]


def work(connection: Any, key: str) -> None:
    connection.execute("UPDATE accounts SET balance = balance - 1 WHERE id = 1")
    connection.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 2")
    connection.execute(f"INSERT INTO transfers VALUES ('{key}')")


def alone(connection: Any, key: str) -> None:
    with connection.transaction() if hasattr(connection, "transaction") else connection:
        work(connection, key)


def protected(connection: Any, key: str) -> None:
    outer = connection.transaction() if hasattr(connection, "transaction") else connection
    with outer, transaction(connection, key=key, payload=1, name="transfer") as op:
        if not op.replayed:
            work(connection, key)
            op.result = "done"


def seconds(run: Callable[[Any, str], None], connection: Any, keys: list[str]) -> float:
    began = time.perf_counter()
    for key in keys:
        run(connection, key)
    return (time.perf_counter() - began) / len(keys)


def rows(name: str, connection: Any) -> list[str]:
    found: dict[str, list[float]] = {"the transaction alone": [], "with its key": [], "a repeat": []}
    seconds(protected, connection, ["warm"])
    for number in range(ROUNDS):
        keys = [f"{number}-{key}" for key in range(EACH)]
        found["the transaction alone"].append(seconds(alone, connection, keys))
        found["with its key"].append(seconds(protected, connection, keys))
        found["a repeat"].append(seconds(protected, connection, keys))
    floor = statistics.median(found["the transaction alone"])
    lines = []
    for what, took in found.items():
        median = statistics.median(took)
        spread = f"{min(took) * 1e6:.0f}-{max(took) * 1e6:.0f}"
        lines.append(f"| {name} | {what} | {median * 1e6:.0f} ({spread}) | {median / floor:.2f} × |")
    return lines


def main() -> None:
    lines = ["| database | | µs per transaction | |", "|---|---|---|---|"]
    with PostgresServer() as server:
        server.sql(";".join(TABLES))
        PostgresBackend(server.url, time_limit=20).create_table()
        with psycopg.connect(server.url, autocommit=True) as connection:
            lines += rows("Postgres, psycopg", connection)
    with tempfile.TemporaryDirectory() as folder:
        shop = sqlite3.connect(Path(folder) / "shop.db")
        with shop:
            for statement in TABLES:
                shop.execute(statement)
            create_table(shop)
        lines += rows("SQLite, sqlite3", shop)
        shop.close()
    print("\n".join(lines))


if __name__ == "__main__":
    main()
