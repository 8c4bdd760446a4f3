"""One protected call, from its key to its answer, in sync and in async code.

The rules are `_native.Flow`'s, once: it says what has to be done next (`BODY`, `WAIT`, `RUN`) and is told what came of
it, until its `END`. `advance` does these things on a thread, `advance_async` in a loop.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from pyidempotent import _native
from pyidempotent._calls.current import CurrentAttempt, Operation, _current
from pyidempotent._native import Flow, RequestCall, protect
from pyidempotent._options import Site
from pyidempotent._values.results import Outcome
from pyidempotent.exceptions import IdempotencyError

__all__ = [
    "Call",
    "Flow",
    "advance",
    "advance_async",
    "enter",
    "hurry",
    "leave",
    "no_body",
    "protect",
    "refuse_to_block",
]

BODY, WAIT, RUN, END = "body", "wait", "run", "end"

#: The work begins, and `current` finds its attempt; it ends, and is given what `enter` returned. Bound once.
enter, leave = _current.set, _current.reset

_NONE: dict[str, Any] = {}

#: Who traces calls: has `advance` and `advance_async` of its own, around these.
tracing: Any = None


class Call(Protocol):
    """What a face knows about a call: where its key comes from, what is stored of its end, what a replay looks like.

    Of a request whose whole answer is stored a `RequestCall` knows it, natively.
    """

    @property
    def site(self) -> Site:
        """The options of its call site."""

    def key(self) -> str | None:
        """The key, if there is one; raises `IdempotencyKeyInvalid`."""

    def namespace(self) -> str | None:
        """Where its keys are apart from others; ``None``: in the site's namespace."""

    def operation(self) -> Operation:
        """What is done."""

    def caller(self) -> bytes | None:
        """Who asks."""

    def fingerprint(self) -> bytes | None:
        """What is asked for; ``None``: it needs `body` first."""

    def body(self) -> Any:
        """What has to be read."""

    def fingerprint_of(self, body: Any) -> bytes:
        """What is asked for, now that it is read."""

    def verdict(self, outcome: Outcome) -> str:
        """What becomes of the key by the face's own rules: ``store``, ``release`` or ``fail``."""

    def status(self, outcome: Outcome) -> int | None:
        """The HTTP status of an end, where it has one."""

    def pack(self, outcome: Outcome) -> bytes:
        """The stored form of an end; raises `Unstorable`."""

    def headers(self, outcome: Outcome) -> Iterable[tuple[bytes, bytes]]:
        """The headers of an end, where it is an answer: what a repeat may know of it if it can't be stored."""

    def replay(self, payload: bytes) -> Outcome:
        """The end that is stored."""


def advance(
    call: Call | RequestCall,
    flow: Flow,
    told: Any,
    body: Callable[[Any], Any],
    run: Callable[..., Any] | None = None,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] = _NONE,
    is_traced: bool = False,
) -> Any:
    """Carries a flow on, on this thread: to its end (an `Outcome`), or without ``run`` to where something is to run."""
    if tracing is not None and not is_traced:
        return tracing.advance(call, flow, told, body, run, args, kwargs)
    while True:
        step, about = flow.step(call, told)
        if step is END or (step is RUN and run is None):
            return about
        if step is BODY:
            try:
                told = body(about)
            except IdempotencyError as refusal:
                flow.refused(call, refusal)
                raise
            continue
        assert run is not None
        token = enter(about)
        try:
            told = Outcome(run(*args, **kwargs))
        except Exception as error:
            told = Outcome(None, error)
        except BaseException:
            hurry(about)
            raise
        finally:
            leave(token)


async def advance_async(
    call: Call | RequestCall,
    flow: Flow,
    told: Any,
    body: Callable[[Any], Awaitable[Any]],
    run: Callable[..., Awaitable[Any]] | None = None,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] = _NONE,
    is_traced: bool = False,
) -> Any:
    """Drives a flow to its next stop in the running loop: the attempt that begins, or the outcome."""
    if tracing is not None and not is_traced:
        return await tracing.advance_async(call, flow, told, body, run, args, kwargs)
    while True:
        step, about = flow.step_async(call, told)
        if step is END or (step is RUN and run is None):
            return about
        if step is WAIT:
            try:
                told = await about
            except IdempotencyError as refusal:
                flow.refused(call, refusal)
                raise
            except BaseException:
                # Cancelled, or the loop is closing: the claim is given back.
                _native.abandon(about)
                raise
            continue
        if step is BODY:
            try:
                told = await body(about)
            except IdempotencyError as refusal:
                flow.refused(call, refusal)
                raise
            continue
        assert run is not None
        token = enter(about)
        try:
            told = Outcome(await run(*args, **kwargs))
        except Exception as error:
            told = Outcome(None, error)
        except BaseException:
            hurry(about)
            raise
        finally:
            leave(token)


def not_awaited(value: Any, running: CurrentAttempt) -> Outcome:
    """The end of a call that returned an awaitable: what it returned has yet to do the work, and is stopped.

    The key is free where the work has not begun.
    """
    work = value.get_coro() if isinstance(value, asyncio.Task) else value
    has_begun = not inspect.iscoroutine(work) or inspect.getcoroutinestate(work) != inspect.CORO_CREATED
    error = TypeError(
        f"the protected function returned an awaitable, {value!r}, instead of doing its work: make it async def and "
        "await that in it, or put @idempotent below the decorator that made it a plain function"
    )
    if work is not value:
        value.cancel()
    elif not has_begun:
        value.close()
    if has_begun:
        hurry(running)
        raise error
    running.release()
    return Outcome(None, error)


def no_body(_: Any) -> Any:
    """Reads the body of a call that has made its fingerprint of it already."""
    raise AssertionError("the body has been read")


def refuse_to_block(wait: float) -> None:
    """Refuses to wait where waiting would stop everything else on this thread."""
    if not wait:
        return
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("a sync call with wait= would block the running event loop; make it async, or set wait=0")
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if (gevent and gevent.is_module_patched("threading")) or (eventlet and eventlet.is_monkey_patched("thread")):
        raise RuntimeError(
            "a sync call with wait= would block every greenlet of this thread; set wait=0, or call it in a real thread "
            "(gevent.get_hub().threadpool.apply)"
        )


def hurry(running: CurrentAttempt | None) -> None:
    """The work was cancelled, interrupted or is exiting: nobody knows what it came to, and nobody waits for the store.

    The attempt is held, unless the handler has released it.
    """
    if running is not None:
        running._hurry()
