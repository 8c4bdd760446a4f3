"""Records in Redis 6.2 or later, or Valkey: one server, the primary that sentinels know, or a cluster."""

from __future__ import annotations

import ssl
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from pyidempotent import _native
from pyidempotent.backends._backend import Backend
from pyidempotent.backends._credentials import Credentials, question
from pyidempotent.backends._redis_servers import PASS_A_URL, servers_of
from pyidempotent.backends.seal import Sealing, sealing

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    import redis.asyncio.cluster
    import redis.cluster

__all__ = ["RedisBackend"]

#: TLS settings that a URL can say, or that say nothing against us. Any other is a promise that we could not keep.
_TLS_READ = {
    "ssl", "ssl_ca_certs", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname",
    "ssl_min_version",
}  # fmt: skip


class RedisBackend(Backend):
    """Records in Redis.

    A client is read for its settings; the engine opens connections of its own with them.
    Set the server's ``maxmemory-policy`` to ``noeviction``: any other may drop a claim, which is a second run.

    Parameters:
        url_or_client: a URL (``redis://host:6379/0``, ``unix:///path``, ``redis+sentinel://host,host/service/0``,
            ``redis+cluster://host,host``; with ``rediss`` over TLS), or a client of redis-py, sync or asyncio:
            ``Redis``, what ``Sentinel.master_for`` gives, or ``RedisCluster``.
        prefix: what every storage key starts with.
        time_limit: the longest a command may take, connecting included, in seconds. By default the client's
            ``socket_timeout``, or 1.
        credentials: says who logs in, for passwords that are rotated and tokens that expire: a callable, sync or
            async, that returns ``(username, password)``, or ``(username, password, seconds)`` where it is known how
            long they hold; or a credential provider of redis-py. By default the client's ``credential_provider``. It
            is asked for every connection, and again when three quarters of that time have passed, or every minute;
            the connection logs in anew then. It runs on a thread of the engine's, an async one in a loop of its own.
        replicas: how many replicas must have a claim or a completion in memory before it counts (``WAIT``). What is
            not confirmed within ``time_limit`` is an error: nothing runs, and a completion is sent again. It narrows
            what a failover may lose, and no more. By default the URL's ``?replicas=``, or 0.
        aof: how many servers must have it on disk (``WAITAOF``), the primary among them. Needs Redis 7.2 and
            ``appendonly yes``. By default the URL's ``?aof=``, or 0.
        seal: the keys that results are encrypted with before they leave the process: a `Seal`, or what makes one.

    Raises:
        TypeError: for a client with something that can't be carried over; it says what to pass instead.
        ValueError: for a URL that can't be read, or that has a login where ``credentials`` are given.

    >>> backend = RedisBackend("redis://localhost:6379/0", prefix="shop:")
    >>> backend = RedisBackend("redis://localhost", credentials=lambda: ("shop", "a token", 900))
    """

    def __init__(
        self,
        url_or_client: str
        | redis.Redis
        | redis.asyncio.Redis
        | redis.cluster.RedisCluster
        | redis.asyncio.cluster.RedisCluster,
        *,
        prefix: str = "idem:",
        time_limit: float | timedelta | None = None,
        credentials: Credentials | None = None,
        replicas: int | None = None,
        aof: int | None = None,
        seal: Sealing | None = None,
    ) -> None:
        from pyidempotent._values.durations import seconds

        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {prefix!r}")
        read = _Read(url_or_client) if isinstance(url_or_client, str) else _read_client(url_or_client)
        limit = read.time_limit if time_limit is None else time_limit
        if credentials is None:
            credentials = read.credentials
        asked = None if credentials is None else question(credentials, is_asyncio=read.is_asyncio)
        # An id stands for what is kept alive with the store.
        who = credentials if isinstance(credentials, Hashable) else id(credentials)
        for name, number in (("replicas", replicas), ("aof", aof)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
                raise ValueError(f"{name} must be a number of servers, not {number!r}")
        settings = (read.url, prefix, seconds("time_limit", limit), replicas, aof)
        sealed = sealing(seal)
        place = ("redis", *settings, who, sealed)
        shared = Backend._shared.get(place) or _native.Backend.redis(*settings, credentials=asked, seal=sealed)
        super().__init__(Backend._shared.setdefault(place, shared))


@dataclass(frozen=True)
class _Read:
    """What a client says, or a URL."""

    url: str
    time_limit: Any = 1.0
    credentials: Any = None
    is_asyncio: bool = False


def _read_client(client: Any) -> _Read:
    servers = servers_of(client)
    settings = servers.settings
    for name, value in settings.items():
        if value and (name == "redis_connect_func" or (name.startswith("ssl_") and name not in _TLS_READ)):
            raise TypeError(f"the client's {name} can't be carried over; {PASS_A_URL}")
    if servers.sentinels is not None and servers.sentinels.get("credential_provider"):
        raise TypeError(f"the credential_provider of sentinels can't be carried over; {PASS_A_URL}")
    user, password, db = settings.get("username"), settings.get("password"), settings.get("db") or 0
    if settings.get("path"):
        query = {"db": db, **({"username": user} if user else {}), **({"password": password} if password else {})}
        url = f"unix://{quote(settings['path'])}?{urlencode(query, quote_via=quote)}"
    else:
        tls = _tls(settings) if servers.encrypted else {}
        if servers.sentinels is not None and servers.sentinels_encrypted:
            theirs = _tls(servers.sentinels)
            if servers.encrypted and theirs != tls:
                raise TypeError(
                    f"other TLS settings for sentinels than for servers can't be carried over; {PASS_A_URL}"
                )
            tls = theirs
        login = f"{quote(user or '', safe='')}:{quote(password or '', safe='')}@" if user or password else ""
        url = servers.url(login, db)
        if tls:
            url += ("&" if "?" in url else "?") + urlencode(tls, quote_via=quote)
    is_asyncio = any(cls.__module__.startswith("redis.asyncio") for cls in type(client).__mro__)
    limit = settings.get("socket_timeout") or _Read.time_limit
    return _Read(url, limit, settings.get("credential_provider"), is_asyncio)


def _tls(settings: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a URL for a client's TLS settings."""
    query = {}
    for name in ("ssl_ca_data", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        value = settings.get(name)
        if isinstance(value, bytes):
            raise TypeError(f"the client's {name} can't be carried over: give it in PEM, as a str")
        if value:
            query[name] = str(value)
    # Python's default for a client that names none is the strictest.
    wanted = settings.get("ssl_cert_reqs", ssl.CERT_REQUIRED)
    if wanted in (None, "none", ssl.CERT_NONE):
        query["ssl_cert_reqs"] = "none"
    elif settings.get("ssl_check_hostname") is False:
        query["ssl_check_hostname"] = "false"
    return query
