"""The engine of pyidempotent."""

import asyncio
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar, final

from typing_extensions import Self, disjoint_base

from pyidempotent._calls.current import Scope
from pyidempotent._calls.flow import Call
from pyidempotent._calls.function import Function
from pyidempotent._http.routes import Plan as RoutePlan
from pyidempotent._options import Site as CallSite
from pyidempotent._values.binding import Selector
from pyidempotent.console._request import ConsoleRequest

__all__ = [
    "METHODS",
    "REPLAYED",
    "RESULT_TAGS",
    "SAFE_METHODS",
    "Answer",
    "Backend",
    "Capture",
    "Completion",
    "Console",
    "CurrentAttempt",
    "Engine",
    "Facts",
    "Flow",
    "FunctionCall",
    "InTransaction",
    "Outcome",
    "Plan",
    "Rehearsal",
    "RequestCall",
    "Site",
    "Step",
    "TooLarge",
    "__version__",
    "abandon",
    "authorization_caller",
    "command_line",
    "decode",
    "drain",
    "encode",
    "expires_at",
    "find_instance",
    "fingerprint_call",
    "is_refusal",
    "key_text",
    "postgres_schema",
    "problem",
    "protect",
    "refusals",
    "replayed",
    "shutdown",
    "sqlite_tables",
    "too_large",
    "unpack",
    "verdict_of",
]

__version__: str

REPLAYED: bytes
"""The response header that says "this is a stored answer", in lower case."""
SAFE_METHODS: frozenset[str]
"""The methods that nothing protects: a request with one of them changes nothing (RFC 9110, section 9.2.1)."""
METHODS: frozenset[str]
"""The methods that middleware protects by default: the others are idempotent (RFC 9110, section 9.2.2)."""
RESULT_TAGS: tuple[bytes, bytes, bytes, bytes]
"""The first byte of a stored function's value, endpoint's value, whole answer, exception."""

_Operation = str | tuple[str, bytes]
_T = TypeVar("_T")
_Asks = tuple[str, tuple[int | str | bytes | None, ...]]
_Found = tuple[str, str, int, float, bytes]

@final
class Backend:
    """A store. Opening it does no I/O; a forked child gets one of its own."""

    @staticmethod
    def memory(max_entries: int, max_bytes: int) -> Backend: ...
    @staticmethod
    def sqlite(path: str | os.PathLike[str], time_limit: float) -> Backend: ...
    @staticmethod
    def redis(
        url: str,
        prefix: str,
        time_limit: float,
        replicas: int | None = None,
        aof: int | None = None,
        credentials: tuple[Callable[[], tuple[str | None, str, float | None]], str] | None = None,
    ) -> Backend: ...
    @staticmethod
    def postgres(url: str, schema: str | None, time_limit: float) -> Backend: ...
    def create_table(self) -> None: ...
    @staticmethod
    def custom(methods: object, time_limit: float) -> Backend: ...
    def check(self) -> None: ...
    def get(self, key: bytes) -> _Found | None: ...
    def resolve(self, key: bytes, fence: int, result: bytes | None, force: bool) -> bool: ...
    def list(
        self, states: str, after: str | None, most: int
    ) -> tuple[list[tuple[bytes, _Found, float | None, int]], str | None]: ...
    def purge(self) -> int: ...

_ConsoleAnswer = tuple[int, list[tuple[bytes, bytes]], bytes]

@final
class Console:
    """The operator's page over a backend."""

    MAX_BODY: ClassVar[int]
    """The most bytes of a form."""

    def __new__(cls, backend: Backend) -> Self: ...
    def answer(self, request: ConsoleRequest) -> _ConsoleAnswer: ...
    def answer_later(self, request: ConsoleRequest) -> asyncio.Future[_ConsoleAnswer]: ...

def command_line(
    arguments: list[str],
    name: str,
    encode: Callable[[str], bytes],
    backend: Backend | None,
    namespace: str,
    others: list[tuple[str, str]],
    files: tuple[object, object] | None,
) -> int: ...

@final
class Engine:
    """The options of one call site over a backend."""

    def __new__(
        cls,
        backend: Backend,
        *,
        ttl: float,
        lease: float | None,
        wait: float,
        run_limit: float | None,
        refuse_after_crash: bool,
        namespace: str,
    ) -> Engine: ...
    @property
    def lease(self) -> float: ...
    def storage_key(self, operation: _Operation, caller: bytes | None, key: str) -> bytes: ...

@final
class InTransaction:
    """One key in one transaction of the caller's: says which statement runs next, and is told its row."""

    def __new__(
        cls,
        engine: Engine,
        dialect: str,
        key: str,
        operation: _Operation,
        caller: bytes | None,
        fingerprint: bytes,
        *,
        retry_after: float,
    ) -> InTransaction: ...
    def begin(self, is_ready: bool, /) -> _Asks: ...
    def told(self, row: Sequence[int | str | bytes | memoryview | None] | None, /) -> _Asks | None: ...
    def complete(self, payload: bytes, /) -> _Asks: ...
    def undo(self) -> _Asks: ...
    def derive(self, name: str) -> str: ...
    @property
    def fence(self) -> int | None: ...
    @property
    def gone(self) -> bool: ...
    @property
    def payload(self) -> bytes | None: ...
    @property
    def storage_key(self) -> bytes: ...
    @property
    def who(self) -> str: ...

def sqlite_tables() -> str: ...

@final
class Site:
    """The options of a call site that its calls need: the half of `pyidempotent._options.Site` that needs no Python
    instruction.
    """

    def __new__(
        cls,
        engine: Engine | None,
        *,
        key_header: str,
        strict: bool,
        required: bool,
        settle: Callable[[Outcome], str | None] | None,
        retry_after: float,
        max_request_bytes: int,
        max_response_bytes: int,
        store_set_cookie: bool,
    ) -> Site: ...

@final
class Plan:
    """What the calls of a decorated function need, worked out once."""

    def __new__(
        cls,
        function: Function,
        site: CallSite,
        name: str,
        parameters: list[inspect.Parameter],
        left_out: frozenset[str],
        *,
        key: Literal["request", "arguments", "callable", "parameter"],
        key_parameter: str | None,
        has_scope: bool,
        has_namespace: bool,
        has_fingerprint: bool,
    ) -> Plan: ...

@disjoint_base
class FunctionCall:
    """A call of a function that is protected as a function: its arguments are the payload, its value the result."""

    def __new__(cls, plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any], *_more: Any) -> Self: ...
    def __init__(self, plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any], *_more: Any) -> None: ...
    @staticmethod
    def of(plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> FunctionCall:
        """Of a plan that is native already."""

    @property
    def plan(self) -> Function: ...
    @property
    def site(self) -> CallSite: ...
    @property
    def args(self) -> tuple[Any, ...]: ...
    @property
    def kwargs(self) -> dict[str, Any]: ...
    @property
    def bound(self) -> dict[str, Any]:
        """The arguments given, by name."""

    def values(self) -> dict[str, Any]:
        """What a callable of the user's may ask for, by name."""

    def select(self, selector: Selector) -> Any:
        """What a callable of the user's makes of the call."""

    def key(self) -> str | None:
        """The key, as ``key=`` says."""

    def namespace(self) -> str | None:
        """As ``namespace=`` says, where it is a callable."""

    def operation(self) -> _Operation:
        """The function's name."""

    def caller(self) -> bytes | None:
        """Who calls, as ``scope=`` says."""

    def fingerprint(self) -> bytes | None:
        """The digest of the arguments."""

    def body(self) -> Any:
        """A function has none."""

    def fingerprint_of(self, body: Any, /) -> bytes:
        """A function needs no body."""

    def verdict(self, outcome: Outcome, /) -> str:
        """A value is stored; an exception releases the key, unless its type is stored."""

    def status(self, outcome: Outcome, /) -> int | None:
        """A function has none."""

    def pack(self, outcome: Outcome, /) -> bytes:
        """The value, or the exception."""

    def headers(self, outcome: Outcome, /) -> Iterable[tuple[bytes, bytes]]:
        """A function has none."""

    def replay(self, payload: bytes, /) -> Outcome:
        """The stored value or exception."""

    def stored_exceptions(self) -> tuple[type[Exception], ...]:
        """The exception types that a stored exception may be of; the ``settle`` hook may store any."""

@final
class Facts:
    """A request, as far as it is known before its body.

    Parameters:
        method: in upper case.
        path: as the client sent it, still percent-encoded, without the query.
        query: as the client sent it, without the ``?``.
        headers: in order, names in lower case.
    """

    def __new__(cls, method: str, path: bytes, query: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Facts: ...
    @staticmethod
    def of_scope(scope: Mapping[str, Any], /) -> Facts:
        """Of an ASGI scope."""

    @staticmethod
    def of_environ(environ: dict[str, Any], path: bytes | None = None, query: bytes | None = None, /) -> Facts:
        """Of a WSGI environ, whose headers are looked up, instead of listed for every request.

        Parameters:
            environ: the environ.
            path: in the place of its own.
            query: likewise.
        """

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> bytes: ...
    @property
    def query(self) -> bytes: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers, in order."""

    def line(self, name: bytes, /) -> bytes:
        """The first line of a header, or nothing."""

    def callers(self) -> tuple[list[str], list[str]]:
        """The names of the headers that may say who calls."""

    def key(self, site: CallSite, /) -> str | None:
        """The key in the header that a site names.

        Raises:
            IdempotencyKeyMissing: where it is required and not there.
            IdempotencyKeyInvalid: where it is malformed, required or not.
        """

    def refuse_declared(self, limit: int, /) -> None:
        """Refuses a body whose declared length is over the limit, before it is read.

        Raises:
            IdempotencyPayloadTooLarge: where it is.
        """

    def fingerprint(self, body: bytes, content_type: bytes | None = None, by_json_body: bool = False, /) -> bytes:
        """The digest of the request.

        Parameters:
            body: the whole body.
            content_type: in the place of the header's.
        """

@disjoint_base
class RequestCall:
    """A request whose whole answer is stored. Faces derive from it: who the user is, they know."""

    def __new__(cls, plan: RoutePlan, facts: Facts, *_more: Any) -> Self: ...
    @property
    def plan(self) -> RoutePlan: ...
    @property
    def site(self) -> CallSite: ...
    @property
    def facts(self) -> Facts: ...
    @property
    def asked(self) -> dict[str, Any]:
        """What the callables of the user's have said, by option."""

    def user(self) -> bytes | None:
        """The authenticated user that the framework itself knows, if it does."""

@final
class Answer:
    """A whole HTTP answer, as faces that see answers have it.

    Parameters:
        status: the status code.
        headers: in order, as sent, duplicates and all.
        body: the whole body.
        cut: why it can't be kept, where it can't.
        whole: whether it reached its end.
    """

    def __new__(
        cls,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes | bytearray | memoryview,
        cut: str | None = None,
        whole: bool = True,
    ) -> Answer: ...
    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def cut(self) -> str | None: ...
    @property
    def whole(self) -> bool: ...
    def encode(self, store_set_cookie: bool, /) -> bytes:
        """The wire form, without the headers that are not stored."""

    @staticmethod
    def decode(stored: bytes, /) -> Answer:
        """What `encode` made."""

    def __eq__(self, other: object, /) -> bool: ...

@final
class Capture:
    """What is seen of an answer on its way out.

    Parameters:
        limit: the most bytes of a body that is kept.
    """

    cut: str | None
    """Why the answer can't be kept."""

    def __new__(cls, limit: int) -> Capture: ...
    @property
    def status(self) -> int | None: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...
    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]], /) -> None:
        """Its status and headers.

        Raises:
            TypeError, ValueError: where they can be none.
        """

    def start_text(self, status: int, headers: Iterable[tuple[str, str]], /) -> None:
        """Its status and its headers in text, as WSGI has them.

        Raises:
            TypeError, ValueError: where they can be none.
        """

    def start_message(self, message: Mapping[str, Any], /) -> bool:
        """Its status and headers, of an ASGI message that may be malformed; whether its length is known, so that it
        does not stream."""

    def add(self, chunk: bytes | bytearray | memoryview, /) -> bool:
        """A part of its body; whether that completes the declared length."""

    def add_message(self, message: Mapping[str, Any], /) -> bool:
        """A part of its body, of an ASGI message; whether it is the one that ends the answer."""

    def break_off(self) -> None:
        """It ended before its end, so that nobody knows what became of the work."""

    def outcome(self, error: Exception | None, /) -> Outcome:
        """How the request ended: the answer as it was seen, if it has started, and what was raised, if anything was."""

@final
class Flow:
    """Where a protected call stands: it says what has to be done next, and is told what came of it."""

    def step(self, call: Call | RequestCall, told: Any, /) -> tuple[str, Any]:
        """The next step on this thread: the store is waited for inside."""

    def step_async(self, call: Call | RequestCall, told: Any, /) -> tuple[str, Any]:
        """The next step in the running loop."""

@final
class Completion:
    """The end of an attempt that waits for a transaction's commit."""

    def settle(self) -> None: ...
    def fail(self, *, waits: bool) -> None: ...

@final
class CurrentAttempt:
    """The attempt that runs now, seen from inside."""

    @property
    def key(self) -> str:
        """The idempotency key."""

    @property
    def scope(self) -> Scope:
        """The key's scope."""

    @property
    def fence(self) -> int:
        """A number that is greater for every later attempt on this key: downstream can refuse a smaller one."""

    @property
    def lost(self) -> bool:
        """Whether another attempt is known to have taken this one's place."""

    def derive(self, name: str) -> str:
        """A key for a downstream call: the same for every attempt of this key, another for every ``name``."""

    def release(self) -> None:
        """Declares that nothing happened: the key is free again when the handler ends, however it ends."""

    def _refused(self, status: int, /) -> None: ...
    def _hurry(self) -> None: ...

@final
class Outcome:
    """How a run ended, as the ``settle`` hook sees it.

    Parameters:
        value: what it returned; ``None`` where it raised.
        exception: what it raised, if it did.
        status: the HTTP status of its answer, where it has one.
    """

    __match_args__: ClassVar[tuple[str, str, str]]

    def __new__(cls, value: Any = None, exception: Exception | None = None, status: int | None = None) -> Outcome: ...
    @property
    def value(self) -> Any: ...
    @property
    def exception(self) -> Exception | None: ...
    @property
    def status(self) -> int | None: ...
    def __eq__(self, other: object, /) -> bool: ...

def protect(call: Call | RequestCall, /) -> Flow: ...

class TooLarge(Exception):
    """Raised by a backend's method that can never take a value of this size."""

@final
class Step:
    """An operation on one key. Called with the value that stands there, it returns the one that is to stand there."""

    def __call__(self, value: bytes | None, now: float | None = None) -> bytes | None: ...

@final
class Rehearsal:
    """The store of a test, which stands in for every other one until its end."""

    def __new__(cls) -> Rehearsal: ...
    def advance(self, by: float) -> None: ...
    def crash(self) -> None: ...
    def end(self) -> None: ...

def key_text(key: object, what: str, /) -> str: ...
def postgres_schema(schema: str) -> str: ...
def abandon(future: asyncio.Future[Any]) -> None: ...
def drain(limit: float, /) -> asyncio.Future[bool]: ...
def shutdown(limit: float) -> bool: ...
def encode(value: object, classes: Mapping[str, type]) -> bytes: ...
def decode(encoded: bytes, classes: Mapping[str, type]) -> Any: ...
def unpack(payload: bytes, classes: Mapping[str, type]) -> Any: ...
def find_instance(cls: type[_T], args: tuple[Any, ...], kwargs: dict[str, Any], /) -> _T | None: ...
def fingerprint_call(arguments: dict[str, Any]) -> bytes: ...
def expires_at(value: bytes) -> float:
    """When a value of a backend of your own has expired and may be removed, in seconds since 1970."""

def authorization_caller(header: str, /) -> str:
    """The caller by an ``Authorization`` header: a digest of it."""

def replayed(payload: bytes, /) -> Answer:
    """The answer that is stored, marked as a replay.

    Raises:
        IdempotencyNotKept: where a function's value is stored, which only that function can make an answer of.
    """

def verdict_of(status: int, /) -> str:
    """What becomes of the key after an answer of this status."""

def is_refusal(content_type: bytes, body: bytes, /) -> bool:
    """Whether an answer is the problem document of a refusal: of this library in a service below, passed on."""

def too_large(limit: int, /) -> str:
    """What a client is told whose body is over the limit, in bytes."""

def refusals() -> dict[str, tuple[int, str, str]]: ...
def problem(
    name: str,
    detail: str | None,
    retry_after: float | None,
    parameters: str,
    instance: str | None,
    docs: str | None,
) -> Answer:
    """The answer to a refusal (RFC 9457).

    Parameters:
        name: its row in the table.
        detail: in words; None: those of the table.
        retry_after: seconds after which a repeat makes sense, if one does.
        parameters: members of the document beside the standard ones, as JSON.
        instance: what was asked for: the path of the request.
        docs: the URL of the service's own documentation of the refusals.
    """
