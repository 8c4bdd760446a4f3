"""Records in this process: for tests, and for services that are one process."""

from __future__ import annotations

from pyidempotent import _native
from pyidempotent.backends._backend import Backend
from pyidempotent.backends.seal import Sealing, sealing

__all__ = ["MemoryBackend"]


class MemoryBackend(Backend):
    """Records in this process. A forked child starts with none.

    Parameters:
        max_entries: the most records; a claim over it is an `IdempotencyStoreUnavailable` that says "full".
        max_bytes: the most bytes, about.
        seal: the keys that results are encrypted with before they leave the process: a `Seal`, or what makes one.

    >>> from pyidempotent import idempotent
    >>> @idempotent(MemoryBackend(), key="order")
    ... def charge(order: str) -> str:
    ...     return f"charged {order}"
    >>> charge("7") == charge("7")
    True
    """

    def __init__(self, *, max_entries: int = 1_000_000, max_bytes: int = 1024**3, seal: Sealing | None = None) -> None:
        for name, limit in (("max_entries", max_entries), ("max_bytes", max_bytes)):
            if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
                raise ValueError(f"{name} must be a number of 1 or more, not {limit!r}")
        super().__init__(_native.Backend.memory(max_entries, max_bytes, sealing(seal)))
