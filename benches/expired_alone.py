"""What expired records cost the Postgres store: claims beside them, against those on an empty table, and their removal.

Claims run one at a time with ``synchronous_commit=off``, so that the disk, which is the same for both, hides nothing.
``EXPIRED`` is how many records have expired. Run by transactions.py; prints a table. Ends with 1 where a bar is missed.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import psycopg

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))
from pyidempotent import attempt  # noqa: E402
from pyidempotent.backends.postgres import PostgresBackend  # noqa: E402
from servers import PostgresServer  # noqa: E402  # the tests' own

EXPIRED = int(os.environ.get("EXPIRED", "1000000"))
ROUNDS = int(os.environ.get("ROUNDS", "20"))
EACH = min(1000, EXPIRED // ROUNDS // 2)
SLOWER, FASTER = 1.2, 50_000

FILL = """
INSERT INTO expired.records
SELECT sha256(n::text::bytea), r.record, 0, expired.clock() - n
FROM generate_series(1, {count}) n, (SELECT record FROM expired.records LIMIT 1) r
"""
CLAIM = "SELECT outcome FROM {schema}.claim(sha256(%s::text::bytea), %s, 30000000, 86400000000, NULL)"


def claims(connection: psycopg.Connection, schema: str, record: bytes, keys: list[str]) -> float:
    """Seconds per claim."""
    sql = CLAIM.format(schema=schema)
    began = time.perf_counter()
    for key in keys:
        row = connection.execute(sql, (key, record), prepare=True).fetchone()  # type: ignore[call-overload]  # psycopg's types want a literal
        assert row == ("claimed",), row
    return (time.perf_counter() - began) / len(keys)


def main() -> None:
    with PostgresServer() as server:
        backends = {
            schema: PostgresBackend(server.url, schema=schema, time_limit=60) for schema in ("empty", "expired")
        }
        for backend in backends.values():
            backend.create_table()
        with attempt(backends["expired"], key="template") as run:
            run.result = {"status": "charged", "amount": 42}
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute(FILL.format(count=EXPIRED))
            connection.execute("VACUUM ANALYZE expired.records")
            row = connection.execute("SELECT record FROM expired.records LIMIT 1").fetchone()
            assert row is not None
            for schema in backends:
                claims(connection, schema, row[0], [f"{schema} warm {key}" for key in range(100)])
            found: dict[str, list[float]] = {"empty": [], "new": [], "expired": []}
            for number in range(ROUNDS):
                new = [f"{number} {key}" for key in range(EACH)]
                old = [str(1 + number * EACH + key) for key in range(EACH)]
                found["empty"].append(claims(connection, "empty", row[0], new))
                found["new"].append(claims(connection, "expired", row[0], new))
                found["expired"].append(claims(connection, "expired", row[0], old))
        began = time.perf_counter()
        removed = backends["expired"].purge()
        rate = removed / (time.perf_counter() - began)
    assert removed == EXPIRED - ROUNDS * EACH, removed  # what was claimed again stays
    median = {what: statistics.median(took) for what, took in found.items()}
    ratios = {what: median[what] / median["empty"] for what in ("new", "expired")}
    print("| | | | bar | |\n|---|---|---|---|---|")
    print(f"| a claim on an empty table | {median['empty'] * 1e6:.0f} µs | | | |")
    for what, words in (("new", "of a new key"), ("expired", "of a key that has expired")):
        verdict = "✓" if ratios[what] < SLOWER else "missed"
        beside = f"a claim {words}, beside {EXPIRED:,} expired records"
        print(f"| {beside} | {median[what] * 1e6:.0f} µs | {ratios[what]:.2f} × | under {SLOWER} × | {verdict} |")
    verdict = "✓" if rate >= FASTER else "missed"
    print(f"| `purge` of {removed:,} records | {rate:,.0f} rows/s | | {FASTER:,} rows/s | {verdict} |")
    sys.exit(max(ratios.values()) >= SLOWER or rate < FASTER)


if __name__ == "__main__":
    main()
