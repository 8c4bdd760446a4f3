"""Django's request: its facts, its body, its user."""

from __future__ import annotations

from io import BytesIO
from operator import attrgetter
from typing import Any
from urllib.parse import quote

from django.http import HttpRequest, UnreadablePostError
from django.utils.functional import SimpleLazyObject

from pyidempotent._http.callers import server_caller, user_caller
from pyidempotent._http.endpoint import ATTEMPT
from pyidempotent._http.forms import form_content
from pyidempotent._http.rules import too_large
from pyidempotent._http.starlette import path_of
from pyidempotent._native import Facts
from pyidempotent._options import Site


def facts_of(request: HttpRequest) -> Facts:
    """The facts of a request: path and query as the server has them, headers as Django has them."""
    environ, scope = request.META, getattr(request, "scope", None)
    if scope is not None:
        query = scope.get("query_string", b"")
        # Django takes a str here, as its own test client sends it.
        query = query.encode() if isinstance(query, str) else query
        return Facts.of_environ(environ, path_of(scope), query)
    if "RAW_URI" not in environ and "REQUEST_URI" not in environ:
        # Not every server tells it; Django has put its own, decoded, in PATH_INFO's place.
        return Facts.of_environ({**environ, "REQUEST_METHOD": request.method}, quote(request.path).encode())
    return Facts.of_environ(environ)


def held_of(request: HttpRequest) -> Site | None:
    """The options of the attempt that a middleware holds for a request: ours, or that of an ASGI application around."""
    held: Site | None = request.META.get(ATTEMPT)
    return held or getattr(request, "scope", {}).get(ATTEMPT)


def read_body(request: HttpRequest, facts: Facts, limit: int) -> tuple[bytes, bytes]:
    """Content type and body, at most ``limit`` bytes; the view can still read it, in any way and under its own limits.

    Raises:
        IdempotencyPayloadTooLarge: over the limit.
        RuntimeError: where somebody has read it, and nobody knows what it was.
    """
    facts.refuse_declared(limit)
    if hasattr(request, "_body"):
        content = request._body
    elif not request._read_started:  # type: ignore[attr-defined]  # of every request of Django's
        content = _from_stream(request, limit)
    elif hasattr(request, "_files"):
        # A form that was parsed before us, by CSRF protection: the body is gone, and what it said is there.
        fields = [(name, value) for name, values in request.POST.lists() for value in values]
        files = [
            (name, (file.name, file.content_type, file)) for name, files in request.FILES.lists() for file in files
        ]
        return form_content([*fields, *files], limit)
    else:
        raise RuntimeError(
            "the request's body was read before its payload could be compared; let what reads it come after, "
            "read request.body (which keeps it), or pass fingerprint="
        )
    if len(content) > limit:
        raise too_large(limit)
    return facts.line(b"content-type"), content


def _from_stream(request: HttpRequest, limit: int) -> bytes:
    if "HTTP_TRANSFER_ENCODING" in request.META and request.META.get("wsgi.input_terminated"):
        # On WSGI, Django itself reads no body that does not tell its length; a view that reads it there still can.
        content: bytes = request.META["wsgi.input"].read(limit + 1)
        request.META["wsgi.input"] = BytesIO(content)
        return content
    content = request.read(limit + 1)
    declared = request.META.get("CONTENT_LENGTH") or ""
    if declared.isdigit() and len(content) < min(int(declared), limit + 1):
        raise UnreadablePostError("the request was cut short")
    own: Any = request
    own._stream, own._read_started = BytesIO(content), False  # as Django does where it has read the body
    return content


def user_of(request: HttpRequest, site: Site, who: str) -> bytes | None:
    """The authenticated user, as a caller."""
    return _caller(request, getattr(request, "user", None), site, who)


async def user_of_async(request: HttpRequest, site: Site, who: str) -> bytes | None:
    """The authenticated user, found in a loop, where ``request.user`` must not ask the database."""
    user = getattr(request, "user", None)
    # Somebody's own is not lazy: Django's would be the session's user, who may be nobody.
    if hasattr(request, "auser") and (user is None or isinstance(user, SimpleLazyObject)):
        user = await request.auser()
    return _caller(request, user, site, who)


def _caller(request: HttpRequest, user: Any, site: Site, who: str) -> bytes | None:
    by_key = attrgetter("pk")
    caller = user_caller(user, by_key, "a primary key", site, who)
    if caller is None:
        # Django REST Framework and Ninja leave there what has authenticated a request that has no user.
        caller = user_caller(getattr(request, "auth", None) or None, by_key, "a primary key", site, who)
    return server_caller(request.META) if caller is None else caller
