"""What can go wrong, each with its HTTP answer (RFC 9457 problem details)."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from pyidempotent import _native

__all__ = [
    "IdempotencyConflict",
    "IdempotencyError",
    "IdempotencyKeyInvalid",
    "IdempotencyKeyMissing",
    "IdempotencyNotKept",
    "IdempotencyPayloadTooLarge",
    "IdempotencyProcessing",
    "IdempotencyScopeMissing",
    "IdempotencyStoreUnavailable",
    "IdempotencyUnknown",
]

#: The status table of the engine: name -> (status, effect, detail).
_REFUSALS = _native.refusals()


class IdempotencyError(Exception):
    """The base of every error of this package that has an HTTP answer.

    Parameters:
        detail: what went wrong here, in words; each class has its own default.
        retry_after: seconds after which a repeat makes sense, where one does.
        parameters: members of the problem document beside the standard ones.
    """

    #: The row of the status table.
    name: ClassVar[str] = "store-unavailable"
    #: The default message.
    default_detail: ClassVar[str] = ""

    #: What was asked for, where that is known: the name of a function, or method and path.
    operation: str | None = None
    #: The record's short id, by which the log names it too. The key itself is never in it.
    record_id: str | None = None

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            cls.default_detail = _REFUSALS[cls.name][2]

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None, **parameters: Any) -> None:
        self.detail = detail or self.default_detail
        self.retry_after = retry_after
        self.parameters = parameters
        super().__init__(self.detail)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _REFUSALS[self.name][0]

    @property
    def effect(self) -> str:
        """What became of the effect: ``none``, ``running``, ``done`` or ``unknown``."""
        return _REFUSALS[self.name][1]

    def problem(self, instance: str | None = None) -> dict[str, Any]:
        """The problem document (RFC 9457), ready for ``json.dumps``.

        >>> IdempotencyConflict().problem("/pay")["status"]
        422
        """
        problem: dict[str, Any] = json.loads(self._answer(instance).body)
        return problem

    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        lines = self._answer().headers
        return {name.decode(): value.decode() for name, value in lines if name != b"content-length"}

    def _answer(self, instance: str | None = None, docs: str | None = None) -> _native.Answer:
        parameters = json.dumps(self.parameters)
        return _native.problem(self.name, self._told(), self.retry_after, parameters, instance, docs)

    def _told(self) -> str | None:
        """What the client is told; None: the words of the table."""
        return self.detail


class IdempotencyKeyMissing(IdempotencyError):
    """400: a key is required, and there is none."""

    name = "key-missing"


class IdempotencyKeyInvalid(IdempotencyError):
    """400: the key is malformed. Nothing ran."""

    name = "key-invalid"


class IdempotencyProcessing(IdempotencyError):
    """409: the first attempt still runs. A repeat later gets its answer."""

    name = "processing"


class IdempotencyUnknown(IdempotencyError):
    """409: the first attempt ended in a way that leaves its effect unknown; an operator must resolve the key."""

    name = "unknown"


class IdempotencyNotKept(IdempotencyError):
    """410: the first attempt is done, and its answer could not be kept. Nothing runs again."""

    name = "not-kept"


class IdempotencyScopeMissing(IdempotencyError):
    """500: the request carries credentials, and nothing says whose the key is. Nothing ran."""

    name = "scope-missing"


class IdempotencyPayloadTooLarge(IdempotencyError):
    """413: the body is over ``max_request_bytes``. Nothing ran."""

    name = "payload-too-large"


class IdempotencyConflict(IdempotencyError):
    """422: the key was used with another payload. Nothing ran."""

    name = "conflict"


class IdempotencyStoreUnavailable(IdempotencyError):
    """503: the store could not be asked, or could not answer in time. Nothing ran; ``__cause__`` says more.

    ``retry_after`` is None where waiting mends nothing: a wrong password, a missing permission, a server that is too
    old, a record of a newer version.
    """

    name = "store-unavailable"

    def __init__(self, detail: str | None = None, *, retry_after: float | None = 1.0, **parameters: Any) -> None:
        super().__init__(detail or "The store can't be reached.", retry_after=retry_after, **parameters)

    def _told(self) -> None:
        """What exactly failed is for the log, not for the client."""
