"""What is rolled back has not been done: completions wait for Django's commits, on a real database."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction
from django.test import TestCase, override_settings

from clients import new_key, until
from django_client import Browser, browser, is_replay, same_answer, site
from django_site import OURS, RUNS, charge, charges
from pyidempotent import IdempotencyProcessing, attempt, idempotent
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend

__all__ = ["browser", "site"]


@pytest.fixture
def key() -> str:
    return new_key()


@pytest.fixture
def atomic_requests(site: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)


def after_release(browser: Browser, path: str, key: str) -> Any:
    """The answer when the key is free: a release that nobody waits for may take a moment."""
    return until(lambda: (answer := browser.post(path, key)).status_code != 409 and answer)


@pytest.mark.parametrize("path", ["/db/", "/decorated-db/"])
def test_a_commit_that_fails(atomic_requests: None, key: str, path: str) -> None:
    """Scenario 37: the reference to nobody is found out when the view has answered."""
    browser = Browser("sync")
    assert browser.post(path + "999", key).status_code == 500
    assert charges() == []
    again = after_release(browser, path + "999", key)
    assert (again.status_code, is_replay(again)) == (500, False)
    assert RUNS == ["db", "db"]


@pytest.mark.parametrize("path", ["/db/0", "/decorated-db/0"])
def test_a_commit_that_succeeds(atomic_requests: None, key: str, path: str) -> None:
    browser = Browser("sync")
    assert same_answer(*browser.twice(path, key))
    assert (charges(), RUNS) == ([1], ["db"])


@pytest.mark.parametrize("path", ["/raises", "/decorated-raises"])
def test_a_view_that_raises_is_rolled_back(atomic_requests: None, key: str, path: str) -> None:
    browser = Browser("sync")
    assert browser.post(path, key).status_code == 500
    assert charges() == []
    again = browser.post(path, key)
    assert (again.content, is_replay(again)) == (b"charged", False)
    assert charges() == [1]
    assert is_replay(browser.post(path, key))


@pytest.mark.parametrize("path", ["/db/999", "/decorated-db/999"])
def test_without_a_transaction_the_statement_fails(site: None, key: str, path: str) -> None:
    browser = Browser("sync")
    assert browser.post(path, key).status_code == 500
    assert not is_replay(browser.post(path, key))
    assert charges() == []


# Functions.


def protected(**options: Any) -> Any:
    backend = MemoryBackend()

    @idempotent(backend, key="order", name="charge", **options)
    def pay(order: str, using: str = "default") -> str:
        RUNS.append("pay")
        charge(1, using=using)
        return f"run {len(RUNS)}"

    return backend, pay


@contextlib.contextmanager
def rolled_back(using: str = "default") -> Iterator[None]:
    """A block that is rolled back because what follows in it fails."""
    with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=using):
        yield
        raise ZeroDivisionError


def state(backend: MemoryBackend, key: str) -> str | None:
    record = backend.get(key, operation="charge")
    return None if record is None else record.state


def test_the_key_is_free_as_soon_as_the_block_is_rolled_back(site: None, backend: Backend) -> None:
    @idempotent(backend, key="order", name="charge")
    def pay(order: str) -> None:
        charge(1)

    for _ in range(20):
        key = new_key()
        with rolled_back():
            pay(key)
        assert backend.get(key, operation="charge") is None
    assert charges() == []


def test_a_function_in_an_open_block(site: None, key: str) -> None:
    backend, pay = protected()
    with transaction.atomic():
        assert pay(key) == "run 1"
        assert state(backend, key) == "in flight"
        with pytest.raises(IdempotencyProcessing):
            pay(key)
    assert state(backend, key) == "completed"
    assert pay(key) == "run 1"


def test_a_function_whose_block_is_rolled_back(site: None, key: str) -> None:
    backend, pay = protected()
    with rolled_back():
        pay(key)
    until(lambda: state(backend, key) is None)
    assert charges() == []
    assert pay(key) == "run 2"


def test_under_refuse_a_rollback_is_unknown(site: None, key: str) -> None:
    backend, pay = protected(after_crash="refuse")
    with transaction.atomic():
        pay(key)
        transaction.set_rollback(True)
    until(lambda: state(backend, key) == "unknown")


def test_a_savepoint_that_is_rolled_back(site: None, key: str) -> None:
    backend, pay = protected()
    other = new_key()
    with transaction.atomic():
        with rolled_back():
            pay(key)
        pay(other)
    until(lambda: state(backend, key) is None)
    assert state(backend, other) == "completed"
    assert charges() == [1]


def test_two_databases(site: None, key: str) -> None:
    backend, pay = protected()
    with rolled_back(using="other"):
        with transaction.atomic():
            pay(key)
        assert state(backend, key) == "in flight"
    until(lambda: state(backend, key) is None)
    other = new_key()
    with transaction.atomic(using="other"), transaction.atomic():
        pay(other, using="other")
    assert state(backend, other) == "completed"


def test_a_hook_of_the_applications_own_that_raises(site: None, key: str) -> None:
    """The commit stands, and so does what it completed."""
    backend, pay = protected()

    def hook() -> None:
        raise RuntimeError("this hook fails")

    @transaction.atomic
    def work() -> None:
        transaction.on_commit(hook)
        pay(key)

    with pytest.raises(RuntimeError, match="this hook fails"):
        work()
    assert charges() == [1]
    assert state(backend, key) == "completed"


def test_an_attempt_around_a_block_of_code(site: None, key: str) -> None:
    backend = MemoryBackend()
    with rolled_back(), attempt(backend, key=key, name="charge") as run:
        run.result = 1
    until(lambda: state(backend, key) is None)
    with attempt(backend, key=key, name="charge") as run, transaction.atomic():
        assert not run.replayed
        run.result = 2
    assert state(backend, key) == "completed"


def test_another_threads_transaction_is_another(site: None, key: str) -> None:
    backend, pay = protected()
    with transaction.atomic(using="other"):
        thread = threading.Thread(target=pay, args=(key,))
        thread.start()
        thread.join()
        assert state(backend, key) == "completed"


class Atomic:
    """Middleware of the user's own that commits around everything inside."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        try:
            with transaction.atomic():
                answer = self.get_response(request)
                if "X-Fails" in request.headers:
                    charge(1, 999)
        except IntegrityError:
            from django.http import HttpResponse

            return HttpResponse(status=500)
        return answer


def test_a_transaction_around_the_middleware(browser: Browser, key: str) -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.Atomic", OURS]):
        if browser.is_async:
            # The view runs elsewhere than the transaction, as without us.
            return
        assert browser.post("/db/0", key, headers={"X-Fails": "1"}).status_code == 500
        again = after_release(browser, "/db/0", key)
        assert (again.content, is_replay(again)) == (b"charged 2", False)
        assert is_replay(browser.post("/db/0", key))


@pytest.mark.usefixtures("site")
class InTestCase(TestCase):
    """Django's own test case, whose transactions never commit."""

    databases = {"default", "other"}  # noqa: RUF012  # Django's way

    def test_a_repeat_is_replayed(self) -> None:
        backend, pay = protected()
        key = new_key()
        assert pay(key) == pay(key)
        other = new_key()
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            pay(other)
        assert state(backend, other) == "completed"
