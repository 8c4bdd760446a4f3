"""What every process of the lab that runs bodies has in common: the store, and the file of effects.

Imports no framework, and reads no options: `lab.worker`, `lab.flask_app` and `lab.celery_app` do.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from pyidempotent import IdempotencyError, current
from pyidempotent.backends import Backend
from pyidempotent.backends.postgres import PostgresBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.backends.sqlite import SqliteBackend


def process(pid: int | None = None) -> int:
    """A number that no other process of this machine has had since it was started: pids come again.

    Parameters:
        pid: the process's, by default this one's.

    Raises:
        OSError: there is no such process.
    """
    pid = pid or os.getpid()
    with open(f"/proc/{pid}/stat") as file:
        # Its name, in brackets, may have spaces; the start, in ticks of the clock, is the 20th word after it.
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return ticks * 2**22 + pid


#: The processes, this one and those it was forked from, whose pauses are noticed.
_watched: set[int] = set()


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


def notice_pauses(lease: float, notice: Callable[[float, float], None]) -> None:
    """Says for how long this process was not scheduled, whoever kept it from that; does not return.

    Parameters:
        lease: in seconds. Nobody may take a fifth of it for a slow machine: a lease is renewed at a third.
        notice: is told from when to when.
    """
    last = time.monotonic()
    while True:
        time.sleep(lease / 20)
        now = time.monotonic()
        if now - last > lease / 5:
            notice(last, now)
        last = now


def take(file: int, call: dict[str, Any], lease: float) -> None:
    """Writes down that this process has a call, and from its first one on its pauses."""
    if os.getpid() not in _watched:
        _watched.add(os.getpid())

        def notice(began: float, ended: float) -> None:
            write(file, "paused", process(), began, ended)

        threading.Thread(target=notice_pauses, args=(lease, notice), daemon=True).start()
    who = (call["operation"], call["caller"], call["key"], call["payload"], call["policy"])
    write(file, "took", call["number"], *who, process(), time.monotonic())


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
