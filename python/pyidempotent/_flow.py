"""One protected call, from its key to its answer, described once for both colours.

`protect` is a generator: it yields what has to be done (`BODY`, `BEGIN`, `RUN`, `SETTLE`) and is sent what came of it;
the last that it yields is its `END`. `advance` does these things on a thread, `advance_async` in a loop; the rules are
only here.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Generator
from contextvars import Token
from typing import Any, Protocol

from pyidempotent import _native
from pyidempotent._current import CurrentAttempt, Operation, _current
from pyidempotent._results import Outcome, Unstorable
from pyidempotent._site import Site
from pyidempotent._transactions import settle_on_commit
from pyidempotent.exceptions import (
    IdempotencyConflict,
    IdempotencyError,
    IdempotencyKeyMissing,
    IdempotencyNotKept,
    IdempotencyProcessing,
    IdempotencyUnknown,
)

logger = logging.getLogger("pyidempotent")

BODY, BEGIN, RUN, SETTLE, END = "body", "begin", "run", "settle", "end"

Flow = Generator[tuple[str, Any], Any, None]


class Call(Protocol):
    """What a face knows about a call: where its key comes from, what is stored of its end, what a replay looks like."""

    site: Site

    def key(self) -> str | None:
        """The key, if there is one; raises `IdempotencyKeyInvalid`."""

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

    def note(self, outcome: Outcome) -> dict[str, Any]:
        """What a repeat may know of an end that could not be stored."""

    def replay(self, payload: bytes) -> Outcome:
        """The end that is stored."""


def protect(call: Call) -> Flow:
    """The whole of a protected call."""
    site = call.site
    key = call.key()
    if key is None:
        if site.required:
            raise IdempotencyKeyMissing
        yield END, (yield RUN, None)
        return
    operation, caller = call.operation(), call.caller()
    fingerprint = call.fingerprint()
    if fingerprint is None:
        fingerprint = call.fingerprint_of((yield BODY, call.body()))
    begun = yield BEGIN, (operation, caller, key, fingerprint)
    if type(begun) is bytes:
        yield END, call.replay(begun)
        return
    if type(begun) is not _native.Attempt:
        raise _refusal(site, *begun)
    running = CurrentAttempt(begun, key, (site.namespace, operation, caller))
    outcome: Outcome = yield RUN, running
    verdict, payload = _settlement(call, running, outcome)
    replaced = yield SETTLE, (begun, verdict, payload)
    # Another attempt completed in this one's place: its answer is the one that every repeat gets.
    yield END, outcome if replaced is None else call.replay(replaced)


def _settlement(call: Call, running: CurrentAttempt, outcome: Outcome) -> tuple[str, bytes | None]:
    """The engine's verdict on an end, and what to store with it."""
    if running._released:
        return "release", None
    word: str | None = None
    if call.site.settle is not None:
        word = call.site.settle(Outcome(outcome.value, outcome.exception, call.status(outcome)))
        if word not in ("store", "release", "hold", None):
            raise ValueError(f"settle= must return 'store', 'release', 'hold' or None, not {word!r}")
    word = word or call.verdict(outcome)
    if word != "store":
        return word, None
    limit = call.site.max_response_bytes
    try:
        payload = call.pack(outcome)
        if len(payload) <= limit:
            return "complete", payload
        why = f"it has {len(payload)} bytes, and max_response_bytes is {limit}"
    except Unstorable as unstorable:
        why = str(unstorable)
    logger.error("the result of %s %s is not kept, and a repeat gets 410: %s", call.operation(), running.key, why)
    return "not-kept", _native.encode(call.note(outcome), {})


def _refusal(site: Site, name: str, detail: Any) -> IdempotencyError:
    if name == "processing":
        return IdempotencyProcessing(retry_after=min(detail, site.retry_after))
    if name == "not-kept":
        # The note of a result that did not fit is empty.
        return IdempotencyNotKept(**(_native.decode(detail, {}) if detail else {}))
    return IdempotencyConflict() if name == "conflict" else IdempotencyUnknown()


def advance(
    call: Call, flow: Flow, reply: Any, body: Callable[[Any], Any], run: Callable[[], Any] | None = None
) -> Any:
    """Carries a flow on, on this thread: to its end (an `Outcome`), or without ``run`` to where something is to run."""
    while True:
        step, detail = flow.send(reply)
        if step is BEGIN:
            reply = call.site.engine.begin(*detail)
        elif step is RUN:
            if run is None:
                return detail
            reply = _run(detail, run)
        elif step is SETTLE:
            attempt, verdict, payload = detail
            is_later = "django.db" in sys.modules and settle_on_commit(attempt, verdict, payload)
            reply = None if is_later else attempt.settle(verdict, payload)
        elif step is BODY:
            reply = body(detail)
        else:
            return detail


async def advance_async(
    call: Call,
    flow: Flow,
    reply: Any,
    body: Callable[[Any], Awaitable[Any]],
    run: Callable[[], Awaitable[Any]] | None = None,
) -> Any:
    """The same in the running loop."""
    while True:
        step, detail = flow.send(reply)
        if step is BEGIN:
            reply = call.site.engine.begin_async(*detail)
            if type(reply) not in _READY:
                reply = await _answer(reply)
        elif step is RUN:
            if run is None:
                return detail
            reply = await _run_async(detail, run)
        elif step is SETTLE:
            attempt, verdict, payload = detail
            reply = attempt.settle_async(verdict, payload)
            if type(reply) not in _READY:
                reply = await _answer(reply)
        elif step is BODY:
            reply = await body(detail)
        else:
            return detail


def refuse_to_block(site: Site) -> None:
    """Refuses to wait where waiting would stop everything else on this thread."""
    if not site.wait:
        return
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("a sync call with wait= would block the running event loop; make it async, or set wait=0")
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if (gevent and gevent.is_module_patched("threading")) or (eventlet and eventlet.is_monkey_patched("thread")):
        raise RuntimeError(
            "a sync call with wait= would block every greenlet of this thread; set wait=0, or call it in a real thread "
            "(gevent.get_hub().threadpool.apply)"
        )


def enter(running: CurrentAttempt | None) -> Token[CurrentAttempt | None]:
    """The work begins: `current` finds its attempt."""
    if running is not None:
        running._attempt.start()
    return _current.set(running)


def hurry(running: CurrentAttempt | None, verdict: str = "fail") -> None:
    """The work was cancelled, interrupted or is exiting: nobody waits for the store."""
    if running is not None:
        running._attempt.settle_later("release" if running._released else verdict)


def _run(running: CurrentAttempt | None, run: Callable[[], Any]) -> Outcome:
    token = enter(running)
    try:
        return Outcome(run())
    except Exception as error:
        return Outcome(None, error)
    except BaseException:
        hurry(running)
        raise
    finally:
        _current.reset(token)


async def _run_async(running: CurrentAttempt | None, run: Callable[[], Awaitable[Any]]) -> Outcome:
    token = enter(running)
    try:
        return Outcome(await run())
    except Exception as error:
        return Outcome(None, error)
    except BaseException:
        hurry(running)
        raise
    finally:
        _current.reset(token)


#: What the engine returns where it needs no future.
_READY = frozenset((_native.Attempt, bytes, tuple, type(None)))


async def _answer(future: asyncio.Future[Any]) -> Any:
    try:
        return await future
    except BaseException:
        # Cancelled, or the loop is closing: on the wire or just arrived, the claim is given back.
        _native.abandon(future)
        if future.done() and not future.cancelled() and future.exception() is None:
            arrived = future.result()
            if type(arrived) is _native.Attempt:
                arrived.settle_later("release")
        raise
