"""What a WSGI environ says of its request, for every face that stands on WSGI."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote


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
