"""The page as a WSGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from pyidempotent import _native
from pyidempotent.backends import Backend, open_backend
from pyidempotent.console._request import ConsoleRequest, checked, operator_of

__all__ = ["wsgi"]

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def wsgi(backend: Backend | str, *, allow: Callable[[Environ], str | bool | None] | None = None) -> App:
    """The operator's page as a WSGI application, to be mounted where it shall stand.

    Parameters:
        backend: whose records it shows, or its URL.
        allow: gets the request's environ and returns the operator's name, which is logged with what they change; or
            True; or False for everybody else, who get a 403. It must be given.

    Raises:
        TypeError: without ``allow``, or where there is no such backend.

    >>> page = wsgi("memory://", allow=lambda environ: environ.get("REMOTE_USER"))
    """
    console, allowed = _native.Console(open_backend(backend).native), checked("wsgi", allow, "request's environ")

    def page(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        is_allowed, who = operator_of(allowed(environ))
        status, headers, body = console.answer(
            ConsoleRequest(
                method=environ["REQUEST_METHOD"],
                path=environ.get("PATH_INFO", ""),
                query=environ.get("QUERY_STRING", ""),
                headers=headers_of(environ),
                body=_body(environ) if is_allowed else b"",
                mount=environ.get("SCRIPT_NAME", ""),
                is_secure=environ.get("wsgi.url_scheme") == "https",
                is_allowed=is_allowed,
                who=who,
            )
        )
        lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        start_response(f"{status} {HTTPStatus(status).phrase}", lines)
        return [body]

    return page


def headers_of(environ: Environ) -> list[tuple[bytes, bytes]]:
    """The headers that a WSGI server has told."""
    names = [name for name in environ if name.startswith("HTTP_") or name == "CONTENT_TYPE"]
    return [
        (name.removeprefix("HTTP_").replace("_", "-").encode("latin-1"), str(environ[name]).encode("latin-1"))
        for name in names
    ]


def _body(environ: Environ) -> bytes:
    """The body; of one that is too large no more than is needed to refuse it."""
    length = str(environ.get("CONTENT_LENGTH") or "0")
    size = min(int(length), _native.Console.MAX_BODY + 1) if length.isascii() and length.isdigit() else 0
    body: bytes = environ["wsgi.input"].read(size)
    return body
