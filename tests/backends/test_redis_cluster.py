"""A Redis cluster: each key on the node of its slot, also while slots move."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis.asyncio.cluster
import redis.cluster

from clients import until
from load import Load
from proxy import until_answered
from pyidempotent import (
    IdempotencyConflict,
    IdempotencyProcessing,
    IdempotencyStoreUnavailable,
    attempt,
    idempotent,
)
from pyidempotent.backends.redis import RedisBackend
from redis_groups import RedisCluster
from servers import RedisServer


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Three primaries that keep their slots."""
    with RedisCluster() as cluster:
        yield cluster


def test_keys_lie_on_every_node_and_are_replayed(cluster: RedisCluster) -> None:
    runs: Counter[str] = Counter()
    prefix = f"{uuid.uuid4()}:"

    @idempotent(RedisBackend(cluster.url, prefix=prefix), key="order", name="charge")
    async def charge(order: str, amount: int = 1) -> int:
        runs[order] += 1
        return amount

    async def play() -> None:
        orders = [f"order-{number}" for number in range(1000)]
        for _ in range(2):
            assert set(await asyncio.gather(*map(charge, orders))) == {1}
        for order in orders[:20]:
            with pytest.raises(IdempotencyConflict):
                await charge(order, 2)

    asyncio.run(play())
    assert set(runs.values()) == {1}
    assert len(runs) == 1000
    shares = [len(node.cli("--raw", "KEYS", f"{prefix}*").split()) for node in cluster.nodes]
    assert sum(shares) == 1000
    assert min(shares) > 200, "a third each, about"


def test_a_tag_in_the_prefix_puts_every_key_on_one_node(cluster: RedisCluster) -> None:
    tag = uuid.uuid4().hex
    for number in range(20):
        with attempt(RedisBackend(cluster.url, prefix=f"{{{tag}}}:"), key=f"{number}", name="work"):
            pass
    shares = [len(node.cli("--raw", "KEYS", f"*{tag}*").split()) for node in cluster.nodes]
    assert sorted(shares) == [0, 0, 20]


def test_a_repeat_of_what_runs_is_refused_and_a_waiter_gets_its_answer(cluster: RedisCluster) -> None:
    has_begun, may_end = threading.Semaphore(0), threading.Event()

    @idempotent(cluster.url, key="order", name="slow")
    def slow(order: str) -> str:
        has_begun.release()
        assert may_end.wait(20)
        return order

    @idempotent(cluster.url, key="order", name="slow", wait=20)
    def waits(order: str) -> str:
        raise AssertionError("it ran")

    answers: list[str] = []
    orders = [uuid.uuid4().hex for _ in range(12)]
    threads = [threading.Thread(target=slow, args=(order,)) for order in orders]
    waiters = [threading.Thread(target=lambda order: answers.append(waits(order)), args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for _ in orders:
        assert has_begun.acquire(timeout=20)
    for order in orders:
        with pytest.raises(IdempotencyProcessing):
            slow(order)
    for thread in waiters:
        thread.start()
    until(lambda: sum(len(node.cli("PUBSUB", "CHANNELS").split()) for node in cluster.nodes) == len(orders))
    may_end.set()
    for thread in [*threads, *waiters]:
        thread.join(20)
    assert sorted(answers) == sorted(orders)


@pytest.mark.parametrize("asks", ["sync", "asyncio", "asyncio, unused"])
def test_a_client_leads_to_the_same_records(cluster: RedisCluster, asks: str) -> None:
    first = cluster.nodes[0].port
    if asks == "sync":
        client: Any = redis.cluster.RedisCluster(host="127.0.0.1", port=first)
    else:
        client = redis.asyncio.cluster.RedisCluster(host="127.0.0.1", port=first, socket_timeout=2)

    async def use() -> None:
        await client.set("used", 1)
        await client.aclose()

    if asks == "asyncio":
        asyncio.run(use())
    key = uuid.uuid4().hex
    with (
        attempt(RedisBackend(client), key=key, name="work"),
        pytest.raises(IdempotencyProcessing),
        attempt(cluster.url, key=key, name="work"),
    ):
        raise AssertionError("it ran twice")


def test_what_a_cluster_client_does_that_we_can_not_is_refused(cluster: RedisCluster) -> None:
    host: dict[str, Any] = {"host": "127.0.0.1", "port": cluster.nodes[0].port}
    remapped = redis.cluster.RedisCluster(**host, address_remap=lambda address: address)
    with pytest.raises(TypeError, match="address_remap can't be carried over"):
        RedisBackend(remapped)
    connects = redis.cluster.RedisCluster(**host, redis_connect_func=lambda connection: connection.on_connect())
    with pytest.raises(TypeError, match="redis_connect_func can't be carried over"):
        RedisBackend(connects)


def test_every_rule_of_a_store_holds(cluster: RedisCluster) -> None:
    RedisBackend(cluster.url, prefix=f"{uuid.uuid4()}:").native.check()


def test_every_node_is_sent_the_scripts_that_it_lacks(cluster: RedisCluster) -> None:
    for _ in range(2):
        for node in cluster.nodes:
            node.cli("SCRIPT", "FLUSH")
        for _ in range(12):
            with attempt(cluster.url, key=uuid.uuid4().hex, name="work"):
                pass


def refused(url: str, says: str) -> IdempotencyStoreUnavailable:
    @idempotent(RedisBackend(url, time_limit=2), key="order", name="refused")
    def charge(order: str) -> str:
        raise AssertionError("it ran")

    with pytest.raises(IdempotencyStoreUnavailable, match=says) as error:
        charge(uuid.uuid4().hex)
    return error.value


def test_a_url_of_the_other_kind_is_said(cluster: RedisCluster, redis_server: RedisServer) -> None:
    node = cluster.nodes[0].port
    wrong = [
        (f"redis://127.0.0.1:{node}", r"is a node of a cluster; write redis\+cluster://"),
        (f"redis+cluster://127.0.0.1:{redis_server.port}", "is no node of a cluster; write redis://"),
    ]
    for url, says in wrong:
        assert refused(url, says).retry_after is None, "somebody must mend it"


@contextlib.contextmanager
def in_flight(backend: RedisBackend, keys: int) -> Iterator[set[str]]:
    """Attempts that run; their labels."""
    with contextlib.ExitStack() as stack:
        for number in range(keys):
            stack.enter_context(attempt(backend, key=f"{number}", name="runs", lease=60))
        yield {f"runs {number}" for number in range(keys)}


def reshard(cluster: RedisCluster, to: int, slots: int) -> Callable[[], str]:
    """Moves slots to a node, from all others."""
    node = cluster.nodes[to]
    told = ["--cluster-from", "all", "--cluster-to", cluster.id(node), "--cluster-slots", str(slots), "--cluster-yes"]
    return lambda: cluster.manage("reshard", f"127.0.0.1:{node.port}", *told)


def test_slots_move_and_each_key_runs_once_and_is_listed() -> None:
    with RedisCluster() as cluster:
        listed = RedisBackend(cluster.url, prefix="listed:")
        with in_flight(listed, 100) as labels:
            assert {record.label for record in listed.unfinished()} == labels
            load = Load(cluster.url, time_limit=10)
            load.during(reshard(cluster, 0, 300))
            assert redirections(cluster, "MOVED") > 0
            assert load.failed == 0, load.said()
            assert load.repeated() == 0
            assert load.second_runs == 0
            assert {record.label for record in listed.unfinished()} == labels


def test_a_slot_under_load_moves_to_a_new_node_and_back() -> None:
    with RedisCluster() as cluster:
        slot = cluster.nodes[0].cli("CLUSTER", "KEYSLOT", "{hot}")
        home = cluster.owner("{hot}")
        load = Load(cluster.url, time_limit=10, callers=32, prefix="{hot}:")
        new = cluster.add()  # no client has heard of it: ASK names it first

        def move() -> None:
            for source, target in ((home, new), (new, home)):
                cluster.move(slot, source, target)

        load.during(move)
        assert redirections(cluster, "ASK") > 0, "keys were called while they were on their way"
        assert load.failed == 0, load.said()
        assert load.repeated() == 0
        assert load.second_runs == 0
        assert len(home.cli("CLUSTER", "GETKEYSINSLOT", slot, "1000000").split()) == len(load.runs)


def redirections(cluster: RedisCluster, kind: str) -> int:
    """How often nodes have sent somebody to another one."""
    lines = [line for node in cluster.nodes for line in node.cli("INFO", "errorstats").splitlines()]
    return sum(int(line.partition("count=")[2]) for line in lines if line.startswith(f"errorstat_{kind}:"))


def test_a_key_is_found_while_its_slot_is_on_its_way(cluster: RedisCluster) -> None:
    tag, runs = uuid.uuid4().hex, []
    backend = RedisBackend(cluster.url, prefix=f"{{{tag}}}:")  # one slot for all

    @idempotent(backend, key="order", name="charge")
    def charge(order: str) -> str:
        runs.append(order)
        return order

    assert charge("stays") + charge("goes") == "staysgoes"
    (source,) = (node for node in cluster.nodes if node.cli("KEYS", f"*{tag}*"))
    target = next(node for node in cluster.nodes if node is not source)
    slot = source.cli("CLUSTER", "KEYSLOT", f"{{{tag}}}")
    target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id(source))
    source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id(target))
    goes = source.cli("KEYS", f"*{tag}*").split()[0]
    source.cli("MIGRATE", "127.0.0.1", str(target.port), goes, "0", "5000")
    target.cli("SCRIPT", "FLUSH")
    before = redirections(cluster, "ASK")
    assert charge("stays") + charge("goes") + charge("new") == "staysgoesnew"
    with attempt(backend, key="runs", name="work"):
        assert [record.label for record in backend.unfinished()] == ["work runs"]
    assert redirections(cluster, "ASK") > before
    assert len(target.cli("KEYS", f"*{tag}*").split()) == 3
    source.cli("MIGRATE", "127.0.0.1", str(target.port), source.cli("KEYS", f"*{tag}*"), "0", "5000")
    for node in (target, source, *cluster.nodes):
        node.cli("CLUSTER", "SETSLOT", slot, "NODE", cluster.id(target))
    assert charge("stays") + charge("goes") + charge("new") == "staysgoesnew"
    assert sorted(runs) == ["goes", "new", "stays"]


def test_a_cluster_without_one_of_its_nodes_is_an_error_that_passes() -> None:
    with RedisCluster() as cluster:

        @idempotent(RedisBackend(cluster.url, time_limit=1), key="order", name="charge")
        def charge(order: str) -> str:
            return order

        for number in range(12):
            charge(f"before-{number}")
        cluster.nodes[0].kill()
        until(lambda: "cluster_state:fail" in cluster.nodes[1].cli("CLUSTER", "INFO"))
        began = time.monotonic()
        error = refused(cluster.url, "is down|can't be reached")
        assert error.retry_after is not None
        assert time.monotonic() < began + 4
        cluster.nodes[0].start()
        for number in range(12):
            assert until_answered(lambda number=number: charge(f"after-{number}")) == f"after-{number}"
