"""Servers that die, stop or are asked to end while an endpoint runs, on the stores that outlive them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from clients import Service, is_replay, new_key, refused, same_answer, until
from pyidempotent.backends import open_backend
from servers import RedisServer

LEASE = "1.5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crashes")


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, folder: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{folder}/idempotency.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
def first(store: str, folder: Path) -> Iterator[Service]:
    """The one that something happens to."""
    with Service("payments", store, folder, LEASE=LEASE) as service:
        yield service


@pytest.fixture(scope="module")
def second(store: str, folder: Path) -> Iterator[Service]:
    """The one that stays."""
    with Service("payments", store, folder, LEASE=LEASE) as service:
        yield service


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


@pytest.fixture
def key() -> str:
    return new_key()


def send(service: Service, path: str, key: str) -> httpx.Response:
    return service.post(path, key, params={"amount": 1})


def begin(service: Service, pool: ThreadPoolExecutor, path: str, key: str) -> Future[httpx.Response]:
    """The answer to come of a request whose handler has begun."""
    pending = pool.submit(send, service, path, key)
    service.has_begun(key)
    return pending


@pytest.mark.parametrize("path", ["/slow", "/slow-sync"])
def test_after_a_kill_a_repeat_waits_for_the_lease_and_runs(
    first: Service, second: Service, pool: ThreadPoolExecutor, key: str, path: str
) -> None:
    pending = begin(first, pool, path, key)
    first.kill()
    refused(send(second, path, key), 409, "processing", "running", retry_after=True)
    assert isinstance(pending.exception(), httpx.TransportError)
    assert second.runs(key) == 1
    second.open(key)
    answer = until(lambda: (again := send(second, path, key)).is_success and again)
    assert not is_replay(answer)
    assert same_answer(answer, send(second, path, key))
    assert second.runs(key) == 2


def test_after_a_kill_another_payload_is_still_a_conflict(
    first: Service, second: Service, pool: ThreadPoolExecutor, key: str
) -> None:
    begin(first, pool, "/slow-refuse", key)
    first.kill()
    for state in ("processing", "unknown"):
        until(lambda state=state: send(second, "/slow-refuse", key).json()["type"].endswith(state))
        refused(second.post("/slow-refuse?amount=2", key), 422, "conflict", "none")


@pytest.mark.parametrize("decision", ["it happened", "it did not"])
def test_under_refuse_a_kill_is_unknown_until_an_operator_decides(
    first: Service, second: Service, store: str, pool: ThreadPoolExecutor, key: str, decision: str
) -> None:
    path = "/slow-refuse"
    begin(first, pool, path, key)
    first.kill()
    refused(send(second, path, key), 409, "processing", "running", retry_after=True)
    until(lambda: send(second, path, key).json()["effect"] == "unknown")
    refused(send(second, path, key), 409, "unknown", "unknown")
    assert second.runs(key) == 1

    backend, operation = open_backend(store), ("POST", path)
    record = backend.get(key, operation=operation)
    assert record is not None
    assert record.state in ("unknown", "lapsed")
    assert not backend.resolve(key, operation=operation, fence=record.fence + 1)
    second.open(key)
    if decision == "it happened":
        result = {"charged": 1, "receipt": "by hand"}
        assert backend.resolve(key, operation=operation, fence=record.fence, result=result)
        answer = send(second, path, key)
        assert (answer.status_code, answer.json(), is_replay(answer)) == (200, result, True)
        refused(second.post(f"{path}?amount=2", key), 422, "conflict", "none")
        assert second.runs(key) == 1
    else:
        assert backend.resolve(key, operation=operation, fence=record.fence)
        answer = send(second, path, key)
        assert (answer.status_code, is_replay(answer)) == (200, False)
        assert second.runs(key) == 2


def test_a_restarted_server_replays_what_the_killed_one_answered(first: Service, key: str) -> None:
    answer = send(first, "/pay", key)
    first.kill()
    first.start()
    assert same_answer(answer, send(first, "/pay", key))
    assert first.runs(key) == 1


def test_of_twenty_clients_of_two_servers_one_runs(
    first: Service, second: Service, pool: ThreadPoolExecutor, key: str
) -> None:
    pending = [pool.submit(send, (first, second)[n % 2], "/race", key) for n in range(20)]
    answers = [each.result() for each in pending]
    for answer in answers:
        if not answer.is_success:
            refused(answer, 409, "processing", "running", retry_after=True)
    (done,) = [answer for answer in answers if answer.is_success and not is_replay(answer)]
    assert all(same_answer(done, answer) for answer in answers if is_replay(answer))
    assert same_answer(done, send(first, "/race", key))
    assert same_answer(done, send(second, "/race", key))
    assert first.runs(key) == 1


def test_a_stopped_server_that_wakes_up_late_answers_what_its_successor_did(
    first: Service, second: Service, pool: ThreadPoolExecutor, key: str
) -> None:
    pending = begin(first, pool, "/slow", key)
    first.signal(signal.SIGSTOP)
    second.open(key)
    done = until(lambda: (again := send(second, "/slow", key)).is_success and again)
    assert not is_replay(done)
    first.signal(signal.SIGCONT)
    first.open(key)
    assert same_answer(done, pending.result())
    assert same_answer(done, send(second, "/slow", key))
    assert second.runs(key) == 2


def test_a_server_that_is_asked_to_end_finishes_and_records(
    first: Service, second: Service, pool: ThreadPoolExecutor, key: str
) -> None:
    pending = pool.submit(send, first, "/race", key)
    until(lambda: first.runs(key))
    first.signal(signal.SIGTERM)
    assert pending.result().is_success
    assert same_answer(pending.result(), send(second, "/race", key))
    assert second.runs(key) == 1
