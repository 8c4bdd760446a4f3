"""`Claim`: a key in a transaction of the application's, from its claim to its stored result."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

from pyidempotent import _native
from pyidempotent._calls.current import Operation
from pyidempotent._values.results import Unstorable
from pyidempotent.exceptions import IdempotencyProcessing
from pyidempotent.transactions._connections import Connection, State, Steps, asks, connection_of, is_known, know
from pyidempotent.transactions._errors import CLOSED, not_begun, not_stored, sqlstate

#: The claims that are open here: the connection and the storage key of each.
_open: ContextVar[tuple[tuple[int, bytes], ...]] = ContextVar("pyidempotent_transactions", default=())

#: In the place of a store, for engines of which only the options are asked for.
NOWHERE = _native.Backend.memory(0, 0)

#: How long a repeat waits before it looks again, in seconds; and at the most.
_POLL, _MOST = 0.01, 0.2

#: A statement's text and its values.
_Asks = tuple[str, tuple[Any, ...]]


class Claim:
    """A key in a transaction.

    Parameters:
        connection: the application's own.
        engine: has the options.
        retry_after: the longest wait that a repeat is asked for, in seconds.
        seal: what its record is sealed with.
        schema: where the table is, on Postgres.
    """

    def __init__(
        self,
        connection: Any,
        engine: _native.Engine,
        key: str,
        operation: Operation,
        caller: bytes | None,
        fingerprint: bytes,
        *,
        retry_after: float,
        schema: str,
        seal: _native.Seal | None = None,
    ) -> None:
        self.connection: Connection = connection_of(connection)
        self._schema = schema
        asked = (engine, self.connection.dialect, key, operation, caller, fingerprint)
        self._new: Callable[[], _native.InTransaction] = partial(
            _native.InTransaction, *asked, retry_after=retry_after, schema=schema, seal=seal
        )
        self._call: _native.InTransaction = self._new()
        self._place = (id(connection), self._call.storage_key)

    @property
    def fence(self) -> int | None:
        """A number that is greater for every later attempt on this key; None where the work is not to run."""
        return self._call.fence

    def derive(self, name: str) -> str:
        """A key for a downstream call."""
        return self._call.derive(name)

    def begin(self, wait: float, begins: bool = False) -> Steps[bytes | None]:
        """Claims the key, and returns None; or returns what is stored.

        Parameters:
            wait: for how long a repeat waits, in seconds, before the transaction begins.
            begins: whether the transaction is begun here, and rolled back where the work is not to run.
        """
        if self._place in _open.get():
            raise RuntimeError(
                f"{self._call.who} is open on this connection already: its block can't be inside of itself"
            )
        if wait and self.connection.is_begun:
            raise RuntimeError(
                "wait= waits before the transaction begins, and this connection is in one already: leave wait= out, or "
                "enter the block first"
            )
        until, pause = time.monotonic() + wait, _POLL
        while True:
            try:
                if begins:
                    yield from self._begin()
                yield from self._claim()
                break
            except IdempotencyProcessing:
                if time.monotonic() + pause > until:
                    raise
            yield self.connection.rollback
            yield asks(self.connection.sleep, pause)
            self._call, pause = self._new(), min(2 * pause, _MOST)
        if self._call.payload is None:
            _open.set((*_open.get(), self._place))
        return self._call.payload

    def leave(self) -> bool:
        """The work has ended: the key may be claimed again on this connection. Always true."""
        _open.set(tuple(other for other in _open.get() if other != self._place))
        return True

    def complete(self, pack: Callable[[], bytes], most: int) -> Steps[None]:
        """Stores the result.

        Parameters:
            pack: makes the stored form; raises `Unstorable`.
            most: how many bytes it may have.
        """
        who = self._call.who
        try:
            payload = pack()
            if len(payload) > most:
                raise Unstorable(f"it has {len(payload)} bytes, and max_response_bytes is {most}")
        except Unstorable as error:
            yield from self.undo()
            raise ValueError(
                f"the result of {who} can't be stored: {error}. What the block wrote is not committed: roll back"
            ) from error
        state = self.connection.state
        if state == "closed":
            raise not_stored(who, CLOSED)
        if state in ("idle", "autocommit"):
            raise _ended(who)
        statement: _Asks | None = self._call.complete(payload)
        while statement is not None:
            try:
                row = yield asks(self.connection.run, *statement)
            except Exception as error:
                if self._call.gone or "no such savepoint" in str(error):
                    raise _ended(who) from error
                raise not_stored(who, error) from error
            statement = self._call.told(row)
        if self._call.gone:
            raise _ended(who)

    def undo(self) -> Steps[None]:
        """Sees to it that what was written since the claim is not committed."""
        try:
            yield asks(self.connection.run, *self._call.undo())
        except Exception:
            return  # there is no transaction any more, or it has failed

    def _begin(self) -> Steps[None]:
        try:
            yield self.connection.begin
        except Exception as error:
            raise not_begun(self._call.who, error) from error

    def _claim(self) -> Steps[None]:
        is_ready = is_known(self.connection, self._schema)
        self._refuse_state("open", "idle")
        # On SQLite a look begins no transaction yet.
        allowed: tuple[State, ...] = ("open", "idle") if self.connection.dialect == "sqlite" else ("open",)
        statement: _Asks | None = self._call.begin(is_ready)
        while statement is not None:
            try:
                row = yield asks(self.connection.run, *statement)
            except Exception as error:
                if sqlstate(error) == "25P02":  # some drivers do not know it before
                    raise RuntimeError(_FAILED) from error
                raise not_begun(self._call.who, error) from error
            statement = self._call.told(row)
            # Some drivers know only now. What was written until here does no harm where it stays.
            if self._call.payload is None:
                self._refuse_state(*(("open",) if statement is None else allowed))
            allowed = ("open",)
        know(self.connection, self._schema)

    def _refuse_state(self, *allowed: State) -> None:
        """Refuses to go on where a statement would stand alone, or fail."""
        try:
            state = self.connection.state
        except Exception as error:
            raise not_begun(self._call.who, error) from error
        if state == "closed":
            raise not_begun(self._call.who, CLOSED)
        if state == "failed":
            raise RuntimeError(_FAILED)
        if state not in allowed:
            raise RuntimeError(_AUTOCOMMIT)


_FAILED = "the connection is in a transaction that has failed: roll it back before transaction(). Nothing ran"

_AUTOCOMMIT = (
    "the connection commits each statement by itself, so that a crash could part the work from its record: begin a "
    "transaction before transaction(). Nothing ran"
)


def _ended(who: str) -> RuntimeError:
    return RuntimeError(
        f"the transaction that the block of {who} began in has ended inside of it: leave commit() and rollback() to "
        "the code around the block. The result is not stored. Where the block committed, a repeat gets "
        "IdempotencyUnknown"
    )
