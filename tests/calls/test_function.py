"""Protected functions, on every store, sync and async."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from clients import until
from modes import Mode, at_once
from pyidempotent import (
    IdempotencyConflict,
    IdempotencyError,
    IdempotencyKeyInvalid,
    IdempotencyKeyMissing,
    IdempotencyNotKept,
    IdempotencyProcessing,
    IdempotencyScopeMissing,
    IdempotencyUnknown,
    Outcome,
    arguments,
    attempt,
    current,
    idempotent,
    shared,
)
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend


class Shop:
    """Counts what it charges."""

    def __init__(self) -> None:
        self.charges: list[tuple[str, int]] = []
        self.fails: list[BaseException] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()

    def charge(self, order: str, amount: int = 42) -> dict[str, Any]:
        self.charges.append((order, amount))
        self.begun.set()
        assert self.go.wait(10)
        if self.fails:
            raise self.fails.pop()
        return {"order": order, "amount": amount, "run": len(self.charges)}

    def function(self) -> Callable[..., Any]:
        def charge(order: str, amount: int = 42) -> dict[str, Any]:
            return self.charge(order, amount)

        return charge


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_a_repeat_gets_the_first_answer_and_another_payload_a_conflict(
    backend: Backend, mode: Mode, shop: Shop
) -> None:
    charge = mode.protect(shop.function(), backend, key="order")
    first = charge("a")
    assert charge("a") == first == charge("a", 42) == charge(order="a") == charge(amount=42, order="a")
    with pytest.raises(IdempotencyConflict) as conflict:
        charge("a", 43)
    assert conflict.value.status == 422
    assert charge("a") == first
    assert charge("b") != first
    assert shop.charges == [("a", 42), ("b", 42)]


def test_while_the_first_runs_a_repeat_is_told_and_another_payload_is_a_conflict(
    backend: Backend, mode: Mode, shop: Shop
) -> None:
    charge = mode.protect(shop.function(), backend, key="order", retry_after=0.5)
    shop.go.clear()
    first = threading.Thread(target=charge, args=("a",))
    first.start()
    shop.begun.wait()
    with pytest.raises(IdempotencyProcessing) as told:
        charge("a")
    assert (told.value.status, told.value.effect, told.value.retry_after) == (409, "running", 0.5)
    with pytest.raises(IdempotencyConflict):
        charge("a", 1)
    shop.go.set()
    first.join()
    assert charge("a")["run"] == 1 == len(shop.charges)


def test_of_fifty_at_once_one_runs(backend: Backend, mode: Mode, shop: Shop) -> None:
    charge = mode.protect(shop.function(), backend, key="order", wait=10 if mode.is_async else 0)
    outcomes = at_once(50, lambda _: charge("a"))
    assert shop.charges == [("a", 42)]
    answers = [outcome for outcome in outcomes if not isinstance(outcome, IdempotencyProcessing)]
    assert answers
    assert all(answer == {"order": "a", "amount": 42, "run": 1} for answer in answers)
    if mode.is_async:
        assert len(answers) == 50


def test_an_exception_frees_the_key(backend: Backend, mode: Mode, shop: Shop) -> None:
    charge = mode.protect(shop.function(), backend, key="order")
    shop.fails.append(ValueError("declined"))
    with pytest.raises(ValueError, match="declined"):
        charge("a")
    assert charge("a", 43)["run"] == 2


def test_under_refuse_an_exception_leaves_the_outcome_unknown(backend: Backend, mode: Mode, shop: Shop) -> None:
    charge = mode.protect(shop.function(), backend, key="order", after_crash="refuse")
    shop.fails.append(ValueError("declined"))
    with pytest.raises(ValueError, match="declined"):
        charge("a")
    for _ in range(2):
        with pytest.raises(IdempotencyUnknown) as unknown:
            charge("a")
    assert (unknown.value.status, unknown.value.effect, unknown.value.retry_after) == (409, "unknown", None)
    # The stricter of record and request wins.
    lax = mode.protect(shop.function(), backend, key="order")
    with pytest.raises(IdempotencyUnknown):
        lax("a")
    with pytest.raises(IdempotencyConflict):
        lax("a", 43)
    assert len(shop.charges) == 1


def test_a_handler_that_did_nothing_releases_even_under_refuse(backend: Backend, mode: Mode, shop: Shop) -> None:
    def charge(order: str) -> dict[str, Any]:
        if not shop.charges:
            shop.charge(order)
            current().release()
            raise ValueError("the card is expired")
        return shop.charge(order)

    protected = mode.protect(charge, backend, key="order", after_crash="refuse")
    with pytest.raises(ValueError, match="expired"):
        protected("a")
    assert protected("a")["run"] == 2 == protected("a")["run"]


class Declined(Exception):
    """A result of its own."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(code)
        self.reason = reason


def test_chosen_exceptions_are_results(backend: Backend, mode: Mode, shop: Shop) -> None:
    charge = mode.protect(shop.function(), backend, key="order", store_exceptions=(Declined, KeyError))
    shop.fails.append(Declined(7, reason="limit"))
    for _ in range(2):
        with pytest.raises(Declined) as declined:
            charge("a")
        assert (declined.value.args, declined.value.reason) == ((7,), "limit")
    shop.fails.append(ValueError("another"))
    with pytest.raises(ValueError, match="another"):
        charge("b")
    assert charge("b")["run"] == 3


def test_the_hook_decides_what_becomes_of_an_outcome(backend: Backend, mode: Mode, shop: Shop) -> None:
    seen: list[Outcome] = []
    words = iter(["release", "store", None, "hold"])

    def settle(outcome: Outcome) -> Any:
        seen.append(outcome)
        return next(words)

    charge = mode.protect(shop.function(), backend, key="order", settle=settle, lease=0.2)
    assert [charge("a")["run"] for _ in range(3)] == [1, 2, 2]
    assert [charge("b")["run"] for _ in range(2)] == [3, 3]
    assert charge("c")["run"] == 4
    with pytest.raises(IdempotencyProcessing):
        charge("c")  # held: as after a crash, until the lease ends
    assert [outcome.value["run"] for outcome in seen] == [1, 2, 3, 4]
    assert all((outcome.exception, outcome.status) == (None, None) for outcome in seen)


def test_a_hook_may_store_an_exception_and_must_not_say_anything_else(backend: Backend, shop: Shop) -> None:
    def settle(outcome: Outcome) -> Any:
        return "store" if isinstance(outcome.exception, KeyError) else "retry"

    charge = idempotent(backend, key="order", settle=settle)(shop.function())
    shop.fails.append(KeyError("gone"))
    for _ in range(2):
        with pytest.raises(KeyError, match="gone"):
            charge("a")
    with pytest.raises(ValueError, match="'store', 'release', 'hold' or None, not 'retry'"):
        charge("b")


def test_after_its_ttl_a_key_runs_again(backend: Backend, mode: Mode, shop: Shop) -> None:
    charge = mode.protect(shop.function(), backend, key="order", ttl=timedelta(milliseconds=300))
    assert charge("a")["run"] == 1 == charge("a")["run"]
    until(lambda: charge("a")["run"] > 1)
    assert charge("a")["run"] == 2


def test_a_waiter_gets_its_leaders_answer_when_it_ends(backend: Backend) -> None:
    took = []

    async def main() -> None:
        go = asyncio.Event()

        @idempotent(backend, key="order", wait=5)
        async def charge(order: str) -> str:
            await go.wait()
            return order

        for number in range(5):
            go.clear()
            leader = asyncio.create_task(charge(f"order-{number}"))
            waiters = [asyncio.create_task(charge(f"order-{number}")) for _ in range(3)]
            await asyncio.sleep(0.1)  # by now they wait; without a hint they would look again much later
            go.set()
            await leader
            ended = time.monotonic()
            assert await asyncio.gather(*waiters) == [f"order-{number}"] * 3
            took.append(time.monotonic() - ended)

    asyncio.run(main())
    assert min(took) < 0.05


def test_when_the_leader_fails_one_waiter_takes_over(backend: Backend, mode: Mode, shop: Shop) -> None:
    charge = mode.protect(shop.function(), backend, key="order", wait=10)
    shop.go.clear()
    shop.fails.append(ValueError("the leader's"))
    outcomes: list[Any] = []
    callers = threading.Thread(target=lambda: outcomes.extend(at_once(20, lambda _: charge("a"))))
    callers.start()
    shop.begun.wait()
    time.sleep(0.1)  # the others wait by now; nothing tells
    shop.go.set()
    callers.join()
    assert len(shop.charges) == 2
    assert sum(isinstance(outcome, ValueError) for outcome in outcomes) == 1
    assert sum(outcome == {"order": "a", "amount": 42, "run": 2} for outcome in outcomes) == 19


def test_a_sync_body_runs_on_its_callers_thread(backend: Backend) -> None:
    @idempotent(backend, key="order")
    def charge(order: str) -> int:
        return threading.get_ident()

    assert charge("a") == threading.get_ident()
    answers = at_once(3, lambda number: (charge(f"b{number}"), threading.get_ident()))
    assert all(ran_on == called_on for ran_on, called_on in answers)


def test_the_current_attempt(backend: Backend, mode: Mode) -> None:
    seen: list[Any] = []

    def charge(order: str) -> None:
        running = current()
        seen.append((running.key, running.scope, running.fence, running.lost, running.derive("bank")))
        if len(seen) < 3:
            raise ValueError("declined")

    protected = mode.protect(charge, backend, key="order", name="shop.charge", scope=lambda order: 7, namespace="eu")
    for _ in range(2):
        with pytest.raises(ValueError, match="declined"):
            protected("a")
    protected("a")
    assert [entry[0] for entry in seen] == ["a"] * 3
    scope = seen[0][1]
    assert (scope.namespace, scope.operation, scope.caller) == ("eu", "shop.charge", b"7")
    assert seen[0][2] < seen[1][2] < seen[2][2]
    assert not any(entry[3] for entry in seen)
    assert len({entry[4] for entry in seen}) == 1, "a derived key is the same for every attempt"
    with pytest.raises(RuntimeError, match="inside"):
        current()


def test_derived_keys_differ_by_name_and_key(backend: Backend) -> None:
    @idempotent(backend, key="order")
    def charge(order: str) -> list[str]:
        return [current().derive("bank"), current().derive("mail")]

    assert len({*charge("a"), *charge("b")}) == 4


def test_where_the_key_comes_from(backend: Backend) -> None:
    @idempotent(backend, key=lambda order: f"order-{order}")
    def by_callable(order: int) -> str:
        return current().key

    @idempotent(backend, key="event")
    def by_name(other: int, *, event: str = "default") -> str:
        return current().key

    @idempotent(backend, key=arguments)
    def by_arguments(a: int, b: int = 2) -> list[str]:
        return [current().key]

    assert by_callable(7) == "order-7"
    assert by_name(1) == "default"
    assert by_name(1, event="e") == "e"
    assert by_arguments(1) == by_arguments(1, 2) == by_arguments(b=2, a=1) != by_arguments(1, 3)


@pytest.mark.parametrize(("key", "text"), [(7, "7"), (UUID(int=7), str(UUID(int=7)))])
def test_a_number_or_a_uuid_is_a_key(key: Any, text: str) -> None:
    backend = MemoryBackend()
    ran: list[Any] = []

    @idempotent(backend, key="order", name="charge", fingerprint=lambda order: "")
    def charge(order: Any) -> str:
        ran.append(current().key)
        return "charged"

    @idempotent(backend, key=lambda order: order, name="charge", fingerprint=lambda order: "")
    def charge_by_callable(order: Any) -> str:
        raise AssertionError("it ran")

    assert charge(key) == charge(text) == charge_by_callable(key) == "charged"
    assert ran == [text]
    for other in (True, 1.5, b"a", [1]):
        with pytest.raises(IdempotencyKeyInvalid, match="must be a str, an int or a UUID, not"):
            charge(other)
    for _ in range(2):
        with attempt(backend, key=key, name="block") as run:
            ran.extend([] if run.replayed else [run.result])
    assert len(ran) == 2


def test_what_is_no_key_is_refused_and_nothing_runs(backend: Backend, shop: Shop) -> None:
    @idempotent(backend, key=lambda order: order)
    def charge(order: Any) -> None:
        shop.charge(order)

    for bad, error in [(None, IdempotencyKeyMissing), (7.5, IdempotencyKeyInvalid), ("", IdempotencyKeyInvalid)]:
        with pytest.raises(error):
            charge(bad)
    with pytest.raises(IdempotencyKeyInvalid, match="256"):
        charge("x" * 256)

    @idempotent(backend)
    def keyless() -> None:
        shop.charge("never")

    with pytest.raises(IdempotencyKeyMissing, match="pass key="):
        keyless()
    assert shop.charges == []


def test_a_key_that_is_optional_protects_where_it_is_there(backend: Backend, shop: Shop) -> None:
    charge = idempotent(backend, key=lambda order: order or None, required=False)(shop.function())
    assert [charge("")["run"] for _ in range(2)] == [1, 2]
    assert [charge("a")["run"] for _ in range(2)] == [3, 3]


def test_keys_are_apart_by_function_name_namespace_and_caller(backend: Backend, shop: Shop) -> None:
    def protect(**options: Any) -> Callable[..., Any]:
        return idempotent(backend, key="order", **options)(shop.function())

    callers = ["1", 1, UUID(int=1), b"\xff", "é"]  # "1" and 1 are one caller
    calls = [
        protect(),
        protect(name="another"),
        protect(namespace="eu"),
        *(protect(scope=lambda order, caller=caller: caller) for caller in callers),
    ]
    assert [call("a")["run"] for call in calls] == [1, 2, 3, 4, 4, 5, 6, 7]
    assert protect(scope=shared)("a")["run"] == 1
    with pytest.raises(IdempotencyScopeMissing, match="returned None"):
        protect(scope=lambda order: None)("a")
    with pytest.raises(TypeError, match="not float"):
        protect(scope=lambda order: 1.5)("a")


def test_a_result_that_can_not_be_kept_is_given_once_and_told_afterwards(
    backend: Backend, mode: Mode, caplog: pytest.LogCaptureFixture
) -> None:
    runs = []

    def charge(order: str) -> Any:
        runs.append(order)
        return "x" * 200 if order == "long" else object()

    protected = mode.protect(charge, backend, key="order", max_response_bytes=100)
    for order, why in [("long", "max_response_bytes is 100"), ("odd", "object")]:
        protected(order)
        with pytest.raises(IdempotencyNotKept) as told:
            protected(order)
        assert (told.value.status, told.value.effect) == (410, "done")
        assert why in caplog.text
    assert runs == ["long", "odd"]


def test_functions_that_call_each_other_are_operations_of_their_own(backend: Backend) -> None:
    @idempotent(backend, key="order")
    def pay(order: str) -> str:
        return f"{current().key} paid, {ship('s' + order)}"

    @idempotent(backend, key="order")
    def ship(order: str) -> str:
        return f"{current().key} shipped"

    assert pay("a") == "a paid, sa shipped" == pay("a")
    assert ship("sa") == "sa shipped"


def test_every_error_is_an_idempotency_error_with_a_problem() -> None:
    charge = idempotent(MemoryBackend(), key="order")(Shop().function())
    charge("a")
    with pytest.raises(IdempotencyError) as error:
        charge("a", 1)
    problem = error.value.problem("/orders")
    assert {"type", "title", "status", "detail", "instance", "effect"} <= problem.keys()
    assert (problem["status"], problem["instance"], problem["effect"]) == (422, "/orders", "none")


@pytest.mark.parametrize(
    ("default", "others"),
    [((1,), [(True,), (1.0,), (2,)]), (1, [True, 1.0]), ({"a": 0}, [{"a": False}]), ([{1}], [[{True}]])],
)
def test_an_argument_is_its_default_only_where_it_would_be_hashed_as_it(default: Any, others: list[Any]) -> None:
    @idempotent(MemoryBackend(), key="order", name="charge")
    def charge(order: str, items: Any = default) -> Any:
        return "charged"

    assert charge("a") == charge("a", default) == charge("a", copy.deepcopy(default))
    for other in others:
        with pytest.raises(IdempotencyConflict):
            charge("a", other)


def made_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def begun(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return asyncio.get_running_loop().create_task(function(*args, **kwargs))

    return wrapper


def made_a_task(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        task = begun(function)(*args, **kwargs)
        await asyncio.sleep(0)  # the task begins
        return task

    return wrapper


def not_awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Measured(contextlib.ContextDecorator):
    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...


@pytest.mark.parametrize("wrapper", [made_plain, Measured(), begun, not_awaited])
def test_an_awaitable_that_has_not_begun_is_no_result(backend: Backend, wrapper: Any) -> None:
    bodies: list[str] = []

    async def body(order: str) -> str:
        bodies.append(order)
        return order

    ship = idempotent(backend, key="order", name="ship")(wrapper(body))

    async def call() -> Any:
        returned = ship("7")
        return await returned if inspect.isawaitable(returned) else returned

    for _ in range(2):
        with pytest.raises(TypeError, match="returned an awaitable"):
            asyncio.run(call())
    assert bodies == []
    mended = idempotent(backend, key="order", name="ship")(body)
    assert asyncio.run(mended("7")) == "7"


def test_an_awaitable_that_has_begun_is_stopped_and_its_key_held(backend: Backend) -> None:
    bodies: list[str] = []

    @idempotent(backend, key="order", name="ship")
    @made_a_task
    async def ship(order: str) -> None:
        bodies.append(order)
        await asyncio.sleep(60)

    async def call() -> None:
        await ship("7")

    with pytest.raises(TypeError, match="returned an awaitable"):
        asyncio.run(call())
    with pytest.raises(IdempotencyProcessing):
        asyncio.run(call())
    assert bodies == ["7"]
