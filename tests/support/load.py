"""Many callers at once on a store, while something happens to it; what each of them saw is kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pyidempotent import IdempotencyProcessing, IdempotencyStoreUnavailable, idempotent
from pyidempotent.backends.redis import RedisBackend

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One call, by the monotonic clock."""

    key: str
    began: float
    ended: float
    answered: bool


@dataclass
class Load:
    """What callers saw.

    Parameters:
        url: of the store.
        time_limit: of an operation.
        callers: how many there are.
        prefix: of the keys in the store.
        repeats: whether a call is repeated until it is answered; if not, its caller goes on with another key.
    """

    url: str
    time_limit: float = 0.5
    callers: int = 64
    prefix: str = "idem:"
    repeats: bool = True
    calls: list[Call] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)

    @property
    def backend(self) -> RedisBackend:
        return RedisBackend(self.url, time_limit=self.time_limit, prefix=self.prefix)

    def during(self, happens: Callable[[], T]) -> T:
        """Keeps the callers calling while something happens, which blocks."""
        return asyncio.run(self._during(happens))

    async def _during(self, happens: Callable[[], T]) -> T:
        call = self._charge()
        await self._until_answered(call, "warm")
        is_over = asyncio.Event()
        tasks = [asyncio.create_task(self._call(call, f"{number}", is_over)) for number in range(self.callers)]
        try:
            return await asyncio.to_thread(happens)
        finally:
            is_over.set()
            await asyncio.gather(*tasks)

    def _charge(self) -> Callable[[str], object]:
        @idempotent(self.backend, key="order", name="charge", lease=5)
        async def charge(order: str) -> str:
            self.runs[order] += 1
            await asyncio.sleep(0)
            return order

        return charge

    async def _call(self, charge: Callable[[str], object], caller: str, is_over: asyncio.Event) -> None:
        for number in itertools.count():
            await self._until_answered(charge, f"{caller}-{number}", self.repeats)
            if is_over.is_set():
                return

    async def _until_answered(self, charge: Callable[[str], object], key: str, repeats: bool = True) -> None:
        answered, again = False, True
        while not answered and again:
            again = repeats
            began = time.monotonic()
            with contextlib.suppress(IdempotencyStoreUnavailable, IdempotencyProcessing):
                assert await charge(key) == key  # type: ignore[misc]
                answered = True
            self.calls.append(Call(key, began, time.monotonic(), answered))
            if not answered:
                await asyncio.sleep(0.02)  # as a client that backs off

    def repeated(self) -> int:
        """Calls each key that was answered once more; how many of them run again."""
        before = self.runs.total()

        async def repeat() -> None:
            charge = self._charge()
            keys = iter({call.key for call in self.calls})

            async def some() -> None:
                for key in keys:
                    await self._until_answered(charge, key)

            await asyncio.gather(*(some() for _ in range(self.callers)))

        asyncio.run(repeat())
        return self.runs.total() - before

    @property
    def longest(self) -> float:
        """Seconds that the longest call took."""
        return max(call.ended - call.began for call in self.calls)

    @property
    def failed(self) -> int:
        return sum(not call.answered for call in self.calls)

    @property
    def second_runs(self) -> int:
        """Runs of keys that had had one."""
        return sum(count - 1 for count in self.runs.values())

    def answered_around(self, moment: float, seconds: float) -> int:
        """How many calls were answered so many seconds before a moment and after it."""
        return sum(call.answered and abs(call.ended - moment) < seconds for call in self.calls)

    def back_after(self, moment: float) -> float:
        """Seconds from a moment to the first answer to a call that began after it."""
        return min(call.ended for call in self.calls if call.answered and call.began >= moment) - moment

    def said(self) -> str:
        """The counts, in a line."""
        return (
            f"{len(self.runs)} keys, {len(self.calls)} calls, {self.failed} failed, longest {self.longest:.2f} s, "
            f"{self.second_runs} second runs"
        )
