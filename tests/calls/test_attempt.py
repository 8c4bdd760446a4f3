"""`attempt`: a protected block, sync and async, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pyidempotent import IdempotencyConflict, IdempotencyProcessing, IdempotencyUnknown, attempt, current
from pyidempotent.backends import Backend

Block = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def enter(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Enters an attempt, sync or async, and runs a block in it; the attempt."""

    def sync(block: Block, *args: Any, **options: Any) -> attempt:
        with attempt(*args, **options) as run:
            block(run)
        return run

    async def enter(block: Block, *args: Any, **options: Any) -> attempt:
        async with attempt(*args, **options) as run:
            await asyncio.sleep(0)
            block(run)
        return run

    if request.param == "sync":
        return sync
    return lambda *args, **options: asyncio.run(enter(*args, **options))


def test_a_repeat_is_replayed_with_the_first_result(backend: Backend, enter: Callable[..., attempt]) -> None:
    ran = []

    def block(run: attempt) -> None:
        if not run.replayed:
            ran.append(current().key)
            run.result = {"handled": current().key}

    options = {"key": "evt_1", "payload": {"amount": 1}, "name": "webhook"}
    assert enter(block, backend, **options).result == {"handled": "evt_1"}
    again = enter(block, backend, **options)
    assert (again.replayed, again.result, ran) == (True, {"handled": "evt_1"}, ["evt_1"])
    with pytest.raises(IdempotencyConflict):
        enter(block, backend, **{**options, "payload": {"amount": 2}})
    for other in ({"name": "mail"}, {"caller": 7}, {"namespace": "eu"}, {"key": "evt_2"}):
        assert not enter(block, backend, **{**options, **other}).replayed


def fail(run: attempt) -> None:
    raise ValueError("no")


def test_an_exception_leaves_the_block_and_frees_the_key(backend: Backend, enter: Callable[..., attempt]) -> None:
    with pytest.raises(ValueError, match="no"):
        enter(fail, backend, key="a")
    assert not enter(lambda run: None, backend, key="a").replayed
    with pytest.raises(ValueError, match="no"):
        enter(fail, backend, key="b", after_crash="refuse")
    with pytest.raises(IdempotencyUnknown):
        enter(lambda run: None, backend, key="b")


def test_a_held_key_does_not_let_a_block_run(backend: Backend, enter: Callable[..., attempt]) -> None:
    with attempt(backend, key="a") as run:
        run.result = 1
        with pytest.raises(IdempotencyProcessing), attempt(backend, key="a"):
            raise AssertionError("it ran")
    assert enter(lambda run: None, backend, key="a").result == 1


def test_attempts_nest_and_are_entered_once(backend: Backend) -> None:
    with attempt(backend, key="outer"):
        with attempt(backend, key="inner"):
            assert current().key == "inner"
        assert current().key == "outer"
        current().release()
    with attempt(backend, key="outer") as run:
        assert not run.replayed
    with pytest.raises(RuntimeError, match="entered once"), run:
        pass
    with pytest.raises(RuntimeError):
        current()
