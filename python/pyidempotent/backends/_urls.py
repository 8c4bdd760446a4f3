"""`open_backend`: the backend at a URL."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any
from urllib.parse import unquote

from pyidempotent.backends._backend import Backend

logger = logging.getLogger("pyidempotent")


def open_backend(backend: Backend | str) -> Backend:
    """The backend itself, or the one at a URL.

    Raises:
        TypeError: for anything that is not one.
        ValueError: for a URL that leads nowhere.
    """
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise TypeError(_what_instead(backend))
    scheme, separator, rest = backend.partition("://")
    if not separator:
        raise ValueError(
            f"{_shown(backend)!r} is not a URL; write redis://host, postgresql://host, sqlite:///path or memory://"
        )
    if scheme.partition("+")[0] in ("redis", "rediss") or scheme == "unix":
        from pyidempotent.backends.redis import RedisBackend

        return RedisBackend(backend)
    if scheme.partition("+")[0] in ("postgresql", "postgres"):
        from pyidempotent.backends.postgres import PostgresBackend

        return PostgresBackend(backend)
    if scheme == "sqlite":
        from pyidempotent.backends.sqlite import SqliteBackend

        # As everywhere: three slashes are a relative path, four an absolute one.
        if not rest.startswith("/") or len(rest) < 2:
            raise ValueError(f"{backend!r} names no file; write sqlite:///relative.db or sqlite:////absolute.db")
        return SqliteBackend(unquote(rest[1:]))
    if scheme == "memory":
        from pyidempotent.backends.memory import MemoryBackend

        if (workers := _workers()) > 1:
            warn_of_memory(f"one of {workers} workers")
        shared = Backend._shared.setdefault((backend,), MemoryBackend().native)
        return Backend(shared)
    there_are = (
        "redis://, redis+sentinel://, redis+cluster://, rediss://, unix://, postgresql://, sqlite:// and memory://"
    )
    raise ValueError(f"{_shown(backend)!r}: no backend has URLs with {scheme}://; there are {there_are}")


def warn_of_memory(what: str) -> None:
    """Says once that other processes don't see what ``memory://`` keeps.

    Parameters:
        what: this process is.
    """
    if not Backend._has_warned:
        Backend._has_warned = True
        logger.warning(
            "memory:// keeps the keys of each process to itself, and this is %s: a repeat that another one gets runs "
            "again; use redis:// or, on one machine, sqlite:///path",
            what,
        )


def _workers() -> int:
    """How many workers the server was told to start: uvicorn, gunicorn, hypercorn, granian, ``fastapi run``."""
    program, *arguments = getattr(sys, "argv", None) or [""]
    if not any(server in program for server in ("uvicorn", "gunicorn", "hypercorn", "granian", "fastapi")):
        return 1  # their words may mean something else
    told = [os.environ.get("WEB_CONCURRENCY", "")]
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, value = argument.partition("=")
        if name in ("--workers", "-w"):
            told.append(value or following)
    return max((int(number) for number in told if number.isdecimal()), default=1)


def _shown(url: str) -> str:
    """A URL without its password."""
    return re.sub(r"(?<=:)[^/@].*(?=@)", "***", url)


def _what_instead(value: Any) -> str:
    module = type(value).__module__.partition(".")[0]
    if module == "redis":
        return "a Redis client is not a backend; wrap it: RedisBackend(client)"
    if all(hasattr(value, name) for name in ("claim", "renew", "complete", "release")):
        return f"derive {type(value).__name__} from pyidempotent.backends.custom.CustomBackend to make it a backend"
    if callable(value) and hasattr(value, "__name__"):
        return f"@idempotent wants its parentheses: @idempotent(backend=…) above {value.__name__}"
    return f"backend must be a backend or a URL like 'redis://localhost', not {type(value).__qualname__}"
