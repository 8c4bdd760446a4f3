"""One key at eight server processes at once, on a store that none of them has seen before."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from clients import Service, is_replay, new_key, refused, same_answer
from servers import PostgresServer, RedisServer

PROCESSES, CLIENTS = 8, 50


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres"])
def test_of_fifty_clients_of_eight_processes_one_runs(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = tmp_path / "idempotency.db"
    store = f"sqlite:///{file}"
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        store = server.url
    if kind == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        store = postgres.new_url()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(CLIENTS) as pool:
        services = [Service("payments", store, tmp_path) for _ in range(PROCESSES)]
        # Each is entered before any failure is told, so that none is left over.
        started = [pool.submit(stack.enter_context, service) for service in services]
        [each.result() for each in started]
        assert not file.exists()
        key, together = new_key(), threading.Barrier(CLIENTS)

        def send(service: Service) -> httpx.Response:
            together.wait(20)
            return service.post("/race?amount=1", key)

        answers = list(pool.map(send, [services[number % PROCESSES] for number in range(CLIENTS)]))
        (ran,) = [answer for answer in answers if answer.is_success and not is_replay(answer)]
        for answer in answers:
            if not answer.is_success:
                refused(answer, 409, "processing", "running", retry_after=True)
        for service in services:
            assert same_answer(ran, service.post("/race?amount=1", key))
        assert services[0].runs(key) == 1
