"""The rules of HTTP that every face shares, over the facts of a request. Knows no framework."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pyidempotent import _native
from pyidempotent._results import ANSWER, Answer, Outcome, Unstorable
from pyidempotent._site import Site
from pyidempotent.exceptions import (
    IdempotencyError,
    IdempotencyKeyMissing,
    IdempotencyNotKept,
    IdempotencyPayloadTooLarge,
    IdempotencyScopeMissing,
)

logger = logging.getLogger("pyidempotent")

#: The response header that says "this is a stored answer".
REPLAYED = (b"idempotent-replayed", b"true")

#: The methods that are protected: the others are idempotent by themselves (RFC 9110, section 9.2.2).
METHODS = frozenset({"POST", "PATCH"})

Headers = list[tuple[bytes, bytes]]

#: Statuses of answers that have no body (RFC 9110, section 6.4.1), and so no length.
_WITHOUT_BODY = (204, 205, 304)


class Facts(NamedTuple):
    """A request, as far as it is known before its body.

    Parameters:
        method: in upper case.
        path: as the client sent it, still percent-encoded, without the query.
        query: as the client sent it, without the ``?``.
        headers: in order, names in lower case.
    """

    method: str
    path: bytes
    query: bytes
    headers: Iterable[tuple[bytes, bytes]]

    def lines(self, name: bytes) -> list[bytes]:
        """Every line of one header."""
        return [value for header, value in self.headers if header == name]

    def named(self, names: frozenset[bytes]) -> set[bytes]:
        """Which of these headers there are."""
        return {name for name, _ in self.headers if name in names}

    def line(self, name: bytes) -> bytes:
        """The first line of a header, or nothing."""
        return next((value for header, value in self.headers if header == name), b"")

    def fingerprint(self, body: bytes) -> bytes:
        """The digest of the request."""
        content_type = self.line(b"content-type")
        return _native.fingerprint_http(self.method, self.path, self.query, content_type, body)


def key_in_header(facts: Facts, site: Site) -> str | None:
    """The key in the request's header.

    Raises:
        IdempotencyKeyMissing: where it is required and not there.
        IdempotencyKeyInvalid: where it is malformed, required or not.
    """
    lines = facts.lines(site.header)
    if lines:
        return _native.parse_key(lines, site.strict)
    if site.required:
        raise IdempotencyKeyMissing(key_missing(site))
    return None


def key_missing(site: Site) -> str:
    """What a client is told that sent no key."""
    return IdempotencyKeyMissing.default_detail.replace("Idempotency-Key", site.key_header)


#: Headers by which a request claims to be somebody's.
_CREDENTIALS = frozenset(
    {
        b"authorization",
        b"proxy-authorization",
        b"x-api-key",
        b"api-key",
        b"apikey",
        b"x-auth-token",
        b"x-access-token",
        b"x-amz-security-token",
    }
)


#: Headers that may say who calls.
_CALLERS = _CREDENTIALS | {b"cookie"}


def anonymous_caller(facts: Facts, site: Site, who: str) -> None:
    """Says that a request without a known caller is nobody's, where it does not claim to be somebody's.

    Parameters:
        site: the options of the call site, which says each thing once.
        who: the operation, for the log.

    Raises:
        IdempotencyScopeMissing: where it has credentials.
    """
    names = facts.named(_CALLERS)
    if found := names & _CREDENTIALS:
        said = ", ".join(name.decode() for name in sorted(found))
        once(
            site,
            logging.ERROR,
            f"{who}: a request has credentials ({said}), and nothing says whose its Idempotency-Key is; nothing runs. "
            "Pass scope=: a callable that returns the caller (like scope=lambda user: user.id), "
            "pyidempotent.by_authorization for static API keys, or pyidempotent.shared if callers share answers",
        )
        raise IdempotencyScopeMissing
    if names:
        once(
            site,
            logging.WARNING,
            f"{who}: requests with cookies share their keys; if a cookie says who the caller is, pass scope=",
        )


def once(site: Site, level: int, message: str) -> None:
    """Logs something that has not been said at this level for this call site."""
    if level not in site.said:
        site.said.add(level)
        logger.log(level, message)


def refuse_declared(facts: Facts, limit: int) -> None:
    """Refuses a body whose declared length is over the limit, before it is read."""
    declared = facts.line(b"content-length")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)


def too_large(limit: int) -> IdempotencyPayloadTooLarge:
    """The refusal of a body over the limit."""
    return IdempotencyPayloadTooLarge(
        f"The request body is larger than {limit} bytes, which is the most for a protected request."
    )


def verdict_of(status: int) -> str:
    """What becomes of the key after an answer of this status."""
    if _native.is_stored(status):
        return "store"
    return "fail" if status >= 500 else "release"


def replayed(payload: bytes) -> Answer:
    """The answer that is stored, marked as a replay.

    Raises:
        IdempotencyNotKept: where a function's value is stored, which only that function can make an answer of.
    """
    if payload[:1] != ANSWER:
        raise IdempotencyNotKept("The first request with this key is done; its answer can't be repeated here.")
    status, headers, body = _native.decode_answer(payload[1:])
    if status not in _WITHOUT_BODY and not any(name.lower() == b"content-length" for name, _ in headers):
        # It came in pieces, or its server told the length; now it is known.
        headers.append((b"content-length", b"%d" % len(body)))
    return Answer(status, [*headers, REPLAYED], body)


def problem_answer(error: IdempotencyError, path: str, site: Site) -> Answer:
    """The answer to a refusal (RFC 9457)."""
    problem, headers = error.problem(path), error.headers()
    if site.problem_docs is not None:
        problem["type"] = site.problem_docs + error.name
        headers["link"] = f'<{problem["type"]}>; rel="describedby"'
    body = json.dumps(problem).encode()
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    return Answer(error.status, [*raw, (b"content-length", b"%d" % len(body))], body)


class AnswerCall:
    """A request whose whole answer is stored: the half of `_flow.Call` that faces which see answers share."""

    def __init__(self, site: Site, facts: Facts) -> None:
        self.site = site
        self.facts = facts
        #: The status of a refusal that was met inside.
        self.refused: int | None = None

    def verdict(self, outcome: Outcome) -> str:
        """By the status table. Without an answer the run failed; one that broke off leaves it unknown."""
        answer: Answer | None = outcome.value
        if answer is None:
            return "fail"
        if outcome.exception is not None or not answer.whole:
            return "hold"
        # A refusal of ours, of a call inside, as the application's handler told it: nothing that a repeat should get.
        return "release" if answer.status == self.refused else verdict_of(answer.status)

    def status(self, outcome: Outcome) -> int | None:
        """The status that the client sees."""
        return None if outcome.value is None else outcome.value.status

    def pack(self, outcome: Outcome) -> bytes:
        """The answer, without what is not stored."""
        answer: Answer | None = outcome.value
        if answer is None:
            raise Unstorable("there is no answer")
        if answer.cut is not None:
            raise Unstorable(answer.cut)
        try:
            encoded = _native.encode_answer(answer.status, answer.headers, answer.body, self.site.store_set_cookie)
        except (TypeError, ValueError, OverflowError) as error:
            raise Unstorable(f"it is malformed: {error}") from error
        return ANSWER + encoded

    def note(self, outcome: Outcome) -> dict[str, Any]:
        """The status and the location of the answer."""
        return {} if outcome.value is None else note_of(outcome.value.status, outcome.value.headers)

    def replay(self, payload: bytes) -> Outcome:
        """The stored answer, marked as a replay."""
        return Outcome(value=replayed(payload))


def note_of(status: int | None, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
    """What a repeat may know of an answer that was not kept."""
    location = next((value for name, value in headers if name.lower() == b"location"), None)
    note = {"answer_status": status, "location": location and location.decode("latin-1")}
    return {name: value for name, value in note.items() if value is not None}


class Capture:
    """What is seen of an answer on its way out.

    Parameters:
        limit: the most bytes of a body that is kept.
    """

    def __init__(self, limit: int) -> None:
        self.status: int | None = None
        self.headers: Headers = []
        #: Why the answer can't be kept.
        self.cut: str | None = None
        #: Whether it broke off before its end, so that nobody knows what became of the work.
        self.broke_off = False
        self._limit = limit
        self._length: int | None = None
        self._size = 0
        self._chunks: list[bytes] = []

    def start(self, status: int, headers: Headers) -> None:
        """Its status and headers; the list is kept, so pass one that nobody else changes."""
        self.status, self.headers = status, headers
        for name, value in headers:
            if name.lower() == b"content-length":
                self._length = int(value) if value.isdigit() else None

    @property
    def is_short(self) -> bool:
        """Whether its whole length is known from its start: it does not stream."""
        return self._length is not None or self.status in _WITHOUT_BODY

    def add(self, chunk: bytes | bytearray | memoryview) -> bool:
        """A part of its body; whether that completes the declared length."""
        self._size += len(chunk)
        if self._size > self._limit:
            self.cut = f"it has more than {self._limit} bytes, which is max_response_bytes"
            self._chunks.clear()
        else:
            self._chunks.append(bytes(chunk))  # a buffer may be used again
        return self._length is not None and self._size >= self._length

    def answer(self) -> Answer | None:
        """What was seen; ``None`` where it has not started."""
        if self.status is None:
            return None
        # A server breaks off an answer that is not as long as it said.
        is_short = self._length is not None and self._size < self._length and self.status not in _WITHOUT_BODY
        whole = not (self.broke_off or is_short)
        return Answer(self.status, self.headers, b"".join(self._chunks), self.cut, whole)


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
