"""One test for sync and async code: a call is made sync, or in an event loop of its own."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pyidempotent import idempotent


class Mode:
    """Decorates and calls functions in one way: sync or async.

    Parameters:
        name: ``"sync"`` or ``"async"``.
    """

    def __init__(self, name: str) -> None:
        self.is_async = name == "async"

    def protect(self, body: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
        """A protected function with this body, as a function to call from anywhere."""
        if not self.is_async:
            return idempotent(*args, **options)(body)

        @functools.wraps(body)
        async def on_a_thread(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(body, *args, **kwargs)

        protected = idempotent(*args, **options)(on_a_thread)
        return lambda *args, **kwargs: asyncio.run(protected(*args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Mode:
    return Mode(request.param)


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """What so many calls from as many threads return or raise."""

    def outcome(number: int) -> Any:
        try:
            return call(number)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(outcome, range(count)))
