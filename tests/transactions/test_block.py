"""`transaction` on every kind of connection: the effect and its record commit or roll back as one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from lanes import Lane
from pyidempotent import IdempotencyConflict, IdempotencyProcessing, transaction


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
        with pytest.raises(ValueError, match=words), lane.transaction(connection):  # noqa: SIM117
            with lane.block(connection, key="a", max_response_bytes=50) as op:
                lane.run(connection, "UPDATE accounts SET balance = 0")
                op.result = result
    # Even where the application goes on and commits: on Postgres the transaction has failed.
    with suppress(Exception), lane.transaction(connection):  # noqa: SIM117
        with pytest.raises(ValueError, match="object"), lane.block(connection, key="a") as op:
            lane.run(connection, "UPDATE accounts SET balance = 0")
            op.result = object()
    assert balance(lane) == 100
    lane.close(connection)
    assert not charge(lane, lane.connect()).replayed


def test_two_open_transactions(lane: Lane) -> None:
    if lane.is_sqlite:
        pytest.skip("SQLite has one writer: test_sqlite")
    one, two = lane.connect(), lane.connect()
    with lane.transaction(one), lane.block(one, key="a", payload=42) as op:
        lane.run(one, "UPDATE accounts SET balance = balance - 42")
        with lane.transaction(two):
            with pytest.raises(IdempotencyProcessing), lane.block(two, key="a", payload=42):
                pytest.fail("it ran")
            # The transaction is as it was.
            assert lane.run(two, "SELECT balance FROM accounts") == [(100,)]
        op.result = {"charged": 42}
    assert charge(lane, two).replayed
    assert balance(lane) == 58
