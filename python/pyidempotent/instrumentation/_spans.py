"""A span for each protected call: around its claim, its work and its end, in the context of whoever calls."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from pyidempotent import _native
from pyidempotent._calls.current import CurrentAttempt, _current
from pyidempotent._calls.flow import Call, Flow, advance, advance_async
from pyidempotent._native import RequestCall
from pyidempotent._values.results import Outcome
from pyidempotent.exceptions import IdempotencyError

__all__ = ["Spans"]


class Spans:
    """Drives flows as `advance` and `advance_async` do, each in a span of its own.

    Parameters:
        provider: whose tracer makes the spans; by default the application's.
    """

    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = trace.get_tracer("pyidempotent", _native.__version__, provider)

    def advance(
        self,
        call: Call | RequestCall,
        flow: Flow,
        told: Any,
        body: Callable[[Any], Any],
        run: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """A flow to its next stop, on this thread."""
        held = _CallSpan.of(self._tracer, call, flow)
        runs = None if run is None else held.running(run, call, flow)
        try:
            ended = advance(call, flow, told, body, runs, args, kwargs, is_traced=True)
        except BaseException as error:
            held.failed(error)
            raise
        held.stopped(ended, call, flow)
        return ended

    async def advance_async(
        self,
        call: Call | RequestCall,
        flow: Flow,
        told: Any,
        body: Callable[[Any], Awaitable[Any]],
        run: Callable[..., Awaitable[Any]] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """A flow to its next stop, in the running loop."""
        held = _CallSpan.of(self._tracer, call, flow)
        runs = None if run is None else held.running(run, call, flow)
        try:
            ended = await advance_async(call, flow, told, body, runs, args, kwargs, is_traced=True)
        except BaseException as error:
            held.failed(error)
            raise
        held.stopped(ended, call, flow)
        return ended


class _CallSpan:
    """The span of one call. It belongs to the call's flow, and ends with it at the latest: then the attempt is held."""

    __slots__ = ("_before", "_has_ended", "_has_run", "span")

    def __init__(self, tracer: Tracer, operation: str | None) -> None:
        attributes = {} if operation is None else {"idempotency.operation": operation}
        self._has_ended = self._has_run = False
        self.span: Span = tracer.start_span("idempotency call", kind=SpanKind.INTERNAL, attributes=attributes)
        #: What was current before the call.
        self._before = context.get_current()
        context.attach(trace.set_span_in_context(self.span, self._before))

    @classmethod
    def of(cls, tracer: Tracer, call: Call | RequestCall, flow: Flow) -> _CallSpan:
        """The span of a flow, begun now if it has none."""
        held: _CallSpan | None = flow.span
        if held is None:
            held = flow.span = cls(tracer, flow.about(call)[0])
        return held

    def running(self, run: Callable[..., Any], call: Call | RequestCall, flow: Flow) -> Callable[..., Any]:
        """The work, which says first what is known of its attempt."""

        def runs(*args: Any, **kwargs: Any) -> Any:
            self._runs(_current.get(), call, flow)
            return run(*args, **kwargs)

        return runs

    def stopped(self, at: Any, call: Call | RequestCall, flow: Flow) -> None:
        """The flow has ended, or its work is to begin."""
        if type(at) is not Outcome:
            self._runs(at, call, flow)
            return
        if at.exception is not None:
            self._mark(at.exception)
        _, record, ended = flow.about(call)
        self._end("no_key" if self._has_run and ended is None else ended or "replayed", record)

    def failed(self, error: BaseException) -> None:
        """The flow was refused, or broken off."""
        if isinstance(error, IdempotencyError):
            self.span.set_attribute("error.type", type(error).__qualname__)
            self._end(error.name.replace("-", "_"), error.record_id)
            return
        self._mark(error)
        self._end("held" if self._has_run else "failed")

    def _runs(self, attempt: CurrentAttempt | None, call: Call | RequestCall, flow: Flow) -> None:
        self._has_run = True
        if attempt is not None:
            self.span.set_attribute("idempotency.fence", attempt.fence)
            self._name(flow.about(call)[1])

    def _name(self, record: str | None) -> None:
        if record is not None:
            self.span.set_attribute("idempotency.record_id", record)

    def _mark(self, error: BaseException) -> None:
        self.span.set_attribute("error.type", type(error).__qualname__)
        self.span.set_status(Status(StatusCode.ERROR))

    def _end(self, outcome: str, record: str | None = None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self._name(record)
        self.span.set_attribute("idempotency.outcome", outcome)
        self.span.end()
        # Where the end is told on another thread or in another task the span is not current, and nothing is put back.
        if trace.get_current_span() is self.span:
            context.attach(self._before)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._end("held")
