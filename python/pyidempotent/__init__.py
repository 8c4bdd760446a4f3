"""Idempotency keys for backends: the effect happens once, every repeat gets the first answer."""

import atexit as _atexit

from pyidempotent._calls.attempt import attempt
from pyidempotent._calls.current import CurrentAttempt, Scope, current
from pyidempotent._calls.decorator import idempotent
from pyidempotent._calls.function import arguments, by_authorization, json_body, shared
from pyidempotent._lifecycle import drain
from pyidempotent._lifecycle import end as _end
from pyidempotent._native import __version__
from pyidempotent._values.results import Outcome
from pyidempotent.exceptions import (
    IdempotencyConflict,
    IdempotencyError,
    IdempotencyKeyInvalid,
    IdempotencyKeyMissing,
    IdempotencyNotKept,
    IdempotencyPayloadTooLarge,
    IdempotencyProcessing,
    IdempotencyScopeMissing,
    IdempotencyStoreUnavailable,
    IdempotencyUnknown,
)
from pyidempotent.transactions import transaction, transactional

__all__ = [
    "CurrentAttempt",
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
    "Outcome",
    "Scope",
    "__version__",
    "arguments",
    "attempt",
    "by_authorization",
    "current",
    "drain",
    "idempotent",
    "json_body",
    "shared",
    "transaction",
    "transactional",
]

# At exit: completions and releases that are still on their way get five seconds, and nothing calls Python afterwards.
_atexit.register(_end)
