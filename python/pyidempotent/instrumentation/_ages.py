"""The ages of a store's oldest unfinished records, by a look at it now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Protocol

from pyidempotent._values.durations import seconds
from pyidempotent.backends import Backend, StoredRecord, open_backend
from pyidempotent.instrumentation._feed import every

__all__ = ["Ages", "Watch", "oldest"]


class Ages(Protocol):
    """What takes the ages."""

    def set_age(self, name: str, store: str, age: float) -> None:
        """The age of a store's oldest record, in seconds."""

    def add(self, name: str, *labels: str) -> None:
        """Counts one more."""


class Watch:
    """Looks at a store now and then, on a thread, until it is stopped; not in forked children, of which each would.

    Parameters:
        backend: a backend or its URL.
        pause: how often, in seconds.
        limit: how many unfinished records are looked at.
        ages: what takes the ages.
    """

    def __init__(self, backend: Backend | str, pause: float | timedelta, limit: int, ages: Ages) -> None:
        if not (pause := seconds("every", pause)):
            raise ValueError("every must be more than 0 seconds")
        self._backend = open_backend(backend) if isinstance(backend, str) else backend
        self._store = self._backend.native.kind
        self._limit = limit
        self._ages = ages
        self._stopped = threading.Event()
        every(pause, self.look, self._stopped, "idempotency-ages")

    def look(self) -> None:
        """Looks once."""
        try:
            ages = oldest(self._backend.unfinished(self._limit), time.time())
        except Exception:
            self._ages.add("idempotency_looks_failed", self._store)
        else:
            for state, age in ages.items():
                self._ages.set_age(f"idempotency_oldest_{state}_seconds", self._store, age)

    def stop(self) -> None:
        """Looks no more."""
        self._stopped.set()


def oldest(records: Iterable[StoredRecord], now: float) -> dict[str, float]:
    """The ages of the oldest unknown record and of the oldest other one; 0 where there is none."""
    ages = {"in_flight": 0.0, "unknown": 0.0}
    for record in records:
        state = "unknown" if record.state == "unknown" else "in_flight"
        # The fence is the store's clock at the claim, in microseconds, unless that stood still.
        ages[state] = max(ages[state], now - record.fence / 1e6)
    return ages
