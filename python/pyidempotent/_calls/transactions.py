"""Completions that wait for a transaction of Django's: what is rolled back has not been done.

Knows Django without importing it: a transaction of it is only open where it is imported.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pyidempotent import _native


def settle_on_commit(completion: _native.Completion) -> bool:
    """Leaves a completion to the commit, where an atomic block is open on this thread; whether it did.

    Nobody is told of a rollback, but Django drops what waited for the commit: then the attempt has failed.
    """
    from django.conf import settings
    from django.db import connections

    if not settings.configured:
        return False
    waits_for = [connection for connection in connections.all(initialized_only=True) if _is_open(connection)]
    if waits_for:
        waiting = _Waiting(completion, len(waits_for))
        for connection in waits_for:
            connection.on_commit(waiting.committed, robust=True)
            # Before the application's own hooks: one that raises takes those after it away, and the commit stands.
            connection.run_on_commit.insert(0, connection.run_on_commit.pop())
    return bool(waits_for)


def _is_open(connection: Any) -> bool:
    """Whether an atomic block is open; those that Django's ``TestCase`` puts around a test never commit."""
    return connection.in_atomic_block and not all(
        getattr(block, "_from_testcase", False) for block in connection.atomic_blocks
    )


class _Waiting:
    """Completes an attempt at the last of several commits. Only what waits for them holds it."""

    def __init__(self, completion: _native.Completion, commits: int) -> None:
        self._completion = completion
        self._commits = commits

    def committed(self) -> None:
        """One more transaction is committed."""
        self._commits -= 1
        if not self._commits:
            self._completion.settle()

    def __del__(self) -> None:
        if self._commits:
            # On the thread that rolls back, so that the key is free before its answer goes out.
            self._completion.fail(waits=asyncio._get_running_loop() is None)
