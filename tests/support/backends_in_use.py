"""A backend that can be used, seen by what it does."""

from __future__ import annotations

import uuid

from pyidempotent import idempotent
from pyidempotent.backends import Backend


def runs_once(backend: Backend) -> None:
    """A function runs for its first call, and is replayed for the second."""
    ran = []

    @idempotent(backend, key="order")
    def charge(order: str) -> str:
        ran.append(order)
        return order

    order = str(uuid.uuid4())
    assert [charge(order), charge(order)] == [order, order]
    assert ran == [order]
