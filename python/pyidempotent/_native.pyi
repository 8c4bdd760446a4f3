"""The engine of pyidempotent."""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any, final

__all__ = [
    "Attempt",
    "Backend",
    "Binding",
    "Engine",
    "__version__",
    "abandon",
    "decode",
    "decode_answer",
    "encode",
    "encode_answer",
    "fingerprint_call",
    "fingerprint_http",
    "is_stored",
    "parse_key",
    "refusals",
    "shutdown",
]

__version__: str

_Operation = str | tuple[str, bytes]
_Refused = tuple[str, float | bytes | None]
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
    def get(self, key: bytes) -> _Found | None: ...
    def resolve(self, key: bytes, fence: int, result: bytes | None = None) -> bool: ...
    def unfinished(self, most: int) -> list[tuple[bytes, _Found]]: ...
    def purge(self) -> int: ...

@final
class Binding:
    """How a function's arguments get their names."""

    def __new__(
        cls,
        positional: list[str],
        keywords: frozenset[str],
        required: list[str],
        rest: str | None,
        extra: str | None,
    ) -> Binding: ...
    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None: ...

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
    def begin(
        self, operation: _Operation, caller: bytes | None, key: str, fingerprint: bytes
    ) -> Attempt | bytes | _Refused: ...
    def begin_async(
        self, operation: _Operation, caller: bytes | None, key: str, fingerprint: bytes
    ) -> Attempt | bytes | _Refused | asyncio.Future[Attempt | bytes | _Refused]: ...
    def storage_key(self, operation: _Operation, caller: bytes | None, key: str) -> bytes: ...

@final
class Attempt:
    """A held claim. Collected without being settled, it is released (or failed, once started) in the background."""

    @property
    def fence(self) -> int: ...
    @property
    def lost(self) -> bool: ...
    def start(self) -> None: ...
    def derive(self, name: str) -> str: ...
    def settle(self, verdict: str, payload: bytes | None = None) -> bytes | None: ...
    def settle_async(
        self, verdict: str, payload: bytes | None = None
    ) -> bytes | asyncio.Future[bytes | None] | None: ...
    def settle_later(self, verdict: str) -> None: ...

def abandon(future: asyncio.Future[Any]) -> None: ...
def shutdown(limit: float) -> bool: ...
def encode(value: object, classes: Mapping[str, type]) -> bytes: ...
def decode(encoded: bytes, classes: Mapping[str, type]) -> Any: ...
def fingerprint_call(
    arguments: dict[str, Any],
    defaults: dict[str, Any] | None = None,
    left_out: frozenset[str] | None = None,
    is_ignored: Callable[[object], bool] | None = None,
) -> bytes: ...
def parse_key(lines: list[bytes], strict: bool) -> str: ...
def fingerprint_http(method: str, path: bytes, query: bytes, content_type: bytes, body: bytes) -> bytes: ...
def is_stored(status: int) -> bool: ...
def encode_answer(status: int, headers: list[tuple[bytes, bytes]], body: bytes, store_set_cookie: bool) -> bytes: ...
def decode_answer(answer: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]: ...
def refusals() -> dict[str, tuple[int, str, str, str]]: ...
