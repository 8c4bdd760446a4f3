"""`transaction` on every kind of connection: the effect and its record commit or roll back as one."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from lanes import Django, Lane, PsycopgBlocks, SqlalchemyAsyncSession, SqlalchemySession
from pyidempotent import IdempotencyConflict, IdempotencyStoreUnavailable, IdempotencyUnknown, transaction


def charge(lane: Lane, connection: Any, amount: int = 42, **options: Any) -> transaction:
    """Takes money from the account, once for each key."""
    with lane.transaction(connection), lane.block(connection, key="a", payload=amount, **options) as op:
        if not op.replayed:
            lane.run(connection, f"UPDATE accounts SET balance = balance - {amount}")
            op.result = {"charged": amount}
    return op


def balance(lane: Lane) -> int:
    connection = lane.connect()
    ((found,),) = lane.run(connection, "SELECT balance FROM accounts")
    lane.close(connection)
    return int(found)


def test_the_effect_happens_once_and_every_repeat_gets_its_result(lane: Lane) -> None:
    connection = lane.connect()
    first = charge(lane, connection)
    again = charge(lane, connection)
    elsewhere = charge(lane, lane.connect())
    assert [op.replayed for op in (first, again, elsewhere)] == [False, True, True]
    assert first.result == again.result == elsewhere.result == {"charged": 42}
    assert first.fence is not None
    assert again.fence is None
    assert balance(lane) == 58


def test_what_is_rolled_back_leaves_no_record(lane: Lane) -> None:
    connection = lane.connect()
    fences = []
    with (
        pytest.raises(ZeroDivisionError),
        lane.transaction(connection),
        lane.block(connection, key="a", payload=42) as op,
    ):
        lane.run(connection, "UPDATE accounts SET balance = 0")
        fences.append(op.fence)
        raise ZeroDivisionError
    # After the block, too.
    with pytest.raises(ZeroDivisionError), lane.transaction(connection):
        with lane.block(connection, key="a", payload=42) as op:
            lane.run(connection, "UPDATE accounts SET balance = 0")
            op.result = "never"
        fences.append(op.fence)
        raise ZeroDivisionError
    assert balance(lane) == 100
    op = charge(lane, connection)
    assert not op.replayed
    assert balance(lane) == 58
    assert op.fence > fences[1] > fences[0]  # type: ignore[operator]


def test_another_payload_is_a_conflict(lane: Lane) -> None:
    connection = lane.connect()
    charge(lane, connection, 42)
    with pytest.raises(IdempotencyConflict):
        charge(lane, connection, 43)
    assert balance(lane) == 58


def test_an_expired_result_is_none(lane: Lane) -> None:
    connection = lane.connect()
    charge(lane, connection, ttl=0.001)
    time.sleep(0.01)
    assert not charge(lane, connection).replayed
    assert balance(lane) == 16


def test_results_of_every_kind(lane: Lane) -> None:
    connection = lane.connect()
    for number, result in enumerate([None, 1, "ö\0", b"\0\xff", [1, (2.5, {"a": {3}})], 2**200]):
        for _ in range(2):
            with lane.transaction(connection), lane.block(connection, key=number) as op:
                if not op.replayed:
                    op.result = result
        assert op.replayed
        assert op.result == result


def test_a_connection_in_autocommit_is_refused(lane: Lane) -> None:
    connection = lane.autocommit()
    with pytest.raises(RuntimeError, match="commits each statement by itself"), lane.block(connection, key="a"):
        pytest.fail("it ran")
    other = lane.connect()
    assert not charge(lane, other).replayed


def test_a_result_that_can_not_be_stored_undoes_the_work(lane: Lane) -> None:
    connection = lane.connect()
    for result, words in ((object(), "object"), ("x" * 100, "max_response_bytes is 50")):
        with pytest.raises(ValueError, match=words), lane.transaction(connection):
            with lane.block(connection, key="a", max_response_bytes=50) as op:
                lane.run(connection, "UPDATE accounts SET balance = 0")
                op.result = result
    # Even where the application goes on and commits: on Postgres the transaction has failed.
    with suppress(Exception), lane.transaction(connection):
        with pytest.raises(ValueError, match="object"), lane.block(connection, key="a") as op:
            lane.run(connection, "UPDATE accounts SET balance = 0")
            op.result = object()
    assert balance(lane) == 100
    lane.close(connection)
    assert not charge(lane, lane.connect()).replayed


def test_a_commit_inside_of_the_block_is_an_error(lane: Lane) -> None:
    if isinstance(lane, Django | PsycopgBlocks):
        return  # they refuse it by themselves
    connection = lane.connect()
    for end in (lane.commit, lane.rollback):
        lane.begin(connection)
        with (
            pytest.raises(RuntimeError, match="has ended inside of it"),
            lane.block(connection, key=end.__name__) as op,
        ):
            lane.run(connection, "UPDATE accounts SET balance = balance - 1")
            end(connection)
            op.result = 1
        lane.close(connection)
        connection = lane.connect()
        # What was committed must not be done again, and nobody knows how much that was.
        expected = pytest.raises(IdempotencyUnknown) if end == lane.commit else nullcontext()
        with expected, lane.transaction(connection), lane.block(connection, key=end.__name__):
            assert end == lane.rollback, "it ran"
        # The same where another transaction has begun meanwhile.
        lane.begin(connection)
        with (
            pytest.raises(RuntimeError, match="has ended inside of it"),
            lane.block(connection, key=f"2 {end.__name__}") as op,
        ):
            lane.run(connection, "UPDATE accounts SET balance = balance - 1")
            end(connection)
            lane.begin(connection)
            lane.run(connection, "UPDATE accounts SET balance = balance - 1")
            op.result = 1
        with suppress(Exception):
            lane.rollback(connection)
    assert balance(lane) == 98


def test_a_block_inside_of_itself_is_refused(lane: Lane) -> None:
    if lane.is_async:
        return  # each of these steps has a context of its own: test_async
    connection = lane.connect()
    with lane.transaction(connection), lane.block(connection, key="a") as op:
        with pytest.raises(RuntimeError, match="is open on this connection already"), lane.block(connection, key="a"):
            pytest.fail("it ran")
        # Another key is another block.
        with lane.block(connection, key="b") as other:
            other.result = 2
        op.result = 1
    with lane.transaction(connection), lane.block(connection, key="b") as other:
        assert other.result == 2


def test_blocks_one_after_the_other_in_one_transaction(lane: Lane) -> None:
    connection = lane.connect()
    with lane.transaction(connection):
        for key in "abb":
            with lane.block(connection, key=key) as op:
                if not op.replayed:
                    op.result = key
        assert op.replayed
    with pytest.raises(ZeroDivisionError), lane.transaction(connection):
        with lane.block(connection, key="c"):
            pass
        raise ZeroDivisionError
    with lane.transaction(connection):
        found = []
        for key in "abc":
            with lane.block(connection, key=key) as op:
                found.append(op.replayed)
    assert found == [True, True, False]


def test_it_is_entered_once(lane: Lane) -> None:
    connection = lane.connect()
    made = lane.block(connection, key="a")
    with lane.transaction(connection), made as op:
        op.result = 1
    with lane.transaction(connection):
        with pytest.raises(RuntimeError, match="entered once"), made:
            pytest.fail("it ran")
        with lane.block(connection, key="a") as op:
            assert op.result == 1


def test_wait_is_refused_in_an_open_transaction(lane: Lane) -> None:
    connection = lane.connect()
    with lane.transaction(connection):
        lane.run(connection, "UPDATE accounts SET balance = 7")
        with (
            pytest.raises(RuntimeError, match="before the transaction begins"),
            lane.block(connection, key="a", wait=1),
        ):
            pytest.fail("it ran")
    assert balance(lane) == 7


CLOSED = (IdempotencyStoreUnavailable, "nothing ran: the connection is closed: take another one")


def test_a_connection_that_is_closed_in_the_block(lane: Lane) -> None:
    if isinstance(lane, Django | PsycopgBlocks):
        return  # they refuse it by themselves
    connection = lane.connect()
    lane.begin(connection)
    with pytest.raises((IdempotencyStoreUnavailable, RuntimeError), match=r"is closed|has ended inside of it"):
        with lane.block(connection, key="a") as op:
            lane.run(connection, "UPDATE accounts SET balance = 0")
            lane.close(connection)
            op.result = 1
    assert balance(lane) == 100
    assert not charge(lane, lane.connect()).replayed


def test_a_savepoint_that_is_rolled_back_takes_its_record_with_it(lane: Lane) -> None:
    connection, found = lane.connect(), []
    with lane.transaction(connection):
        lane.run(connection, "INSERT INTO accounts VALUES ('bob', 7)")
        lane.run(connection, "SAVEPOINT s")
        for again in (True, False):
            with lane.block(connection, key="a") as op:
                lane.run(connection, "UPDATE accounts SET balance = balance + 1 WHERE name = 'bob'")
                op.result = 1
            found.append(op.replayed)
            lane.run(connection, "ROLLBACK TO s" if again else "RELEASE s")
    with lane.transaction(connection), lane.block(connection, key="a") as op:
        assert op.result == 1
    assert found == [False, False]
    assert lane.run(connection, "SELECT balance FROM accounts WHERE name = 'bob'") == [(8,)]


def test_what_was_written_before_the_block_is_of_the_same_transaction(lane: Lane) -> None:
    """As of a session that was flushed, and not committed."""
    connection = lane.connect()
    with pytest.raises(ZeroDivisionError), lane.transaction(connection):
        lane.run(connection, "INSERT INTO accounts VALUES ('bob', 7)")
        with lane.block(connection, key="a") as op:
            op.result = 1
        raise ZeroDivisionError
    with lane.transaction(connection):
        assert lane.run(connection, "SELECT count(*) FROM accounts") == [(1,)]
        lane.run(connection, "INSERT INTO accounts VALUES ('bob', 7)")
        with lane.block(connection, key="a") as op:
            assert not op.replayed
    # A repeat leaves alone what was written before it.
    with lane.transaction(connection):
        lane.run(connection, "UPDATE accounts SET balance = 8 WHERE name = 'bob'")
        with lane.block(connection, key="a") as op:
            assert op.replayed
    assert lane.run(connection, "SELECT balance FROM accounts WHERE name = 'bob'") == [(8,)]


#: Connections that only the thread that made them may use, or the event loop.
OF_ONE_THREAD = ["sqlite3", "sqlite3, BEGIN IMMEDIATE", "asyncpg", "Django, sqlite3", "Django, psycopg"]


@pytest.mark.parametrize("kind", OF_ONE_THREAD)
def test_another_thread_s_connection(lane: Lane) -> None:
    connection = lane.connect()

    def use() -> None:
        own = lane.loop
        lane.loop = asyncio.new_event_loop()
        try:
            with (
                pytest.raises(IdempotencyStoreUnavailable, match=r"nothing ran: .*(thread|different loop)"),
                lane.block(connection, key="a"),
            ):
                pytest.fail("it ran")
        finally:
            lane.loop.close()
            lane.loop = own

    with lane.transaction(connection):
        lane.run(connection, "INSERT INTO accounts VALUES ('bob', 7)")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(use).result(30)
    assert lane.run(connection, "SELECT count(*) FROM accounts") == [(2,)]
    assert not charge(lane, connection).replayed


def test_a_closed_connection(lane: Lane) -> None:
    if isinstance(lane, SqlalchemySession | SqlalchemyAsyncSession):
        return  # a session can be used after it was closed
    for connect in (lane.connect, lane.autocommit):
        connection = connect()
        lane.close(connection)
        # Django opens it anew with the next statement, which then would stand alone.
        expected = (RuntimeError, "begin a transaction") if isinstance(lane, Django) else CLOSED
        with pytest.raises(expected[0], match=expected[1]), lane.block(connection, key="a"):
            pytest.fail("it ran")


def test_sync_and_async_are_not_mixed(lane: Lane) -> None:
    connection = lane.connect()
    made = transaction(connection, key="a")
    if lane.is_async:
        with pytest.raises(TypeError, match="use async with"), made:
            pytest.fail("it ran")
    else:

        async def enter() -> None:
            async with made:
                pytest.fail("it ran")

        with pytest.raises(TypeError, match="use with"):
            asyncio.run(enter())
