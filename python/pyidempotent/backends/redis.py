"""Records in Redis 6.2 or later, or Valkey: one server, the primary that sentinels know, or a cluster."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from pyidempotent import _native
from pyidempotent.backends._backend import Backend
from pyidempotent.backends._redis_servers import PASS_A_URL, servers_of

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    import redis.asyncio.cluster
    import redis.cluster

__all__ = ["RedisBackend"]

#: TLS settings that we read, or that say nothing against us. Any other is a promise that we could not keep.
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

    Raises:
        TypeError: for a client with something that can't be carried over; it says what to pass instead.
        ValueError: for a URL that can't be read.

    >>> backend = RedisBackend("redis://localhost:6379/0", prefix="shop:")
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
    ) -> None:
        from pyidempotent._values.durations import seconds

        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {prefix!r}")
        certificates: tuple[Any, ...] = ()
        limit: Any = 1.0
        if isinstance(url_or_client, str):
            url = url_or_client
        else:
            url, certificates, timeout = _read_client(url_or_client)
            limit = timeout or limit
        settings = (url, prefix, seconds("time_limit", limit if time_limit is None else time_limit), *certificates)
        shared = Backend._shared.get(("redis", *settings)) or _native.Backend.redis(*settings)
        super().__init__(Backend._shared.setdefault(("redis", *settings), shared))


def _read_client(client: Any) -> tuple[str, tuple[Any, ...], float | None]:
    """The URL, the certificates and the time limit of a redis-py client."""
    servers = servers_of(client)
    settings = servers.settings
    for name, value in settings.items():
        matters = name in ("credential_provider", "redis_connect_func") or (
            name.startswith("ssl_") and name not in _TLS_READ
        )
        if matters and value:
            raise TypeError(f"the client's {name} can't be carried over; {PASS_A_URL}")
    user, password, db = settings.get("username"), settings.get("password"), settings.get("db") or 0
    if settings.get("path"):
        query = {"db": db, **({"username": user} if user else {}), **({"password": password} if password else {})}
        return (
            f"unix://{quote(settings['path'])}?{urlencode(query, quote_via=quote)}",
            (),
            settings.get("socket_timeout"),
        )
    certificates = _certificates(settings) if servers.encrypted else ()
    if servers.sentinels is not None and servers.sentinels_encrypted:
        theirs = _certificates(servers.sentinels)
        if servers.encrypted and theirs != certificates:
            raise TypeError(f"other certificates for sentinels than for servers can't be carried over; {PASS_A_URL}")
        certificates = theirs
    login = f"{quote(user or '', safe='')}:{quote(password or '', safe='')}@" if user or password else ""
    return servers.url(login, db), certificates, settings.get("socket_timeout")


def _certificates(settings: dict[str, Any]) -> tuple[Any, ...]:
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
