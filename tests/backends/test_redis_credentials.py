"""Who logs in to Redis, where that changes: callables, and the credential providers of redis-py's clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
import redis.asyncio

from clients import until
from pyidempotent import IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends.redis import RedisBackend
from servers import RedisServer


class Expiring:
    """A new password of one user for each login, which the server forgets when its time is over."""

    def __init__(self, server: RedisServer, seconds: float) -> None:
        self.server = server
        self.seconds = seconds
        self.numbers = itertools.count()
        self.given = 0
        self.timers: list[threading.Timer] = []
        server.cli("CONFIG", "SET", "requirepass", "root")

    def cli(self, *arguments: str) -> str:
        return self.server.cli("-a", "root", "--no-auth-warning", *arguments)

    def login(self) -> tuple[str, str, float]:
        user = f"user{next(self.numbers)}"
        self.cli("ACL", "SETUSER", user, "on", f">of {user}", "~*", "&*", "+@all")
        # Its connections are closed.
        timer = threading.Timer(self.seconds, self.cli, ("ACL", "DELUSER", user))
        self.timers.append(timer)
        timer.start()
        self.given += 1
        return user, f"of {user}", self.seconds

    async def login_later(self) -> tuple[str, str, float]:
        await asyncio.sleep(0)
        return self.login()

    def connections(self) -> int:
        (line,) = (line for line in self.cli("INFO", "stats").splitlines() if "total_connections_received" in line)
        return int(line.partition(":")[2])

    def __enter__(self) -> Expiring:
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self.timers:
            timer.cancel()
            timer.join()


@pytest.mark.parametrize("ask", ["login", "login_later"])
def test_calls_under_load_outlive_every_password(ask: str) -> None:
    with RedisServer() as server, Expiring(server, 2.0) as expiring:
        backend = RedisBackend(server.url, credentials=getattr(expiring, ask))

        @idempotent(backend, key="order")
        def charge(order: str) -> str:
            return order

        @idempotent(backend, key="order")
        async def charge_async(order: str) -> str:
            return order

        ends, failed, done = time.monotonic() + 5, [], itertools.count()

        def work(worker: int) -> None:
            with _noted(failed):
                for number in itertools.count():
                    if time.monotonic() > ends:
                        return
                    order = f"{worker}-{number}"
                    assert charge(order) == charge(order) == order
                    next(done)

        async def work_async() -> None:
            for number in itertools.count():
                if time.monotonic() > ends:
                    return
                order = f"async-{number}"
                assert await charge_async(order) == await charge_async(order) == order

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
        for thread in threads:
            thread.start()
        with _noted(failed):
            asyncio.run(work_async())
        for thread in threads:
            thread.join()
        assert failed == []
        assert expiring.given >= 3
        assert next(done) > 10


@contextlib.contextmanager
def _noted(failed: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failed.append(error)


def test_a_connection_that_is_lost_logs_in_anew() -> None:
    with RedisServer() as server, Expiring(server, 60.0) as expiring:

        @idempotent(RedisBackend(server.url, credentials=expiring.login), key="order")
        def charge(order: str) -> str:
            return order

        charge("a")
        expiring.cli("ACL", "DELUSER", "user0")
        charge("b")
        assert expiring.given == 2


class Vault(redis.CredentialProvider):
    """A provider of redis-py's kind."""

    def __init__(self) -> None:
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        return "shop", "secret"


class SlowVault(Vault):
    """A provider that would block a loop."""

    def get_credentials(self) -> tuple[str, str]:
        raise AssertionError("this blocks the loop")

    async def get_credentials_async(self) -> tuple[str, str]:
        self.asked += 1
        return "shop", "secret"


@pytest.fixture
def shop() -> Iterator[RedisServer]:
    with RedisServer() as server:
        server.cli("ACL", "SETUSER", "shop", "on", ">secret", "~*", "&*", "+@all")
        server.cli("CONFIG", "SET", "requirepass", "root")
        yield server


def fixed() -> redis.CredentialProvider:
    return redis.UsernamePasswordCredentialProvider("shop", "secret")


def alone() -> redis.CredentialProvider:
    return redis.UsernamePasswordCredentialProvider(password="root")


@pytest.mark.parametrize(
    ("make", "provider"),
    [
        (redis.Redis, Vault),
        (redis.Redis, fixed),
        (redis.Redis, alone),
        (redis.asyncio.Redis, Vault),
        (redis.asyncio.Redis, SlowVault),
        (redis.asyncio.Redis, fixed),
    ],
)
def test_a_client_s_provider_is_asked(shop: RedisServer, make: Any, provider: Callable[[], Any]) -> None:
    vault = provider()
    backend = RedisBackend(make(port=shop.port, credential_provider=vault))
    assert RedisBackend(make(port=shop.port, credential_provider=vault)).native is backend.native
    assert RedisBackend(make(port=shop.port, credential_provider=provider())).native is not backend.native

    @idempotent(backend, key="order")
    def charge(order: str) -> str:
        return order

    assert charge("a") == charge("a") == "a"
    assert getattr(vault, "asked", 1) == 1


def test_a_provider_serves_a_url_too(shop: RedisServer) -> None:
    @idempotent(RedisBackend(shop.url, credentials=Vault()), key="order")
    def charge(order: str) -> str:
        return order

    assert charge("a") == "a"


def test_a_provider_that_fails_is_named_and_nothing_runs(shop: RedisServer) -> None:
    class Sealed(Vault):
        def get_credentials(self) -> tuple[str, str]:
            raise PermissionError("it is sealed")

    ran = []

    @idempotent(RedisBackend(redis.Redis(port=shop.port, credential_provider=Sealed())), key="order")
    def charge(order: str) -> None:
        ran.append(order)

    with pytest.raises(IdempotencyStoreUnavailable, match=r"no credentials .*Sealed: PermissionError: it is") as failed:
        charge("a")
    assert isinstance(failed.value.__cause__, PermissionError)
    assert failed.value.retry_after is not None
    assert not ran


@pytest.mark.parametrize("answer", ["secret", ("shop", "secret", 1, 2), (1, "secret"), ("shop", b"secret"), None])
def test_an_answer_that_is_no_login_is_named_but_not_shown(shop: RedisServer, answer: Any) -> None:
    def vault() -> Any:
        return answer

    @idempotent(RedisBackend(shop.url, credentials=vault), key="order")
    def charge(order: str) -> None:
        raise AssertionError("it ran")

    with pytest.raises(IdempotencyStoreUnavailable, match=r"vault must return \(username, password\)") as failed:
        charge("a")
    assert "secret" not in str(failed.value)


def test_a_password_that_is_refused_is_said_with_who_gave_it(
    shop: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    def vault() -> tuple[str, str]:
        return "shop", "another"

    @idempotent(RedisBackend(shop.url, credentials=vault), key="order")
    def charge(order: str) -> None:
        raise AssertionError("it ran")

    with pytest.raises(IdempotencyStoreUnavailable, match=r"refused the credentials from .*vault") as failed:
        charge("a")
    assert "another" not in str(failed.value)
    until(lambda: any("refused the credentials" in line for line in caplog.messages))
    assert "another" not in caplog.text


def test_how_long_a_login_holds_may_be_a_timedelta(shop: RedisServer) -> None:
    given = []

    def vault() -> tuple[str, str, timedelta]:
        given.append(1)
        return "shop", "secret", timedelta(seconds=0.2)

    @idempotent(RedisBackend(shop.url, credentials=vault), key="order")
    def charge(order: str) -> str:
        return order

    charge("a")
    until(lambda: len(given) >= 3)


def test_what_is_no_source_of_credentials_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="credentials must be a callable"):
        RedisBackend("redis://localhost", credentials="secret")  # type: ignore[arg-type]


def test_a_url_with_a_login_takes_no_credentials() -> None:
    with pytest.raises(ValueError, match="has a login"):
        RedisBackend("redis://shop:secret@localhost", credentials=lambda: ("shop", "secret"))
