"""What a database says, in words that tell what to do."""

from __future__ import annotations

from pyidempotent.exceptions import IdempotencyStoreUnavailable

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
    "closed database": ("the connection is closed", False),
}


def not_begun(who: str, error: Exception) -> IdempotencyStoreUnavailable:
    """The claim failed on the application's connection: nothing ran."""
    means, may_pass = _meaning(error)
    return IdempotencyStoreUnavailable(
        f"{who} was not claimed, and nothing ran: {means}", retry_after=1.0 if may_pass else None
    )


def not_stored(who: str, error: Exception) -> IdempotencyStoreUnavailable:
    """The result could not be written: the transaction must not be committed."""
    means, may_pass = _meaning(error)
    return IdempotencyStoreUnavailable(
        f"the result of {who} was not stored, and its transaction must be rolled back: {means}",
        retry_after=1.0 if may_pass else None,
    )


def _meaning(error: Exception) -> tuple[str, bool]:
    said = str(error)
    for words, meaning in _SQLITE.items():
        if words in said:
            return meaning
    return f"{type(error).__name__}: {said}", False
