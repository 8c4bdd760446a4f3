"""docs/transactions.md: every block is executed, on SQLite and on a Postgres."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import httpx
import psycopg
import pytest
from django.db import connections
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

import django_site  # noqa: F401  # sets Django up
import pages
from pyidempotent.transactions import create_table
from servers import PostgresServer


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.chdir(tmp_path)
    return pages.run("transactions", "", but="postgresql+asyncpg://localhost/shop")


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    postgres.sql(
        "DROP TABLE IF EXISTS accounts; CREATE TABLE accounts (owner TEXT PRIMARY KEY, balance BIGINT);"
        "INSERT INTO accounts VALUES ('alice', 100), ('bob', 0); DELETE FROM idempotency.records"
    )
    return postgres.url


def test_sqlite(page: ModuleType) -> None:
    assert page.charge("a", "alice", 42) == page.charge("a", "alice", 42) == {"status": "charged", "amount": 42}
    assert page.connection.execute("SELECT balance FROM accounts").fetchall() == [(58,)]
    page.connection.close()


def test_psycopg(page: ModuleType, url: str) -> None:
    with psycopg.connect(url) as connection:
        for _ in range(2):
            assert page.transfer(connection, "a", "alice", "bob", 42) == "transferred"
        assert connection.execute("SELECT * FROM accounts ORDER BY owner").fetchall() == [("alice", 58), ("bob", 42)]


def twice(make: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[list[Any]]]:
    async def both() -> list[Any]:
        return [await make(), await make()]

    return both


def test_sqlalchemy(page: ModuleType, url: str) -> None:
    async def main() -> None:
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        make = async_sessionmaker(engine)

        async def deposit() -> Any:
            async with make() as session:
                return await page.deposit(session, "a", "bob", 5)

        assert await twice(deposit)() == ["deposited", "deposited"]
        await engine.dispose()

    asyncio.run(main())
    assert balances(url) == {"alice": 100, "bob": 5}


def test_asyncpg(page: ModuleType, url: str) -> None:
    async def main() -> None:
        async with asyncpg.create_pool(url, min_size=1) as pool:
            assert await twice(lambda: page.withdraw(pool, "a", "alice", 5))() == ["withdrawn", "withdrawn"]

    asyncio.run(main())
    assert balances(url) == {"alice": 95, "bob": 0}


def test_django(page: ModuleType) -> None:
    connection = connections["default"]
    try:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE accounts (owner TEXT, balance INTEGER)")
            cursor.execute("INSERT INTO accounts VALUES ('alice', 100), ('bob', 0)")
        create_table(connection)
        assert page.close("a", "alice") == page.close("a", "alice") == "closed"
        with connection.cursor() as cursor:
            cursor.execute("SELECT owner FROM accounts")
            assert cursor.fetchall() == [("bob",)]
    finally:
        with connection.cursor() as cursor:
            for table in ("accounts", "idempotency_results", "idempotency_clock"):
                cursor.execute(f"DROP TABLE {table}")
        connection.close()


def test_fastapi(url: str) -> None:
    code = pages.block("transactions", "postgresql+asyncpg://localhost/shop")
    code = code.replace("postgresql+asyncpg://localhost/shop", url.replace("postgresql:", "postgresql+asyncpg:"))
    page: dict[str, Any] = {"AsyncSession": AsyncSession, "text": text}
    exec(compile(code, "transactions.md", "exec", dont_inherit=True), page)

    async def main() -> None:
        transport = httpx.ASGITransport(page["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def post(amount: int) -> httpx.Response:
                asked = {"owner": "alice", "amount": amount}
                return await client.post("/withdrawals", json=asked, headers={"Idempotency-Key": "a"})

            first, again, other = [await post(amount) for amount in (42, 42, 43)]
            assert first.json() == again.json() == {"withdrawn": 42}
            assert other.status_code == 422
        await page["make_session"].kw["bind"].dispose()

    asyncio.run(main())
    assert balances(url) == {"alice": 58, "bob": 0}


def balances(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        return dict(connection.execute("SELECT owner, balance FROM accounts").fetchall())


def test_what_it_says_of_sqlite_s_version() -> None:
    assert sqlite3.sqlite_version_info >= (3, 24)
