"""`transaction`: a block whose effect and whose record commit as one."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pyidempotent import _native
from pyidempotent._calls.flow import refuse_to_block
from pyidempotent._calls.function import caller_bytes
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import TransactionOptions
from pyidempotent._values.results import VALUE, Unstorable, pack, unpack
from pyidempotent.exceptions import IdempotencyNotKept, IdempotencyProcessing
from pyidempotent.transactions._connections import (
    Connection,
    State,
    Steps,
    asks,
    connection_of,
    drive,
    drive_async,
    is_known,
    know,
)
from pyidempotent.transactions._errors import not_begun, not_stored

if TYPE_CHECKING:
    from typing_extensions import Unpack

FACE = OptionReader("transaction()", TransactionOptions, place="connection")

#: The blocks that are open here: the connection and the storage key of each.
_open: ContextVar[tuple[tuple[int, bytes], ...]] = ContextVar("pyidempotent_transactions", default=())

#: How long a repeat waits before it looks again, in seconds; and at the most.
_POLL, _MOST = 0.01, 0.2


@FACE.shows
class transaction(AbstractContextManager["transaction"], AbstractAsyncContextManager["transaction"]):  # noqa: N801  # used like a function
    """Protects a block in a transaction of yours: what it writes and its result commit or roll back as one.

    The first time the block runs and sets ``result``. A repeat enters with ``replayed`` true and the stored ``result``:
    look at it before you do anything. You begin the transaction and you commit it, after the block. An exception that
    leaves the block stores nothing: roll back. A crash at any moment leaves both, what you wrote and the record, or
    neither.

    The tables must be there: `pyidempotent.transactions.create_table`.

    Parameters:
        connection: your connection or session, of SQLAlchemy, Django, psycopg, asyncpg, sqlite3 or aiosqlite.
        options: each by its name, where an editor shows what it means; ``key=`` must be there. docs/options.md has all
            of them.

    Raises:
        IdempotencyError: at the entrance, where the block must not run.
        RuntimeError: at the entrance for a connection that commits each statement by itself, and for one whose
            transaction has failed; at the end where the transaction was ended inside the block.
        ValueError: at the end, for a result that can't be stored. What the block wrote can't be committed any more.

    >>> import sqlite3
    >>> import pyidempotent
    >>> connection = sqlite3.connect(":memory:")
    >>> pyidempotent.transactions.create_table(connection)
    >>> _ = connection.execute("CREATE TABLE accounts (owner TEXT, balance INTEGER)")
    >>> _ = connection.execute("INSERT INTO accounts VALUES ('alice', 100)")
    >>> def charge(key: str, amount: int) -> str:
    ...     with connection:  # commits
    ...         with pyidempotent.transaction(connection, key=key, payload=amount, name="charge") as op:
    ...             if not op.replayed:
    ...                 connection.execute("UPDATE accounts SET balance = balance - ?", (amount,))
    ...                 op.result = f"charged {amount}"
    ...         return op.result
    >>> charge("order-7", 42), charge("order-7", 42)
    ('charged 42', 'charged 42')
    >>> connection.execute("SELECT balance FROM accounts").fetchone()
    (58,)
    """

    def __init__(self, connection: Any, **options: Unpack[TransactionOptions]) -> None:
        read = FACE.read(options)
        self._key = _native.key_text(read["key"], "the key of a transaction()")
        self._connection: Connection = connection_of(connection)
        self._place = id(connection)
        self._wait: float = read["wait"]
        self._most: int = read["max_response_bytes"]
        self._engine = _native.Engine(
            _native.Backend.memory(0, 0),  # only the options are asked for
            ttl=read["ttl"],
            lease=None,
            wait=self._wait,
            run_limit=None,
            refuse_after_crash=False,
            namespace=read["namespace"],
        )
        self._name: str = read["name"] or "attempt"
        self._caller = None if read["caller"] is None else caller_bytes(read["caller"])
        self._fingerprint = _native.fingerprint_call({"payload": read["payload"]})
        self._retry_after: float = read["retry_after"]
        self._call = self._new()
        self._is_entered = False
        #: Whether the block ran before, and must not run again.
        self.replayed = False
        #: What the block made; on a replay, what it made then. Any value that a function could return.
        self.result: Any = None

    def _new(self) -> _native.InTransaction:
        return _native.InTransaction(
            self._engine,
            self._connection.dialect,
            self._key,
            self._name,
            self._caller,
            self._fingerprint,
            retry_after=self._retry_after,
        )

    @property
    def key(self) -> str:
        """The key."""
        return self._key

    @property
    def fence(self) -> int | None:
        """A number that is greater for every later attempt on this key; None on a replay."""
        return self._call.fence

    def derive(self, name: str) -> str:
        """A key for a downstream call: the same for every attempt of this key, another for every ``name``."""
        return self._call.derive(name)

    def __enter__(self) -> transaction:
        refuse_to_block(self._wait)
        drive(self._connection, self._begin())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._leave() and error is None:
            drive(self._connection, self._complete())

    async def __aenter__(self) -> transaction:
        await drive_async(self._connection, self._begin())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._leave() and error is None:
            await drive_async(self._connection, self._complete())

    def _begin(self) -> Steps[None]:
        """Claims the key, or finds the stored result."""
        if self._is_entered:
            raise RuntimeError("a transaction() is entered once; make another one")
        self._is_entered = True
        place = (self._place, self._call.storage_key)
        if place in _open.get():
            raise RuntimeError(
                f"{self._call.who} is open on this connection already: its block can't be inside of itself"
            )
        if self._wait and self._connection.is_begun:
            raise RuntimeError(
                "wait= waits before the transaction begins, and this connection is in one already: leave wait= out, or "
                "enter the block first"
            )
        until, pause = time.monotonic() + self._wait, _POLL
        while True:
            try:
                yield from self._claim()
                break
            except IdempotencyProcessing:
                if time.monotonic() + pause > until:
                    raise
            yield self._connection.rollback
            yield asks(self._connection.sleep, pause)
            self._call, pause = self._new(), min(2 * pause, _MOST)
        if self._call.payload is None:
            _open.set((*_open.get(), place))
        else:
            self.replayed, self.result = True, self._unpacked(self._call.payload)

    def _claim(self) -> Steps[None]:
        is_ready = is_known(self._connection)
        self._refuse_state("open", "idle")
        # On SQLite a look begins no transaction yet.
        allowed: tuple[State, ...] = ("open", "idle") if self._connection.dialect == "sqlite" else ("open",)
        statement: tuple[str, tuple[Any, ...]] | None = self._call.begin(is_ready)
        while statement is not None:
            try:
                row = yield asks(self._connection.run, *statement)
            except Exception as error:
                raise not_begun(self._call.who, error) from error
            statement = self._call.told(row)
            # Some drivers know only now. What was written until here does no harm where it stays.
            if self._call.payload is None:
                self._refuse_state(*(("open",) if statement is None else allowed))
            allowed = ("open",)
        know(self._connection)

    def _refuse_state(self, *allowed: State) -> None:
        """Refuses to go on where a statement would stand alone, or fail."""
        try:
            state = self._connection.state
        except Exception as error:
            raise not_begun(self._call.who, error) from error
        if state == "failed":
            raise RuntimeError(
                "the connection is in a transaction that has failed: roll it back before transaction(). Nothing ran"
            )
        if state not in allowed:
            raise RuntimeError(_AUTOCOMMIT)

    def _unpacked(self, payload: bytes) -> Any:
        try:
            return unpack(payload, {})
        except Exception as error:
            # It is done, and nothing runs again.
            raise IdempotencyNotKept() from error

    def _leave(self) -> bool:
        """The block has ended; whether it ran."""
        has_run = self._is_entered and not self.replayed
        if has_run:
            place = (self._place, self._call.storage_key)
            _open.set(tuple(other for other in _open.get() if other != place))
        return has_run

    def _complete(self) -> Steps[None]:
        """Stores the result."""
        who = self._call.who
        try:
            payload = pack(VALUE, self.result, {})
            if len(payload) > self._most:
                raise Unstorable(f"it has {len(payload)} bytes, and max_response_bytes is {self._most}")
        except Unstorable as error:
            yield from self._undo()
            raise ValueError(
                f"the result of {who} can't be stored: {error}. What the block wrote is not committed: roll back"
            ) from error
        if self._connection.state != "open":
            raise RuntimeError(_ENDED)
        statement: tuple[str, tuple[Any, ...]] | None = self._call.complete(payload)
        while statement is not None:
            try:
                row = yield asks(self._connection.run, *statement)
            except Exception as error:
                if self._call.gone or "no such savepoint" in str(error):
                    raise RuntimeError(_ENDED) from error
                raise not_stored(who, error) from error
            statement = self._call.told(row)
        if self._call.gone:
            raise RuntimeError(_ENDED)

    def _undo(self) -> Steps[None]:
        """Sees to it that what the block wrote is not committed."""
        try:
            yield asks(self._connection.run, *self._call.undo())
        except Exception:
            return  # there is no transaction any more, or it has failed


_AUTOCOMMIT = (
    "the connection commits each statement by itself, so that a crash could part the work from its record: begin a "
    "transaction before transaction(). Nothing ran"
)
_ENDED = (
    "the transaction that the block began in has ended inside of it: leave commit() and rollback() to the code around "
    "the block. The result is not stored"
)
