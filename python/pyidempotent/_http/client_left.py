"""What goes on for a while after a client has left: a repeat is to find the answer. Knows no framework.

An end is what the work did, not what its client did. So an application that runs under a key learns that its client has
left only when its answer is whole, or when ``disconnect_grace`` has passed since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Departure:
    """A client that has left, in the running loop.

    Parameters:
        grace: how many seconds the application is not told.
    """

    __slots__ = ("_timer", "_told")

    def __init__(self, grace: float) -> None:
        self._told = asyncio.Event()
        self._timer = asyncio.get_running_loop().call_later(grace, self._told.set)
        if not grace:
            self.tell()

    @property
    def is_told(self) -> bool:
        """Whether the application may know."""
        return self._told.is_set()

    async def until_told(self) -> None:
        """Returns when the application may know."""
        await self._told.wait()

    def tell(self) -> None:
        """The application may know: its answer is whole, or it has ended."""
        self._timer.cancel()
        self._told.set()


async def to_its_end(work: Coroutine[Any, Any, T], grace: Callable[[], float]) -> T:
    """Awaits work that goes on for a while where the awaiting task is cancelled, as some servers do when a client
    leaves. After the first cancellation it has so many seconds; then it is cancelled itself.

    What it sets in context variables is seen by the awaiting task, as if it had run there.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(_with_context(work))
    timer: asyncio.TimerHandle | None = None
    try:
        while True:
            try:
                result, context = await asyncio.shield(task)
                break
            except asyncio.CancelledError:
                if task.cancelled():
                    raise
                if timer is None:
                    timer = loop.call_later(grace(), task.cancel)
    finally:
        if timer is not None:
            timer.cancel()
    for variable, value in context.items():
        if variable.get(None) is not value:
            variable.set(value)
    return result


async def _with_context(work: Coroutine[Any, Any, T]) -> tuple[T, Context]:
    return await work, copy_context()
