"""A Redis that is down, slow or restarted around and during the run of an endpoint."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from clients import Service, is_replay, new_key, refused, same_answer, until
from servers import RedisServer


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One that keeps over a restart what it has acknowledged."""
    folder = str(tmp_path_factory.mktemp("redis"))
    with RedisServer("--appendonly", "yes", "--appendfsync", "always", "--dir", folder) as server:
        yield server


@pytest.fixture(scope="module")
def app(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service("payments", redis.url, tmp_path_factory.mktemp("app")) as service:
        yield service


@pytest.fixture(autouse=True)
def _redis_is_up_again(redis: RedisServer) -> Iterator[None]:
    yield
    if redis.process is None:
        redis.start()
    until(lambda: "PONG" in redis.cli("ping"))


@pytest.fixture
def key() -> str:
    return new_key()


def pay(app: Service, path: str, key: str) -> httpx.Response:
    return app.post(path, key, params={"amount": 1})


@pytest.mark.parametrize("path", ["/pay", "/sync", "/plain", "/plain-sync"])
def test_without_its_store_nothing_runs_and_with_it_again_it_does(
    app: Service, redis: RedisServer, key: str, path: str
) -> None:
    redis.kill()
    problem = refused(pay(app, path, key), 503, "store-unavailable", "none", retry_after=True)
    assert str(redis.port) not in str(problem)  # where the store is concerns nobody outside
    assert app.runs(key) == 0
    redis.start()
    answer = until(lambda: (again := pay(app, path, key)).is_success and again)
    assert not is_replay(answer)
    assert same_answer(answer, pay(app, path, key))
    assert app.runs(key) == 1


def test_a_request_without_a_key_needs_no_store(app: Service, redis: RedisServer) -> None:
    redis.kill()
    assert app.post("/optional").is_success
    refused(app.post("/pay?amount=1"), 400, "key-missing", "none")


@pytest.mark.parametrize("path", ["/slow", "/slow-sync"])
def test_a_store_that_dies_during_the_run_costs_the_caller_nothing(
    app: Service, redis: RedisServer, key: str, path: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(pay, app, path, key)
        app.has_begun(key)
        redis.kill()
        app.open(key)
        first = pending.result()
    assert first.is_success
    assert not is_replay(first)
    redis.start()
    # The result is sent again until the lease ends.
    again = until(lambda: (answer := pay(app, path, key)).is_success and answer)
    assert same_answer(first, again)
    assert app.runs(key) == 1


def test_a_store_restarted_during_the_run_gets_the_answer(app: Service, redis: RedisServer, key: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(pay, app, "/slow", key)
        app.has_begun(key)
        redis.kill()
        redis.start()
        app.open(key)
        first = pending.result()
    assert same_answer(first, until(lambda: (answer := pay(app, "/slow", key)).is_success and answer))
    assert app.runs(key) == 1


def test_a_store_restarted_between_two_requests_is_not_noticed(app: Service, redis: RedisServer, key: str) -> None:
    first = pay(app, "/pay", key)
    redis.kill()
    redis.start()
    assert same_answer(first, until(lambda: (answer := pay(app, "/pay", key)).is_success and answer))
    assert app.runs(key) == 1


@pytest.mark.parametrize("path", ["/pay", "/sync"])
def test_a_store_that_is_too_slow_is_given_up_and_its_late_claim_given_back(
    app: Service, redis: RedisServer, key: str, path: str
) -> None:
    redis.signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        refused(pay(app, path, key), 503, "store-unavailable", "none", retry_after=True)
    finally:
        took = time.monotonic() - began
        redis.signal(signal.SIGCONT)
    assert took < 4  # the limit is 1 s
    assert app.runs(key) == 0
    answer = until(lambda: (again := pay(app, path, key)).is_success and again)
    assert not is_replay(answer)
    assert app.runs(key) == 1
