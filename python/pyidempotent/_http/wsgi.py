"""What a WSGI environ says of its request, for every face that stands on WSGI."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from pyidempotent._calls.current import _current, asgi_fence
from pyidempotent._native import Facts
from pyidempotent._options import Site


@lru_cache(128)
def environ_name(header: bytes) -> str:
    """Where a header stands in an environ.

    >>> environ_name(b"idempotency-key"), environ_name(b"content-type")
    ('HTTP_IDEMPOTENCY_KEY', 'CONTENT_TYPE')
    """
    name = header.decode("latin-1").upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


def path_of(environ: Mapping[str, Any]) -> bytes:
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


def is_held_above(facts: Facts, site: Site) -> bool:
    """Whether an ASGI application above holds the attempt of this very request: its method, path and key.

    A bridge between the two passes neither its scope nor its environ on, but the context.
    """
    running = _current.get()
    if running is None or running.fence != asgi_fence.get():
        return False  # or another WSGI application's, which this one calls as its client
    operation = running.scope.operation
    if isinstance(operation, str):
        return False
    method, path = operation
    is_same = (method, unquote_to_bytes(path)) == (facts.method, unquote_to_bytes(facts.path))
    return is_same and facts.key(site) == running.key
