"""`transactional`: functions and endpoints whose work and whose key are one transaction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import httpx
import psycopg
import pytest
import sqlalchemy
from django.core.handlers.base import BaseHandler
from django.http import HttpRequest, JsonResponse
from django.test import RequestFactory
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

import django_site  # noqa: F401  # sets Django up
from lanes import Django, Lane
from pyidempotent import IdempotencyConflict, IdempotencyKeyMissing, IdempotencyProcessing, transactional
from pyidempotent.asgi import IdempotencyMiddleware

KEY = {"Idempotency-Key": "a"}
SYNC = ["sqlite3", "sqlite3, BEGIN IMMEDIATE", "psycopg", "psycopg, transaction()", "SQLAlchemy, psycopg"]
SYNC += ["SQLAlchemy, Session", "SQLAlchemy, sqlite3", "Django, sqlite3", "Django, psycopg"]
CHARGE = "UPDATE accounts SET balance = balance - 42"


@pytest.fixture(params=SYNC)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def balance(lane: Lane) -> int:
    connection = lane.connect()
    ((found,),) = lane.run(connection, "SELECT balance FROM accounts")
    lane.close(connection)
    return int(found)


def charging(lane: Lane, connection: Any, end: Callable[[], Any] = lambda: "charged") -> Callable[..., Any]:
    """A protected function, which takes 42 from the account before its end."""

    @transactional(lambda: connection, key="key")
    def charge(key: str, amount: int = 42) -> Any:
        lane.run(connection, CHARGE)
        return end()

    return charge


def test_it_commits_once_and_replays(lane: Lane) -> None:
    connection = lane.connect()
    charge = charging(lane, connection)
    assert charge("a") == charge("a") == charging(lane, lane.connect())("a") == "charged"
    with pytest.raises(IdempotencyConflict):
        charge("a", 43)
    assert balance(lane) == 58


def test_what_raises_is_rolled_back(lane: Lane) -> None:
    connection, ends = lane.connect(), [1, 0]
    charge = charging(lane, connection, lambda: 1 // ends.pop())
    with pytest.raises(ZeroDivisionError):
        charge("a")
    assert balance(lane) == 100
    assert charge("a") == 1
    assert balance(lane) == 58


def test_a_result_that_can_not_be_stored_is_rolled_back(lane: Lane) -> None:
    with pytest.raises(ValueError, match="can't be stored"):
        charging(lane, lane.connect(), object)("a")
    assert balance(lane) == 100


def test_a_commit_inside_of_the_function_is_an_error(lane: Lane) -> None:
    if isinstance(lane, Django):
        return  # it refuses that by itself
    connection = lane.connect()
    with pytest.raises(RuntimeError, match="has ended inside of it"):
        charging(lane, connection, lambda: lane.commit(connection))("a")


@pytest.mark.parametrize("kind", ["sqlite3, BEGIN IMMEDIATE", "psycopg, transaction()", "Django, psycopg"])
def test_it_joins_a_block_that_has_begun_a_transaction(lane: Lane) -> None:
    connection = lane.connect()
    charge = charging(lane, connection)
    with pytest.raises(ZeroDivisionError), lane.transaction(connection):
        assert charge("a") == "charged"
        raise ZeroDivisionError
    assert balance(lane) == 100
    with lane.transaction(connection):
        assert charge("a") == "charged"
    assert charge("a") == "charged"
    assert balance(lane) == 58


def test_it_joins_a_block_of_psycopg_s_on_a_connection_that_is_not_in_autocommit(database: str) -> None:
    with psycopg.connect(database) as connection:

        @transactional(lambda: connection, key="key")
        def charge(key: str) -> str:
            connection.execute(CHARGE)
            return "charged"

        with pytest.raises(ZeroDivisionError), connection.transaction():
            assert charge("a") == "charged"
            raise ZeroDivisionError
        for _ in range(2):
            with connection.transaction():
                assert charge("a") == "charged"
        assert connection.execute("SELECT balance FROM accounts").fetchone() == (58,)


@pytest.mark.parametrize("kind", ["SQLAlchemy, psycopg", "SQLAlchemy, Session", "SQLAlchemy, sqlite3"])
def test_it_joins_a_savepoint_of_sqlalchemy_s(lane: Lane) -> None:
    """What was begun before the savepoint is not committed, either."""
    connection = lane.connect()
    lane.run(connection, "INSERT INTO accounts VALUES ('bob', 0)")
    charge = charging(lane, connection)
    with connection.begin_nested():
        assert charge("a") == "charged"
    lane.rollback(connection)
    assert lane.run(connection, "SELECT * FROM accounts") == [("alice", 100)]
    with connection.begin_nested():
        assert charge("a") == "charged"
    lane.commit(connection)
    assert charge("a") == "charged"
    assert balance(lane) == 58


def test_it_joins_a_block_of_sqlalchemy_s(database: str) -> None:
    engine = sqlalchemy.create_engine(database.replace("postgresql:", "postgresql+psycopg:"))

    @transactional("connection", key="key", fingerprint=lambda key: key)
    def charge(key: str, connection: Any) -> str:
        connection.execute(text(CHARGE))
        return "charged"

    for number, begin in enumerate((engine.begin, sessionmaker(engine).begin)):
        with pytest.raises(ZeroDivisionError), begin() as connection:
            assert charge(str(number), connection) == "charged"
            raise ZeroDivisionError
        with begin() as connection:
            assert charge(str(number), connection) == "charged"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT balance FROM accounts")).scalar() == 16
    engine.dispose()


def test_it_commits_what_began_with_an_earlier_statement(lane: Lane) -> None:
    """As a dependency does, which looks up the user on the same session."""
    if isinstance(lane, Django) or not lane.begins_by_itself:
        return  # there a statement alone begins nothing
    connection = lane.connect()
    lane.run(connection, "INSERT INTO accounts VALUES ('bob', 0)")
    charge = charging(lane, connection)
    assert charge("a") == "charged"
    lane.close(connection)
    connection = lane.connect()
    assert lane.run(connection, "SELECT count(*), max(balance) FROM accounts") == [(2, 58)]
    lane.rollback(connection)
    # Of a repeat it is left as it is.
    lane.run(connection, "UPDATE accounts SET balance = 7")
    assert charging(lane, connection)("a") == "charged"
    assert lane.run(connection, "SELECT max(balance) FROM accounts") == [(7,)]


def test_a_call_without_a_key(lane: Lane) -> None:
    connection = lane.connect()

    @transactional(lambda: connection, key=lambda: None)
    def refused() -> None:
        pytest.fail("it ran")

    @transactional(lambda: connection, key=lambda: None, required=False)
    def runs() -> str:
        return "unprotected"

    with pytest.raises(IdempotencyKeyMissing):
        refused()
    assert runs() == "unprotected"


def test_what_names_no_connection_is_refused() -> None:
    with pytest.raises(TypeError, match="names no parameter"):

        @transactional("sesion", key="key")
        def charge(key: str, session: Any) -> None: ...

    with pytest.raises(TypeError, match="not builtins"):
        transactional("session", key="key")(lambda_named)("a", 7)


def lambda_named(key: str, session: Any) -> None: ...


def test_a_repeat_waits(database: str) -> None:
    begun, told = threading.Event(), threading.Event()

    @transactional("connection", key="key", fingerprint=lambda key: key, wait=20)
    def charge(key: str, connection: Any) -> str:
        begun.set()
        assert told.wait(20)
        connection.execute(CHARGE)
        return "charged"

    with ThreadPoolExecutor() as pool, psycopg.connect(database) as first, psycopg.connect(database) as second:
        charges = [pool.submit(charge, "a", first)]
        assert begun.wait(20)
        charges.append(pool.submit(charge, "a", second))
        told.set()
        assert [charge.result(30) for charge in charges] == ["charged", "charged"]
        assert second.execute("SELECT balance FROM accounts").fetchone() == (58,)


def test_a_duplicate_in_flight_is_refused(database: str) -> None:
    with psycopg.connect(database) as first, psycopg.connect(database) as second:

        @transactional("connection", key="key", fingerprint=lambda key: key)
        def charge(key: str, connection: Any) -> str:
            if connection is first:
                with pytest.raises(IdempotencyProcessing):
                    charge(key, second)
            connection.execute(CHARGE)
            return "charged"

        assert charge("a", first) == charge("a", second) == "charged"
        assert second.info.transaction_status.name == "IDLE"
        assert second.execute("SELECT balance FROM accounts").fetchone() == (58,)


def test_asyncpg_in_autocommit(database: str) -> None:
    @transactional("connection", key="key", fingerprint=lambda key: key)
    async def charge(key: str, connection: asyncpg.Connection, fails: bool = False) -> str:
        await connection.execute(CHARGE)
        if fails:
            raise ZeroDivisionError
        return "charged"

    async def main() -> None:
        connection = await asyncpg.connect(database)
        with pytest.raises(ZeroDivisionError):
            await charge("a", connection, fails=True)
        assert await charge("a", connection) == await charge("a", connection) == "charged"
        assert not connection.is_in_transaction()
        assert await connection.fetchval("SELECT balance FROM accounts") == 58
        await connection.close()

    asyncio.run(main())


def test_an_endpoint_of_fastapi_s(database: str) -> None:
    engine = create_async_engine(database.replace("postgresql:", "postgresql+asyncpg:"))
    make = async_sessionmaker(engine)
    app, seen = FastAPI(), []

    async def new_session() -> Any:
        async with make() as session:
            yield session
            seen.append(session.in_transaction())

    @app.post("/charge")
    @transactional("session")
    async def charge(amount: int, session: AsyncSession = Depends(new_session)) -> Any:  # noqa: B008
        await session.execute(text(f"UPDATE accounts SET balance = balance - {amount}"))
        if amount == 13:
            raise HTTPException(402)
        if amount == 500:
            return JSONResponse({"sorry": True}, 500)
        return {"charged": amount}

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def post(amount: int, key: str) -> httpx.Response:
                return await client.post(f"/charge?amount={amount}", headers={"Idempotency-Key": key})

            first, again, conflict = await post(42, "a"), await post(42, "a"), await post(43, "a")
            assert first.json() == again.json() == {"charged": 42}
            assert "idempotent-replayed" not in first.headers
            assert again.headers["idempotent-replayed"] == "true"
            assert conflict.status_code == 422
            assert [(await post(13, "b")).status_code for _ in range(2)] == [402, 402]
            assert (await post(500, "c")).status_code == 500
            assert (await client.post("/charge?amount=1")).status_code == 400
        async with make() as session:
            assert (await session.execute(text("SELECT balance FROM accounts"))).scalar() == 58
        await engine.dispose()

    asyncio.run(main())
    assert not any(seen)


def test_middleware_is_not_above_it(database: str) -> None:
    app = FastAPI()
    app.add_middleware(IdempotencyMiddleware, backend="memory://")

    @app.post("/charge")
    @transactional(lambda: pytest.fail("it is asked"))
    async def charge() -> None:
        pytest.fail("it ran")

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            with pytest.raises(TypeError, match="leave the path out there"):
                await client.post("/charge", headers=KEY)

    asyncio.run(main())


def test_a_view_of_flask_s(file: str) -> None:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{file}"
    db = SQLAlchemy(app)

    @app.post("/charge")
    @transactional(lambda: db.session)
    def charge() -> Any:
        db.session.execute(text(CHARGE))
        return {"charged": 42}, 201

    client = app.test_client()
    answers = [client.post("/charge", headers=KEY) for _ in range(2)]
    assert [(answer.status_code, answer.json) for answer in answers] == [(201, {"charged": 42})] * 2
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    with app.app_context():
        assert db.session.execute(text("SELECT balance FROM accounts")).scalar() == 58
        db.engine.dispose()


@pytest.mark.parametrize("kind", ["Django, sqlite3", "Django, psycopg"])
@pytest.mark.parametrize("atomic", [True, False], ids=["ATOMIC_REQUESTS", "a block of its own"])
def test_a_view_of_django_s(lane: Lane, atomic: bool) -> None:
    connection, answers = lane.connect(), [500, 200]
    connection.settings_dict["ATOMIC_REQUESTS"] = atomic

    @transactional(lambda: connection)
    def view(request: HttpRequest) -> JsonResponse:
        lane.run(connection, CHARGE)
        return JsonResponse({"charged": 42}, status=answers.pop(0))

    def ask() -> Any:
        request = RequestFactory().post("/charge", headers=KEY)
        return BaseHandler().make_view_atomic(view)(request)

    try:
        assert ask().status_code == 500
        assert balance(lane) == 100
        assert ask().content == ask().content == b'{"charged": 42}'
        assert balance(lane) == 58
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
