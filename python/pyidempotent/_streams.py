"""An answer on its way out, for the faces whose answers are iterators: captured part by part, and stored before the
part that ends it is given out. Knows no framework.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from pyidempotent._current import CurrentAttempt, _current
from pyidempotent._flow import Flow, advance, advance_async, hurry, no_body
from pyidempotent._native import Capture
from pyidempotent._plan import RequestCall
from pyidempotent._results import Answer


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

    def settle(self, error: Exception | None = None) -> Answer | None:
        """Ends the attempt; the answer of the attempt that completed in its place, where one did."""
        self.is_settled = True
        outcome = self.seen.outcome(error)
        ended = advance(self._call, self._flow, outcome, no_body)
        return None if ended is outcome else ended.value

    async def settle_async(self, error: Exception | None = None) -> Answer | None:
        """The same in the running loop."""
        self.is_settled = True
        outcome = self.seen.outcome(error)
        ended = await advance_async(self._call, self._flow, outcome, no_body)
        return None if ended is outcome else ended.value

    def interrupt(self, verdict: str = "hold") -> None:
        """The work was interrupted or cancelled, and what it began may go on: nobody waits for the store."""
        if not self.is_settled:
            self.is_settled = True
            hurry(self.attempt, verdict)


class CapturedParts(Iterator[bytes]):
    """The parts of a body, captured while they are read.

    The attempt ends before the part that completes a declared length is given out, or where the parts end; where they
    end by an exception, or `close` comes before the end, its outcome is unknown.

    Parameters:
        running: the request; the start of its answer has been seen.
        parts: the body.
        source: what is closed with it: ``parts`` unless told.

    >>> from pyidempotent._plan import Plan, RequestCall
    >>> from pyidempotent._flow import advance, protect
    >>> from pyidempotent._native import Facts
    >>> def parts():
    ...     begun = advance(call, flow, None, lambda _: b"")
    ...     running = Running(call, flow, begun)
    ...     running.seen.start(200, [])
    ...     return CapturedParts(running, [b"one", b"two"])
    >>> call = RequestCall(Plan(backend="memory://"), Facts("POST", b"/pay", b"", [(b"idempotency-key", b"a")]))
    >>> flow = protect(call)
    >>> list(parts())
    [b'one', b'two']
    >>> advance(call, protect(call), None, lambda _: b"").value.body
    b'onetwo'
    """

    def __init__(self, running: Running, parts: Iterable[bytes], source: Any = None) -> None:
        self._running: Running | None = running
        self._parts = iter(parts)
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
        """Closes what is read from; whoever reads will not go on."""
        try:
            if hasattr(self._source, "close"):
                self._source.close()
        finally:
            running = self._running
            if running is not None and not running.is_settled:
                running.seen.broke_off = True
                running.settle()

    def forget(self) -> None:
        """Another answer goes out in this one's place: what is read from here on says nothing of the request."""
        self._running = None

    def __del__(self) -> None:
        # A server that closes nothing: how far the answer got is not known.
        if self._running is not None:
            self._running.interrupt()


class AsyncCapturedParts(AsyncIterator[bytes]):
    """The same for a body that is read in a loop; its source is closed by whoever made it.

    Parameters:
        running: the request; the start of its answer has been seen.
        parts: the body.
    """

    def __init__(self, running: Running, parts: AsyncIterable[bytes]) -> None:
        self._running = running
        self._parts = aiter(parts)

    async def __anext__(self) -> bytes:
        running = self._running
        token = _current.set(running.attempt)
        try:
            part = await anext(self._parts)
            is_whole = not running.is_settled and running.seen.add(part)
        except StopAsyncIteration:
            if not running.is_settled:
                await running.settle_async()
            raise
        except Exception as error:
            if not running.is_settled:
                await running.settle_async(error)
            raise
        except BaseException:
            running.interrupt()
            raise
        finally:
            _current.reset(token)
        if is_whole:
            await running.settle_async()
        return part

    def close(self) -> None:
        """Whoever reads will not go on."""
        if not self._running.is_settled:
            self._running.seen.broke_off = True
            self._running.settle()

    def __del__(self) -> None:
        self._running.interrupt()
