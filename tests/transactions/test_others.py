"""What others got wrong, each as a test: on Postgres, and on SQLite, where one writer at a time answers some of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from lanes import Lane
from pyidempotent import IdempotencyProcessing, IdempotencyStoreUnavailable, transactional

MakeLane = Callable[[], Lane]
#: Each kind of connection, and the isolation level: SQLite has one.
RACES = [("psycopg", level) for level in ("READ_COMMITTED", "REPEATABLE_READ", "SERIALIZABLE")] + [("sqlite3", "")]

#: What a duplicate is told that comes too early: of SQLite's one writer, that it is not its turn.
TOO_EARLY = (IdempotencyProcessing, IdempotencyStoreUnavailable)


@pytest.fixture(params=["psycopg", "sqlite3"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def impatient(lane: Lane) -> Any:
    """A connection that waits for no other writer."""
    connection = lane.connect()
    if lane.is_sqlite:
        lane.run(connection, "PRAGMA busy_timeout = 0")
    return connection


def rows(lane: Lane, table: str) -> int:
    connection = lane.connect()
    ((count,),) = lane.run(connection, f"SELECT count(*) FROM {table}")
    lane.close(connection)
    return int(count)


@pytest.mark.parametrize(("kind", "level"), RACES)
def test_the_loser_of_a_race_gets_no_error_of_the_driver_s(make_lane: MakeLane, level: str) -> None:
    """It gets the result, or is told to come again, and never the IntegrityError of the record that was there first."""
    racers, rounds = 4, 10
    start = threading.Barrier(racers)

    def race(_: int) -> int:
        lane, ran = make_lane(), 0
        connection = lane.connect()
        if level:
            connection.isolation_level = psycopg.IsolationLevel[level]
        for number in range(rounds):
            start.wait(60)
            while True:
                try:
                    with lane.transaction(connection), lane.block(connection, key=number) as op:
                        if not op.replayed:
                            op.result = number
                except TOO_EARLY:
                    continue
                except psycopg.errors.SerializationFailure:
                    if level != "SERIALIZABLE":
                        raise
                    continue  # at the commit, which is the caller's to repeat
                assert op.result == number
                ran += not op.replayed
                break
        lane.close(connection)  # on its thread
        return ran

    with ThreadPoolExecutor(racers) as pool:
        assert sum(pool.map(race, range(racers))) == rounds


def test_a_40001_is_not_the_answer_that_is_kept(lane: Lane) -> None:
    """Nor is "database is locked": the work runs again, and only its own answer stays."""
    connection, other = impatient(lane), lane.connect()
    if not lane.is_sqlite:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    conflicts = [True]

    @transactional(lambda: connection, key="key")
    def charge(key: str) -> str:
        if conflicts:
            conflicts.pop()
            if lane.is_sqlite:
                raise_locked(lane, other)
            lane.run(connection, "SELECT balance FROM accounts")
            lane.run(other, "UPDATE accounts SET balance = balance + 1")
            lane.commit(other)
        lane.run(connection, "UPDATE accounts SET balance = balance - 42")
        return "charged"

    with pytest.raises(Exception, match=r"could not serialize|database is locked"):
        charge("a")
    assert charge("a") == charge("a") == "charged"
    assert lane.run(connection, "SELECT balance FROM accounts") == [(58 if lane.is_sqlite else 59,)]


def raise_locked(lane: Lane, other: Any) -> None:
    """What SQLite says to whoever writes on another connection meanwhile."""
    lane.run(other, "PRAGMA busy_timeout = 0")
    lane.run(other, "UPDATE accounts SET balance = 0")


def test_an_outbox_has_each_message_once(lane: Lane) -> None:
    """The message is written in the transaction, and whoever sends sees only what is committed."""
    connection, early = impatient(lane), impatient(lane)
    with lane.transaction(connection):
        lane.run(connection, "DROP TABLE IF EXISTS outbox")
        lane.run(connection, "CREATE TABLE outbox (message TEXT)")

    def handle(on: Any) -> None:
        with lane.transaction(on), lane.block(on, key="a") as op:
            if not op.replayed:
                lane.run(on, "INSERT INTO outbox VALUES ('paid')")
                op.result = "paid"

    with pytest.raises(ZeroDivisionError), lane.transaction(connection):
        with lane.block(connection, key="a") as op:
            lane.run(connection, "INSERT INTO outbox VALUES ('paid')")
            op.result = "paid"
        # Another delivery of the same message, before the first is committed.
        with pytest.raises(TOO_EARLY):
            handle(early)
        raise ZeroDivisionError
    assert rows(lane, "outbox") == 0
    for on in (connection, early, connection):
        handle(on)
    assert rows(lane, "outbox") == 1


def test_a_listener_does_not_run_while_the_first_one_does(lane: Lane) -> None:
    first, second = impatient(lane), impatient(lane)
    with lane.transaction(first), lane.block(first, key="a") as op:
        lane.run(first, "UPDATE accounts SET balance = balance - 42")
        for _ in range(2):
            with pytest.raises(TOO_EARLY), lane.transaction(second), lane.block(second, key="a"):
                pytest.fail("it ran")
        op.result = "done"
    with lane.transaction(second), lane.block(second, key="a") as op:
        assert op.result == "done"


def test_nothing_says_inserted_that_was_rolled_back(lane: Lane) -> None:
    first, second = impatient(lane), impatient(lane)
    with pytest.raises(ZeroDivisionError), lane.transaction(first):
        with lane.block(first, key="a") as op:
            lane.run(first, "INSERT INTO accounts VALUES ('bob', 1)")
            op.result = "inserted"
        # Its result is written, and not committed: nobody else is told of it.
        with pytest.raises(TOO_EARLY), lane.transaction(second), lane.block(second, key="a"):
            pytest.fail("it ran")
        raise ZeroDivisionError
    with lane.transaction(second), lane.block(second, key="a") as op:
        assert not op.replayed
        lane.run(second, "INSERT INTO accounts VALUES ('bob', 1)")
        op.result = "inserted"
    with lane.transaction(first), lane.block(first, key="a") as op:
        assert op.result == "inserted"
    assert rows(lane, "accounts") == 2
