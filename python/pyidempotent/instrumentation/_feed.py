"""What has been added up in Rust, on its way to a library of metrics: a protected call costs no Python for it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TypeAlias

from pyidempotent import _native
from pyidempotent._lifecycle import at_end

__all__ = ["Feed", "Row", "every"]

logger = logging.getLogger("pyidempotent")

#: A metric's name, the values of its labels, and what is added to it; of a histogram how many values each bucket got,
#: and their sum.
Row: TypeAlias = tuple[str, tuple[str, ...], float | tuple[list[int], float]]

#: How often what has been added up is handed over, in seconds.
_EACH = 1.0

#: How long a scrape waits for events that are on their way, in seconds.
_PATIENCE = 1.0


class Feed:
    """Hands over what has changed: each second, when it is asked to, and at the end; in forked children too.

    Parameters:
        deliver: takes the rows. It runs on any thread, one call at a time.
        lock: held meanwhile, and over a fork: nobody is inside the library's own locks then. The thread that forks may
            have it.
    """

    def __init__(self, deliver: Callable[[list[Row]], object], lock: threading.RLock | None = None) -> None:
        self._deliver = deliver
        self.lock = lock or threading.RLock()
        self._totals = _native.Totals()
        self._has_failed = False
        self._stopped = threading.Event()
        _feeds.append(self)
        self.start()

    def start(self) -> None:
        """Begins to hand over each second."""
        every(_EACH, self.tick, self._stopped, "idempotency-metrics")

    def flush(self, limit: float = _PATIENCE) -> bool:
        """Hands over all that has happened; whether that was to be had within ``limit`` seconds."""
        all_told = _native.flush_events(limit)
        self.tick()
        return all_told

    def tick(self) -> None:
        """Hands over what is there."""
        with self.lock:
            rows = self._totals.take()
            if not rows:
                return
            try:
                self._deliver(rows)
                self._has_failed = False
            except Exception:
                if not self._has_failed:
                    self._has_failed = True
                    logger.exception("metrics could not be handed over, and some are lost; said once until they can")

    def stop(self) -> None:
        """Hands over what is there, and nothing more."""
        self.flush()
        self._totals.stop()
        self._stopped.set()
        if self in _feeds:
            _feeds.remove(self)


def every(seconds: float, work: Callable[[], object], stopped: threading.Event, name: str) -> None:
    """Does something now and then on a thread of its own, until it is stopped."""

    def run() -> None:
        while not stopped.wait(seconds):
            work()

    threading.Thread(target=run, name=name, daemon=True).start()


_feeds: list[Feed] = []

#: Whose locks are held while this process forks.
_held: list[Feed] = []


def _before_fork() -> None:
    _held[:] = _feeds
    for feed in _held:
        feed.lock.acquire()


def _after_fork() -> None:
    for feed in _held:
        feed.lock.release()
    _held.clear()


def _after_fork_in_child() -> None:
    _after_fork()
    for feed in _feeds:
        feed.start()


def _end() -> None:
    for feed in list(_feeds):
        feed.tick()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
at_end(_end)
