"""`transaction` on Postgres: duplicates with open transactions, isolation levels, and what a database may refuse."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from lanes import LANES, ON_POSTGRES, Lane, count_statements
from pyidempotent import (
    IdempotencyConflict,
    IdempotencyNotKept,
    IdempotencyProcessing,
    IdempotencyStoreUnavailable,
    IdempotencyUnknown,
    attempt,
    transaction,
)
from pyidempotent.backends.postgres import PostgresBackend, schema_sql
from pyidempotent.transactions import create_table
from servers import PostgresServer

MakeLane = Callable[[], Lane]
LEVELS = ["read committed", "repeatable read", "serializable"]


@pytest.fixture(params=ON_POSTGRES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def connected(url: str, level: str = "read committed", **options: Any) -> Iterator[Any]:
    with psycopg.connect(url, **options) as connection:
        connection.isolation_level = getattr(psycopg.IsolationLevel, level.replace(" ", "_").upper())
        yield connection


def test_a_duplicate_is_told_at_once_and_its_transaction_goes_on(lane: Lane) -> None:
    one, two = lane.connect(), lane.connect()
    with lane.transaction(one), lane.block(one, key="a", payload=42) as op:
        lane.run(one, "UPDATE accounts SET balance = balance - 42")
        with lane.transaction(two):
            lane.run(two, "INSERT INTO accounts VALUES ('bob', 1)")
            with pytest.raises(IdempotencyProcessing) as refused, lane.block(two, key="a", payload=42):
                pytest.fail("it ran")
            assert refused.value.retry_after == 1
        op.result = "done"
    with lane.transaction(two), lane.block(two, key="a", payload=42) as op:
        assert op.result == "done"
    with lane.transaction(two):
        assert sorted(lane.run(two, "SELECT * FROM accounts")) == [("alice", 58), ("bob", 1)]


def test_a_duplicate_takes_over_after_a_rollback(lane: Lane) -> None:
    one, two = lane.connect(), lane.connect()
    with pytest.raises(ZeroDivisionError), lane.transaction(one), lane.block(one, key="a"):
        raise ZeroDivisionError
    with lane.transaction(two), lane.block(two, key="a") as op:
        assert not op.replayed


def test_waiting_before_the_transaction(database: str, mode: str) -> None:
    """Until the first is done, then its result; until the first is rolled back, then it runs."""
    waits = threading.Event()

    def repeat(key: str) -> tuple[bool, Any]:
        with psycopg.connect(database) as connection:
            made = transaction(connection, key=key, wait=20)
            asleep(made)
            with made as op:
                if not op.replayed:
                    op.result = "the second's"
        return op.replayed, op.result

    def asleep(made: Any) -> None:
        sleep = made._claim.connection.sleep

        def slept(seconds: float) -> None:
            waits.set()
            sleep(seconds)

        made._claim.connection.sleep = slept

    async def repeat_async(key: str) -> tuple[bool, Any]:
        async with await psycopg.AsyncConnection.connect(database) as connection:
            made = transaction(connection, key=key, wait=20)
            sleep = made._claim.connection.sleep

            async def slept(seconds: float) -> None:
                waits.set()
                await sleep(seconds)

            made._claim.connection.sleep = slept
            async with made as op:
                if not op.replayed:
                    op.result = "the second's"
        return op.replayed, op.result

    with ThreadPoolExecutor() as pool, psycopg.connect(database) as first:
        for key, end, expected in (("a", first.commit, (True, 1)), ("b", first.rollback, (False, "the second's"))):
            waits.clear()
            with transaction(first, key=key) as op:
                op.result = 1
                second = pool.submit(repeat, key) if mode == "sync" else pool.submit(asyncio.run, repeat_async(key))
                assert waits.wait(20)
                assert not second.done()
            end()
            assert second.result(20) == expected


def test_a_wait_has_an_end(database: str) -> None:
    with psycopg.connect(database) as one, psycopg.connect(database) as two, transaction(one, key="a"):
        with pytest.raises(IdempotencyProcessing), transaction(two, key="a", wait=0.1):
            pytest.fail("it ran")
        assert two.info.transaction_status.name == "INTRANS"


@pytest.mark.parametrize("level", LEVELS)
def test_every_repeat_of_many_at_once(database: str, level: str) -> None:
    """Eight workers send each key; who is told to come again does."""
    with connected(database) as connection:
        connection.execute("DELETE FROM accounts")

    def work(_: int) -> int:
        ran = 0
        with connected(database, level) as connection:
            for key in range(40):
                while True:
                    try:
                        with connection.transaction(), transaction(connection, key=key, payload=key) as op:
                            if not op.replayed:
                                connection.execute("INSERT INTO accounts VALUES (%s, 1)", (str(key),))
                                op.result = key
                    except (IdempotencyProcessing, psycopg.errors.SerializationFailure):
                        continue
                    assert op.result == key
                    ran += not op.replayed
                    break
        return ran

    with ThreadPoolExecutor(8) as pool:
        ran = list(pool.map(work, range(8)))
    assert sum(ran) == 40
    with connected(database) as connection:
        assert connection.execute("SELECT count(*), sum(balance) FROM accounts").fetchone() == (40, 40)


@pytest.mark.parametrize("level", LEVELS[1:])
def test_a_snapshot_older_than_the_result(database: str, level: str) -> None:
    with connected(database, level) as two, connected(database) as one:
        two.execute("INSERT INTO accounts VALUES ('bob', 1)")  # takes its snapshot
        with one.transaction(), transaction(one, key="a") as op:
            op.result = 1
        with pytest.raises(IdempotencyProcessing, match="in a new transaction") as stale, transaction(two, key="a"):
            pytest.fail("it ran")
        assert stale.value.retry_after == 0
        two.commit()  # it is as it was
        with transaction(two, key="a") as op:
            assert op.result == 1


def test_under_read_committed_a_result_is_seen_at_once(database: str) -> None:
    with connected(database) as two, connected(database) as one:
        two.execute("INSERT INTO accounts VALUES ('bob', 1)")
        with one.transaction(), transaction(one, key="a") as op:
            op.result = 1
        with transaction(two, key="a") as op:
            assert op.result == 1


def test_keys_in_opposite_order_are_no_deadlock(database: str) -> None:
    with psycopg.connect(database) as one, psycopg.connect(database) as two:
        with transaction(one, key="a"), transaction(two, key="b"):
            for connection, key in ((one, "b"), (two, "a")):
                with pytest.raises(IdempotencyProcessing), transaction(connection, key=key):
                    pytest.fail("it ran")
        one.commit()
        two.commit()


def test_a_claim_that_is_undone_inside_of_the_block(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("SAVEPOINT s")
        with pytest.raises(RuntimeError, match="has ended inside of it"), transaction(connection, key="a") as op:
            connection.execute("ROLLBACK TO s")
            connection.execute("UPDATE accounts SET balance = 0")
            op.result = 1
        assert connection.info.transaction_status.name == "INERROR"


def test_a_transaction_that_lasts_longer_than_its_ttl(database: str) -> None:
    with psycopg.connect(database) as connection:
        with transaction(connection, key="a", ttl=0.01) as op:
            connection.execute("SELECT pg_sleep(0.1)")
            op.result = 1
        connection.commit()


def test_a_failed_transaction_is_refused(lane: Lane) -> None:
    connection = lane.connect()
    refused = pytest.raises(RuntimeError, match="has failed: roll it back")
    # How it ends is the library's: some raise at the end of the block, some have raised before.
    with suppress(Exception), lane.transaction(connection):
        with suppress(Exception):
            lane.run(connection, "SELECT 1 / 0")
        with refused as error, lane.block(connection, key="a"):
            pytest.fail("it ran")
        raise ZeroDivisionError
    assert "Nothing ran" in str(error.value)
    with lane.transaction(connection), lane.block(connection, key="a") as op:
        assert not op.replayed


def test_a_timeout_in_the_claim_leaves_the_transaction_alone(postgres: PostgresServer, lane: Lane) -> None:
    connection = lane.connect()
    with lane.transaction(connection), lane.block(connection, key="warm") as op:
        op.result = 1
    with psycopg.connect(postgres.url) as locking:
        with lane.transaction(connection):
            lane.run(connection, "UPDATE accounts SET balance = 7")
            lane.run(connection, "SET LOCAL statement_timeout = '100ms'")
            locking.execute("LOCK TABLE idempotency.records")  # as a migration does
            with pytest.raises(IdempotencyStoreUnavailable, match="statement timeout"), lane.block(connection, key="a"):
                pytest.fail("it ran")
            locking.rollback()
        with lane.transaction(connection), lane.block(connection, key="a") as op:
            assert lane.run(connection, "SELECT balance FROM accounts") == [(7,)]
            assert not op.replayed


@pytest.fixture
def of_role(postgres: PostgresServer, database: str, kind: str) -> Iterator[Lane]:
    """Connections of a role that may use the application's table, and what else it is given."""
    postgres.sql("CREATE ROLE app LOGIN; GRANT ALL ON accounts TO app")
    lane = LANES[kind](database.replace("postgres@", "app@"))
    yield lane
    lane.end()
    postgres.sql("DROP OWNED BY app; DROP ROLE app")


def is_refused(lane: Lane, connection: Any, words: str, **options: Any) -> IdempotencyStoreUnavailable:
    """A claim is refused, and what is open goes on."""
    with pytest.raises(IdempotencyStoreUnavailable, match=words) as refused, lane.block(connection, key="a", **options):
        pytest.fail("it ran")
    assert lane.run(connection, "SELECT balance FROM accounts") == [(7,)]
    return refused.value


def test_a_role_without_the_schema(of_role: Lane) -> None:
    connection = of_role.connect()
    with of_role.transaction(connection):
        of_role.run(connection, "UPDATE accounts SET balance = 7")
        refused = is_refused(of_role, connection, r'"idempotency".*grant the role USAGE')
        assert refused.retry_after is None
    assert of_role.run(connection, "SELECT balance FROM accounts") == [(7,)]


def test_a_role_that_can_only_read(postgres: PostgresServer, of_role: Lane) -> None:
    postgres.sql("GRANT USAGE ON SCHEMA idempotency TO app; GRANT SELECT ON idempotency.records TO app")
    with psycopg.connect(postgres.url) as owner, transaction(owner, key="done") as op:
        op.result = 1
    connection = of_role.connect()
    with of_role.transaction(connection):
        of_role.run(connection, "UPDATE accounts SET balance = 7")
        is_refused(of_role, connection, "nothing ran: .*permission denied")
        with of_role.block(connection, key="done") as op:
            assert op.result == 1
    assert of_role.run(connection, "SELECT balance FROM accounts") == [(7,)]


def test_a_table_of_somebody_else_s_that_no_search_path_leads_to(postgres: PostgresServer, of_role: Lane) -> None:
    postgres.sql(
        "GRANT USAGE ON SCHEMA idempotency TO app; GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency.records TO app"
    )
    connection = of_role.connect()
    for is_repeat in (False, True):
        with of_role.transaction(connection):
            of_role.run(connection, "SET LOCAL search_path = pg_catalog")
            with of_role.block(connection, key="a") as op:
                assert op.replayed == is_repeat
                op.result = 1


def test_a_transaction_that_may_only_read(postgres: PostgresServer, lane: Lane) -> None:
    postgres.sql("UPDATE accounts SET balance = 7")
    connection = lane.connect()
    with lane.transaction(connection):
        lane.run(connection, "SET TRANSACTION READ ONLY")
        is_refused(lane, connection, "read-only.*connect to the primary")


def test_a_schema_of_an_earlier_version(postgres: PostgresServer, lane: Lane) -> None:
    schema = f"t{uuid.uuid4().hex}"
    older = (
        f"CREATE OR REPLACE FUNCTION {schema}.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 0';"
        f"DROP FUNCTION {schema}.claim_in_transaction"
    )
    postgres.sql(f"{schema_sql(schema)}; UPDATE accounts SET balance = 7; {older}")
    try:
        connection = lane.connect()
        with lane.transaction(connection):
            refused = is_refused(lane, connection, rf"{schema}.*version 0.*needs 1.*create_table", schema=schema)
            assert refused.retry_after is None
        PostgresBackend(postgres.url, schema=schema, time_limit=20).create_table()
        with lane.transaction(connection), lane.block(connection, key="a", schema=schema) as op:
            assert not op.replayed
    finally:
        postgres.sql(f"DROP SCHEMA {schema} CASCADE")


def test_no_table(postgres: PostgresServer) -> None:
    postgres.sql("CREATE DATABASE empty")
    url = f"{postgres.url.rpartition('/')[0]}/empty"
    try:
        with psycopg.connect(url) as connection:
            with pytest.raises(IdempotencyStoreUnavailable, match="create_table"), transaction(connection, key="a"):
                pytest.fail("it ran")
            assert connection.execute("SELECT 1").fetchone() == (1,)
            connection.execute(schema_sql())
            with transaction(connection, key="a") as op:
                op.result = 1
    finally:
        postgres.sql("DROP DATABASE empty WITH (FORCE)")


def stored(database: str, key: str, state: str, *, lease_end: int) -> None:
    """Makes a record another's, in another state, as the plain mode leaves it."""
    with psycopg.connect(database) as connection:
        with transaction(connection, key=key) as op:
            op.result = 1
        connection.execute(
            "UPDATE idempotency.records SET record = overlay(substring(record FOR %s) PLACING %s FROM 5 FOR 2), "
            "lease_end = idempotency.clock() + %s",
            (88 + len(f"attempt {key}"), state.encode() + b"r", lease_end),
        )


def test_records_of_the_plain_mode(database: str) -> None:
    stored(database, "running", "F", lease_end=60_000_000)
    with psycopg.connect(database) as connection:
        with pytest.raises(IdempotencyProcessing), transaction(connection, key="running"):
            pytest.fail("it ran")
        connection.commit()
        connection.execute("DELETE FROM idempotency.records")
    stored(database, "lapsed", "F", lease_end=-1)
    with psycopg.connect(database) as connection:
        with transaction(connection, key="lapsed") as op:
            assert not op.replayed
            op.result = 2
        connection.commit()
        with transaction(connection, key="lapsed") as op:
            assert op.result == 2
        connection.execute("DELETE FROM idempotency.records")
    for state, error in (("U", IdempotencyUnknown), ("N", IdempotencyNotKept)):
        stored(database, "a", state, lease_end=0)
        with psycopg.connect(database) as connection:
            with pytest.raises(error), transaction(connection, key="a"):
                pytest.fail("it ran")
            connection.execute("DELETE FROM idempotency.records")


def test_a_key_is_the_same_in_both_modes(postgres: PostgresServer, lane: Lane) -> None:
    backend = PostgresBackend(postgres.url, time_limit=20)
    connection = lane.connect()
    with lane.transaction(connection), lane.block(connection, key="a", payload=1) as op:
        with pytest.raises(IdempotencyProcessing), attempt(backend, key="a", payload=1):
            pytest.fail("it ran")
        op.result = {"by": "transaction"}
    with attempt(backend, key="a", payload=1) as run:
        assert run.result == {"by": "transaction"}
    with pytest.raises(IdempotencyConflict), attempt(backend, key="a", payload=2):
        pytest.fail("it ran")
    with attempt(backend, key="b", payload=1) as run:
        with lane.transaction(connection):
            with pytest.raises(IdempotencyProcessing), lane.block(connection, key="b", payload=1):
                pytest.fail("it ran")
            lane.run(connection, "UPDATE accounts SET balance = 7")
        run.result = {"by": "attempt"}
    with lane.transaction(connection), lane.block(connection, key="b", payload=1) as op:
        assert op.result == {"by": "attempt"}
    assert lane.run(connection, "SELECT balance FROM accounts") == [(7,)]


def test_create_table_names_the_way_for_postgres(database: str) -> None:
    with psycopg.connect(database) as connection, pytest.raises(TypeError, match=r"PostgresBackend\(url\)"):
        create_table(connection)


def test_a_record_that_is_not_ours(database: str) -> None:
    with psycopg.connect(database) as connection:
        with transaction(connection, key="a") as op:
            op.result = 1
        connection.execute("UPDATE idempotency.records SET record = 'something else'")
        with (
            pytest.raises(IdempotencyStoreUnavailable, match="not an idempotency record"),
            transaction(connection, key="a"),
        ):
            pytest.fail("it ran")


def test_two_statements_more(database: str) -> None:
    """One claims and one stores, on a connection that has found the tables; a repeat costs one."""
    with psycopg.connect(database) as connection:
        with transaction(connection, key="first") as op:
            op.result = 1
        made = transaction(connection, key="a")
        counted = count_statements(made)
        with made as op:
            op.result = 1
        assert [sql.split("FROM")[1].split("(")[0] for sql in counted] == [
            " idempotency.claim_in_transaction",
            " idempotency.complete",
        ]


def test_a_serialization_failure_is_no_answer(database: str) -> None:
    """What fails at its commit is as if it had never been: the next transaction with the key runs."""
    with connected(database, "serializable") as one, connected(database, "serializable") as two:
        with transaction(one, key="a") as op:
            one.execute("INSERT INTO accounts SELECT 'a', sum(balance) FROM accounts")
            op.result = "first try"
        two.execute("INSERT INTO accounts SELECT 'b', sum(balance) FROM accounts")
        two.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            one.commit()
        one.rollback()
        with transaction(one, key="a") as op:
            assert not op.replayed
            one.execute("INSERT INTO accounts SELECT 'a', sum(balance) FROM accounts")
            op.result = "second try"
        one.commit()
    with connected(database) as connection:
        assert connection.execute("SELECT * FROM accounts ORDER BY 1").fetchall() == [
            ("a", 200),
            ("alice", 100),
            ("b", 100),
        ]


def test_what_a_session_has_flushed_before_belongs_to_the_transaction(database: str) -> None:
    engine = create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
    try:
        for is_kept in (False, True):
            with Session(engine) as session:
                session.execute(text("INSERT INTO accounts VALUES ('bob', 1)"))
                session.flush()
                with transaction(session, key="a") as op:
                    assert not op.replayed, "what was rolled back left no record"
                    op.result = 1
                session.commit() if is_kept else session.rollback()
        with Session(engine) as session, transaction(session, key="a") as op:
            assert op.replayed
            assert session.execute(text("SELECT count(*) FROM accounts")).scalar() == 2
    finally:
        engine.dispose()
