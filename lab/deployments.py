"""Redis beyond one server: a replica takes the primary's place, and slots move between the nodes of a cluster.

What one primary has acknowledged and its replicas have not is lost with it. Each place says since when nothing of the
kind has been there: what was written before must not be lost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from clients import until
from lab.places import Place
from proxy import Proxy
from redis_groups import RedisCluster, RedisSentinels, bring_back, follows, is_primary, promotion, take_out
from servers import RedisServer

#: How long servers may take to agree, in seconds: sentinels that vote for each other try again after six.
LIMIT = 60.0

#: What every key on a cluster begins with: all calls concern the node that fails, or the slot that moves.
HOT = "{hot}:"


@dataclass
class Failover:
    """A replica that has taken the primary's place.

    Parameters:
        way: one of `redis_groups.WAYS`.
        old, new: the two servers.
        began: when the old one was well for the last time.
        promoted: when the new one took writes, or a moment later.
        loses: whether the old one may have acknowledged what the new one never gets.
    """

    way: str
    old: RedisServer
    new: RedisServer
    began: float
    promoted: float
    loses: bool = True


class Deployment(Place):
    """A primary with replicas.

    Parameters:
        folder: for its files.
        slots: how many ways there are to it.
    """

    #: As the product's ``replicas=``.
    confirmed = 0
    #: How many replicas are there beside those.
    spare = 1

    def __init__(self, folder: Path, slots: int) -> None:
        super().__init__(folder, slots)
        #: Who takes writes, as the lab knows.
        self.primary: RedisServer

    def fail(self, way: str) -> Failover:
        """Takes the primary out, and returns when a replica is the primary."""
        raise NotImplementedError

    def heal(self, failover: Failover) -> None:
        """Brings the old primary back; it may take itself for the primary until it is told."""
        bring_back(failover.old, failover.way)

    @property
    def family(self) -> Sequence[RedisServer]:
        """The primary and its replicas."""
        raise NotImplementedError

    @property
    def replicas(self) -> list[RedisServer]:
        """Who may take the primary's place."""
        return [server for server in self.family if server is not self.primary]

    def is_healed(self) -> bool:
        """Whether there is one primary, and all others have what it has."""
        primaries = [server for server in self.family if is_primary(server)]
        if len(primaries) != 1:
            return False
        (self.primary,) = primaries
        return all(follows(server, self._port_for(server)) for server in self.replicas)

    def is_known(self) -> bool:
        """Whether everybody who tells clients where the primary is names the new one."""
        return True

    def _port_for(self, replica: RedisServer) -> int:
        """Where a replica follows the primary."""
        return self.primary.port

    @property
    def count(self) -> int:
        """How many replicas a primary has."""
        return max(1, self.confirmed + self.spare)

    def _query(self) -> str:
        return f"?replicas={self.confirmed}" if self.confirmed else ""

    def caught_up(self) -> float:
        """Returns when every replica has what was written before a moment, and that moment."""
        moment = time.monotonic()
        with redis.Redis(port=self.primary.port, single_connection_client=True, socket_timeout=60) as client:
            client.set(f"{HOT}caught", "up")
            if client.wait(len(self.replicas), 30_000) < len(self.replicas):
                raise RuntimeError("the replicas did not catch up")
        return moment


class Sentinels(Deployment):
    """Behind sentinels."""

    name = "sentinels"

    def __enter__(self) -> Sentinels:
        self.group = self.stack.enter_context(RedisSentinels(replicas=self.count))
        self.primary = self.group.primary
        return self

    def url(self, slot: int) -> str:
        """The sentinels' URL, whatever the slot."""
        return self.group.url + self._query()

    @property
    def family(self) -> list[RedisServer]:
        """All servers but the sentinels."""
        return self.group.servers

    def is_healed(self) -> bool:
        """Whether the sentinels know that too."""
        return super().is_healed() and self.is_known()

    def is_known(self) -> bool:
        """Whether all sentinels name it, and have nothing more to do."""
        return self.group.agree_on(self.primary)

    def fail(self, way: str) -> Failover:
        """The sentinels promote a replica."""
        old, others, began = self.primary, self.replicas, self.caught_up()
        self.group.fail(way)
        promoted = promotion(*others, limit=LIMIT)
        self.primary = promoted_of(others)
        return Failover(way, old, self.primary, began, promoted)


class Cluster(Deployment):
    """A cluster of three primaries, each with replicas; all keys are on one of them."""

    name = "cluster"
    prefix = HOT

    def __enter__(self) -> Cluster:
        self.group = self.stack.enter_context(RedisCluster(replicas=self.count, timeout=1000))
        self.primary = self.group.owner(HOT)
        self._family = [self.primary, *(node for node in self.group.nodes if follows(node, self.primary.port))]
        return self

    @property
    def family(self) -> Sequence[RedisServer]:
        """The nodes that have had the keys from the beginning."""
        return self._family

    def url(self, slot: int) -> str:
        """The nodes' URL, whatever the slot."""
        return self.group.url + self._query()

    def fail(self, way: str) -> Failover:
        """The nodes promote a replica."""
        old, others, began = self.primary, self.replicas, self.caught_up()
        self.group.fail(way, HOT)
        promoted = promotion(*others, limit=LIMIT)
        self.primary = promoted_of(others)
        # A node that is told to give its place away takes no more writes until the other one has everything.
        return Failover(way, old, self.primary, began, promoted, loses=way != "replaced")


class Slots(Place):
    """A cluster of three primaries without replicas; all keys are in one slot, which moves."""

    name = "cluster"
    prefix = HOT

    def __enter__(self) -> Slots:
        self.group = self.stack.enter_context(RedisCluster())
        return self

    def url(self, slot: int) -> str:
        """The nodes' URL, whatever the slot."""
        return self.group.url


class Name(Deployment):
    """Behind a name, which leads to another server after a failover: each slot has a proxy for it.

    Replicas follow through proxies too, so that one may lag.
    """

    name = "name"

    def __enter__(self) -> Name:
        self.primary = self.stack.enter_context(self._server())
        self.servers = [self.primary]
        self.links = {self.primary: self.stack.enter_context(Proxy(self.primary.port))}
        for _ in range(self.count):
            link = self.stack.enter_context(Proxy(self.primary.port))
            server = self.stack.enter_context(self._server("--replicaof", f"127.0.0.1 {link.port}"))
            self.servers.append(server)
            self.links[server] = link
        until(lambda: all(follows(server, self.links[server].port) for server in self.replicas))
        self.proxies = [self.stack.enter_context(Proxy(self.primary.port)) for _ in range(self.slots)]
        return self

    def _server(self, *more: str) -> RedisServer:
        return RedisServer("--dir", str(self.folder), "--repl-diskless-sync-delay", "0", *more)

    def url(self, slot: int) -> str:
        """The slot's own way to the name."""
        return self.proxies[slot].url + self._query()

    @property
    def family(self) -> list[RedisServer]:
        """All servers."""
        return self.servers

    def _port_for(self, replica: RedisServer) -> int:
        return self.links[replica].port

    def fail(self, way: str) -> Failover:
        """Takes the primary out, promotes a replica, and lets the name lead to it at once."""
        old, began = self.primary, self.caught_up()
        take_out(old, way, lambda: None)
        failover = Failover(way, old, self.promote(), began, time.monotonic())
        self.lead(range(self.slots))
        return failover

    def promote(self) -> RedisServer:
        """Makes the replica that has the most the primary; the others follow it. The name leads to the old one yet."""
        new = max(self.replicas, key=offset)
        new.cli("REPLICAOF", "NO", "ONE")
        old, self.primary = self.primary, new
        for server in self.replicas:
            self.links[server].target = new.port
            self.links[server].drop_all()
            if server is not old:
                server.cli("REPLICAOF", "127.0.0.1", str(self.links[server].port))
        return new

    def lead(self, slots: range | list[int]) -> None:
        """Lets the name of these slots lead to the primary, and cuts what leads elsewhere."""
        for slot in slots:
            self.proxies[slot].target = self.primary.port
            self.proxies[slot].drop_all()

    def heal(self, failover: Failover) -> None:
        """The old primary becomes a replica."""
        super().heal(failover)
        failover.old.cli("REPLICAOF", "127.0.0.1", str(self.links[failover.old].port))


class OneReplica(Name):
    """Behind a name, with one replica, also where writes are confirmed: it is the one that is promoted."""

    spare = 0


def offset(server: RedisServer) -> int:
    """How much of what was written a replica has."""
    name = "slave_repl_offset:"
    lines = server.cli("INFO", "replication").splitlines()
    return next(int(line.removeprefix(name)) for line in lines if line.startswith(name))


def promoted_of(servers: list[RedisServer]) -> RedisServer:
    """The one of them that takes writes; it may close connections while it begins to."""
    primary: RedisServer = until(lambda: next((server for server in servers if is_primary(server)), None))
    return primary


def confirmed(kind: type[Deployment]) -> type[Deployment]:
    """The same place for a product that has its writes confirmed by one replica."""
    return type(f"Confirmed{kind.__name__}", (kind,), {"confirmed": 1, "name": f"{kind.name}-confirmed"})
