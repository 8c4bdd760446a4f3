"""Who calls, where no ``scope=`` says it: what a framework or a server knows. Knows no framework by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from pyidempotent._calls.function import caller_bytes
from pyidempotent._http.rules import once
from pyidempotent._options import Site
from pyidempotent.exceptions import IdempotencyScopeMissing

#: Where a WSGI server tells whom it has authenticated: by a login (RFC 3875, section 4.1.11), by a client certificate.
_SERVER_SAYS = ("REMOTE_USER", "SSL_CLIENT_S_DN")


def user_caller(user: Any, identity: Callable[[Any], Any], where: str, site: Site, who: str) -> bytes | None:
    """The caller that a framework's user object is; None where it says that nobody is logged in.

    Parameters:
        user: a str, an int, a UUID, bytes, or an object of any class.
        identity: returns what tells an object of the framework's usual class from others.
        where: where ``identity`` looks, for a message.
        site: the options of the call site, which logs a failure once.
        who: the operation, for the log.

    Raises:
        IdempotencyScopeMissing: where somebody is there, and nothing tells them apart from others.
    """
    if user is None or not _is_authenticated(user):
        return None
    try:
        found = user if isinstance(user, _NAMES) else identity(user)
        if found is not None and found != "":
            return caller_bytes(found)
    except (AttributeError, NotImplementedError, TypeError):
        pass  # of somebody's own class
    said = (
        f"the user of the request is a {type(user).__qualname__}, and nothing tells it from other users; give it "
        f"{where} (a str, an int or a UUID), or pass scope="
    )
    once(site, logging.ERROR, f"{who}: {said}; nothing runs")
    raise IdempotencyScopeMissing(f"{IdempotencyScopeMissing.default_detail} In words for its operators: {said}.")


def named_caller(found: Any, site: Site, who: str) -> bytes:
    """The caller that ``scope=`` has returned, for an endpoint.

    Raises:
        IdempotencyScopeMissing: for None, which is logged once; its client is told no more than that.
        TypeError: for what names nobody.
    """
    if found is None:
        said = "scope= returned None, which names nobody: return '' for callers that share their keys, or pass shared"
        once(site, logging.ERROR, f"{who}: {said}; nothing runs")
        raise IdempotencyScopeMissing
    return caller_bytes(found)


#: What names a caller by itself.
_NAMES = (str, bytes, int, UUID)


def _is_authenticated(user: Any) -> bool:
    """Whether somebody is there: what does not say is taken for somebody."""
    if isinstance(user, _NAMES):
        return user is not False and not (isinstance(user, str | bytes) and not user)
    try:
        said = user.is_authenticated
    except (AttributeError, NotImplementedError):
        return True
    return bool(said() if callable(said) else said)


def server_caller(environ: Mapping[str, Any]) -> bytes | None:
    """The caller that a WSGI server has authenticated, if it has.

    >>> server_caller({"REMOTE_USER": "alice"}), server_caller({"REMOTE_USER": ""})
    (b'REMOTE_USER alice', None)
    """
    for name in _SERVER_SAYS:
        if said := environ.get(name):
            return f"{name} {said}".encode("utf-8", "surrogateescape")
    return None


def certificate_caller(scope: Mapping[str, Any]) -> bytes | None:
    """The caller that an ASGI server has authenticated by a client certificate (the ``tls`` extension).

    >>> certificate_caller({"extensions": {"tls": {"client_cert_name": "CN=alice"}}})
    b'client_cert_name CN=alice'
    """
    extensions = scope.get("extensions")
    tls = (extensions.get("tls") if extensions else None) or {}
    name = tls.get("client_cert_name")
    return f"client_cert_name {name}".encode() if name else None
