"""Records in Redis 6.2 or later, or Valkey."""

from __future__ import annotations

import ssl
from collections.abc import Hashable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from pyidempotent import _native
from pyidempotent.backends._backend import Backend
from pyidempotent.backends._credentials import Credentials, question

if TYPE_CHECKING:
    import redis
    import redis.asyncio

__all__ = ["RedisBackend"]

#: TLS settings that we read, or that say nothing against us. Any other is a promise that we could not keep.
_TLS_READ = {
    "ssl", "ssl_ca_certs", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname",
    "ssl_min_version",
}  # fmt: skip

_PASS_A_URL = "pass a URL instead, like RedisBackend('redis://user:password@host:6379/0')"


class RedisBackend(Backend):
    """Records in Redis.

    A client is read for its settings; the engine opens a connection of its own with them.
    Set the server's ``maxmemory-policy`` to ``noeviction``: any other may drop a claim, which is a second run.

    Parameters:
        url_or_client: ``redis://``, ``rediss://`` or ``unix://`` URL, or a client of redis-py, sync or asyncio.
        prefix: what every storage key starts with.
        time_limit: the longest a command may take, connecting included, in seconds. By default the client's
            ``socket_timeout``, or 1.
        credentials: says who logs in, for passwords that are rotated and tokens that expire: a callable, sync or
            async, that returns ``(username, password)``, or ``(username, password, seconds)`` where it is known how
            long they hold; or a credential provider of redis-py. By default the client's ``credential_provider``. It
            is asked for every connection, and again when three quarters of that time have passed, or every minute;
            the connection logs in anew then. It runs on a thread of the engine's, an async one in a loop of its own.

    Raises:
        TypeError: for a client with something that can't be carried over; it says what to pass instead.
        ValueError: for a URL that can't be read, or that has a login where ``credentials`` are given.

    >>> backend = RedisBackend("redis://localhost:6379/0", prefix="shop:")
    >>> backend = RedisBackend("redis://localhost", credentials=lambda: ("shop", "a token", 900))
    """

    def __init__(
        self,
        url_or_client: str | redis.Redis | redis.asyncio.Redis,
        *,
        prefix: str = "idem:",
        time_limit: float | timedelta | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        from pyidempotent._values.durations import seconds

        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {prefix!r}")
        certificates: tuple[Any, Any] = (None, None)
        limit: Any = 1.0
        is_asyncio = False
        if isinstance(url_or_client, str):
            url = url_or_client
        else:
            url, certificates, timeout = _read_client(url_or_client)
            limit = timeout or limit
            pool = url_or_client.connection_pool
            is_asyncio = "asyncio" in pool.connection_class.__module__
            if credentials is None:
                credentials = pool.connection_kwargs.get("credential_provider")
        settings = (url, prefix, seconds("time_limit", limit if time_limit is None else time_limit), *certificates)
        asked = None if credentials is None else question(credentials, is_asyncio=is_asyncio)
        # An id stands for what is kept alive with the store.
        who = credentials if isinstance(credentials, Hashable) else id(credentials)
        shared = Backend._shared.get(("redis", *settings, who)) or _native.Backend.redis(*settings, credentials=asked)
        super().__init__(Backend._shared.setdefault(("redis", *settings, who), shared))


def _read_client(client: Any) -> tuple[str, tuple[Any, Any], float | None]:
    """The URL, the certificates and the time limit of a redis-py client."""
    pool = getattr(client, "connection_pool", None)
    settings = getattr(pool, "connection_kwargs", None)
    if not isinstance(settings, dict):
        raise TypeError(
            f"RedisBackend takes a URL or a client of redis-py, not {type(client).__qualname__}; {_PASS_A_URL}"
        )
    connection = getattr(pool, "connection_class", type(None))
    kind = connection.__name__
    if hasattr(pool, "service_name") or "Sentinel" in kind or "Cluster" in type(client).__name__:
        raise TypeError(f"a Sentinel or cluster client can't be carried over; {_PASS_A_URL}")
    if not connection.__module__.startswith("redis."):
        # It may lead anywhere: FakeRedis has no server at all.
        raise TypeError(
            f"a client whose connections are {connection.__module__}.{kind} can't be carried over; {_PASS_A_URL}"
        )
    for name, value in settings.items():
        if value and (name == "redis_connect_func" or (name.startswith("ssl_") and name not in _TLS_READ)):
            raise TypeError(f"the client's {name} can't be carried over; {_PASS_A_URL}")
    user, password, db = settings.get("username"), settings.get("password"), settings.get("db") or 0
    if settings.get("path"):
        query = {"db": db, **({"username": user} if user else {}), **({"password": password} if password else {})}
        return (
            f"unix://{quote(settings['path'])}?{urlencode(query, quote_via=quote)}",
            (None, None),
            settings.get("socket_timeout"),
        )
    scheme, certificates = "redis", (None, None)
    if "SSL" in kind:
        scheme, certificates = "rediss", _certificates(settings)
    login = f"{quote(user or '', safe='')}:{quote(password or '', safe='')}@" if user or password else ""
    host = settings.get("host", "localhost")
    host = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{login}{host}:{settings.get('port', 6379)}/{db}"
    return url, certificates, settings.get("socket_timeout")


def _certificates(settings: dict[str, Any]) -> tuple[Any, Any]:
    verified = settings.get("ssl_cert_reqs", "required") in ("required", ssl.CERT_REQUIRED)
    if not verified or settings.get("ssl_check_hostname") is False:
        raise TypeError(
            "a TLS connection that does not verify its server can't be carried over; give ssl_ca_certs instead"
        )
    root = settings.get("ssl_ca_data")
    root = root.encode() if isinstance(root, str) else root
    if settings.get("ssl_ca_certs"):
        root = Path(settings["ssl_ca_certs"]).read_bytes()
    client = None
    if settings.get("ssl_certfile") and settings.get("ssl_keyfile"):
        client = (Path(settings["ssl_certfile"]).read_bytes(), Path(settings["ssl_keyfile"]).read_bytes())
    return root, client
