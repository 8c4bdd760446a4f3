"""Results of the application's own transactions, sealed: what stands in its tables, and who can read it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from lanes import Lane
from pyidempotent import IdempotencyConflict, IdempotencyStoreUnavailable, attempt, transaction, transactional
from pyidempotent.backends import Seal
from pyidempotent.backends.postgres import PostgresBackend

SECRET = "the card is 4242 4242 4242 4242"
NEW, OLD, NAMES = "11" * 32, "22" * 32, "33" * 32


def charge(lane: Lane, connection: Any, payload: int = 42, **options: Any) -> Any:
    with (
        lane.transaction(connection),
        lane.block(connection, key="order-7", name="charge", payload=payload, **options) as op,
    ):
        if not op.replayed:
            lane.run(connection, "UPDATE accounts SET balance = balance - 42")
            op.result = SECRET
    return op.result


def stored(lane: Lane) -> bytes:
    """All that stands in the table of records."""
    table = "idempotency_results" if lane.is_sqlite else "idempotency.records"
    if not lane.is_sqlite:
        with psycopg.connect(lane.place) as own:
            rows: Any = own.execute(f"SELECT key, record FROM {table}").fetchall()  # type: ignore[arg-type]
    else:
        connection = lane.connect()
        rows = lane.run(connection, f"SELECT key, record FROM {table}")
        lane.close(connection)
    return b"".join(bytes(part) for row in rows for part in row)


@pytest.mark.parametrize("seal", [NEW, Seal(NEW, names=NAMES)], ids=["results", "names too"])
def test_the_table_has_no_answer(lane: Lane, seal: Any) -> None:
    connection = lane.connect()
    for _ in range(2):
        assert charge(lane, connection, seal=seal) == SECRET
    assert b"4242" not in stored(lane)
    assert (b"order-7" in stored(lane)) is isinstance(seal, str)
    with pytest.raises(IdempotencyConflict):
        charge(lane, connection, 43, seal=seal)
    ((balance,),) = lane.run(lane.connect(), "SELECT balance FROM accounts")
    assert balance == 58


class TestKeys:
    @pytest.fixture(params=["sqlite3", "psycopg"])
    def kind(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_whoever_has_no_key_is_told(self, lane: Lane) -> None:
        assert charge(lane, lane.connect(), seal=OLD) == SECRET
        for seal, says in ((None, "this process has no keys"), (NEW, "a key that this process does not have")):
            with pytest.raises(IdempotencyStoreUnavailable, match=says):
                charge(lane, lane.connect(), seal=seal)
        assert charge(lane, lane.connect(), seal=[NEW, OLD]) == SECRET
        with pytest.raises(ValueError, match="seal: key 1 is not 32 bytes"):
            charge(lane, lane.connect(), seal="hunter2")
        with pytest.raises(TypeError, match="seal must be a Seal, a key or a list of keys, not a int"):
            charge(lane, lane.connect(), seal=5)

    def test_a_decorated_function_seals(self, lane: Lane) -> None:
        connection = lane.connect()

        @transactional(lambda: connection, key="order", seal=NEW)
        def pay(order: str) -> str:
            return SECRET

        assert pay("order-7") == pay("order-7") == SECRET
        assert b"4242" not in stored(lane)

    def test_parts_are_left_out(self, lane: Lane) -> None:
        connection = lane.connect()

        @transactional(lambda: connection, key="order", redact=lambda value: value.replace("4242", "…"))
        def pay(order: str) -> str:
            return SECRET

        assert pay("order-7") == SECRET
        assert pay("order-7") == "the card is … … … …"
        assert charge(lane, connection, redact=lambda value: len(value)) == SECRET
        assert charge(lane, connection) == len(SECRET)
        assert b"4242" not in stored(lane)

    def test_what_can_t_be_left_out_is_rolled_back(self, lane: Lane) -> None:
        connection = lane.connect()
        with pytest.raises(ValueError, match=r"can't be stored: redact= failed: ZeroDivisionError"):
            charge(lane, connection, redact=lambda value: 1 // 0)
        assert stored(lane) == b""


def test_a_backend_of_the_same_keys_reads_it(database: str) -> None:
    """On Postgres a key is the same in both modes."""
    with psycopg.connect(database) as connection:
        with transaction(connection, key="order-7", name="charge", seal=Seal(NEW, names=NAMES)) as op:
            op.result = SECRET
        connection.commit()
        with attempt(PostgresBackend(database, seal=Seal(OLD, NEW, names=NAMES)), key="order-7", name="charge") as run:
            assert (run.replayed, run.result) == (True, SECRET)
