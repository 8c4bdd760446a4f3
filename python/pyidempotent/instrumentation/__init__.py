"""What happens to calls, attempts and stores, told to observers: `observe`. `prometheus` and `opentelemetry` are such.

Every event is told once, on a thread of its own. An observer that is slow or raises harms no call.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from pyidempotent import _native
from pyidempotent._native import Event, Observation
from pyidempotent._values.durations import seconds

__all__ = ["Event", "Observation", "dropped", "flush", "observe"]


def observe(observer: Callable[[Event], object]) -> Observation:
    """Calls ``observer`` with every event of this process from now on, and of its forked children.

    It is called on a thread of its own, one event at a time. 10,000 events wait for it at the most; what comes beyond
    that is counted by `dropped`. What it raises goes to `sys.unraisablehook`.

    Returns what ends it: ``stop()``.

    >>> from pyidempotent import idempotent
    >>> from pyidempotent.backends.memory import MemoryBackend
    >>> seen = []
    >>> observation = observe(lambda event: seen.append((event.name, event.operation)))
    >>> @idempotent(backend=MemoryBackend(), key=lambda order: order, name="observed.charge")
    ... def charge(order):
    ...     return "charged"
    >>> charge("order-7"), charge("order-7")
    ('charged', 'charged')
    >>> flush()
    True
    >>> observation.stop()
    >>> [name for name, operation in seen if operation == "observed.charge"]
    ['claimed', 'completed', 'replayed']
    """
    if not callable(observer):
        raise TypeError(f"observe() takes a callable, which gets each event, not {observer!r}")
    return _native.observe(observer)


def flush(limit: float | timedelta = 5.0) -> bool:
    """Waits until observers were told of all that has happened. For tests; at the interpreter's exit it is done anyway.

    Parameters:
        limit: the longest to wait, in seconds.

    Returns whether they were.
    """
    return _native.flush_events(seconds("limit", limit))


def dropped() -> int:
    """How many events found no room, because an observer was too slow."""
    return _native.dropped_events()
