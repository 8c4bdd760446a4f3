"""What every process of the lab that runs bodies has in common: the store, and the file of effects.

Imports no framework, and reads no options: `lab.worker`, `lab.flask_app` and `lab.celery_app` do.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from pyidempotent import IdempotencyError, current
from pyidempotent.backends import Backend
from pyidempotent.backends.postgres import PostgresBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.backends.sqlite import SqliteBackend


class Failed(Exception):
    """What a body raises that fails."""


def open_effects(path: str) -> int:
    """The file of effects, for `write`."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def write(file: int, *what: Any) -> None:
    """One line in one write, which nobody else's comes between."""
    os.write(file, json.dumps(what).encode() + b"\n")


def die(file: int, *word: Any) -> None:
    """Kills this process, after a word of that: ``["dies", *word, at]``."""
    write(file, "dies", *word, time.monotonic())
    os.kill(os.getpid(), signal.SIGKILL)


def begin(file: int, call: dict[str, Any]) -> None:
    """A body begins: the first line of its effect."""
    who = (call["operation"], call["caller"], call["key"], call["payload"])
    write(file, "began", call["number"], *who, current().fence, os.getpid(), time.monotonic())


def end(file: int, call: dict[str, Any]) -> bool:
    """A body ends as its fate says: the second line of its effect. Whether it is to raise `Failed`."""
    ends = {"raises": "raised", "releases": "released"}.get(call["fate"], "returned")
    if ends == "released":
        current().release()
    write(file, "ended", call["number"], time.monotonic(), ends)
    return ends == "raised"


def outcome(error: BaseException) -> str:
    """What a history calls this end of a call."""
    if isinstance(error, Failed):
        return "raised"
    return type(error).__name__ if isinstance(error, IdempotencyError) else repr(error)


def store(url: str, time_limit: float, prefix: str = "") -> Backend:
    """The store at a URL.

    Parameters:
        url: of any of the three.
        time_limit: of an operation, in seconds.
        prefix: of keys on Redis, where it is not the product's own.
    """
    if url.startswith("sqlite:///"):
        return SqliteBackend(url.removeprefix("sqlite:///"), time_limit=time_limit)
    if not url.startswith("redis"):
        return PostgresBackend(url, time_limit=time_limit)
    return (
        RedisBackend(url, time_limit=time_limit, prefix=prefix) if prefix else RedisBackend(url, time_limit=time_limit)
    )
