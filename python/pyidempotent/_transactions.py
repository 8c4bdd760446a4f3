"""Completions that wait for a transaction of Django's: what is rolled back has not been done.

Knows Django without importing it: a transaction of it is only open where it is imported.
"""

from __future__ import annotations

from typing import Any

from pyidempotent import _native


def settle_on_commit(attempt: _native.Attempt, verdict: str, payload: bytes | None) -> bool:
    """Leaves a completion to the commit, where an atomic block is open on this thread; whether it did.

    Nobody is told of a rollback, but Django drops what waited for the commit: then the attempt has failed.
    """
    if verdict not in ("complete", "not-kept"):
        return False
    from django.conf import settings
    from django.db import connections

    if not settings.configured:
        return False
    waits_for = [connection for connection in connections.all(initialized_only=True) if _is_open(connection)]
    if waits_for:
        completion = _Completion(attempt, verdict, payload, len(waits_for))
        for connection in waits_for:
            connection.on_commit(completion.committed, robust=True)
            # Before the application's own hooks: one that raises takes those after it away, and the commit stands.
            connection.run_on_commit.insert(0, connection.run_on_commit.pop())
    return bool(waits_for)


def _is_open(connection: Any) -> bool:
    """Whether an atomic block is open; those that Django's ``TestCase`` puts around a test never commit."""
    return connection.in_atomic_block and not all(
        getattr(block, "_from_testcase", False) for block in connection.atomic_blocks
    )


class _Completion:
    """Completes an attempt at the last of several commits. Only what waits for them holds it."""

    def __init__(self, attempt: _native.Attempt, verdict: str, payload: bytes | None, commits: int) -> None:
        self._attempt = attempt
        self._settlement = (verdict, payload)
        self._commits = commits

    def committed(self) -> None:
        """One more transaction is committed."""
        self._commits -= 1
        if not self._commits:
            self._attempt.settle(*self._settlement)

    def __del__(self) -> None:
        if self._commits:
            self._attempt.settle_later("fail")
