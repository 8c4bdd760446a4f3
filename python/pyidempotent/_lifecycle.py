"""What belongs to the process: the log that the engine writes to, and `drain`, which waits for what is on its way."""

from __future__ import annotations

import logging
from datetime import timedelta

from pyidempotent import _native
from pyidempotent._values.durations import seconds

__all__ = ["drain", "logger"]

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
