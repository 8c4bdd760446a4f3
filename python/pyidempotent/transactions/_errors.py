"""What a database says, in words that tell what to do."""

from __future__ import annotations

from pyidempotent.exceptions import IdempotencyStoreUnavailable

#: What whoever has a closed connection is told.
CLOSED = "the connection is closed: take another one"

#: Words of SQLite → what that means here, and whether it may go better another time.
_SQLITE = {
    "no such table: idempotency_": (
        "the tables of the idempotency keys are missing: make them with pyidempotent.transactions.create_table()",
        False,
    ),
    "database is locked": (
        "another connection writes to the database, or has written since this transaction began to read: roll back, "
        "and begin anew with BEGIN IMMEDIATE",
        True,
    ),
    "readonly database": ("the connection can only read", False),
    "closed database": (CLOSED, False),
}


def sqlstate(error: BaseException) -> str | None:
    """The code of Postgres' that an error has, whatever library wraps it."""
    inner: BaseException | None = error
    while inner is not None:
        code = getattr(inner, "sqlstate", None) or getattr(inner, "pgcode", None)
        if code is not None:
            return str(code)
        inner = getattr(inner, "orig", None) or inner.__cause__
    return None


def not_begun(who: str, error: Exception | str) -> IdempotencyStoreUnavailable:
    """The claim failed on the application's connection: nothing ran."""
    means, may_pass = _meaning(error)
    return IdempotencyStoreUnavailable(
        f"{who} was not claimed, and nothing ran: {means}", retry_after=1.0 if may_pass else None
    )


def not_stored(who: str, error: Exception | str) -> IdempotencyStoreUnavailable:
    """The result could not be written: the transaction must not be committed."""
    means, may_pass = _meaning(error)
    return IdempotencyStoreUnavailable(
        f"the result of {who} was not stored, and its transaction must be rolled back: {means}",
        retry_after=1.0 if may_pass else None,
    )


def _meaning(error: Exception | str) -> tuple[str, bool]:
    if isinstance(error, str):
        return error, False
    # SQLAlchemy's own words hold the statement and its values, among them the key's.
    error = getattr(error, "orig", None) or error
    said = str(error)
    for words, meaning in _SQLITE.items():
        if words in said:
            return meaning
    return f"{type(error).__name__}: {said}", False
