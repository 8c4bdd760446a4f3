"""A replica takes a primary's place while 64 callers call: when they get answers again, and what ran twice.

Replication is asynchronous: what the old primary has acknowledged and not yet sent is lost with it. What may be lost is
what was under way, at most an operation of each caller; it is counted, and nothing else runs twice.
"""

from __future__ import annotations

import signal
import time

import pytest

from clients import until
from load import Load
from proxy import Proxy
from redis_groups import WAYS, RedisCluster, RedisSentinels, promotion
from servers import RedisServer


def settled(load: Load, moment: float) -> float:
    """Returns the moment when a call that began after it has been answered, and some more after that."""
    until(lambda: sum(call.answered and call.began >= moment for call in load.calls[-5000:]) > 500)
    return moment


def follows(replica: RedisServer, load: Load) -> None:
    """Returns when a replica gets what the callers write, and they have written more since.

    A primary sends nothing to a new replica for a second.
    """
    until(lambda: replica.cli("DBSIZE") != "0")
    settled(load, time.monotonic())


def judged(load: Load, moment: float, what: str, *, most_lost: int | None = None) -> None:
    """What must hold of every failover. ``most_lost``: how many keys may run again; by default one for each caller."""
    back = load.back_after(moment)
    lost = load.repeated()
    print(f"\n{what}: back after {back:.2f} s; {load.said()}; {lost} answers lost")
    # Below one second where the machine has nothing else to do; servers and callers share its cores.
    assert back < 4, load.said()
    # A claim, the store's word on its end, and what the machine is late.
    assert load.longest < 4 * load.time_limit + 2, load.said()
    assert load.second_runs <= (load.callers if most_lost is None else most_lost), load.said()


@pytest.mark.parametrize("how", WAYS)
def test_sentinels_promote_a_replica(how: str) -> None:
    with RedisSentinels() as group:
        load, replica = Load(group.url), group.replica()

        def happens() -> float:
            follows(replica, load)
            group.fail(how)
            return settled(load, promotion(replica))

        moment = load.during(happens)
        # Until the sentinels have told it, a primary that is well goes on, and nobody gets what it writes.
        most_lost = load.answered_around(moment, 3) if how == "replaced" else None
        judged(load, moment, f"sentinels, {how}", most_lost=most_lost)


@pytest.mark.parametrize("how", WAYS)
def test_a_cluster_promotes_a_replica(how: str) -> None:
    with RedisCluster(replicas=1) as cluster:
        load = Load(cluster.url, prefix="{hot}:")  # all on the node that is replaced
        replica = cluster.replica_of(cluster.owner("{hot}"))

        def happens() -> float:
            follows(replica, load)
            cluster.fail(how, "{hot}")
            return settled(load, promotion(replica))

        judged(load, load.during(happens), f"cluster, {how}")


def test_nodes_that_are_well_serve_while_another_stands_still() -> None:
    with RedisCluster(timeout=60_000) as cluster:
        load, ill = Load(cluster.url, repeats=False), cluster.nodes[0]

        def happens() -> None:
            settled(load, time.monotonic())
            ill.signal(signal.SIGSTOP)
            until(lambda: load.failed > load.callers)
            ill.signal(signal.SIGCONT)

        load.during(happens)
        failed = {call.key for call in load.calls if not call.answered}
        ids = [load.backend._storage_key(key, "charge", None, "", None).hex() for key in failed]
        assert {cluster.owner(f"{load.prefix}{id}") for id in ids} == {ill}, load.said()


def test_a_name_leads_to_the_promoted_replica() -> None:
    with RedisSentinels(sentinels=0) as group, Proxy(group.primary.port) as name:
        load, replica, primary = Load(name.url), group.replica(), group.primary

        def happens() -> float:
            follows(replica, load)
            primary.kill()
            replica.cli("REPLICAOF", "NO", "ONE")
            name.target = replica.port
            name.drop_all()
            return settled(load, time.monotonic())

        judged(load, load.during(happens), "a name")
