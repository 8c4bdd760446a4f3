"""Results that leave the process sealed: what stands in each store, and who can read it."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from pyidempotent import IdempotencyConflict, IdempotencyStoreUnavailable, attempt, idempotent
from pyidempotent.backends import Backend, Seal
from pyidempotent.backends.custom import CustomBackend, Step
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.backends.postgres import PostgresBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.backends.sqlite import SqliteBackend
from pyidempotent.testing import check_backend
from servers import PostgresServer, RedisServer

SECRET = "the card is 4242 4242 4242 4242"
NEW, OLD, NAMES = "11" * 32, "22" * 32, "33" * 32

#: Makes a backend over one place, and reads all that stands there.
Place = tuple[Callable[..., Backend], Callable[[], bytes]]


class Values(CustomBackend):
    """A store in a dict."""

    values: dict[bytes, bytes]

    def claim(self, key: bytes, step: Step) -> None:
        value = step(self.values.get(key))
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value

    renew = complete = release = claim


@pytest.fixture(params=["sqlite", "redis", "postgres", "custom"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        path = tmp_path / "idempotency.db"
        return (
            lambda **seal: SqliteBackend(path, **seal),
            lambda: b"".join(file.read_bytes() for file in sorted(tmp_path.glob("idempotency.db*"))),
        )
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        prefix = f"{uuid.uuid4()}:"

        def all_of_redis() -> bytes:
            with closing(redis.from_url(server.url)) as client:
                names = list(client.scan_iter(f"{prefix}*"))
                return b"".join(part for name in names for part in (name, client.get(name) or b""))

        return lambda **seal: RedisBackend(server.url, prefix=prefix, **seal), all_of_redis
    if request.param == "postgres":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        url = postgres.new_url()
        schema = url.partition("schema=")[2]

        def all_of_postgres() -> bytes:
            with psycopg.connect(postgres.url) as connection:
                rows: Any = connection.execute(f"SELECT key, record FROM {schema}.records")  # type: ignore[arg-type]
                return b"".join(bytes(part) for row in rows for part in row)

        return lambda **seal: PostgresBackend(url, **seal), all_of_postgres
    values: dict[bytes, bytes] = {}

    def custom(**seal: Any) -> Backend:
        return type("Own", (Values,), {"values": values, **seal})()

    return custom, lambda: b"".join(part for pair in values.items() for part in pair)


def charge_on(backend: Backend, **options: Any) -> Callable[[str], str]:
    """A function of one name, whatever the backend is."""

    @idempotent(backend, key="order", name="charge", **options)
    def charge(order: str) -> str:
        return f"{SECRET} {uuid.uuid4()}"

    return charge


def test_the_store_has_no_answer(place: Place) -> None:
    make, everything = place
    charge = charge_on(make(seal=NEW))
    first = charge("order-7")
    assert first.startswith(SECRET)
    assert charge("order-7") == first
    assert b"order-7" in everything()  # the label: names are not hidden
    assert b"4242" not in everything()
    plain = charge_on(make())
    plain("order-8")
    assert b"4242" in everything()


def test_hidden_names_leave_no_word(place: Place) -> None:
    make, everything = place
    backend = make(seal=Seal(NEW, names=NAMES))
    charge = charge_on(backend)
    first = charge("order-7")
    assert charge("order-7") == first
    with attempt(backend, key="evt_1", name="webhook", caller="alice") as run:
        assert not run.replayed
        stored = everything()
        for word in (b"order-7", b"charge", b"4242", b"evt_1", b"webhook", b"alice"):
            assert word not in stored
        assert b"sealed " in stored
        key, plain = backend._storage_key("evt_1", "webhook", "alice", "", None), b""
        assert key not in stored
        assert key.hex().encode() not in stored
        with (
            pytest.raises(IdempotencyConflict),
            attempt(backend, key="evt_1", name="webhook", caller="alice", payload=1),
        ):
            plain = b"it ran"
        assert not plain
    found = backend.get("order-7", operation="charge")
    assert found is not None
    assert (found.label, found.state) == ("charge order-7", "completed")
    assert SECRET.encode() in found.result


def test_whoever_has_no_key_is_told_and_runs_nothing(place: Place) -> None:
    make, _ = place
    first = charge_on(make(seal=OLD))("order-7")
    for seal, says in (
        ({}, "its result is sealed, and this process has no keys"),
        ({"seal": NEW}, "sealed with a key that this process does not have"),
    ):
        with pytest.raises(IdempotencyStoreUnavailable, match=says) as refused:
            charge_on(make(**seal))("order-7")
        assert refused.value.retry_after is None  # waiting mends nothing
        assert "22" * 8 not in str(refused.value)
    assert charge_on(make(seal=[NEW, OLD]))("order-7") == first


def test_keys_are_rotated(place: Place) -> None:
    make, _ = place
    old = charge_on(make(seal=OLD))("order-7")
    both = charge_on(make(seal=f"{NEW},{OLD}"))
    new = both("order-8")
    assert both("order-7") == old
    assert charge_on(make(seal=[bytes.fromhex(NEW)]))("order-8") == new
    with pytest.raises(IdempotencyStoreUnavailable):
        charge_on(make(seal=OLD))("order-8")


def test_what_was_plain_is_read_unless_it_is_refused(place: Place) -> None:
    make, _ = place
    before = charge_on(make())("order-7")
    assert charge_on(make(seal=Seal(NEW)))("order-7") == before
    with pytest.raises(IdempotencyStoreUnavailable, match="is not sealed, and this process reads none that is not"):
        charge_on(make(seal=Seal(NEW, plain=False)))("order-7")


def test_an_operator_resolves_what_is_sealed(place: Place) -> None:
    make, everything = place
    backend = make(seal=Seal(NEW, names=NAMES))
    with (
        pytest.raises(RuntimeError),
        attempt(backend, key="evt_1", name="webhook", after_crash="refuse"),
    ):
        raise RuntimeError
    found = backend.get("evt_1", operation="webhook")
    assert found is not None
    if not isinstance(backend, CustomBackend):  # which lists nothing
        assert [(one.label, one.id) for one in backend.unfinished()] == [(found.label, found.id)]
    assert (found.label, found.state) == ("webhook evt_1", "unknown")
    assert backend.resolve(id=found.id, fence=found.fence, result=SECRET)
    assert b"4242" not in everything()
    with attempt(backend, key="evt_1", name="webhook", after_crash="refuse") as run:
        assert (run.replayed, run.result) == (True, SECRET)


def test_a_sealed_store_keeps_every_rule(place: Place) -> None:
    make, _ = place
    check_backend(lambda: make(seal=Seal(NEW, names=NAMES)))


VECTORS = Path(__file__).parents[2] / "crates/idempotency/tests/vectors/sealed_records.json"


@pytest.mark.parametrize("which", ["sealed", "hidden"])
def test_what_rust_has_sealed_is_read(redis_server: RedisServer, which: str) -> None:
    """The crate's own tests read the same records."""
    vectors = json.loads(VECTORS.read_text())
    prefix = f"{uuid.uuid4()}:"
    with closing(redis.from_url(redis_server.url)) as client:
        client.set(prefix + vectors[which]["name"], bytes.fromhex(vectors[which]["record"]), px=60_000)
    seal = Seal(vectors["keys"], names=vectors["names"] if which == "hidden" else None)
    charge = charge_on(RedisBackend(redis_server.url, prefix=prefix, seal=seal))
    assert charge("order-7") == "charged 42 EUR"


def test_memory_is_sealed() -> None:
    charge = charge_on(MemoryBackend(seal=NEW))
    assert charge("order-7") == charge("order-7")


def test_backends_of_other_keys_are_others(redis_server: RedisServer) -> None:
    def native(**seal: Any) -> Any:
        return RedisBackend(redis_server.url, **seal).native

    assert native(seal=NEW) is native(seal=[bytes.fromhex(NEW)]) is native(seal=Seal(NEW))
    others = [
        native(), native(seal=NEW), native(seal=OLD), native(seal=[NEW, OLD]), native(seal=[OLD, NEW]),
        native(seal=Seal(NEW, names=NAMES)), native(seal=Seal(NEW, plain=False)),
    ]  # fmt: skip
    assert len({id(other) for other in others}) == len(others)


def test_no_key_is_shown(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    key = Seal.new_key()
    assert key not in repr(Seal(key))
    assert key not in f"{Seal(key).native!r}"
    for wrong in (f"{key}x", [key, 5], [key, key], [], f"{key},", key[:40]):
        with pytest.raises((TypeError, ValueError)) as refused:
            SqliteBackend(tmp_path / "i.db", seal=wrong)  # type: ignore[arg-type]
        assert key[:10] not in str(refused.value)
    caplog.set_level(logging.DEBUG)
    charge_on(SqliteBackend(tmp_path / "i.db", seal=key))("order-7")
    with pytest.raises(IdempotencyStoreUnavailable):
        charge_on(SqliteBackend(tmp_path / "i.db", seal=NEW))("order-7")
    assert key not in caplog.text


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IDEMPOTENCY_SEAL_KEYS", raising=False)
    monkeypatch.delenv("IDEMPOTENCY_SEAL_NAMES", raising=False)
    assert Seal.from_environment() is None
    monkeypatch.setenv("IDEMPOTENCY_SEAL_NAMES", NAMES)
    with pytest.raises(ValueError, match="IDEMPOTENCY_SEAL_KEYS alone, which is not set"):
        Seal.from_environment()
    monkeypatch.setenv("IDEMPOTENCY_SEAL_KEYS", f"{NEW}, {OLD}")
    assert Seal.from_environment() == Seal(NEW, OLD, names=NAMES)
    monkeypatch.setenv("IDEMPOTENCY_SEAL_KEYS", f"{NEW},hunter2")
    with pytest.raises(ValueError, match=r"^IDEMPOTENCY_SEAL_KEYS: key 2 is not 32 bytes") as refused:
        Seal.from_environment()
    assert "hunter2" not in str(refused.value)


def test_processes_with_the_keys_share_records(tmp_path: Path) -> None:
    """One with the old key alone, one that rotates, one without keys."""
    program = """
import json, sys
from pyidempotent import idempotent
from pyidempotent.backends import Seal
from pyidempotent.backends.sqlite import SqliteBackend

@idempotent(SqliteBackend(sys.argv[1], seal=Seal.from_environment()), key="order", name="charge")
def charge(order: str) -> str:
    return f"charged by {sys.argv[2]}"

try:
    print(json.dumps(charge("order-7")))
except Exception as error:
    print(json.dumps(type(error).__name__))
"""

    def run(name: str, keys: str) -> Any:
        environment = {**os.environ, "IDEMPOTENCY_SEAL_KEYS": keys}
        command = [sys.executable, "-c", program, str(tmp_path / "i.db"), name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return json.loads(done.stdout)

    assert run("the first", OLD) == "charged by the first"
    assert run("one that rotates", f"{NEW},{OLD}") == "charged by the first"
    assert run("one with the new key alone", NEW) == "IdempotencyStoreUnavailable"
    assert run("one without keys", "") == "IdempotencyStoreUnavailable"
    with closing(sqlite3.connect(tmp_path / "i.db")) as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (1,)
