"""What can go wrong, each with its HTTP answer (RFC 9457 problem details)."""

from __future__ import annotations

import math
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

#: The status table of the engine: name -> (status, type, title, effect).
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
    #: The words, unless told.
    default_detail: ClassVar[str] = ""

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
        return _REFUSALS[self.name][3]

    def problem(self, instance: str | None = None) -> dict[str, Any]:
        """The problem document (RFC 9457), ready for ``json.dumps``.

        >>> IdempotencyConflict().problem("/pay")["status"]
        422
        """
        status, kind, title, effect = _REFUSALS[self.name]
        problem: dict[str, Any] = {"type": kind, "title": title, "status": status, "detail": self.detail}
        if instance is not None:
            problem["instance"] = instance
        return {**problem, "effect": effect, **self.parameters}

    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        headers = {"content-type": "application/problem+json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        return headers


class IdempotencyKeyMissing(IdempotencyError):
    """400: a key is required, and there is none."""

    name = "key-missing"
    default_detail = "This operation needs an Idempotency-Key header: a value of your choice, new for every operation."


class IdempotencyKeyInvalid(IdempotencyError):
    """400: the key is malformed. Nothing ran."""

    name = "key-invalid"
    default_detail = "The Idempotency-Key is malformed."


class IdempotencyProcessing(IdempotencyError):
    """409: the first attempt still runs. A repeat later gets its answer."""

    name = "processing"
    default_detail = "The first request with this key is still being processed; repeat the same request later."


class IdempotencyUnknown(IdempotencyError):
    """409: the first attempt ended in a way that leaves its effect unknown; an operator must resolve the key."""

    name = "unknown"
    default_detail = (
        "The first request with this key may or may not have had its effect; nothing runs until somebody has looked."
    )


class IdempotencyNotKept(IdempotencyError):
    """410: the first attempt is done, and its answer could not be kept. Nothing runs again."""

    name = "not-kept"
    default_detail = "The first request with this key is done, but its answer could not be kept; it is not run again."


class IdempotencyScopeMissing(IdempotencyError):
    """500: the request carries credentials, and nothing says whose the key is. Nothing ran."""

    name = "scope-missing"
    default_detail = "This service is not set up to keep the keys of its callers apart."


class IdempotencyPayloadTooLarge(IdempotencyError):
    """413: the body is over ``max_request_bytes``. Nothing ran."""

    name = "payload-too-large"
    default_detail = "The request body is too large to be protected by an Idempotency-Key."


class IdempotencyConflict(IdempotencyError):
    """422: the key was used with another payload. Nothing ran."""

    name = "conflict"
    default_detail = (
        "This key was used with another request; use a new key for a new request. Requests are compared by method, "
        "path, query, content type and the bytes of the body, calls by their arguments, unless the service says "
        "otherwise."
    )


class IdempotencyStoreUnavailable(IdempotencyError):
    """503: the store could not be asked, or could not answer in time. Nothing ran; ``__cause__`` says more.

    ``retry_after`` is None where waiting mends nothing: a wrong password, a missing permission, a server that is too
    old, a record of a newer version.
    """

    name = "store-unavailable"
    default_detail = "The store can't be reached."

    def __init__(self, detail: str | None = None, *, retry_after: float | None = 1.0, **parameters: Any) -> None:
        super().__init__(detail, retry_after=retry_after, **parameters)
        self.message = detail

    def problem(self, instance: str | None = None) -> dict[str, Any]:
        """The problem document; what exactly failed is for the log, not for the client."""
        detail = "Nothing was run. Repeat the same request with the same key later."
        if self.retry_after is None:
            detail = "Nothing was run. The service's store of keys is not set up as it should be; its log says more."
        return {**super().problem(instance), "detail": detail}
