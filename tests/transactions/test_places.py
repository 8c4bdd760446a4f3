"""`transaction` through a pooler that gives a connection for one transaction, on a standby, and in another schema."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from lanes import LANES, ON_POSTGRES, Lane
from pyidempotent import IdempotencyProcessing, IdempotencyStoreUnavailable, attempt, transaction, transactional
from pyidempotent.backends.postgres import PostgresBackend, schema_sql
from pyidempotent.transactions import create_table
from servers import PgBouncer, PostgresServer

KEYS, WORKERS = 25, 8


def with_psycopg(url: str, key: str) -> bool:
    with psycopg.connect(url, prepare_threshold=None) as connection:
        with transaction(connection, key=key, payload=key) as op:
            if not op.replayed:
                connection.execute("INSERT INTO accounts VALUES (%s, 1)", (key,))
                op.result = key
        assert op.result == key
    return not op.replayed


def with_sqlalchemy(url: str, key: str) -> bool:
    engine = sqlalchemy.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"),
        poolclass=sqlalchemy.NullPool,
        connect_args={"prepare_threshold": None},
    )
    with engine.begin() as connection, transaction(connection, key=key, payload=key) as op:
        if not op.replayed:
            connection.execute(sqlalchemy.text("INSERT INTO accounts VALUES (:key, 1)"), {"key": key})
            op.result = key
    return not op.replayed


def with_asyncpg(url: str, key: str) -> bool:
    async def run() -> bool:
        connection = await asyncpg.connect(url, statement_cache_size=0)
        try:
            async with connection.transaction(), transaction(connection, key=key, payload=key) as op:
                if not op.replayed:
                    await connection.execute("INSERT INTO accounts VALUES ($1, 1)", key)
                    op.result = key
        finally:
            await connection.close()
        return not op.replayed

    return asyncio.run(run())


def with_sqlalchemy_on_asyncpg(url: str, key: str) -> bool:
    async def run() -> bool:
        engine = create_async_engine(
            url.replace("postgresql:", "postgresql+asyncpg:"),
            poolclass=sqlalchemy.NullPool,
            connect_args={
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: f"s{uuid.uuid4().hex}",
            },
        )
        try:
            async with engine.begin() as connection, transaction(connection, key=key, payload=key) as op:
                if not op.replayed:
                    await connection.execute(sqlalchemy.text("INSERT INTO accounts VALUES (:key, 1)"), {"key": key})
                    op.result = key
        finally:
            await engine.dispose()
        return not op.replayed

    return asyncio.run(run())


@pytest.fixture(scope="module")
def pooler(postgres: PostgresServer) -> Iterator[PgBouncer]:
    with PgBouncer(postgres) as pooler:
        yield pooler


@pytest.mark.parametrize("send", [with_psycopg, with_sqlalchemy, with_asyncpg, with_sqlalchemy_on_asyncpg])
def test_through_a_pooler_each_key_runs_once(
    pooler: PgBouncer, database: str, send: Callable[[str, str], bool]
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM accounts")

    def work(_: int) -> int:
        ran = 0
        for key in range(KEYS):
            while True:
                try:
                    ran += send(pooler.url, str(key))
                except IdempotencyProcessing:
                    continue
                break
        return ran

    with ThreadPoolExecutor(WORKERS) as pool:
        assert sum(pool.map(work, range(WORKERS))) == KEYS
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*), sum(balance) FROM accounts").fetchone() == (KEYS, KEYS)


@pytest.fixture(scope="module")
def standby(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that follows the first one, and can only be read."""
    made = PostgresServer()
    made.follow(postgres)
    with made:
        yield made


@pytest.mark.parametrize("kind", ON_POSTGRES)
def test_on_a_standby(kind: str, database: str, standby: PostgresServer) -> None:
    """A clear error, nothing runs, and the transaction goes on; what is done is replayed."""
    with psycopg.connect(database) as connection:
        with transaction(connection, key="done") as op:
            op.result = 1
        connection.commit()
        place = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
    with psycopg.connect(standby.url, autocommit=True) as connection:
        while connection.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", place).fetchone() != (True,):
            pass
    lane = LANES[kind](standby.url)
    try:
        replica = lane.connect()
        with lane.transaction(replica):
            with (
                pytest.raises(IdempotencyStoreUnavailable, match=r"recovery|read-only") as refused,
                lane.block(replica, key="new"),
            ):
                pytest.fail("it ran")
            assert "nothing ran" in str(refused.value)
            assert "standby" in str(refused.value)
            assert lane.run(replica, "SELECT balance FROM accounts WHERE name = 'alice'") == [(100,)]
            with lane.block(replica, key="done") as op:
                assert op.replayed
                assert op.result == 1
    finally:
        lane.end()


@pytest.fixture
def schema(postgres: PostgresServer) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    postgres.sql(schema_sql(name))
    yield name
    postgres.sql(f"DROP SCHEMA {name} CASCADE")


@pytest.mark.parametrize("kind", ON_POSTGRES)
def test_a_table_in_another_schema(lane: Lane, schema: str, postgres: PostgresServer) -> None:
    """It is the one that `PostgresBackend(schema=…)` has, and no other is touched."""
    connection = lane.connect()
    for is_repeat in (False, True):
        with lane.transaction(connection), lane.block(connection, key="a", schema=schema) as op:
            assert op.replayed == is_repeat
            op.result = 1
    with attempt(PostgresBackend(postgres.url, schema=schema, time_limit=20), key="a") as run:
        assert run.result == 1
    with lane.transaction(connection), lane.block(connection, key="a") as op:
        assert not op.replayed
    with lane.transaction(connection):
        with (
            pytest.raises(IdempotencyStoreUnavailable, match=r"nowhere.*create_table"),
            lane.block(connection, key="a", schema="nowhere"),
        ):
            pytest.fail("it ran")
        assert lane.run(connection, "SELECT 1") == [(1,)]


def test_a_function_with_its_table_in_another_schema(schema: str, database: str) -> None:
    ran = []
    with psycopg.connect(database) as connection:

        @transactional(lambda: connection, key="key", schema=schema)
        def work(key: str) -> str:
            ran.append(key)
            return key

        assert [work("a"), work("a")] == ["a", "a"]
        assert ran == ["a"]
        assert connection.execute(f"SELECT count(*) FROM {schema}.records").fetchone() == (1,)


def test_a_name_that_no_schema_can_have() -> None:
    connection = sqlite3.connect(":memory:")
    create_table(connection)
    for name, error in (("", ValueError), ('a"b', ValueError), ("x" * 64, ValueError), (7, TypeError)):
        with pytest.raises(error, match="schema"):
            transaction(connection, key="a", schema=name)  # type: ignore[arg-type]
