"""Redis behind sentinels: the primary is found, and found again."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis.asyncio.sentinel
import redis.sentinel

from clients import until
from proxy import until_answered
from pyidempotent import IdempotencyConflict, IdempotencyStoreUnavailable, attempt, idempotent
from pyidempotent.backends.redis import RedisBackend
from redis_groups import RedisSentinels, Sentinel, promotion
from servers import RedisServer, free_port


@pytest.fixture(scope="module")
def group() -> Iterator[RedisSentinels]:
    """One primary that is not promoted away by any test."""
    with RedisSentinels() as group:
        yield group


def clients(group: RedisSentinels, **settings: Any) -> list[Any]:
    """What redis-py has for these sentinels, sync and asyncio."""
    hosts = [("127.0.0.1", sentinel.port) for sentinel in group.sentinels]
    return [
        kind(hosts).master_for(group.service, **settings)
        for kind in (redis.sentinel.Sentinel, redis.asyncio.sentinel.Sentinel)
    ]


def test_a_url_and_clients_lead_to_the_same_records(group: RedisSentinels) -> None:
    order, runs = uuid.uuid4().hex, []
    for backend in (group.url, *map(RedisBackend, clients(group))):

        @idempotent(backend, key="order", name="charge")
        def charge(order: str, amount: int = 1) -> int:
            runs.append(order)
            return amount

        assert charge(order) == 1
        with pytest.raises(IdempotencyConflict):
            charge(order, 2)
    assert runs == [order]
    assert group.primary.cli("DBSIZE") == "1"


def test_a_client_s_database_and_service_are_carried_over(group: RedisSentinels) -> None:
    for client in clients(group, db=3):
        key = uuid.uuid4().hex
        with attempt(RedisBackend(client, prefix=key), key=key, name="work"):
            assert f"{key}" in group.primary.cli("-n", "3", "KEYS", "*")


def test_every_rule_of_a_store_holds(group: RedisSentinels) -> None:
    RedisBackend(group.url, prefix=f"{uuid.uuid4()}:").native.check()


def refused(url: str, says: str) -> IdempotencyStoreUnavailable:
    @idempotent(url, key="order")
    def charge(order: str) -> str:
        raise AssertionError("it ran")

    with pytest.raises(IdempotencyStoreUnavailable, match=says) as error:
        charge(uuid.uuid4().hex)
    return error.value


def test_what_is_set_up_wrongly_is_said(group: RedisSentinels) -> None:
    sentinel, server = group.sentinels[0].port, group.primary.port
    wrong = [
        (f"redis+sentinel://127.0.0.1:{sentinel}/other", "no sentinel knows a Redis primary by the name"),
        (f"redis+sentinel://127.0.0.1:{server}/shop", "is no sentinel"),
        (f"redis://127.0.0.1:{sentinel}", "is a sentinel; write redis.sentinel://"),
    ]
    for url, says in wrong:
        assert refused(url, says).retry_after is None, "somebody must mend it"
    nobody = refused(f"redis+sentinel://127.0.0.1:{free_port()}/shop", "can't be reached")
    assert nobody.retry_after is not None


def test_servers_and_sentinels_have_logins_of_their_own(tmp_path: Any) -> None:
    with RedisServer("--requirepass", "the-servers") as server:
        settings = ("sentinel auth-pass shop the-servers", "requirepass the-sentinels")
        sentinel = Sentinel(tmp_path, "shop", server.port, *settings)
        sentinel.password = "the-sentinels"
        with sentinel:
            host = f"127.0.0.1:{sentinel.port}"
            url = f"redis+sentinel://:the-servers@{host}/shop?sentinel_password=the-sentinels"
            own = redis.sentinel.Sentinel(
                [("127.0.0.1", sentinel.port)], sentinel_kwargs={"password": "the-sentinels"}, password="the-servers"
            )
            for backend in (RedisBackend(url), RedisBackend(own.master_for("shop"))):
                with attempt(backend, key=uuid.uuid4().hex, name="work"):
                    assert len(backend.unfinished()) == 1
            refused(f"redis+sentinel://:the-servers@{host}/shop", "refused us")
            refused(f"redis+sentinel://:wrong@{host}/shop?sentinel_password=the-sentinels", "refused us")


def test_sentinels_that_nobody_named_are_asked_too() -> None:
    with RedisSentinels() as group:
        named, *others = group.sentinels
        url = f"redis+sentinel://127.0.0.1:{named.port}/{group.service}"

        @idempotent(RedisBackend(url, time_limit=1), key="order")
        def charge(order: str) -> str:
            return order

        charge("before")
        named.kill()
        replica = group.replica()
        others[0].cli("SENTINEL", "FAILOVER", group.service)
        promotion(replica)
        stood, orders = int(replica.cli("DBSIZE")), itertools.count()

        def has_taken_one() -> bool:
            """Until it is told that it is none any more, the primary of before answers too."""
            order = f"after {next(orders)}"
            assert until_answered(lambda: charge(order)) == order
            return int(replica.cli("DBSIZE")) > stood

        until(has_taken_one)


def test_a_primary_that_was_replaced_is_left_although_it_answers(tmp_path: Any) -> None:
    with RedisServer() as before, RedisServer() as after, Sentinel(tmp_path, "shop", before.port) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/shop"

        @idempotent(RedisBackend(url, time_limit=0.2), key="order")
        def charge(order: str) -> str:
            return order

        charge("before")
        sentinel.cli("SENTINEL", "REMOVE", "shop")
        sentinel.cli("SENTINEL", "MONITOR", "shop", "127.0.0.1", str(after.port), "1")

        def has_moved() -> bool:
            charge(uuid.uuid4().hex)
            return after.cli("DBSIZE") != "0"

        until(has_moved)
