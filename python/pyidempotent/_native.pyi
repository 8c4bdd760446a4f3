"""The engine of pyidempotent."""

import asyncio
import inspect
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, final

from typing_extensions import Self, disjoint_base

from pyidempotent._binding import Selector
from pyidempotent._current import Scope
from pyidempotent._flow import Call
from pyidempotent._function import Function
from pyidempotent._site import Site

__all__ = [
    "Backend",
    "Completion",
    "CurrentAttempt",
    "Engine",
    "Flow",
    "FunctionCall",
    "Outcome",
    "Plan",
    "Rehearsal",
    "Step",
    "__version__",
    "abandon",
    "decode",
    "decode_answer",
    "drain",
    "encode",
    "encode_answer",
    "expires_at",
    "find_instance",
    "fingerprint_call",
    "fingerprint_http",
    "is_stored",
    "parse_key",
    "protect",
    "refusals",
    "shutdown",
]

__version__: str

_Operation = str | tuple[str, bytes]
_T = TypeVar("_T")
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
        root_certificate: bytes | None = None,
        client_certificate: tuple[bytes, bytes] | None = None,
    ) -> Backend: ...
    @staticmethod
    def custom(methods: object) -> Backend: ...
    def check(self) -> None: ...
    def get(self, key: bytes) -> _Found | None: ...
    def resolve(self, key: bytes, fence: int, result: bytes | None = None) -> bool: ...
    def unfinished(self, most: int) -> list[tuple[bytes, _Found]]: ...
    def purge(self) -> int: ...

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
    def storage_key(self, operation: _Operation, caller: bytes | None, key: str) -> bytes: ...

@final
class Plan:
    """What the calls of a decorated function need, worked out once."""

    def __new__(
        cls,
        function: Function,
        site: Site,
        name: str,
        parameters: list[inspect.Parameter],
        left_out: frozenset[str],
        *,
        key: Literal["request", "arguments", "callable", "parameter"],
        key_parameter: str | None,
        has_scope: bool,
        has_fingerprint: bool,
    ) -> Plan: ...
    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> FunctionCall:
        """As ``FunctionCall(function, args, kwargs)``."""

@disjoint_base
class FunctionCall:
    """A call of a function that is protected as a function: its arguments are the payload, its value the result."""

    def __new__(cls, plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any], *_more: Any) -> Self: ...
    def __init__(self, plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any], *_more: Any) -> None: ...
    @property
    def plan(self) -> Function: ...
    @property
    def site(self) -> Site: ...
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

    def operation(self) -> _Operation:
        """The function's name."""

    def caller(self) -> bytes | None:
        """Who calls, as ``scope=`` says."""

    def fingerprint(self) -> bytes | None:
        """The digest of the arguments."""

    def body(self) -> Any:
        """A function has none."""

    def fingerprint_of(self, body: Any, /) -> bytes:
        """As `body`."""

    def verdict(self, outcome: Outcome, /) -> str:
        """A value is stored; an exception releases the key, unless its type is stored."""

    def status(self, outcome: Outcome, /) -> int | None:
        """A function has none."""

    def pack(self, outcome: Outcome, /) -> bytes:
        """The value, or the exception."""

    def note(self, outcome: Outcome, /) -> dict[str, Any]:
        """A function's result has nothing to tell beside itself."""

    def replay(self, payload: bytes, /) -> Outcome:
        """The stored value or exception."""

    def stored_exceptions(self) -> tuple[type[Exception], ...]:
        """The exception types that a stored exception may be of; the ``settle`` hook may store any."""

@final
class Flow:
    """Where a protected call stands: it says what has to be done next, and is told what came of it."""

    def step(self, call: Call, told: Any, /) -> tuple[str, Any]:
        """The next step on this thread: the store is waited for inside."""

    def step_async(self, call: Call, told: Any, /) -> tuple[str, Any]:
        """The next step in the running loop."""

@final
class Completion:
    """The end of an attempt that waits for a transaction's commit."""

    def settle(self) -> None: ...
    def fail(self) -> None: ...

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

    @property
    def _refusal(self) -> int | None: ...
    def _refused(self, status: int, /) -> None: ...
    def _hurry(self, verdict: str, /) -> None: ...

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

def protect(call: Call, /) -> Flow: ...

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

def abandon(future: asyncio.Future[Any]) -> None: ...
def drain(limit: float, /) -> asyncio.Future[bool]: ...
def shutdown(limit: float) -> bool: ...
def encode(value: object, classes: Mapping[str, type]) -> bytes: ...
def decode(encoded: bytes, classes: Mapping[str, type]) -> Any: ...
def find_instance(cls: type[_T], args: tuple[Any, ...], kwargs: dict[str, Any], /) -> _T | None: ...
def fingerprint_call(arguments: dict[str, Any]) -> bytes: ...
def expires_at(value: bytes) -> float:
    """When a value of a backend of your own has expired and may be removed, in seconds since 1970."""

def parse_key(lines: list[bytes], strict: bool) -> str: ...
def fingerprint_http(method: str, path: bytes, query: bytes, content_type: bytes, body: bytes) -> bytes: ...
def is_stored(status: int) -> bool: ...
def encode_answer(status: int, headers: list[tuple[bytes, bytes]], body: bytes, store_set_cookie: bool) -> bytes: ...
def decode_answer(answer: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]: ...
def refusals() -> dict[str, tuple[int, str, str, str]]: ...
