"""The rules of HTTP that every face shares, over the facts of a request. Knows no framework."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pyidempotent import _native
from pyidempotent._native import METHODS, SAFE_METHODS, Facts
from pyidempotent._options import Site
from pyidempotent._values.results import Answer
from pyidempotent.exceptions import (
    IdempotencyError,
    IdempotencyKeyMissing,
    IdempotencyPayloadTooLarge,
    IdempotencyScopeMissing,
)

__all__ = [
    "METHODS",
    "REPLAYED",
    "SAFE_METHODS",
    "HeaderView",
    "Headers",
    "anonymous_caller",
    "key_missing",
    "once",
    "problem_answer",
    "too_large",
    "who_of",
]

logger = logging.getLogger("pyidempotent")

#: The response header that says "this is a stored answer".
REPLAYED = (_native.REPLAYED, b"true")

Headers = list[tuple[bytes, bytes]]


def key_missing(key_header: str) -> str:
    """What a client is told that sent no key."""
    return IdempotencyKeyMissing.default_detail.replace("Idempotency-Key", key_header)


def who_of(facts: Facts) -> str:
    """The operation of a request, for the log."""
    return f"{facts.method} {facts.path.decode('utf-8', 'replace')}"


def anonymous_caller(facts: Facts, site: Site, who: str) -> None:
    """Says that a request without a known caller is nobody's, where it does not claim to be somebody's.

    Parameters:
        site: the options of the call site, which says each thing once.
        who: the operation, for the log.

    Raises:
        IdempotencyScopeMissing: where it has credentials.
    """
    certain, possible = facts.callers()
    if certain:
        said = ", ".join(certain)
        once(
            site,
            logging.ERROR,
            f"{who}: a request names a caller in its headers ({said}), and nothing says whose its Idempotency-Key is; "
            "nothing runs. Pass scope= (in Django's setting: SCOPE), a callable that returns the caller: on the "
            "request for middleware (lambda request: request.headers['X-User']), on the arguments for @idempotent "
            "(lambda user: user.id). Or pass pyidempotent.by_authorization for static API keys, or pyidempotent.shared "
            "if callers share answers",
        )
        raise IdempotencyScopeMissing(f"{IdempotencyScopeMissing.default_detail} The request names one in: {said}.")
    if possible:
        said = ", ".join(possible)
        once(
            site,
            logging.WARNING,
            f"{who}: requests with different values of {said} share their keys; if it names the caller, pass scope= "
            "(in Django's setting: SCOPE)",
        )


def once(site: Site, level: int, message: str) -> None:
    """Logs something that has not been said at this level for this call site."""
    if level not in site.said:
        site.said.add(level)
        logger.log(level, message)


def too_large(limit: int) -> IdempotencyPayloadTooLarge:
    """The refusal of a body over the limit."""
    return IdempotencyPayloadTooLarge(_native.too_large(limit))


def problem_answer(error: IdempotencyError, path: str, site: Site) -> Answer:
    """The answer to a refusal (RFC 9457)."""
    return error._answer(path, site.problem_docs)


class HeaderView(Mapping[str, str]):
    """Headers by name, whatever its case; several lines of one are joined by a comma."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._lines: dict[str, str] = {}
        for name, value in headers:
            known, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self._lines[known] = f"{self._lines[known]}, {text}" if known in self._lines else text

    def __getitem__(self, name: str) -> str:
        return self._lines[name.lower()]

    def __iter__(self) -> Any:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)
