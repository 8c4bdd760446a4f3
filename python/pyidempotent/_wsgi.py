"""The facts of a request from its WSGI environ, for every face that stands on WSGI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from pyidempotent._http import Facts


def facts_of(environ: Mapping[str, Any]) -> Facts:
    """The facts of a request.

    >>> environ = {"REQUEST_METHOD": "POST", "RAW_URI": "/caf%C3%A9?a=1", "QUERY_STRING": "a=1", "HTTP_X_USER": "alice"}
    >>> facts = facts_of(environ)
    >>> facts.path, facts.query, facts.line(b"x-user"), list(facts.headers)
    (b'/caf%C3%A9', b'a=1', b'alice', [(b'x-user', b'alice')])
    """
    query = environ.get("QUERY_STRING", "").encode("latin-1")
    return _Facts(environ["REQUEST_METHOD"], _path(environ), query, _Headers(environ))


#: The headers that stand in an environ under a name of their own.
_OWN = ("CONTENT_TYPE", "CONTENT_LENGTH")


@lru_cache(128)
def environ_name(header: bytes) -> str:
    """Where a header stands in an environ.

    >>> environ_name(b"idempotency-key"), environ_name(b"content-type")
    ('HTTP_IDEMPOTENCY_KEY', 'CONTENT_TYPE')
    """
    name = header.decode("latin-1").upper().replace("-", "_")
    return name if name in _OWN else f"HTTP_{name}"


class _Headers:
    """The headers in an environ, where a server has joined the lines of one name by commas."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for name, value in self._environ.items():
            if name.startswith("HTTP_"):
                yield name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")
            elif name in _OWN and value:
                yield name.replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")

    def __contains__(self, name: bytes) -> bool:
        return environ_name(name) in self._environ

    def get(self, name: bytes) -> bytes | None:
        """One of them."""
        value: str | None = self._environ.get(environ_name(name))
        return None if value is None else value.encode("latin-1")


class _Facts(Facts):
    """Facts whose headers are looked up, instead of listed for every request."""

    __slots__ = ()

    headers: _Headers

    def lines(self, name: bytes) -> list[bytes]:
        """The line of one header, if there is one."""
        line = self.headers.get(name)
        return [] if line is None else [line]

    def line(self, name: bytes) -> bytes:
        """The line of a header, or nothing."""
        return self.headers.get(name) or b""

    def named(self, names: frozenset[bytes]) -> set[bytes]:
        """Which of these headers there are."""
        return {name for name in names if name in self.headers}


def _path(environ: Mapping[str, Any]) -> bytes:
    """The path as the client sent it: WSGI's own is decoded, and split where the application is mounted."""
    for name in ("RAW_URI", "REQUEST_URI"):
        if raw := environ.get(name):
            path: bytes = raw.encode("latin-1").partition(b"?")[0]
            if path.startswith(b"/"):
                return path
            _, is_absolute, rest = path.partition(b"://")  # a proxy's form of it, with the host
            if is_absolute:
                return b"/" + rest.partition(b"/")[2]
    decoded = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return quote(decoded.encode("latin-1")).encode()
