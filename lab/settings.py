"""What the lab's clients ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

#: How many calls of one client may be without an answer: a process that stands still gives none.
MOST_OPEN = 8


@dataclass(frozen=True)
class Settings:
    """What clients ask for.

    Parameters:
        operations: how many, each repeated until it is answered.
        clients: how many at once.
        workers: how many processes.
        lease, time_limit: of the product, in seconds.
        ttls: the lives of results, in seconds; the processes take them in turn.
        pause: between a client's repeats, in seconds.
        patience: how long a client waits for an answer before it asks again all the same, in seconds.
        longest: the longest that a body works, in seconds.
        refuse: the share of operations that are under ``after_crash="refuse"``.
        fates: what becomes of bodies, and how often: ``raises``, ``releases``, ``dies first``, ``dies last``.
        probes: the share of operations whose key is tried with another payload.
        twins: the share of operations whose key another caller uses too, or another operation.
        gives_up: after how many seconds a client has waited for too long.
    """

    operations: int = 200
    clients: int = 24
    workers: int = 4
    lease: float = 1.0
    time_limit: float = 0.5
    ttls: tuple[float, ...] = (600.0,)
    pause: float = 0.15
    patience: float = 0.4
    longest: float = 0.5
    refuse: float = 0.3
    fates: tuple[tuple[str, float], ...] = (("raises", 0.06), ("releases", 0.03))
    probes: float = 0.2
    twins: float = 0.1
    gives_up: float = 60.0

    def but(self, **changes: Any) -> Settings:
        """These with some others."""
        return replace(self, **changes)
