"""The facts of a request from its WSGI environ, for every face that stands on WSGI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pyidempotent._http import Facts


def facts_of(environ: Mapping[str, Any]) -> Facts:
    """The facts of a request.

    >>> environ = {"REQUEST_METHOD": "POST", "RAW_URI": "/caf%C3%A9?a=1", "QUERY_STRING": "a=1", "HTTP_X_USER": "alice"}
    >>> facts_of(environ)
    Facts(method='POST', path=b'/caf%C3%A9', query=b'a=1', headers=[(b'x-user', b'alice')])
    """
    query = environ.get("QUERY_STRING", "").encode("latin-1")
    return Facts(environ["REQUEST_METHOD"], _path(environ), query, _headers(environ))


def environ_name(header: str) -> str:
    """Where a header stands in an environ.

    >>> environ_name("Idempotency-Key")
    'HTTP_IDEMPOTENCY_KEY'
    """
    return "HTTP_" + header.upper().replace("-", "_")


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


def _headers(environ: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """The headers; a server has joined the lines of one name by commas."""
    headers = [
        (name[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if value := environ.get(name):
            headers.append((name.replace("_", "-").lower().encode("latin-1"), value.encode("latin-1")))
    return headers
