"""Redis servers that belong together: a primary with replicas and sentinels, and a cluster."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from clients import until
from servers import RedisServer, free_port, installed

if TYPE_CHECKING:
    from typing_extensions import Self


#: How a primary loses its place: it dies, it stands still, or it is well and another one is named.
WAYS = ("killed", "stopped", "replaced")


class RedisGroup:
    """Servers that start and end together, each with a folder of its own."""

    #: How a primary can lose its place here, of `WAYS`.
    ways: Sequence[str] = WAYS

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def _folder(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory()))

    def _start(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()  # nobody else would
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


class Sentinel(RedisServer):
    """A sentinel.

    Parameters:
        folder: where it keeps what it knows.
        service: what it calls the primary.
        primary: the port of the primary.
        settings: more lines for its file.
    """

    def __init__(self, folder: Path, service: str, primary: int, *settings: str) -> None:
        super().__init__()
        self.file = folder / "sentinel.conf"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor {service} 127.0.0.1 {primary} 2",
            f"sentinel down-after-milliseconds {service} 300",
            f"sentinel failover-timeout {service} 3000",
            *settings,
        ]
        self.file.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [self.program, str(self.file), "--sentinel"]

    def start(self) -> None:
        super().start()
        # As often as a test can wait for, instead of every 2 to 10 seconds. A server that says another role than it
        # has is corrected after four times "publish": later than the leader hears of a promotion, which takes it 1 s.
        periods = {"info": 200, "publish": 500, "ping": 100, "ask": 100}
        self.cli("SENTINEL", "DEBUG", *(part for name, ms in periods.items() for part in (f"{name}-period", str(ms))))


class RedisSentinels(RedisGroup):
    """A primary, replicas, and sentinels that promote one of them.

    Parameters:
        replicas: how many replicas.
        sentinels: how many sentinels.
    """

    service = "shop"

    def __init__(self, replicas: int = 1, sentinels: int = 3) -> None:
        super().__init__()
        primary = self._server()
        follow = ("--replicaof", f"127.0.0.1 {primary.port}")
        self.servers = [primary, *(self._server(*follow) for _ in range(replicas))]
        self.sentinels = [Sentinel(self._folder(), self.service, primary.port) for _ in range(sentinels)]

    def _server(self, *arguments: str) -> RedisServer:
        return RedisServer("--dir", str(self._folder()), "--repl-diskless-sync-delay", "0", *arguments)

    def _start(self) -> None:
        for server in [*self.servers, *self.sentinels]:
            self._stack.enter_context(server)
        until(lambda: all(self._knows_all(sentinel) for sentinel in self.sentinels))

    def _knows_all(self, sentinel: RedisServer) -> bool:
        told = self._told(sentinel)
        others, replicas = len(self.sentinels) - 1, len(self.servers) - 1
        if (told["num-other-sentinels"], told["num-slaves"]) != (str(others), str(replicas)):
            return False
        return all("master_link_status:up" in server.cli("INFO", "replication") for server in self.servers[1:])

    def _told(self, sentinel: RedisServer) -> dict[str, str]:
        words = sentinel.cli("SENTINEL", "MASTER", self.service).split("\n")  # a word may be empty
        return dict(zip(words[::2], words[1::2], strict=False))

    def fail(self, way: str) -> None:
        """Begins what makes the sentinels promote a replica, in one of `WAYS`."""
        take_out(self.primary, way, lambda: self.sentinels[0].cli("SENTINEL", "FAILOVER", self.service))

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.service}/0"

    @property
    def primary(self) -> RedisServer:
        """The server that takes writes, as the servers say themselves."""
        (primary,) = (server for server in self.servers if is_primary(server))
        return primary

    def agree_on(self, primary: RedisServer) -> bool:
        """Whether all sentinels name this server, and are done with what they had to do before."""
        return all(
            (told.get("port"), told.get("flags")) == (str(primary.port), "master")
            for told in map(self._told, self.sentinels)
        )

    def replica(self) -> RedisServer:
        """A server that follows the primary."""
        return next(server for server in self.servers if server.process is not None and not is_primary(server))


class ClusterNode(RedisServer):
    """A node of a cluster that takes no part in one yet.

    Parameters:
        folder: where it keeps what it knows.
        timeout: how long it waits for another node before it takes it for dead, in ms.
    """

    def __init__(self, folder: Path, timeout: int) -> None:
        self.bus = free_port()
        cluster = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus), "--cluster-node-timeout", str(timeout))
        # However long a replica has tried to take its primary's place on a busy machine, it tries again.
        tries = ("--cluster-replica-validity-factor", "0")
        super().__init__(*cluster, *tries, "--dir", str(folder), "--repl-diskless-sync-delay", "0")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}@{self.bus}"


class RedisCluster(RedisGroup):
    """A cluster.

    Parameters:
        primaries: how many nodes share the slots.
        replicas: how many replicas each of them has.
        timeout: how long nodes wait for another one before they take it for dead, in ms.
    """

    def __init__(self, primaries: int = 3, replicas: int = 0, timeout: int = 500) -> None:
        super().__init__()
        self.replicas, self.timeout = replicas, timeout
        self.nodes = [ClusterNode(self._folder(), timeout) for _ in range(primaries * (1 + replicas))]

    def _start(self) -> None:
        for node in self.nodes:
            self._stack.enter_context(node)
        addresses = [node.address for node in self.nodes]
        self.manage("create", *addresses, "--cluster-replicas", str(self.replicas), "--cluster-yes")
        self._agree()

    def _agree(self) -> None:
        until(lambda: all("cluster_state:ok" in node.cli("CLUSTER", "INFO") for node in self.nodes))
        until(lambda: len({self._slots(node) for node in self.nodes}) == 1)
        replicas = [node for node in self.nodes if not is_primary(node)]
        until(lambda: all("master_link_status:up" in node.cli("INFO", "replication") for node in replicas))

    def _slots(self, node: RedisServer) -> tuple[str, ...]:
        lines = (line.split() for line in node.cli("CLUSTER", "NODES").splitlines())
        return tuple(sorted(f"{words[0]} {words[2].replace('myself,', '')} {words[8:]}" for words in lines))

    def add(self) -> ClusterNode:
        """Another node, which has no slots yet."""
        node = ClusterNode(self._folder(), self.timeout)
        self._stack.enter_context(node)
        self.manage("add-node", node.address, self.nodes[0].address.partition("@")[0])
        self.nodes.append(node)
        self._agree()
        return node

    def manage(self, *arguments: str) -> str:
        """What ``redis-cli --cluster`` prints."""
        program = installed("redis-cli", "apt-get install redis-tools")
        done = subprocess.run([program, "--cluster", *arguments], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"redis-cli --cluster {' '.join(arguments)} failed: {done.stdout}{done.stderr}")
        return done.stdout

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def move(self, slot: str, source: RedisServer, target: RedisServer, keys: int = 300) -> None:
        """Moves a slot with its keys, some at once.

        Parameters:
            keys: how many.
        """
        target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id(source))
        source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id(target))
        while names := source.cli("CLUSTER", "GETKEYSINSLOT", slot, str(keys)).split():
            source.cli("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", *names)
        for node in (target, source, *self.nodes):
            node.cli("CLUSTER", "SETSLOT", slot, "NODE", self.id(target))

    def fail(self, way: str, key: str) -> None:
        """Begins what makes a replica take the place of the node that has a key's slot, in one of `WAYS`."""
        primary = self.owner(key)
        take_out(primary, way, lambda: self.replica_of(primary).cli("CLUSTER", "FAILOVER"))

    @property
    def primaries(self) -> list[ClusterNode]:
        """The nodes that share the slots."""
        return [node for node in self.nodes if node.process is not None and is_primary(node)]

    def owner(self, key: str) -> ClusterNode:
        """The node that has a key's slot."""
        return next(node for node in self.primaries if "MOVED" not in node.cli("EXISTS", key))

    def replica_of(self, primary: RedisServer) -> ClusterNode:
        """A node that follows another."""
        follows = f"master_port:{primary.port}"
        return next(node for node in self.nodes if follows in node.cli("INFO", "replication").split())

    def id(self, node: RedisServer) -> str:
        return node.cli("CLUSTER", "MYID")


def is_primary(server: RedisServer) -> bool:
    """Whether a server takes writes; a server that runs, and that says so."""
    if server.process is None:
        return False
    try:
        return "role:master" in server.cli("INFO", "replication")
    except subprocess.CalledProcessError:
        return False  # a server that changes its role closes its connections


def follows(server: RedisServer, port: int) -> bool:
    """Whether a server is a replica of the one at a port, and has all that stood there when it became one."""
    try:
        told = server.cli("INFO", "replication").split()
    except subprocess.CalledProcessError:
        return False
    return {"role:slave", f"master_port:{port}", "master_link_status:up"} <= set(told)


def take_out(primary: RedisServer, way: str, replace: Callable[[], object]) -> None:
    """Takes its place from a primary.

    Parameters:
        way: one of `WAYS`.
        replace: names another primary while this one is well.
    """
    if way == "killed":
        primary.kill()
    elif way == "stopped":
        primary.signal(signal.SIGSTOP)
    else:
        replace()


def bring_back(server: RedisServer, way: str) -> None:
    """Lets a server that was taken out run again; nobody asks it for anything yet."""
    if way == "killed":
        server.start()
    elif way == "stopped":
        server.signal(signal.SIGCONT)


def promotion(*servers: RedisServer, limit: float = 15) -> float:
    """Waits until one of these replicas is the primary; the moment, on the monotonic clock.

    Parameters:
        limit: for how many seconds.
    """
    until(lambda: any(is_primary(server) for server in servers), limit)
    return time.monotonic()
