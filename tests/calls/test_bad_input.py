"""What is wrong is said as early as it can be known: what, where, and what to do."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from celery import Celery

from pyidempotent import IdempotencyKeyInvalid, IdempotencyKeyMissing, IdempotencyStoreUnavailable, attempt, idempotent
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.backends.sqlite import SqliteBackend
from pyidempotent.celery import idempotent_task
from pyidempotent.flask import Idempotency
from servers import RedisServer, free_port

BACKEND = MemoryBackend()


def function(order: str) -> None: ...


def generator(order: str) -> Any:
    yield order


async def async_generator(order: str) -> Any:
    yield order


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: idempotent(BACKEND, key="order")(generator), TypeError, "generator function"),
        (lambda: idempotent(BACKEND, key="order")(async_generator), TypeError, "generator function"),
        (lambda: idempotent(BACKEND)(MemoryBackend), TypeError, "decorate its methods"),
        (lambda: idempotent(BACKEND)(lambda order: None), TypeError, "needs name="),
        (lambda: idempotent(BACKEND)(7), TypeError, "decorates functions, not int"),  # type: ignore[arg-type]
        (lambda: idempotent(function), TypeError, "wants its parentheses"),  # type: ignore[arg-type]
        (lambda: idempotent(7), TypeError, "must be a backend or a URL"),  # type: ignore[arg-type]
        (lambda: idempotent(redis.Redis()), TypeError, r"wrap it: RedisBackend\(client\)"),  # type: ignore[arg-type]
        (lambda: idempotent("mongo://localhost"), ValueError, "no backend has URLs with mongo://"),
        (lambda: idempotent("localhost:6379"), ValueError, "is not a URL"),
        (lambda: idempotent("sqlite://"), ValueError, "names no file"),
        (lambda: idempotent("redis://host:port"), ValueError, "not a Redis URL"),
        (lambda: idempotent("redis://host?nonsense=1"), ValueError, '"nonsense" is not known'),
        (lambda: idempotent("redis://host?username=shop"), ValueError, '"username" is not known'),
        (lambda: idempotent("redis://host/0?db=first"), ValueError, "db=first is not the number of a database"),
        (lambda: idempotent("redis://host?db=-1"), ValueError, "db=-1 is not the number of a database"),
        (lambda: idempotent("mongo://user:secret@host"), ValueError, r"^'mongo://user:\*\*\*@host'"),
        (lambda: idempotent("user:secret@host"), ValueError, r"^'user:\*\*\*@host' is not a URL"),
        (lambda: idempotent("sqlite:///:memory:"), ValueError, "MemoryBackend keeps them in memory"),
        (lambda: SqliteBackend(":memory:"), ValueError, "MemoryBackend keeps them in memory"),
        (lambda: SqliteBackend("records", time_limit=0), ValueError, "time_limit must be more than 0 seconds"),
        (
            lambda: idempotent(BACKEND, key="amount")(function),
            TypeError,
            r"key='amount' names no parameter of function",
        ),
        (lambda: idempotent(BACKEND, key=7)(function), TypeError, "key= must be a callable"),  # type: ignore[arg-type]
        (lambda: idempotent(BACKEND, key=lambda a, b: "")(function), TypeError, "key= must be a callable whose"),
        (lambda: idempotent(BACKEND, scope="user")(function), TypeError, "scope= must be a callable"),  # type: ignore[arg-type]
        (lambda: idempotent(BACKEND, fingerprint=lambda x, y: 1)(function), TypeError, "fingerprint= must be a"),
        (lambda: idempotent(BACKEND, settle="store"), TypeError, "settle= must be a callable that gets the Outcome"),  # type: ignore[arg-type]
        (lambda: idempotent(BACKEND, store_exceptions=(7,)), TypeError, "exception classes"),  # type: ignore[arg-type]
        (lambda: idempotent(BACKEND, store_exceptions=(KeyboardInterrupt,)), TypeError, "exception classes"),  # type: ignore[arg-type]
        (lambda: idempotent(BACKEND, after_crash="retry"), ValueError, "'rerun', 'refuse', not 'retry'"),  # type: ignore[arg-type]
        (lambda: idempotent(BACKEND, key_format="loose"), ValueError, "'lenient', 'strict', not 'loose'"),  # type: ignore[arg-type]
        (lambda: idempotent(BACKEND, namespace=7), TypeError, "namespace must be a str"),  # type: ignore[arg-type]
        (lambda: idempotent(BACKEND, key_header=7), TypeError, "key_header must be a str"),  # type: ignore[arg-type]
        (lambda: idempotent(BACKEND, key_header="X-Cl\u00e9"), ValueError, "key_header must be the name of a header"),
        (lambda: idempotent(BACKEND, max_request_bytes=-1), ValueError, "max_request_bytes"),
        (lambda: idempotent(BACKEND, max_response_bytes=1.5), ValueError, "max_response_bytes"),  # type: ignore[arg-type]
        (lambda: idempotent(BACKEND, ttl=60, lease=61), ValueError, "lease .61s. must not be longer than ttl .60s."),
        (lambda: idempotent(BACKEND, ttl=0), ValueError, "ttl must be from 1 ms to 100 years"),
        (lambda: idempotent(BACKEND, lease=0), ValueError, "lease must be 1 ms or more"),
        (lambda: idempotent(BACKEND, key_extractor=str), TypeError, "key_extractor.*it is called key= now"),
        (lambda: idempotent(BACKEND, wait_on_processing=True), TypeError, "it is called wait= now"),
        (lambda: idempotent(BACKEND, wait_timeout=3), TypeError, "it is called wait= now"),
        (lambda: idempotent(BACKEND, timeout=3), TypeError, "unexpected keyword argument 'timeout'"),
        (lambda: idempotent(BACKEND, tll=3), TypeError, r"'tll'; did you mean ttl=\?"),  # type: ignore[arg-type]
        (lambda: attempt(BACKEND, key="a", payload=1, name="b", leese=3), TypeError, "did you mean lease"),  # type: ignore[arg-type]
        (lambda: attempt(BACKEND, key=7.5), IdempotencyKeyInvalid, "must be a str, an int or a UUID, not float"),  # type: ignore[arg-type]
        (lambda: attempt(BACKEND, key="a", caller=1.5), TypeError, "must return a str, int, UUID or bytes"),
        (lambda: MemoryBackend(max_entries=0), ValueError, "max_entries must be a number of 1 or more"),
        (lambda: MemoryBackend(max_bytes="1"), ValueError, "max_bytes must be a number"),  # type: ignore[arg-type]
        (lambda: SqliteBackend("no/such/folder/i.db"), FileNotFoundError, "there is no folder"),
        (lambda: SqliteBackend("/"), IsADirectoryError, "is a folder"),
        (lambda: RedisBackend(7), TypeError, "a URL or a client of redis-py, not int"),  # type: ignore[arg-type]
        (lambda: RedisBackend("http://localhost"), ValueError, "not a Redis URL"),
        (lambda: RedisBackend("redis://localhost", prefix=7), TypeError, "prefix must be a str"),  # type: ignore[arg-type]
        (lambda: RedisBackend("redis://localhost", time_limit=0), ValueError, "time_limit must be more than 0"),
    ],
)
def test_bad_options_are_refused_where_they_are_given(
    make: Callable[[], Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("option", ["ttl", "lease", "wait", "retry_after", "run_limit", "disconnect_grace"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "60", True, timedelta(seconds=-1)])
def test_a_duration_is_a_number_of_seconds_or_a_timedelta(option: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{option} must be"):
        idempotent(BACKEND, **{option: value})


def test_without_a_backend_the_call_says_so() -> None:
    protected = idempotent(key="order")(function)
    with pytest.raises(TypeError, match="pass backend="):
        protected("a")


def test_a_generator_method_and_arguments_of_self_are_refused() -> None:
    from pyidempotent import arguments

    with pytest.raises(TypeError, match="says whether self counts"):

        class Shop:
            @idempotent(BACKEND, key=arguments)
            def charge(self, order: str) -> None: ...


class Rotating(redis.CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        return ("user", "secret")


class InProcess(redis.Connection):
    """As a fake server's, which has no address."""


@pytest.mark.parametrize(
    ("client", "says"),
    [
        (lambda: redis.Redis(credential_provider=Rotating()), "credential_provider can't be carried over; pass a URL"),
        (lambda: redis.Redis(ssl=True, ssl_cert_reqs="none"), "does not verify its server"),
        (lambda: redis.Redis(ssl=True, ssl_check_hostname=False), "does not verify its server"),
        (lambda: redis.asyncio.Redis(credential_provider=Rotating()), "credential_provider can't be carried over"),
        (lambda: redis.sentinel.Sentinel([("localhost", 1)]).slave_for("x"), "it takes no writes"),
        (
            lambda: redis.Redis(connection_pool=redis.ConnectionPool(connection_class=InProcess)),
            "InProcess can't be carried",
        ),
    ],
)
def test_a_client_that_can_not_be_carried_over_is_refused(client: Callable[[], Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        RedisBackend(client())


# What only the store knows is said at the first call, and nothing runs.


def refused(backend: Any, says: str, order: str = "a") -> IdempotencyStoreUnavailable:
    @idempotent(backend, key="order", name="charge")
    def charge(order: str) -> None:
        raise AssertionError("it ran")

    began = time.monotonic()
    with pytest.raises(IdempotencyStoreUnavailable, match=says) as error:
        charge(order)
    assert time.monotonic() - began < 3
    assert (error.value.status, error.value.effect) == (503, "none")
    assert says not in error.value.problem()["detail"], "what failed is for the log, not for the client"
    return error.value


def test_a_redis_that_can_not_be_reached() -> None:
    refused(RedisBackend(f"redis://127.0.0.1:{free_port()}"), "can't be reached")


def test_a_redis_that_refuses_the_password() -> None:
    with RedisServer("--requirepass", "secret") as server:
        refused(RedisBackend(server.url), "wants a password")
        refused(RedisBackend(f"redis://:wrong@127.0.0.1:{server.port}"), "check user, password and database")


def test_a_redis_that_is_too_old() -> None:
    # No old server is at hand: one that says of itself that it is, and OK to everything else.
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        info = b"redis_version:5.0.14"
        with connection:
            while data := connection.recv(4096):
                for command in data.split(b"*")[1:]:
                    asked = b"INFO" in command.upper().split(b"\r\n")
                    connection.sendall(b"$%d\r\n%b\r\n" % (len(info), info) if asked else b"+OK\r\n")

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        refused(RedisBackend(url), "version 5.0.14; 6.2 or later is needed")


def test_something_else_under_a_key(redis_server: RedisServer) -> None:
    prefix = f"{uuid.uuid4()}:"
    backend = RedisBackend(redis_server.url, prefix=prefix)

    @idempotent(backend, key="order", name="charge")
    def charge(order: str) -> None: ...

    charge("a")
    client = redis.from_url(redis_server.url)
    (name,) = client.keys(f"{prefix}*")
    record = client.get(name)
    assert record is not None
    client.set(name, b"idm2" + record[4:])
    refused(backend, "version 2, which is newer")
    client.set(name, "somebody else's")
    refused(backend, "not an idempotency record; choose another prefix")
    client.delete(name)
    client.lpush(name, "a")
    refused(backend, name.decode())


def test_a_sqlite_file_of_another_application(tmp_path: Path) -> None:
    file = tmp_path / "theirs.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    refused(SqliteBackend(file), "is another application's database")
    noise = tmp_path / "noise.db"
    noise.write_bytes(b"this is no database at all" * 100)
    refused(SqliteBackend(noise), "not a database")


def test_a_full_store_refuses_new_claims_and_drops_nothing() -> None:
    backend = MemoryBackend(max_entries=2)

    @idempotent(backend, key="order", name="charge")
    def charge(order: str) -> str:
        return order

    assert [charge("x"), charge("y")] == ["x", "y"]
    refused(backend, "the memory store is full")
    assert charge("x") == "x"


@pytest.mark.parametrize("option", ["scope", "fingerprint"])
def test_a_callable_that_names_no_parameter_is_not_guessed(option: str) -> None:
    with pytest.raises(TypeError, match=rf"{option}= must be a callable whose parameters are named as the function's"):

        @idempotent("memory://", key="order", **{option: lambda user: user})
        def charge(order: str) -> None: ...


def test_refuse_needs_time_to_tell_that_the_outcome_is_unknown() -> None:
    with pytest.raises(ValueError, match=r'with after_crash="refuse" lease .* must be shorter than ttl'):
        idempotent("memory://", key="order", ttl=10, lease=10, after_crash="refuse")
    idempotent("memory://", key="order", ttl=10, after_crash="refuse")  # a default lease is shorter


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"required": "false"}, "required must be True or False, not 'false'"),
        ({"store_set_cookie": "x"}, "store_set_cookie must be True or False"),
        ({"name": 5}, "name must be a str"),
        ({"ttl": 10**400}, "ttl must be a finite number of seconds"),
        (
            {"settle": lambda: "store"},
            "settle= must be a callable with one parameter, the Outcome: too many positional",
        ),
        ({"store_exceptions": [ValueError]}, "must be a tuple of exception classes"),
        ({"methods": ["PUT"]}, "methods= is no option of @idempotent"),
        ({"payload": 1}, "payload= is no option of @idempotent"),
    ],
)
def test_options_of_the_wrong_kind_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        idempotent("memory://", **options)(pay)


def pay(order: str) -> None: ...


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": ["PSOT"]}, "'PSOT' is no method of HTTP; did you mean 'POST'"),
        ({"methods": ("POST,PUT",)}, "'POST,PUT' is no method of HTTP"),
        ({"methods": ["PUT "]}, "'PUT ' is no method of HTTP; did you mean 'PUT'"),
        ({"routes": ["/pay"]}, "routes= must be a dict"),
        ({"routes": {"/pay": {"tll": 1}}}, r"routes\['/pay'\]: unexpected keyword argument 'tll'"),
        ({"scope": lambda: "a"}, "scope= must be a callable with one parameter, the request"),
        ({"key": lambda request, more: "a"}, "key= must be a callable with one parameter, the request"),
        ({"payload": 1}, r"payload= is no option of Idempotency.*; it belongs to attempt\(\)"),
    ],
)
def test_options_of_middleware_are_named(options: dict[str, Any], says: str) -> None:
    for face in (Idempotency, partial(IdempotencyMiddleware, None, "memory://")):
        with pytest.raises((TypeError, ValueError), match=says):
            face(**options)


def test_a_task_s_options_are_named() -> None:
    with pytest.raises(TypeError, match=r"wait= is no option of idempotent_task\(\)"):
        idempotent_task("memory://", wait=1)
    once = idempotent_task("memory://")
    with pytest.raises(TypeError, match=r"write @app.task\(base=idempotent_task"):
        once(pay)
    with pytest.raises(TypeError, match=r"ttl= is given to @app.task of pay, where it does nothing"):
        Celery("shop").task(base=once, name="pay", ttl=60, shared=False)(pay).name  # noqa: B018  # makes it


def test_a_key_that_is_none_is_told_as_that() -> None:
    protected = idempotent("memory://", key=lambda order: None)(pay)
    with pytest.raises(IdempotencyKeyMissing, match="key= gave None"):
        protected("a")
