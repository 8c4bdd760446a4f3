"""What type checkers must accept and refuse; checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pyidempotent import IdempotencyConflict, Outcome, arguments, attempt, by_authorization, current, idempotent, shared
from pyidempotent.backends import StoredRecord
from pyidempotent.backends.custom import CustomBackend, Step
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.backends.redis import RedisBackend
from pyidempotent.backends.sqlite import SqliteBackend
from pyidempotent.flask import Idempotency
from pyidempotent.testing import check_backend, rehearse

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    from typing_extensions import assert_type

    backend = RedisBackend(redis.from_url("redis://localhost"))
    RedisBackend(redis.asyncio.from_url("redis://localhost"), prefix="shop:")
    SqliteBackend("idempotency.db")

    @idempotent(backend, key=lambda order: order, ttl=3600)
    def charge(order: str, amount: int = 1) -> dict[str, int]:
        return {order: amount}

    @idempotent("memory://", key="order", scope=lambda order, **_: order, store_exceptions=ValueError)
    async def charge_async(order: str, *, amount: float) -> list[float]:
        return [amount]

    @idempotent(backend=MemoryBackend(), key=arguments, scope=shared, after_crash="refuse")
    def by_arguments(a: int, *rest: str) -> None: ...

    class Shop:
        @idempotent(backend, key="order", scope=by_authorization)
        def charge(self, order: str) -> int:
            return 1

        @staticmethod
        @idempotent(backend, key="order")
        def static(order: str) -> bytes:
            return b""

    class Own(CustomBackend):
        def __init__(self, table: dict[bytes, bytes]) -> None:
            self.table = table

        def claim(self, key: bytes, step: Step) -> None:
            value = step(self.table.get(key))
            if value is not None:
                self.table[key] = value

        renew = complete = release = claim

    assert_type(Own({}).table, dict[bytes, bytes])
    check_backend(lambda: Own({}))

    with rehearse() as rehearsal, rehearsal.crash_after(backend, "get"):
        rehearsal.advance(30)

    def settle(outcome: Outcome) -> Any:
        return "store" if outcome.status == 503 else None

    idempotent(backend, settle=settle)

    assert_type(charge("a"), dict[str, int])
    assert_type(charge("a", amount=2), dict[str, int])
    function: Callable[[str, int], dict[str, int]] = charge
    awaitable: Awaitable[list[float]] = charge_async("a", amount=1.0)
    assert_type(by_arguments(1, "a", "b"), None)
    assert_type(Shop().charge("a"), int)
    assert_type(Shop.static("a"), bytes)
    assert_type(current().fence, int)
    assert_type(IdempotencyConflict().status, int)
    assert_type(backend.get("a", operation=("POST", "/pay")), StoredRecord | None)

    with attempt(backend, key="a", payload={"any": "thing"}) as run:
        assert_type(run.replayed, bool)

    idempotency = Idempotency(backend=backend, ttl=60, routes={"/health": None}, scope=lambda request: request.path)

    @idempotency.options(required=True, lease=timedelta(seconds=5))
    def view(order: str) -> tuple[str, int]:
        return order, 201

    assert_type(view("a"), tuple[str, int])
    assert_type(idempotency.exempt(view)("a"), tuple[str, int])
    idempotency.options(tll=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    idempotency.options(ttl="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    idempotency.exempt("view")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]

    charge(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    charge("a", "b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    charge()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    wrong = charge_async("a", 1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Shop().charge(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    idempotent(backend, after_crash="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    idempotent(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
