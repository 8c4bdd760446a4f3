"""A backend of your own: records in whatever can keep a value under a key."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any, TypeVar

from pyidempotent import _native
from pyidempotent._native import Step, TooLarge, expires_at
from pyidempotent.backends._backend import Backend

__all__ = ["CustomBackend", "Step", "TooLarge", "expires_at"]

_Self = TypeVar("_Self", bound="CustomBackend")


class CustomBackend(Backend, abc.ABC):
    """Records in a store that you bring: write `claim`, `renew`, `complete` and `release`.

    Each of the four is given a storage key (32 bytes) and a step, and does the same with them, **in one atomic step
    of the store**: it reads the value that stands under the key, calls the step with it (``None`` where there is
    none), and lets stand there what the step returns (``None``: nothing). So one method does for all four; they are
    four because a store may have a cheaper way to do one of them.

    The values are opaque bytes. A step may be called again with another value, by a store that compares and sets:
    the last call counts. What makes it atomic is yours: a lock, a transaction, a row locked for update, a
    comparison. Two claims that read the same value and both write are two charges.

    The methods are called on threads of the engine's own, several at a time: no event loop is blocked, and what they
    keep in `threading.local` is kept. A lock that another thread holds at a fork is locked forever in the
    child: make it anew there (`os.register_at_fork`). An exception reaches the caller as the cause of an
    `IdempotencyStoreUnavailable`; `TooLarge` says that the store can never take a value. A method that does not return
    within `time_limit` seconds has failed for its caller, and goes on. `get` and `resolve` go through `claim`; `purge`
    does nothing, and nothing can be listed, unless you write `purge` and `items`. What is wrong with a backend,
    `pyidempotent.testing.check_backend` says.

    Leases and expiry are judged by ``time.time()`` of this machine. Where several machines share the store, give the
    step the store's own clock: ``step(value, now=seconds_since_1970)``.

    >>> import threading
    >>> class DictBackend(CustomBackend):
    ...     def __init__(self) -> None:
    ...         self._lock = threading.Lock()
    ...         self._values: dict[bytes, bytes] = {}
    ...
    ...     def claim(self, key: bytes, step: Step) -> None:
    ...         with self._lock:
    ...             value = step(self._values.get(key))
    ...             if value is None:
    ...                 self._values.pop(key, None)
    ...             else:
    ...                 self._values[key] = value
    ...
    ...     renew = complete = release = claim
    >>> from pyidempotent import idempotent
    >>> @idempotent(DictBackend(), key="order")
    ... def charge(order: str) -> str:
    ...     print("charging")
    ...     return "charged"
    >>> charge("7"), charge("7")
    charging
    ('charged', 'charged')
    """

    #: The longest that a method may take, in seconds. Set it in your class.
    time_limit: float = 5.0

    def __new__(cls: type[_Self], *args: Any, **kwargs: Any) -> _Self:
        """The engine's side of it is made here, so that an ``__init__`` of yours need not know of it."""
        backend = super().__new__(cls)
        backend.native = _native.Backend.custom(backend, cls.time_limit)
        return backend

    def __init__(self) -> None:
        pass

    @abc.abstractmethod
    def claim(self, key: bytes, step: Step) -> None:
        """Applies a step that claims the key; also one that reads or resolves it, for operators."""

    @abc.abstractmethod
    def renew(self, key: bytes, step: Step) -> None:
        """Applies a step that starts an attempt's lease anew."""

    @abc.abstractmethod
    def complete(self, key: bytes, step: Step) -> None:
        """Applies a step that stores an attempt's result."""

    @abc.abstractmethod
    def release(self, key: bytes, step: Step) -> None:
        """Applies a step that gives an attempt's claim back."""

    def purge(self) -> int:
        """Removes the values that have expired (see `expires_at`), if the store does not do it by itself; how many."""
        return 0

    def items(self, after: bytes | None, limit: int) -> Iterable[tuple[bytes, bytes]]:
        """Storage keys and values in the order of keys, the expired ones too: for `unfinished` and `records`.

        Parameters:
            after: begins behind this key; ``None``: with the first.
            limit: the most pairs. Fewer say that there are no more.
        """
        raise NotImplementedError("this store can't list its records: write items()")
