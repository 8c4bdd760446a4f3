"""An answer on its way out, for the faces whose answers are iterators: captured part by part, and stored before the
part that ends it is given out. Knows no framework.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

from pyidempotent._calls.current import CurrentAttempt, _current
from pyidempotent._calls.flow import Flow, advance, advance_async, hurry, no_body
from pyidempotent._http.routes import RequestCall
from pyidempotent._native import Capture
from pyidempotent._values.results import Answer

logger = logging.getLogger("pyidempotent")


class Running:
    """A request that runs: what is seen of its answer, and its end.

    Parameters:
        call: the request.
        flow: where `protect` stands.
        attempt: the attempt that is held for it.
    """

    def __init__(self, call: RequestCall, flow: Flow, attempt: CurrentAttempt) -> None:
        self._call = call
        self._flow = flow
        self.attempt = attempt
        #: The most bytes of a body that is kept.
        self.limit = call.site.max_response_bytes
        self.seen = Capture(self.limit)
        self.is_settled = False
        self._deadline: float | None = None

    def settle(self, error: Exception | None = None) -> Answer | None:
        """Ends the attempt; the answer of the attempt that completed in its place, where one did."""
        self.is_settled = True
        outcome = self.seen.outcome(error)
        ended = advance(self._call, self._flow, outcome, no_body)
        return None if ended is outcome else ended.value

    async def settle_async(self, error: Exception | None = None) -> Answer | None:
        """Ends the attempt in the running loop; the answer of another attempt, where that completed in its place."""
        self.is_settled = True
        outcome = self.seen.outcome(error)
        ended = await advance_async(self._call, self._flow, outcome, no_body)
        return None if ended is outcome else ended.value

    def interrupt(self) -> None:
        """The work was interrupted or cancelled, and what it began may go on: nobody waits for the store."""
        if not self.is_settled:
            self.is_settled = True
            hurry(self.attempt)

    def time_left(self) -> float:
        """How many seconds the work may go on after its client has left, which it has when this is first asked."""
        if self._deadline is None:
            self._deadline = monotonic() + self._call.site.grace
        return max(0.0, self._deadline - monotonic())


class CapturedParts(Iterator[bytes]):
    """The parts of a body, captured while they are read.

    The attempt ends before the part that completes a declared length is given out, or where the parts end. `close`
    before that means that the client has left: the rest is read all the same, for ``disconnect_grace``. Where the parts
    end by an exception, or do not end within that time, the outcome is unknown.

    Parameters:
        running: the request; the start of its answer has been seen.
        parts: the body.
        source: what is closed with it; by default ``parts``.

    >>> from pyidempotent._http.routes import Plan, RequestCall
    >>> from pyidempotent._calls.flow import advance, protect
    >>> from pyidempotent._native import Facts
    >>> def parts():
    ...     begun = advance(call, flow, None, lambda _: b"")
    ...     running = Running(call, flow, begun)
    ...     running.seen.start(200, [])
    ...     return CapturedParts(running, [b"one", b"two"])
    >>> call = RequestCall(Plan({"backend": "memory://"}), Facts("POST", b"/pay", b"", [(b"idempotency-key", b"a")]))
    >>> flow = protect(call)
    >>> list(parts())
    [b'one', b'two']
    >>> advance(call, protect(call), None, lambda _: b"").value.body
    b'onetwo'
    """

    def __init__(self, running: Running, parts: Iterable[bytes], source: Any = None) -> None:
        self._running: Running | None = running
        self._parts = iter(parts)
        #: None once it is closed.
        self._source = parts if source is None else source

    def __next__(self) -> bytes:
        running = self._running
        if running is None:
            return next(self._parts)
        token = _current.set(running.attempt)  # the body's code finds its attempt, wherever it is read
        try:
            part = next(self._parts)
            is_whole = not running.is_settled and running.seen.add(part)
        except StopIteration:
            if not running.is_settled:
                running.settle()
            raise
        except Exception as error:
            if not running.is_settled:
                running.settle(error)
            raise
        except BaseException:
            running.interrupt()
            raise
        finally:
            _current.reset(token)
        if is_whole:
            running.settle()
        return part

    def close(self) -> None:
        """Closes what is read from, which is read to its end before."""
        source, self._source = self._source, None
        if source is None:
            return
        running = self._running
        try:
            if running is not None and not running.is_settled:
                self._read_on(running)
        finally:
            try:
                if hasattr(source, "close"):
                    source.close()
            finally:
                if running is not None and not running.is_settled:
                    running.seen.break_off()
                    running.settle()

    def _read_on(self, running: Running) -> None:
        try:
            while running.time_left():
                next(self)
        except StopIteration:
            pass
        except Exception as error:
            _log_failure(error)

    def forget(self) -> None:
        """Stops capturing: a different response is being sent."""
        self._running = None

    def __del__(self) -> None:
        # A server that closes nothing: how far the answer got is not known.
        if self._running is not None:
            self._running.interrupt()


class AsyncCapturedParts(AsyncIterator[bytes]):
    """The parts of an async body, captured while they are read.

    They are read in a task of their own, which goes on for ``disconnect_grace`` where whoever reads is cancelled or
    closes this: the client has left. The source is closed by whoever made it.

    Parameters:
        running: the request; the start of its answer has been seen.
        parts: the body.
    """

    def __init__(self, running: Running, parts: AsyncIterable[bytes]) -> None:
        self._pump = _Pump(running, parts)

    async def __anext__(self) -> bytes:
        part = await self._pump.next()
        if part is None:
            raise StopAsyncIteration
        return part

    def close(self) -> None:
        """Whoever reads will not go on. May be called on any thread."""
        self._pump.leave()

    def __del__(self) -> None:
        self._pump.leave()


class _Pump:
    """Reads a body part by part as its reader asks, and without being asked once the reader has left."""

    def __init__(self, running: Running, parts: AsyncIterable[bytes]) -> None:
        self._running = running
        self._parts = aiter(parts)
        self._task: asyncio.Task[None] | None = None
        #: Set while a part is to be read.
        self._wanted = asyncio.Event()
        #: The reader's.
        self._part: asyncio.Future[bytes | None] | None = None
        self._is_left = False

    async def next(self) -> bytes | None:
        """The next part; None at the end."""
        loop = asyncio.get_running_loop()
        self._part = loop.create_future()
        self._wanted.set()
        if self._task is None:
            self._task = loop.create_task(self._run())
        try:
            return await self._part
        except asyncio.CancelledError:
            self._go_on(self._task)
            # What the request has opened is closed when its task ends.
            with suppress(asyncio.CancelledError):
                await asyncio.shield(self._task)
            raise

    def leave(self) -> None:
        """The reader has left, or never came. Called on any thread."""
        task = self._task
        if task is None:
            self._running.interrupt()
        elif not task.done():
            with suppress(RuntimeError):  # the loop is closed
                task.get_loop().call_soon_threadsafe(self._go_on, task)

    def _go_on(self, task: asyncio.Task[None]) -> None:
        """Reads the rest for nobody, until the limit has passed."""
        if not self._is_left:
            self._is_left = True
            self._wanted.set()
            timer = task.get_loop().call_later(self._running.time_left(), task.cancel)
            task.add_done_callback(lambda _: timer.cancel())

    async def _run(self) -> None:
        running = self._running
        _current.set(running.attempt)  # the body's code finds its attempt
        try:
            part: bytes | None = b""
            while part is not None:
                await self._wanted.wait()
                if not self._is_left:
                    self._wanted.clear()
                part = await anext(self._parts, None)
                if not running.is_settled and (part is None or running.seen.add(part)):
                    await running.settle_async()
                self._hand_over(part)
        except Exception as error:
            if not running.is_settled:
                await running.settle_async(error)
            self._hand_over(error)
        finally:
            running.interrupt()

    def _hand_over(self, part: bytes | Exception | None) -> None:
        if self._part is not None and not self._part.done():
            if isinstance(part, Exception):
                self._part.set_exception(part)
            else:
                self._part.set_result(part)
        elif isinstance(part, Exception):
            _log_failure(part)


def _log_failure(error: Exception) -> None:
    """What nobody is there to be told."""
    logger.error("an answer failed after its client had left: %r", error, exc_info=error)
