"""A Redis cluster: each key on the node of its slot, also while slots move."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
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
    backend = RedisBackend(cluster.url, prefix=prefix)

    @idempotent(backend, key="order", name="charge")
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
    assert set(runs.values()) == {1} and len(runs) == 1000
    shares = [node.cli("--raw", "KEYS", f"{prefix}*").count("\n") + 1 for node in cluster.nodes]
    assert sum(shares) == 1000
    assert min(shares) > 200, "a third each, about"


def test_a_key_that_runs_is_refused_and_its_waiter_is_woken_whatever_its_node(cluster: RedisCluster) -> None:
    backend = RedisBackend(cluster.url)
    for number in range(12):  # on all three, but for one in a hundred times
        key, has_begun, may_end = f"{uuid.uuid4()}-{number}", threading.Event(), threading.Event()

        @idempotent(backend, key="order", name="slow", lease=30)
        def slow(order: str, has_begun: threading.Event, may_end: threading.Event) -> str:
            has_begun.set()
            assert may_end.wait(20)
            return order

        del slow
        with attempt(backend, key=key, name="slow", lease=30), pytest.raises(IdempotencyProcessing):
            with attempt(RedisBackend(cluster.url, prefix="idem:"), key=key, name="slow"):
                raise AssertionError("it ran twice")
