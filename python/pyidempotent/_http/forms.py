"""A parsed form, for a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from pyidempotent import _native
from pyidempotent._http.rules import too_large


def form_content(fields: Iterable[tuple[str, str | tuple[Any, Any, Any]]], limit: int) -> tuple[bytes, bytes]:
    """A parsed form, in the place of the body it came from: names, values, and the digests of its files.

    Parameters:
        fields: name and value; of a file, name and ``(filename, content type, file)``.
    """
    said: list[Any] = []
    size = 0
    for name, value in fields:
        if isinstance(value, str):
            size += len(name) + len(value)
            said.append((name, value))
            continue
        filename, content_type, file = value
        digest, before = hashlib.sha256(), file.tell()
        file.seek(0)
        while chunk := file.read(65536):
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            digest.update(chunk)
        file.seek(before)
        said.append((name, filename, content_type, digest.digest()))
    if size > limit:
        raise too_large(limit)
    return b"form", _native.encode(said, {})
