"""The table of docs/ends.md: what becomes of the key after each kind of end, for calls that are no requests. Those of
answers stand with their faces."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any, Literal

import pytest

from clients import until
from pyidempotent import IdempotencyProcessing, IdempotencyUnknown, _native, attempt, current, idempotent
from pyidempotent.backends import Backend

AfterCrash = Literal["rerun", "refuse"]
INTERRUPTS = [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]


class Bank:
    """Runs the work once, and ends it as a test says."""

    def __init__(self, end: Callable[[], Any]) -> None:
        self.runs = 0
        self.end = end

    def work(self) -> Any:
        self.runs += 1
        return self.end() if self.runs == 1 else "again"


def decorated(backend: Backend, after_crash: AfterCrash, bank: Bank) -> Callable[[], Any]:
    @idempotent(backend, key="order", after_crash=after_crash)
    def charge(order: str) -> Any:
        return bank.work()

    return lambda: charge("7")


def decorated_async(backend: Backend, after_crash: AfterCrash, bank: Bank) -> Callable[[], Any]:
    @idempotent(backend, key="order", after_crash=after_crash)
    async def charge(order: str) -> Any:
        await asyncio.sleep(0)
        return bank.work()

    return lambda: asyncio.run(charge("7"))


def block(backend: Backend, after_crash: AfterCrash, bank: Bank) -> Callable[[], Any]:
    def charge() -> Any:
        with attempt(backend, key="7", after_crash=after_crash) as run:
            if not run.replayed:
                run.result = bank.work()
        return run.result

    return charge


def block_async(backend: Backend, after_crash: AfterCrash, bank: Bank) -> Callable[[], Any]:
    async def charge() -> Any:
        async with attempt(backend, key="7", after_crash=after_crash) as run:
            if not run.replayed:
                run.result = bank.work()
        return run.result

    return lambda: asyncio.run(charge())


FACES = [decorated, decorated_async, block, block_async]
Face = Callable[[Backend, AfterCrash, Bank], Callable[[], Any]]


def raises(error: type[BaseException]) -> Callable[[], Any]:
    def end() -> Any:
        raise error

    return end


def releases(end: Callable[[], Any]) -> Callable[[], Any]:
    def released() -> Any:
        current().release()
        return end()

    return released


def runs_again(charge: Callable[[], Any]) -> bool:
    try:
        return bool(charge() == "again")
    except IdempotencyProcessing:
        return False  # its release is on its way


def is_unknown(charge: Callable[[], Any]) -> bool:
    try:
        charge()
    except IdempotencyUnknown:
        return True
    except IdempotencyProcessing:
        return False  # its end is on its way
    raise AssertionError("it has run")


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("error", INTERRUPTS)
def test_work_that_is_interrupted_is_held(backend: Backend, face: Face, error: type[BaseException]) -> None:
    """What it came to, nobody knows: a thread or another service may go on with it."""
    bank = Bank(raises(error))
    charge = face(backend, "rerun", bank)
    with pytest.raises(error):
        charge()
    for _ in range(2):
        with pytest.raises(IdempotencyProcessing):
            charge()
    assert bank.runs == 1


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("error", INTERRUPTS)
def test_under_refuse_it_is_unknown(backend: Backend, face: Face, error: type[BaseException]) -> None:
    bank = Bank(raises(error))
    charge = face(backend, "refuse", bank)
    with pytest.raises(error):
        charge()
    until(lambda: is_unknown(charge))
    assert bank.runs == 1


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("after_crash", ["rerun", "refuse"])
@pytest.mark.parametrize("error", [*INTERRUPTS, ZeroDivisionError])
def test_what_the_handler_has_released_is_free_however_it_ends(
    backend: Backend, face: Face, after_crash: AfterCrash, error: type[BaseException]
) -> None:
    bank = Bank(releases(raises(error)))
    charge = face(backend, after_crash, bank)
    with pytest.raises(error):
        charge()
    until(lambda: runs_again(charge))


@pytest.mark.parametrize("face", FACES)
def test_an_exception_of_the_work_is_a_failure(backend: Backend, face: Face) -> None:
    bank = Bank(raises(ZeroDivisionError))
    charge = face(backend, "rerun", bank)
    with pytest.raises(ZeroDivisionError):
        charge()
    assert charge() == "again"


@pytest.mark.parametrize("face", FACES)
def test_under_refuse_a_failure_is_unknown_too(backend: Backend, face: Face) -> None:
    bank = Bank(raises(ZeroDivisionError))
    charge = face(backend, "refuse", bank)
    with pytest.raises(ZeroDivisionError):
        charge()
    assert is_unknown(charge)


@pytest.mark.parametrize("is_released", [False, True])
@pytest.mark.parametrize("after_crash", ["rerun", "refuse"])
def test_an_attempt_that_is_collected_without_an_end(
    backend: Backend, after_crash: AfterCrash, is_released: bool
) -> None:
    call: Any = attempt(backend, key="7", after_crash=after_crash)
    flow: Any = _native.protect(call)
    running = flow.step(call, None)[1]
    if is_released:
        running.release()
    del flow, running
    gc.collect()
    charge = block(backend, after_crash, Bank(lambda: "again"))
    if is_released:
        until(lambda: runs_again(charge))
    elif after_crash == "refuse":
        until(lambda: is_unknown(charge))
    else:
        with pytest.raises(IdempotencyProcessing):
            charge()
