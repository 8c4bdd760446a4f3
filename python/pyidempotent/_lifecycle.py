"""What belongs to the process: the engine's log, `drain`, which waits for what is on its way, and the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from pyidempotent import _native
from pyidempotent._values.durations import seconds

__all__ = ["at_end", "drain", "end", "logger"]

#: The engine's lines go there too.
logger = logging.getLogger("pyidempotent")


async def drain(limit: float | timedelta = 5.0) -> bool:
    """Waits for completions and releases of this process that are still on their way to their stores.

    At the interpreter's exit this happens by itself. A server that ends by a signal, as uvicorn does after SIGTERM,
    leaves no exit: await this at the end of the application's lifespan. `pyidempotent.asgi.IdempotencyMiddleware` does.

    Parameters:
        limit: the longest to wait, in seconds.

    Returns whether all have ended.

    >>> from contextlib import asynccontextmanager
    >>> @asynccontextmanager
    ... async def lifespan(app):
    ...     yield
    ...     await drain()
    """
    return await _native.drain(seconds("limit", limit))


_at_end: list[Callable[[], object]] = []


def at_end(work: Callable[[], object]) -> None:
    """Does something at the end of the process, once all has happened that observers are told of."""
    _at_end.append(work)


def end() -> None:
    """The end of the process: what is on its way to the stores gets five seconds, and nothing calls Python then."""
    _native.shutdown(5.0)
    for work in _at_end:
        work()
