"""`current`: the attempt that the running code belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

from pyidempotent import _native

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


class CurrentAttempt:
    """The attempt that runs now, seen from inside."""

    __slots__ = ("_attempt", "_key", "_released", "_scope")

    def __init__(self, attempt: _native.Attempt, key: str, scope: tuple[str, Operation, bytes | None]) -> None:
        self._attempt = attempt
        self._released = False
        self._key = key
        self._scope = scope

    @property
    def key(self) -> str:
        """The idempotency key."""
        return self._key

    @property
    def scope(self) -> Scope:
        """The key's scope."""
        return Scope(*self._scope)

    @property
    def fence(self) -> int:
        """A number that is greater for every later attempt on this key: downstream can refuse a smaller one."""
        return self._attempt.fence

    @property
    def lost(self) -> bool:
        """Whether another attempt is known to have taken this one's place."""
        return self._attempt.lost

    def derive(self, name: str) -> str:
        """A key for a downstream call: the same for every attempt of this key, another for every ``name``."""
        return self._attempt.derive(name)

    def release(self) -> None:
        """Declares that nothing happened: the key is free again when the handler ends, however it ends."""
        self._released = True


_current: ContextVar[CurrentAttempt | None] = ContextVar("pyidempotent_current", default=None)


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
        raise RuntimeError("current() is for code that runs inside an @idempotent function or an attempt()")
    return found
