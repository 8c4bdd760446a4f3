"""`transaction` in async code: what only a running loop can do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from lanes import count_statements
from pyidempotent import IdempotencyProcessing, transaction, transactional


def test_a_pool_of_asyncpg_s(database: str) -> None:
    async def charge(pool: asyncpg.Pool, key: int) -> str:
        while True:
            async with pool.acquire() as connection, connection.transaction():
                try:
                    async with transaction(connection, key=key, name="charge") as op:
                        if not op.replayed:
                            await connection.execute("UPDATE accounts SET balance = balance - 1")
                            op.result = f"charged {key}"
                except IdempotencyProcessing:
                    await asyncio.sleep(0)
                else:
                    return str(op.result)

    async def main() -> None:
        async with asyncpg.create_pool(database, min_size=4, max_size=8) as pool:
            results = await asyncio.gather(*(charge(pool, number % 20) for number in range(100)))
            assert results == [f"charged {number % 20}" for number in range(100)]
            assert await pool.fetchval("SELECT balance FROM accounts") == 80

    asyncio.run(main())


def test_sessions_of_one_engine_find_the_tables_once(database: str) -> None:
    async def main() -> None:
        engine = create_async_engine(database.replace("postgresql:", "postgresql+asyncpg:"))
        make = async_sessionmaker(engine)
        for key in "aba":
            async with make.begin() as session:
                made = transaction(session, key=key)
                statements = count_statements(made)
                async with made as op:
                    if not op.replayed:
                        await session.execute(text("UPDATE accounts SET balance = balance - 1"))
                assert len(statements) == {"a": 3, "b": 2}[key] if not op.replayed else 1
        async with make() as session:
            assert (await session.execute(text("SELECT balance FROM accounts"))).scalar() == 98
        await engine.dispose()

    asyncio.run(main())


def test_a_block_inside_of_itself_is_refused(database: str) -> None:
    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(database) as connection, transaction(connection, key="a"):
            with pytest.raises(RuntimeError, match="is open on this connection already"):
                async with transaction(connection, key="a"):
                    pytest.fail("it ran")

    asyncio.run(main())


def test_a_block_that_is_cancelled_stores_nothing(database: str) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def charge() -> None:
            async with await psycopg.AsyncConnection.connect(database) as connection:
                async with transaction(connection, key="a"):
                    begun.set()
                    await asyncio.Event().wait()

        task = asyncio.create_task(charge())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with await psycopg.AsyncConnection.connect(database) as connection:
            async with transaction(connection, key="a") as op:
                assert not op.replayed

    asyncio.run(main())


@pytest.mark.parametrize("library", ["psycopg", "asyncpg", "SQLAlchemy"])
def test_a_function_that_is_cancelled_is_rolled_back(database: str, library: str) -> None:
    async def main() -> None:
        connection, execute, close = await connected(database, library)
        begun, ran = asyncio.Event(), []

        @transactional(lambda: connection, key="key")
        async def charge(key: str) -> str:
            ran.append(key)
            await execute("UPDATE accounts SET balance = balance - 42")
            if len(ran) == 1:
                begun.set()
                await asyncio.Event().wait()
            return "charged"

        task = asyncio.create_task(charge("a"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The connection is not in a transaction any more: its next user commits nothing of the first one's.
        assert [await charge("a") for _ in range(2)] == ["charged"] * 2
        await close()
        async with await psycopg.AsyncConnection.connect(database) as other:
            rows = await other.execute("SELECT balance FROM accounts")
            assert (await rows.fetchone(), ran) == ((58,), ["a", "a"])

    asyncio.run(asyncio.wait_for(main(), 30))


async def connected(database: str, library: str) -> tuple[Any, Callable[[str], Awaitable[Any]], Callable[[], Any]]:
    """A connection, how it executes a statement, and how it is closed."""
    if library == "asyncpg":
        plain = await asyncpg.connect(database)
        return plain, plain.execute, plain.close
    if library == "psycopg":
        session = await psycopg.AsyncConnection.connect(database)
        return session, session.execute, session.close
    engine = create_async_engine(database.replace("postgresql:", "postgresql+asyncpg:"))
    alchemy = async_sessionmaker(engine)()

    async def close() -> None:
        await alchemy.close()
        await engine.dispose()

    return alchemy, lambda statement: alchemy.execute(text(statement)), close


def test_a_sync_wait_in_a_loop_is_refused(database: str) -> None:
    async def main() -> None:
        with psycopg.connect(database) as connection:
            with pytest.raises(RuntimeError, match="would block the running event loop"):
                with transaction(connection, key="a", wait=1):
                    pytest.fail("it ran")

    asyncio.run(main())
