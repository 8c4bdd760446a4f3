"""`transaction`: a block whose effect and whose record commit as one."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pyidempotent import _native
from pyidempotent._calls.flow import refuse_to_block
from pyidempotent._calls.function import caller_bytes
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import TransactionOptions
from pyidempotent._values.results import VALUE, Outcome, pack, redacted, unpack
from pyidempotent.exceptions import IdempotencyNotKept
from pyidempotent.transactions._claim import NOWHERE, Claim
from pyidempotent.transactions._connections import Steps, drive, drive_async

if TYPE_CHECKING:
    from typing_extensions import Unpack

FACE = OptionReader("transaction()", TransactionOptions, place="connection")


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
        self._wait: float = read["wait"]
        self._most: int = read["max_response_bytes"]
        self._redact = read["redact"]
        engine = _native.Engine(
            NOWHERE,
            ttl=read["ttl"],
            lease=None,
            wait=self._wait,
            run_limit=None,
            refuse_after_crash=False,
            namespace=read["namespace"],
        )
        caller = None if read["caller"] is None else caller_bytes(read["caller"])
        asked = (self._key, read["name"] or "attempt", caller, _native.fingerprint_call({"payload": read["payload"]}))
        self._claim = Claim(
            connection, engine, *asked, retry_after=read["retry_after"], schema=read["schema"], seal=read["seal"]
        )
        self._is_entered = False
        #: Whether the block ran before, and must not run again.
        self.replayed = False
        #: What the block made; on a replay, what it made then. Any value that a function could return.
        self.result: Any = None

    @property
    def key(self) -> str:
        """The key."""
        return self._key

    @property
    def fence(self) -> int | None:
        """A number that is greater for every later attempt on this key; None on a replay."""
        return self._claim.fence

    def derive(self, name: str) -> str:
        """A key for a downstream call: the same for every attempt of this key, another for every ``name``."""
        return self._claim.derive(name)

    def __enter__(self) -> transaction:
        refuse_to_block(self._wait)
        drive(self._claim.connection, self._begin())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._leave() and error is None:
            drive(self._claim.connection, self._complete())

    async def __aenter__(self) -> transaction:
        await drive_async(self._claim.connection, self._begin())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._leave() and error is None:
            await drive_async(self._claim.connection, self._complete())

    def _begin(self) -> Steps[None]:
        """Claims the key, or finds the stored result."""
        if self._is_entered:
            raise RuntimeError("a transaction() is entered once; make another one")
        self._is_entered = True
        payload = yield from self._claim.begin(self._wait)
        if payload is not None:
            self.replayed, self.result = True, self._unpacked(payload)

    def _unpacked(self, payload: bytes) -> Any:
        try:
            return unpack(payload, {})
        except Exception as error:
            # It is done, and nothing runs again.
            raise IdempotencyNotKept() from error

    def _leave(self) -> bool:
        """The block has ended; whether it ran."""
        return self._is_entered and not self.replayed and self._claim.leave()

    def _complete(self) -> Steps[None]:
        """Stores the result."""
        yield from self._claim.complete(self._packed, self._most)

    def _packed(self) -> bytes:
        """The stored form of the result, which ``redact=`` may take parts of."""
        payload = _pack(Outcome(self.result))
        return payload if self._redact is None else redacted(self._redact, payload, Outcome(self.result), _pack)


def _pack(outcome: Outcome) -> bytes:
    return pack(VALUE, outcome.value, {})
