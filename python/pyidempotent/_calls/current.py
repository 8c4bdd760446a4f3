"""`current`: the attempt that the running code belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

from pyidempotent._native import CurrentAttempt

__all__ = ["CurrentAttempt", "Scope", "current"]


#: What is done: a function's name, or ``(method, path)`` of a request.
Operation: TypeAlias = str | tuple[str, bytes]


@dataclass(frozen=True)
class Scope:
    """Where a key means something.

    Parameters:
        namespace: keeps applications apart that share a store.
        operation: what is done.
        caller: who asks, as bytes; ``None`` is the anonymous scope.
    """

    namespace: str
    operation: Operation
    caller: bytes | None


_current: ContextVar[CurrentAttempt | None] = ContextVar("pyidempotent_current", default=None)

#: The fence of the attempt that ASGI middleware holds here, for what is below a bridge to WSGI.
asgi_fence: ContextVar[int | None] = ContextVar("pyidempotent_asgi_fence", default=None)


def current() -> CurrentAttempt:
    """The attempt that the running code belongs to.

    Raises:
        RuntimeError: where no protected function is running.

    >>> from pyidempotent import current, idempotent
    >>> @idempotent("memory://", key="order")
    ... def charge(order: str) -> str:
    ...     return current().key
    >>> charge("order-7")
    'order-7'
    """
    found = _current.get()
    if found is None:
        raise RuntimeError(
            "current() finds no attempt here: this code does not run inside an @idempotent function or an attempt(), "
            "or its request came without a key, which middleware refuses only with required=True"
        )
    return found
