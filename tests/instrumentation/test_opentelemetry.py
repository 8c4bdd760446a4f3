"""Metrics and spans for OpenTelemetry, against its own SDK."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from asgi_client import Client
from django_client import Browser, browser, site
from pyidempotent import IdempotencyConflict, attempt, current, idempotent
from pyidempotent._calls import flow
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.instrumentation import opentelemetry
from pyidempotent.instrumentation.opentelemetry import spread
from scripts import output

__all__ = ["browser", "site"]


class Exported:
    """What the SDK has been given."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.spans = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def point(self, name: str, **attributes: str) -> Any:
        for point in self.metrics()[name].data.data_points:
            if all(point.attributes.get(f"idempotency.{key}") == value for key, value in attributes.items()):
                return point
        raise AssertionError(f"no point of {name} has {attributes}")

    def calls(self) -> list[ReadableSpan]:
        spans = [span for span in self.spans.get_finished_spans() if span.name == "idempotency call"]
        self.spans.clear()
        return spans

    def outcomes(self) -> list[Any]:
        return [(span.attributes or {})["idempotency.outcome"] for span in self.calls()]


@pytest.fixture
def exported() -> Iterator[Exported]:
    exported = Exported()
    opentelemetry.install(exported.meters, exported.tracers)
    yield exported
    opentelemetry.stop()
    exported.meters.shutdown()


def test_the_metrics(exported: Exported) -> None:
    @idempotent(backend=MemoryBackend(), key="order", name="otel.charge")
    def charge(order: str, amount: int) -> str:
        return "charged"

    for _ in range(3):
        charge("a", 42)
    calls = exported.metrics()["idempotency.calls"]
    assert calls.unit == "{call}"
    assert calls.data.is_monotonic
    assert exported.point("idempotency.calls", operation="otel.charge", outcome="replayed").value == 2
    assert exported.point("idempotency.attempts_in_flight", operation="otel.charge").value == 0
    took = exported.point("idempotency.attempt.duration", operation="otel.charge")
    assert took.count == 1
    assert 0 < took.sum < 60
    assert took.explicit_bounds[0] == 0.0001
    assert exported.metrics()["idempotency.attempt.duration"].unit == "s"
    assert exported.metrics()["idempotency.result.size"].unit == "By"

    with attempt(MemoryBackend(), key="b", name="otel.block"):
        assert exported.point("idempotency.attempts_in_flight", operation="otel.block").value == 1


def test_stopped_and_installed_again_the_metrics_go_on(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    @idempotent(backend=MemoryBackend(), key="order", name="otel.again")
    def charge(order: str) -> None: ...

    opentelemetry.install(exported.meters, exported.tracers)
    charge("a")
    opentelemetry.stop()
    charge("b")
    opentelemetry.install(exported.meters, exported.tracers)
    charge("c")
    assert exported.point("idempotency.calls", operation="otel.again").value == 2
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


@pytest.mark.parametrize(
    "values",
    [[0.05], [0.05, 0.07, 0.5, 0.5], [2.0], [7.0, 9.0, 0.01], [0.1], [1.0, 1.0]],
)
def test_values_are_spread_as_they_came(values: list[float]) -> None:
    bounds = [0.1, 1.0, 2.5]

    def counts(values: list[float]) -> list[int]:
        edges = [float("-inf"), *bounds, float("inf")]
        return [sum(low < value <= high for value in values) for low, high in itertools.pairwise(edges)]

    made = spread(bounds, counts(values), sum(values), most=100)
    assert counts(made) == counts(values)
    assert sum(made) == pytest.approx(sum(values), rel=0.01)
    many = spread(bounds, [number * 1000 for number in counts(values)], sum(values) * 1000, most=100)
    assert len(many) <= 102
    assert sum(many) / len(many) == pytest.approx(sum(values) / len(values), rel=0.05)


def _calls(mode: str, **options: Any) -> Callable[..., Any]:
    """A function that is protected; its span is the child of the call's."""

    def charge(order: str, amount: int) -> str:
        with trace.get_tracer("body", tracer_provider=options["tracers"]).start_as_current_span("work"):
            if amount < 0:
                raise ValueError("negative")
            return str(current().fence)

    async def charge_async(order: str, amount: int) -> str:
        await asyncio.sleep(0)
        return charge(order, amount)

    protect = idempotent(backend=MemoryBackend(), key="order", name="traced.charge")
    if mode == "sync":
        return protect(charge)
    protected = protect(charge_async)
    return lambda *arguments: asyncio.run(protected(*arguments))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_call_is_a_span_around_its_work(exported: Exported, mode: str) -> None:
    charge = _calls(mode, tracers=exported.tracers)
    tracer = trace.get_tracer("server", tracer_provider=exported.tracers)
    with tracer.start_as_current_span("server", kind=SpanKind.SERVER) as server:
        fence = charge("a", 42)
        assert trace.get_current_span() is server
    spans = {span.name: span for span in exported.spans.get_finished_spans()}
    call, work = spans["idempotency call"], spans["work"]
    assert call.parent == server.get_span_context()
    assert work.parent == call.context
    assert call.kind is SpanKind.INTERNAL
    attributes = dict(call.attributes or {})
    record = attributes.pop("idempotency.record_id")
    assert attributes == {
        "idempotency.operation": "traced.charge",
        "idempotency.outcome": "completed",
        "idempotency.fence": int(fence),
    }
    assert call.status.status_code is StatusCode.UNSET
    assert not [name for name in spans["server"].attributes or {} if name.startswith("idempotency")]

    exported.spans.clear()
    charge("a", 42)
    with pytest.raises(IdempotencyConflict):
        charge("a", 43)
    with pytest.raises(ValueError, match="negative"):
        charge("b", -1)
    replayed, conflict, failed = (dict(span.attributes or {}) for span in exported.calls())
    assert replayed == {
        "idempotency.operation": "traced.charge",
        "idempotency.outcome": "replayed",
        "idempotency.record_id": record,
    }
    assert conflict == {
        "idempotency.operation": "traced.charge",
        "idempotency.outcome": "conflict",
        "idempotency.record_id": record,
        "error.type": "IdempotencyConflict",
    }
    assert (failed["idempotency.outcome"], failed["error.type"]) == ("failed", "ValueError")


def test_a_block_and_one_that_is_interrupted(exported: Exported) -> None:
    backend = MemoryBackend()
    before = trace.get_current_span()
    with attempt(backend, key="a", name="block"):
        inside = trace.get_current_span()
        assert inside is not before
    assert trace.get_current_span() is before
    with attempt(backend, key="a", name="block") as repeat:
        assert repeat.replayed
    with pytest.raises(KeyboardInterrupt), attempt(backend, key="b", name="block"):
        raise KeyboardInterrupt
    del repeat
    assert exported.outcomes() == ["completed", "replayed", "held"]
    assert trace.get_current_span() is before


def test_an_async_call_that_is_cancelled(exported: Exported) -> None:
    begun = asyncio.Event()

    @idempotent(backend=MemoryBackend(), key="order", name="traced.cancelled")
    async def charge(order: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(charge("a"))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert exported.outcomes() == ["held"]


def test_requests_through_middleware(exported: Exported) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(trace.get_current_span())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    protected = IdempotencyMiddleware(app, backend=MemoryBackend(), scope=lambda scope: "alice")

    async def both() -> None:
        client = Client(protected, "a")
        before = trace.get_current_span()
        await client.status()
        await client.status()
        assert trace.get_current_span() is before

    asyncio.run(both())
    first, second = exported.calls()
    assert dict(first.attributes or {})["idempotency.operation"] == "POST /pay"
    assert [dict(span.attributes or {})["idempotency.outcome"] for span in (first, second)] == ["completed", "replayed"]
    assert [span.get_span_context() for span in seen] == [first.context]


def test_threads_and_tasks_do_not_mix(exported: Exported) -> None:
    charge = _calls("sync", tracers=exported.tracers)

    def many(name: str) -> None:
        for number in range(50):
            charge(f"{name}{number}", 42)
        assert trace.get_current_span() is trace.INVALID_SPAN

    threads = [threading.Thread(target=many, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = exported.calls()
    assert len(spans) == 200
    assert {span.parent for span in spans} == {None}
    assert context.get_current() == {}


def test_without_being_installed_nothing_traces() -> None:
    assert flow.tracing is None


def test_without_the_library_the_way_to_it_is_named() -> None:
    code = """
    import sys
    sys.modules["opentelemetry"] = None
    try:
        import pyidempotent.instrumentation.opentelemetry
    except ImportError as error:
        print(error)
    """
    assert "pip install 'pyidempotent[opentelemetry]'" in output(code)


def test_requests_to_flask_one_after_the_other_on_a_thread(exported: Exported) -> None:
    from flask import Flask

    from pyidempotent.flask import Idempotency

    app = Flask("traced")
    Idempotency(app, backend=MemoryBackend(), scope=lambda request: "alice")
    seen: list[Any] = []

    @app.post("/<what>")
    def pay(what: str) -> Any:
        seen.append(trace.get_current_span().get_span_context())
        return (iter([b"a", b"b"]), 200) if what == "stream" else ("no", 500) if what == "fail" else "done"

    client = app.test_client()
    for path in ("/pay", "/pay", "/stream", "/fail"):
        client.post(path, headers={"Idempotency-Key": "a"}).get_data()
        assert trace.get_current_span() is trace.INVALID_SPAN, path
    calls = exported.calls()
    outcomes = [(span.attributes or {})["idempotency.outcome"] for span in calls]
    assert outcomes == ["completed", "replayed", "completed", "failed"]
    assert seen == [span.context for span in (calls[0], *calls[2:])]
    assert {span.parent for span in calls} == {None}


def test_requests_to_django(exported: Exported, browser: Browser) -> None:
    for path in ("/pay", "/stream", "/pay-async"):
        browser.twice(path)
        assert exported.outcomes() == ["completed", "replayed"], path
        assert trace.get_current_span() is trace.INVALID_SPAN
