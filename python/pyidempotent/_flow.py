"""One protected call, from its key to its answer, described once for both colours.

`protect` is a generator: it yields what has to be done (`BODY`, `BEGIN`, `RUN`, `SETTLE`) and is sent what came of it.
`advance` does these things on a thread, `advance_async` in a loop; the rules are only here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Protocol

from pyidempotent import _native
from pyidempotent._current import CurrentAttempt, Operation, Scope, _current
from pyidempotent._results import Outcome, Unstorable
from pyidempotent._site import Site
from pyidempotent.exceptions import (
    IdempotencyConflict,
    IdempotencyError,
    IdempotencyKeyMissing,
    IdempotencyNotKept,
    IdempotencyProcessing,
    IdempotencyUnknown,
)

logger = logging.getLogger("pyidempotent")

BODY, BEGIN, RUN, SETTLE = "body", "begin", "run", "settle"

Flow = Generator[tuple[str, Any], Any, Outcome]


class Call(Protocol):
    """What a face knows about a call: where its key comes from, what is stored of its end, what a replay looks like."""

    site: Site

    def key(self) -> str | None:
        """The key, if there is one; raises `IdempotencyKeyInvalid`."""

    def operation(self) -> Operation:
        """What is done."""

    def caller(self) -> bytes | None:
        """Who asks."""

    def fingerprint(self) -> Generator[tuple[str, Any], Any, bytes]:
        """What is asked for; may need the request's body."""

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
        return (yield RUN, None)
    operation, caller = call.operation(), call.caller()
    fingerprint = yield from call.fingerprint()
    begun = yield BEGIN, (operation, caller, key, fingerprint)
    if type(begun) is bytes:
        return call.replay(begun)
    if type(begun) is not _native.Attempt:
        raise _refusal(site, *begun)
    running = CurrentAttempt(begun, key, Scope(site.namespace, operation, caller))
    outcome: Outcome = yield RUN, running
    verdict, payload = _settlement(call, running, outcome)
    replaced = yield SETTLE, (begun, verdict, payload)
    # Another attempt completed in this one's place: its answer is the one that every repeat gets.
    return outcome if replaced is None else call.replay(replaced)


def _settlement(call: Call, running: CurrentAttempt, outcome: Outcome) -> tuple[str, bytes | None]:
    """The engine's verdict on an end, and what to store with it."""
    if running._released:
        return "release", None
    word = None
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


def advance(call: Call, flow: Flow, reply: Any, body: Callable[[Any], Any]) -> CurrentAttempt | Outcome | None:
    """Carries a flow on, on this thread, until it wants something run (the attempt, or None) or has ended (its outcome)."""
    while True:
        try:
            step, detail = flow.send(reply)
        except StopIteration as stop:
            ended: Outcome = stop.value
            return ended
        if step == BEGIN:
            reply = call.site.engine.begin(*detail)
        elif step == SETTLE:
            attempt, verdict, payload = detail
            reply = attempt.settle(verdict, payload)
        elif step == BODY:
            reply = body(detail)
        else:
            running: CurrentAttempt | None = detail
            return running


def drive(call: Call, run: Callable[[], Any], body: Callable[[Any], Any]) -> Outcome:
    """A protected call on this thread."""
    refuse_to_block(call.site)
    flow = protect(call)
    running = advance(call, flow, None, body)
    if type(running) is not Outcome:
        running = advance(call, flow, _run(running, run), body)  # type: ignore[arg-type]  # an attempt or None
    return running  # type: ignore[return-value]  # after its run a flow ends


def refuse_to_block(site: Site) -> None:
    """Refuses to wait where waiting would stop everything else on this thread."""
    if site.wait and asyncio._get_running_loop() is not None:
        raise RuntimeError("a sync call with wait= would block the running event loop; make it async, or set wait=0")


def _run(running: CurrentAttempt | None, run: Callable[[], Any]) -> Outcome:
    with entered(running):
        try:
            return Outcome(value=run())
        except Exception as error:
            return Outcome(exception=error)


async def _run_async(running: CurrentAttempt | None, run: Callable[[], Awaitable[Any]]) -> Outcome:
    with entered(running):
        try:
            return Outcome(value=await run())
        except Exception as error:
            return Outcome(exception=error)


class entered:  # noqa: N801  # reads as a statement
    """While the work runs: it has begun, `current` finds it, and who leaves in a hurry does not wait for the store."""

    __slots__ = ("_running", "_token")

    def __init__(self, running: CurrentAttempt | None) -> None:
        self._running = running

    def __enter__(self) -> None:
        if self._running is not None:
            self._running._attempt.start()
        self._token = _current.set(self._running)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _current.reset(self._token)
        # Cancelled, interrupted or exiting.
        if kind is not None and self._running is not None and not issubclass(kind, Exception):
            self._running._attempt.settle_later("release" if self._running._released else "fail")


async def advance_async(
    call: Call, flow: Flow, reply: Any, body: Callable[[Any], Awaitable[Any]]
) -> CurrentAttempt | Outcome | None:
    """The same in the running loop."""
    while True:
        try:
            step, detail = flow.send(reply)
        except StopIteration as stop:
            ended: Outcome = stop.value
            return ended
        if step == BEGIN:
            reply = call.site.engine.begin_async(*detail)
            if type(reply) not in _READY:
                reply = await _answer(reply)
        elif step == SETTLE:
            attempt, verdict, payload = detail
            reply = attempt.settle_async(verdict, payload)
            if type(reply) not in _READY:
                reply = await _answer(reply)
        elif step == BODY:
            reply = await body(detail)
        else:
            running: CurrentAttempt | None = detail
            return running


async def drive_async(
    call: Call, run: Callable[[], Awaitable[Any]], body: Callable[[Any], Awaitable[Any]]
) -> Outcome:
    """A protected call in the running loop."""
    flow = protect(call)
    running = await advance_async(call, flow, None, body)
    if type(running) is not Outcome:
        running = await advance_async(call, flow, await _run_async(running, run), body)  # type: ignore[arg-type]  # as above
    return running  # type: ignore[return-value]  # as above


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
