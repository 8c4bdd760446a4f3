"""`servers_of`: which servers a redis-py client speaks to, and with what settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

PASS_A_URL = "pass a URL instead, like RedisBackend('redis://user:password@host:6379/0')"


@dataclass(frozen=True)
class Servers:
    """What a client says of its servers.

    Parameters:
        settings: its connections' arguments.
        encrypted: whether they use TLS.
        form: of the URL: ``""``, ``"+sentinel"`` or ``"+cluster"``.
        hosts: as they stand in a URL.
        service: what sentinels call the primary, as it stands in a URL.
        sentinels: the arguments of connections to sentinels.
        sentinels_encrypted: whether those use TLS.
    """

    settings: dict[str, Any]
    encrypted: bool
    form: str
    hosts: str
    service: str = ""
    sentinels: dict[str, Any] | None = None
    sentinels_encrypted: bool = False

    def url(self, login: str, database: int) -> str:
        """The URL that leads to them.

        Parameters:
            login: as it stands in a URL, with its ``@``.
            database: the number of the database.
        """
        scheme = "rediss" if self.encrypted else "redis"
        url = f"{scheme}{self.form}://{login}{self.hosts}/{self.service}{database}"
        if self.sentinels is None:
            return url
        query = {"sentinel_tls": "yes" if self.sentinels_encrypted else "no"}
        for name in ("username", "password"):
            if self.sentinels.get(name):
                query[f"sentinel_{name}"] = self.sentinels[name]
        return f"{url}?{urlencode(query, quote_via=quote)}"


def servers_of(client: Any) -> Servers:
    """Reads a client: ``Redis``, ``Sentinel.master_for(…)`` or ``RedisCluster``, sync or asyncio.

    Raises:
        TypeError: for anything else, or a client that can't be read.
    """
    if hasattr(client, "nodes_manager"):
        return _cluster(client)
    pool = getattr(client, "connection_pool", None)
    settings = getattr(pool, "connection_kwargs", None)
    if not isinstance(settings, dict):
        raise TypeError(
            f"RedisBackend takes a URL or a client of redis-py, not {type(client).__qualname__}; {PASS_A_URL}"
        )
    encrypted = _is_encrypted(getattr(pool, "connection_class", type(None)))
    if hasattr(pool, "service_name"):
        return _sentinel(pool, settings, encrypted)
    return Servers(settings, encrypted, "", _host(settings.get("host", "localhost"), settings.get("port", 6379)))


def _sentinel(pool: Any, settings: dict[str, Any], encrypted: bool) -> Servers:
    if not getattr(pool, "is_master", True):
        raise TypeError("a Sentinel's replica can't be carried over, it takes no writes; pass its master_for(…)")
    pools = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
    told = [one.connection_kwargs for one in pools]
    hosts = _hosts((one.get("host", "localhost"), one.get("port", 26379)) for one in told)
    service = f"{quote(pool.service_name, safe='')}/"
    first, sentinels_encrypted = told[0], _is_encrypted(pools[0].connection_class)
    for one in told:
        if any(one.get(name) != first.get(name) for name in ("username", "password")):
            raise TypeError(f"sentinels that take different logins can't be carried over; {PASS_A_URL}")
    return Servers(settings, encrypted, "+sentinel", hosts, service, first, sentinels_encrypted)


def _cluster(client: Any) -> Servers:
    nodes = client.nodes_manager
    if getattr(nodes, "address_remap", None) is not None:
        raise TypeError(f"a cluster client's address_remap can't be carried over; {PASS_A_URL}")
    settings = dict(client.get_connection_kwargs())
    connect = settings.get("redis_connect_func")
    if getattr(connect, "__self__", None) is client:  # the cluster client's own
        settings["redis_connect_func"] = getattr(client, "user_on_connect_func", None)
    encrypted = bool(settings.get("ssl")) or _is_encrypted(settings.get("connection_class", type(None)))
    known = nodes.startup_nodes.values()
    return Servers(settings, encrypted, "+cluster", _hosts((node.host, node.port) for node in known))


def _is_encrypted(connection: type) -> bool:
    if not connection.__module__.startswith("redis.") and connection is not type(None):
        # It may lead anywhere: FakeRedis has no server at all.
        kind = f"{connection.__module__}.{connection.__name__}"
        raise TypeError(f"a client whose connections are {kind} can't be carried over; {PASS_A_URL}")
    return "SSL" in connection.__name__


def _hosts(hosts: Iterable[tuple[str, int]]) -> str:
    return ",".join(_host(*host) for host in hosts)


def _host(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
