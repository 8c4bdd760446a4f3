"""`transaction` on SQLite, in the application's own file: one writer at a time, and what a file may refuse."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from pyidempotent import IdempotencyStoreUnavailable, transaction
from pyidempotent.transactions import create_table, table_sql


@pytest.fixture
def connection(file: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, timeout=20)) as connection:
        yield connection


def test_every_repeat_of_many_at_once(file: str) -> None:
    """Eight workers send each key, and wait for the file as every writer does."""

    def work(number: int) -> int:
        ran = 0
        # By hand, and as the module does by itself.
        options: dict[str, Any] = {"isolation_level": None} if number % 2 else {}
        with closing(sqlite3.connect(file, timeout=60, **options)) as connection:
            for key in range(40):
                if number % 2:
                    connection.execute("BEGIN IMMEDIATE")
                with transaction(connection, key=key, payload=key) as op:
                    if not op.replayed:
                        connection.execute("INSERT INTO accounts VALUES (?, 1)", (str(key),))
                        op.result = key
                connection.commit()
                assert op.result == key
                ran += not op.replayed
        return ran

    with ThreadPoolExecutor(8) as pool:
        ran = list(pool.map(work, range(8)))
    assert sum(ran) == 40
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM accounts").fetchone() == (41,)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_another_writer_at_work(file: str, journal: str) -> None:
    with closing(sqlite3.connect(file)) as one, closing(sqlite3.connect(file, timeout=0)) as two:
        one.execute(f"PRAGMA journal_mode={journal}")
        with one, transaction(one, key="done") as op:
            op.result = 1
        with one, transaction(one, key="a") as op:
            # A repeat of what is done needs no turn to write.
            with transaction(two, key="done") as done:
                assert done.result == 1
            with (
                pytest.raises(IdempotencyStoreUnavailable, match="BEGIN IMMEDIATE") as refused,
                transaction(two, key="a"),
            ):
                pytest.fail("it ran")
            assert refused.value.retry_after == 1
            two.rollback()
            op.result = 2
        with two, transaction(two, key="a") as op:
            assert op.result == 2


def test_a_snapshot_older_than_the_result(file: str) -> None:
    with closing(sqlite3.connect(file)) as one, closing(sqlite3.connect(file, isolation_level=None)) as two:
        one.execute("PRAGMA journal_mode=wal")
        two.execute("BEGIN")
        two.execute("SELECT * FROM accounts").fetchall()
        with one, transaction(one, key="a") as op:
            op.result = 1
        with (
            pytest.raises(IdempotencyStoreUnavailable, match="since this transaction began to read"),
            transaction(two, key="a"),
        ):
            pytest.fail("it ran")
        two.execute("ROLLBACK")
        two.execute("BEGIN")
        with transaction(two, key="a") as op:
            assert op.result == 1


def test_the_application_s_own_rows_and_factories(connection: sqlite3.Connection) -> None:
    connection.row_factory = lambda cursor, row: {
        part[0]: value for part, value in zip(cursor.description, row, strict=True)
    }
    connection.text_factory = bytes
    for _ in range(2):
        with connection, transaction(connection, key="a") as op:
            op.result = 1
    assert op.replayed


def test_no_table(tmp_path: Any) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE t (n)")
        connection.execute("INSERT INTO t VALUES (1)")
        with (
            pytest.raises(IdempotencyStoreUnavailable, match="create_table") as refused,
            transaction(connection, key="a"),
        ):
            pytest.fail("it ran")
        assert refused.value.retry_after is None
        connection.commit()
        assert connection.execute("SELECT * FROM t").fetchall() == [(1,)]
        connection.executescript(table_sql())
        create_table(connection)  # nothing more
        with transaction(connection, key="a") as op:
            op.result = 1


def test_a_file_that_can_only_be_read(file: str) -> None:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        with pytest.raises(IdempotencyStoreUnavailable, match="can only read"), transaction(connection, key="a"):
            pytest.fail("it ran")
        assert connection.execute("SELECT balance FROM accounts").fetchone() == (100,)


def test_a_record_that_is_not_ours(connection: sqlite3.Connection) -> None:
    with connection, transaction(connection, key="a") as op:
        op.result = 1
    with connection:
        connection.execute("UPDATE idempotency_results SET record = CAST('0123456789 something else' AS BLOB)")
    with (
        pytest.raises(IdempotencyStoreUnavailable, match="not an idempotency record"),
        transaction(connection, key="a"),
    ):
        pytest.fail("it ran")
    with connection:
        connection.execute("DELETE FROM idempotency_clock")
    with pytest.raises(IdempotencyStoreUnavailable, match="make them again"), transaction(connection, key="b"):
        pytest.fail("it ran")


def test_expired_results_are_removed(connection: sqlite3.Connection) -> None:
    for key in range(40):
        with connection, transaction(connection, key=key, ttl=0.001) as op:
            op.result = key
    with connection, transaction(connection, key="last") as op:
        op.result = 1
    ((left,),) = connection.execute("SELECT count(*) FROM idempotency_results")
    assert left < 40


def test_a_clock_that_goes_back_gives_no_lower_fence(connection: sqlite3.Connection) -> None:
    far = 2**52
    with connection:
        connection.execute("UPDATE idempotency_clock SET time = ?", (far,))
    fences = []
    for key in "ab":
        with connection, transaction(connection, key=key) as op:
            fences.append(op.fence)
    assert fences == [far + 1, far + 2]


def test_other_connections_are_refused(file: str) -> None:
    with pytest.raises(TypeError, match=r"sqlalchemy, django, .*, not builtins\.str"):
        transaction(file, key="a")
