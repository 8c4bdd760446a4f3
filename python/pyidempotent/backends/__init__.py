"""Where records live.

A URL is accepted wherever a backend is: ``redis://…``, ``rediss://…``, ``unix://…``, ``sqlite:///path``,
``memory://``. Equal URLs share one store per process. Making a backend does no I/O.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar
from urllib.parse import unquote

from pyidempotent import _native
from pyidempotent._current import Operation

__all__ = ["Backend", "StoredRecord", "open_backend"]

_KEEP = object()


@dataclasses.dataclass(frozen=True)
class StoredRecord:
    """What stands under a key, for an operator.

    Parameters:
        label: the operation and the key in words.
        state: ``in flight``, ``lapsed``, ``completed``, ``not kept`` or ``unknown``.
        fence: the number by which `Backend.resolve` names this very record.
        lease_left: seconds until the lease of an attempt in flight ends.
        result: the stored form of the result.
    """

    label: str
    state: str
    fence: int
    lease_left: float
    result: bytes


class Backend:
    """A store, shared by every call site it is passed to. Immutable.

    `get`, `resolve` and `purge` are for operators; each names a key the way it was used: the ``operation`` is the
    function's qualified name (``"shop.orders.charge"``), or method and path of the request (``("POST", "/pay")``).
    """

    #: One store per process for equal settings.
    _shared: ClassVar[dict[tuple[Any, ...], _native.Backend]] = {}

    def __init__(self, native: _native.Backend) -> None:
        self.native = native

    @staticmethod
    def _storage_key(
        native: _native.Backend, key: str, operation: Operation, caller: str | bytes | None, namespace: str
    ) -> bytes:
        options: dict[str, Any] = {"ttl": 1.0, "lease": None, "wait": 0.0, "run_limit": None}
        engine = _native.Engine(native, **options, refuse_after_crash=False, namespace=namespace)
        if isinstance(operation, tuple):
            method, path = operation
            operation = (method, path.encode() if isinstance(path, str) else path)
        return engine.storage_key(operation, caller.encode() if isinstance(caller, str) else caller, key)

    def get(
        self,
        key: str,
        *,
        operation: str | tuple[str, bytes] | tuple[str, str],
        caller: str | bytes | None = None,
        namespace: str = "",
    ) -> StoredRecord | None:
        """What stands under a key.

        >>> from pyidempotent.backends.memory import MemoryBackend
        >>> MemoryBackend().get("order-7", operation="shop.charge") is None
        True
        """
        found = self.native.get(self._storage_key(self.native, key, operation, caller, namespace))  # type: ignore[arg-type]  # a str path is encoded there
        return None if found is None else StoredRecord(*found)

    def resolve(
        self,
        key: str,
        *,
        fence: int,
        operation: str | tuple[str, bytes] | tuple[str, str],
        caller: str | bytes | None = None,
        namespace: str = "",
        result: Any = _KEEP,
    ) -> bool:
        """An operator's word on an unknown outcome: with a ``result`` the key is completed, without one it is free.

        Returns whether the record of exactly this fence was there; nothing changes otherwise.
        """
        payload = None if result is _KEEP else b"V" + _native.encode(result, {})
        storage_key = self._storage_key(self.native, key, operation, caller, namespace)  # type: ignore[arg-type]  # as above
        return self.native.resolve(storage_key, fence, payload)

    def purge(self) -> int:
        """Removes what has expired from a store that does not do it by itself; how many records."""
        return self.native.purge()


def open_backend(backend: Backend | str) -> Backend:
    """The backend itself, or the one at a URL.

    Raises:
        TypeError: for anything that is not one.
        ValueError: for a URL that leads nowhere.
    """
    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise TypeError(_what_instead(backend))
    scheme, separator, rest = backend.partition("://")
    if not separator:
        raise ValueError(f"{backend!r} is not a URL; write redis://host, sqlite:///path or memory://")
    if scheme in ("redis", "rediss", "unix", "redis+unix"):
        from pyidempotent.backends.redis import RedisBackend

        return RedisBackend(backend)
    if scheme == "sqlite":
        from pyidempotent.backends.sqlite import SqliteBackend

        # As everywhere: three slashes are a relative path, four an absolute one.
        if not rest.startswith("/") or len(rest) < 2:
            raise ValueError(f"{backend!r} names no file; write sqlite:///relative.db or sqlite:////absolute.db")
        return SqliteBackend(unquote(rest[1:]))
    if scheme == "memory":
        from pyidempotent.backends.memory import MemoryBackend

        shared = Backend._shared.setdefault((backend,), MemoryBackend().native)
        return Backend(shared)
    raise ValueError(f"{backend!r}: there is no backend for {scheme}://; there are redis, rediss, unix, sqlite, memory")


def _what_instead(value: Any) -> str:
    module = type(value).__module__.partition(".")[0]
    if module == "redis":
        return "a Redis client is not a backend; wrap it: RedisBackend(client)"
    if all(hasattr(value, name) for name in ("claim", "renew", "complete", "release")):
        return f"derive {type(value).__name__} from pyidempotent.backends.custom.CustomBackend to make it a backend"
    if callable(value) and hasattr(value, "__name__"):
        return f"@idempotent wants its parentheses: @idempotent(backend=…) above {value.__name__}"
    return f"backend must be a backend or a URL like 'redis://localhost', not {type(value).__qualname__}"
