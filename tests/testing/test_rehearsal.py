"""`pyidempotent.testing`: what a user's own tests can do to their code."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, Request

from clients import Local, is_replay, new_key
from modes import Mode
from pyidempotent import (
    IdempotencyConflict,
    IdempotencyProcessing,
    IdempotencyStoreUnavailable,
    IdempotencyUnknown,
    attempt,
    current,
    idempotent,
)
from pyidempotent.testing import Crashed, Rehearsal, rehearse
from servers import free_port

#: Nothing listens there, and nothing needs to.
REDIS = f"redis://127.0.0.1:{free_port()}"


class Bank:
    def __init__(self) -> None:
        self.keys: list[str] = []

    def charge(self, key: str) -> str:
        self.keys.append(key)
        return f"receipt {len(self.keys)}"

    async def charge_async(self, key: str) -> str:
        return self.charge(key)

    @staticmethod
    def static() -> str:
        return "static"

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def protect(mode: Mode, bank: Bank) -> Callable[..., Callable[..., str]]:
    def protect(**options: Any) -> Callable[..., str]:
        def pay(order: str, amount: int = 1) -> str:
            return f"paid, {bank.charge(current().derive('charge'))}"

        return mode.protect(pay, REDIS, key="order", lease=30, ttl=3600, **options)

    return protect


def test_a_crash_after_the_charge(
    idempotency: Rehearsal, bank: Bank, protect: Callable[..., Callable[..., str]]
) -> None:
    pay = protect()
    with idempotency.crash_after(bank, "charge"):
        pay("order-7")
    with pytest.raises(IdempotencyProcessing):
        pay("order-7")
    with pytest.raises(IdempotencyConflict):
        pay("order-7", 2)
    idempotency.advance(30)
    assert pay("order-7") == "paid, receipt 2" == pay("order-7")
    assert len(bank.keys) == 2
    assert len(set(bank.keys)) == 1, "the bank was asked twice with one key"


def test_a_crash_before_the_charge(
    idempotency: Rehearsal, bank: Bank, protect: Callable[..., Callable[..., str]]
) -> None:
    pay = protect()
    with idempotency.crash_before(bank, "charge"):
        pay("order-7")
    assert bank.keys == []
    idempotency.advance(timedelta(seconds=30))
    assert pay("order-7") == "paid, receipt 1"


def test_a_crash_under_refuse_is_unknown_until_an_operator_decides(
    idempotency: Rehearsal, bank: Bank, protect: Callable[..., Callable[..., str]]
) -> None:
    pay = protect(after_crash="refuse", name="shop.pay")
    with idempotency.crash_after(bank, "charge"):
        pay("order-7")
    with pytest.raises(IdempotencyProcessing):
        pay("order-7")
    idempotency.advance(30)
    with pytest.raises(IdempotencyUnknown):
        pay("order-7")
    record = idempotency.backend.get("order-7", operation="shop.pay")
    assert record is not None
    assert record.state == "lapsed"
    assert idempotency.backend.resolve("order-7", operation="shop.pay", fence=record.fence, result="by hand")
    assert pay("order-7") == "by hand"
    assert len(bank.keys) == 1


def test_time_passes_on_request(idempotency: Rehearsal, bank: Bank, protect: Callable[..., Callable[..., str]]) -> None:
    pay = protect()
    assert pay("a") == "paid, receipt 1"
    idempotency.advance(3599)
    assert pay("a") == "paid, receipt 1"
    idempotency.advance(1)
    assert pay("a") == "paid, receipt 2", "after ttl it runs again"
    with pytest.raises(ValueError, match="finite"):
        idempotency.advance(-1)


def test_all_that_is_under_way_ends_in_a_crash(idempotency: Rehearsal, bank: Bank) -> None:
    inside, go = threading.Event(), threading.Event()

    def beside() -> None:
        with attempt(REDIS, key="beside", lease=30):
            inside.set()
            assert go.wait(10)

    thread = threading.Thread(target=beside)
    thread.start()
    assert inside.wait(10)
    with pytest.raises(Crashed), attempt(REDIS, key="outer", lease=30), attempt(REDIS, key="inner", lease=30):
        idempotency.crash("takes", any="arguments")
    go.set()
    thread.join()
    for key in ("outer", "inner", "beside"):
        with pytest.raises(IdempotencyProcessing), attempt(REDIS, key=key):
            raise AssertionError("it ran")
    idempotency.advance(30)
    for key in ("outer", "inner", "beside"):
        with attempt(REDIS, key=key) as run:
            assert not run.replayed


def test_an_endpoint_crashes(idempotency: Rehearsal, bank: Bank) -> None:
    app = FastAPI()

    @app.post("/pay")
    @idempotent(REDIS, lease=30)
    async def pay(request: Request) -> dict[str, str]:
        return {"paid": await bank.charge_async(current().derive("charge"))}

    client, key = Local(app), new_key()
    with idempotency.crash_after(bank, "charge_async"):
        client.post("/pay", key)
    assert client.post("/pay", key).status_code == 409
    idempotency.advance(30)
    answers = client.twice("/pay", key)
    assert [answer.json() for answer in answers] == [{"paid": "receipt 2"}] * 2
    assert [is_replay(answer) for answer in answers] == [False, True]
    assert len(set(bank.keys)) == 1


@pytest.mark.parametrize("name", ["static", "of_class"])
@pytest.mark.parametrize("owner", [Bank, Bank()])
def test_any_function_of_an_object_can_be_where_it_crashes(idempotency: Rehearsal, owner: Any, name: str) -> None:
    expected = getattr(owner, name)()
    with idempotency.crash_after(owner, name):
        with pytest.raises(Crashed):
            getattr(owner, name)()
        assert getattr(owner, name)() == expected, "once"
    assert getattr(owner, name)() == expected


def test_a_crash_that_did_not_happen_is_told(idempotency: Rehearsal, bank: Bank) -> None:
    with pytest.raises(AssertionError, match=r"charge of .* was not called"), idempotency.crash_after(bank, "charge"):
        pass
    with pytest.raises(KeyError), idempotency.crash_after(bank, "charge"):
        raise KeyError
    with pytest.raises(AttributeError), idempotency.crash_after(bank, "charges"):
        pass


def test_only_the_crash_is_swallowed(idempotency: Rehearsal, bank: Bank) -> None:
    def crash(error: type[Exception] | None) -> None:
        with idempotency.crash_after(bank, "charge"):
            try:
                bank.charge("a")
            except BaseException as crashed:
                if error is not None:
                    raise error("the client lost its connection") from crashed
            assert bank.keys == [], "a test's own assertion"

    crash(ConnectionError)
    with pytest.raises(AssertionError, match="a test's own assertion"):
        crash(None)


def test_a_crash_in_a_group_of_tasks_is_one(idempotency: Rehearsal, bank: Bank) -> None:
    async def beside() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(bank.charge_async, "a")

    with idempotency.crash_after(bank, "charge"):
        asyncio.run(beside())
    assert bank.keys == ["a"]


def test_every_backend_is_itself_again_afterwards() -> None:
    @idempotent(REDIS, key="order")
    def pay(order: str) -> str:
        return order

    with rehearse() as first:
        assert pay("a") == "a"
        with pytest.raises(RuntimeError, match="a rehearsal already"), rehearse():
            pass
        assert first.backend.get("a", operation=f"{pay.__module__}.{pay.__qualname__}") is not None
    with pytest.raises(IdempotencyStoreUnavailable):
        pay("a")
    with rehearse() as second:
        assert second.backend.get("a", operation=f"{pay.__module__}.{pay.__qualname__}") is None, "it begins empty"


def test_a_waiter_takes_over_when_the_lease_of_the_crashed_has_lapsed(idempotency: Rehearsal) -> None:
    with pytest.raises(Crashed), attempt(REDIS, key="a", lease=30):
        idempotency.crash()

    async def takes_over() -> bool:
        async def wait() -> bool:
            async with attempt(REDIS, key="a", wait=10) as run:
                return run.replayed

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        idempotency.advance(30)
        return await waiting

    assert asyncio.run(takes_over()) is False


def test_the_fixture_is_found_by_pytest(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from pyidempotent import current, idempotent\n"
        "class bank:\n"
        "    keys = []\n"
        "    @classmethod\n"
        "    def charge(cls, amount, key):\n"
        "        cls.keys.append(key)\n"
        f"@idempotent('{REDIS}', key='order')\n"
        "def pay(order, amount):\n"
        "    bank.charge(amount, current().derive('charge'))\n"
        "    return 'paid'\n"
    )
    (tmp_path / "test_shop.py").write_text(
        "from shop import bank, pay\n"
        "def test_a_crash_after_the_charge(idempotency):\n"
        "    with idempotency.crash_after(bank, 'charge'):\n"
        "        pay('order-7', 42)\n"
        "    idempotency.advance(30)\n"
        "    assert pay('order-7', 42) == 'paid'\n"
        "    assert len(bank.keys) == 2 and len(set(bank.keys)) == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
