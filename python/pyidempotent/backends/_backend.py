"""`Backend`: a store, and what an operator sees of it."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection
from typing import Any, ClassVar

from pyidempotent import _native
from pyidempotent._values.parts import EVERY
from pyidempotent._values.results import ANSWER, VALUE, Answer, pack_answer

__all__ = ["Backend", "RecordPage", "StoredRecord"]

#: What is done, as an operator names it.
OperationName = str | tuple[str, bytes] | tuple[str, str]

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
        id: what names its key in every call for operators, where the key itself is not known.
        ttl_left: seconds for which a listed record is still kept; ``None``: until somebody removes it, or not known.
        size: the bytes of a listed record; ``None``: not known.
    """

    label: str
    state: str
    fence: int
    lease_left: float
    result: bytes
    id: str
    ttl_left: float | None = None
    size: int | None = None

    @property
    def begun(self) -> datetime.datetime:
        """When its attempt began, by the store's clock: a fence is the time of its claim, in microseconds."""
        return datetime.datetime.fromtimestamp(self.fence / 1e6, datetime.timezone.utc)

    @property
    def answer(self) -> Answer | None:
        """The stored result as an HTTP answer, where it is one."""
        if self.state != "completed" or self.result[:1] != ANSWER:
            return None
        return Answer.decode(self.result[1:])


@dataclasses.dataclass(frozen=True)
class RecordPage:
    """Some of a store's records.

    Parameters:
        records: without their results, in no order. One that moves between servers meanwhile may be in two pages.
        next: where the next page begins, for ``after=``; ``None``: this was the last.
    """

    records: list[StoredRecord]
    next: str | None


#: The states as they are stored: a lapsed record is one in flight that is late.
_LETTERS = {"in flight": "F", "lapsed": "F", "unknown": "U", "completed": "C", "not kept": "N"}


class Backend:
    """A store, shared by every call site it is passed to. Immutable.

    `get`, `unfinished`, `records`, `resolve` and `purge` are for operators. A key is named the way it was used: the
    ``operation`` is the function's qualified name (``"shop.orders.charge"``), or method and path of the request
    (``("POST", "/pay")``); or by the ``id`` of its record.
    """

    #: One store per process for equal settings.
    _shared: ClassVar[dict[tuple[Any, ...], _native.Backend]] = {}

    #: Whether it was said that other workers don't see what ``memory://`` keeps.
    _has_warned: ClassVar[bool] = False

    def __init__(self, native: _native.Backend) -> None:
        self.native = native

    def _storage_key(
        self,
        key: str | None,
        operation: OperationName | None,
        caller: str | bytes | None,
        namespace: str,
        id: str | None,
    ) -> bytes:
        if id is not None:
            try:
                named = bytes.fromhex(id)
            except (TypeError, ValueError):
                named = b""
            if len(named) != 32:
                raise ValueError(f"{id!r} is not the id of a record, which has 64 hexadecimal digits")
            return named
        if key is None or operation is None:
            raise TypeError("say which record: its key and its operation, or its id")
        options: dict[str, Any] = {"ttl": 1.0, "lease": None, "wait": 0.0, "run_limit": None}
        engine = _native.Engine(self.native, **options, refuse_after_crash=False, namespace=namespace)
        if isinstance(operation, tuple):
            method, path = operation
            operation = (method, path.encode() if isinstance(path, str) else path)
        return engine.storage_key(operation, caller.encode() if isinstance(caller, str) else caller, key)

    def get(
        self,
        key: str | None = None,
        *,
        operation: OperationName | None = None,
        caller: str | bytes | None = None,
        namespace: str = "",
        id: str | None = None,
    ) -> StoredRecord | None:
        """What stands under a key.

        >>> from pyidempotent.backends.memory import MemoryBackend
        >>> MemoryBackend().get("order-7", operation="shop.charge") is None
        True
        """
        storage_key = self._storage_key(key, operation, caller, namespace, id)
        found = self.native.get(storage_key)
        return None if found is None else StoredRecord(*found, storage_key.hex())

    def unfinished(self, limit: int = 1000) -> list[StoredRecord]:
        """What has no result yet: in flight, lapsed or unknown; at most ``limit`` records, in no order.

        It looks at every record of the store. Records that end meanwhile may be left out.

        >>> from pyidempotent import attempt
        >>> from pyidempotent.backends.memory import MemoryBackend
        >>> backend = MemoryBackend()
        >>> with attempt(backend, key="evt_1", name="webhook"):
        ...     [(record.label, record.state) for record in backend.unfinished()]
        [('webhook evt_1', 'in flight')]
        """
        found: dict[str, StoredRecord] = {}
        after: str | None = None
        while True:
            page = self.records(states=("in flight", "lapsed", "unknown"), limit=limit, after=after)
            for record in page.records:
                if len(found) < limit:
                    found.setdefault(record.id, record)
            after = page.next
            if after is None or len(found) >= limit:
                return list(found.values())

    def records(
        self, *, states: Collection[str] = tuple(_LETTERS), limit: int = 1000, after: str | None = None
    ) -> RecordPage:
        """A page of its records, without their results.

        All pages together look at every record of the store.

        Parameters:
            states: of which `StoredRecord.state`.
            limit: a page ends when it has so many records. A store that finds them in steps may add a few hundred.
            after: the `RecordPage.next` of the page before.

        >>> from pyidempotent import attempt
        >>> from pyidempotent.backends.memory import MemoryBackend
        >>> backend = MemoryBackend()
        >>> with attempt(backend, key="evt_1", name="webhook"):
        ...     pass
        >>> [(record.label, record.state) for record in backend.records(states=["completed"]).records]
        [('webhook evt_1', 'completed')]
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit must be a number of 1 or more, not {limit!r}")
        wanted = {states} if isinstance(states, str) else set(states)
        if unknown := wanted - set(_LETTERS):
            raise ValueError(f"there is no state {sorted(unknown)[0]!r}; there are {', '.join(_LETTERS)}")
        letters = "".join(sorted({_LETTERS[state] for state in wanted}))
        listed, following = self.native.list(letters, after, limit)
        records = (StoredRecord(*found, key.hex(), ttl_left, size) for key, found, ttl_left, size in listed)
        return RecordPage([record for record in records if record.state in wanted], following)

    def resolve(
        self,
        key: str | None = None,
        *,
        fence: int,
        operation: OperationName | None = None,
        caller: str | bytes | None = None,
        namespace: str = "",
        id: str | None = None,
        result: Any = _KEEP,
        force: bool = False,
    ) -> bool:
        """An operator's word on an unknown outcome: with a ``result`` the key is completed, without one it is free.

        Parameters:
            fence: the fence of the record that you looked at.
            result: the value of a function, or the `Answer` to a request.
            force: resolves a claim whose attempt still runs, or a stored result, too. Without it only a record that is
                unknown or lapsed is resolved: the one that you looked at may have ended since, or come back to life.

        An attempt that still runs after its record was completed here stores nothing. One whose record was freed may
        still store its end until its lease ends, unless another record stands there: what has had its effect is not to
        be run again. Look once more after the lease.

        Returns whether the record was resolved. Nothing changes otherwise.
        """
        storage_key = self._storage_key(key, operation, caller, namespace, id)
        return self.native.resolve(storage_key, fence, None if result is _KEEP else _payload(result), force)

    def purge(self) -> int:
        """Removes what has expired from a store that does not do it by itself; how many records."""
        return self.native.purge()


def _payload(result: Any) -> bytes:
    if isinstance(result, Answer):
        return pack_answer(result)
    return VALUE + _native.encode(result, EVERY)
