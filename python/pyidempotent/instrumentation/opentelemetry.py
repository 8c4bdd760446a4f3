"""Metrics and spans for OpenTelemetry, by the package ``opentelemetry-api``: `install`, once, at the start.

A protected call is a span of its own, in whose context the work runs. The metrics are those of docs/metrics.md; they
are observed where the application's meter provider collects them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from pyidempotent import _native
from pyidempotent.backends import Backend
from pyidempotent.instrumentation._ages import Watch
from pyidempotent.instrumentation._feed import Feed, Row

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
    from opentelemetry.trace import TracerProvider
except ImportError as error:
    raise ImportError(
        "pyidempotent.instrumentation.opentelemetry needs opentelemetry-api: pip install 'pyidempotent[opentelemetry]'"
    ) from error

from pyidempotent._calls import flow
from pyidempotent.instrumentation._spans import Spans

__all__ = ["flush", "install", "stop", "watch"]


def install(
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    *,
    metrics: bool = True,
    spans: bool = True,
) -> None:
    """Counts and traces from now on. Installed already, it does nothing more.

    Parameters:
        meter_provider: whose meter has the metrics; by default the application's.
        tracer_provider: whose tracer makes the spans; by default the application's.
        metrics: whether there are metrics.
        spans: whether there are spans.

    >>> from opentelemetry.sdk.trace import TracerProvider
    >>> from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    >>> from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    >>> from pyidempotent import idempotent
    >>> from pyidempotent.instrumentation import opentelemetry
    >>> spans, provider = InMemorySpanExporter(), TracerProvider()
    >>> provider.add_span_processor(SimpleSpanProcessor(spans))
    >>> opentelemetry.install(tracer_provider=provider, metrics=False)
    >>> @idempotent("memory://", key="order", name="traced.charge")
    ... def charge(order: str) -> str:
    ...     return "charged"
    >>> charge("order-7"), charge("order-7")
    ('charged', 'charged')
    >>> [span.attributes["idempotency.outcome"] for span in spans.get_finished_spans()]
    ['completed', 'replayed']
    >>> opentelemetry.stop()
    """
    global _metrics
    with _lock:
        if metrics and _metrics is None:
            provider = meter_provider or get_meter_provider()
            if provider not in _made:
                _made[provider] = _Metrics(provider)
            _metrics = _made[provider]
            _metrics.start()
        if spans and flow.tracing is None:
            flow.tracing = Spans(tracer_provider)


def watch(backend: Backend | str, every: float | timedelta = 60.0, limit: int = 10_000) -> None:
    """Looks now and then for the oldest record in flight and the oldest unknown one: their ages are metrics.

    Each look reads every record of the store, as `Backend.unfinished` does, on a thread of its own. So one process of
    an application does it, and not too often where there are millions. A look that fails is counted. A forked child
    does not look.

    Parameters:
        backend: a backend or its URL.
        every: how often, in seconds.
        limit: how many unfinished records are looked at; the oldest may be beyond them.

    Raises:
        RuntimeError: where `install` was not called before, or without metrics.

    >>> from pyidempotent.instrumentation import opentelemetry
    >>> opentelemetry.install()
    >>> opentelemetry.watch("memory://", every=60)
    >>> opentelemetry.stop()
    """
    with _lock:
        if _metrics is None:
            raise RuntimeError("call opentelemetry.install() before opentelemetry.watch()")
        _metrics.watches.append(Watch(backend, every, limit, _metrics))


def flush() -> None:
    """Brings the metrics up to date. Where they are collected this is done anyway."""
    with _lock:
        metrics = _metrics
    if metrics is not None:
        metrics.flush()


def stop() -> None:
    """Counts and traces nothing more. What was counted stays with the meter provider; `install` goes on from there."""
    global _metrics
    with _lock:
        metrics, _metrics = _metrics, None
        flow.tracing = None
    if metrics is not None:
        metrics.stop()


_lock = threading.Lock()
_metrics: _Metrics | None = None

#: An instrument is made once for a provider, which keeps it.
_made: weakref.WeakKeyDictionary[MeterProvider, _Metrics] = weakref.WeakKeyDictionary()

#: What is counted by the metrics that count something.
_COUNTED = {
    "idempotency_calls": "call",
    "idempotency_refused": "call",
    "idempotency_attempts": "attempt",
    "idempotency_attempts_in_flight": "attempt",
    "idempotency_attempts_deferred": "attempt",
    "idempotency_store_errors": "error",
    "idempotency_store_down": "store",
    "idempotency_renewals_late": "renewal",
    "idempotency_claims_lost": "claim",
    "idempotency_events_dropped": "event",
    "idempotency_looks_failed": "look",
}

#: How many values of one histogram are recorded each second at the most.
_MOST_RECORDED = 1000


class _Metrics:
    """The table of metrics as instruments."""

    def __init__(self, provider: MeterProvider) -> None:
        self.watches: list[Watch] = []
        self._lock = threading.RLock()
        self._feed: Feed | None = None
        self._values: dict[str, dict[tuple[str, ...], float]] = {}
        self._histograms: dict[str, tuple[Any, list[float]]] = {}
        self._labels: dict[str, list[str]] = {}
        self._meter = provider.get_meter("pyidempotent", _native.__version__)
        for name, kind, unit, words, labels, bounds in _native.metrics():
            self._labels[name] = [_attribute(label) for label in labels]
            self._make(name, kind, f"{{{_COUNTED[name]}}}" if unit == "1" else unit, words, bounds)

    def start(self) -> None:
        """Counts from now on."""
        self._feed = Feed(self._add, self._lock)

    def flush(self) -> None:
        """Brings the figures up to date."""
        if self._feed is not None:
            self._feed.flush()

    def set_age(self, name: str, store: str, age: float) -> None:
        """The age of a store's oldest record, in seconds."""
        with self._lock:
            self._values[name][store,] = age

    def add(self, name: str, *labels: str) -> None:
        """Counts one more."""
        self._add([(name, labels, 1.0)])

    def stop(self) -> None:
        """Ends it."""
        for watch in self.watches:
            watch.stop()
        self.watches.clear()
        if self._feed is not None:
            self._feed.stop()

    def _make(self, name: str, kind: str, unit: str, words: str, bounds: list[float]) -> None:
        named = _instrument(name)
        if kind == "histogram":
            made = self._meter.create_histogram(named, unit, words, explicit_bucket_boundaries_advisory=bounds)
            self._histograms[name] = made, bounds
            return
        self._values[name] = {}
        observed = [self._observed(name)]
        if kind == "counter":
            self._meter.create_observable_counter(named, observed, unit, words)
        elif name.startswith("idempotency_oldest_"):
            self._meter.create_observable_gauge(named, observed, unit, words)
        else:
            self._meter.create_observable_up_down_counter(named, observed, unit, words)

    def _observed(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> list[Observation]:
            if name == "idempotency_calls":  # the first one of a collection
                self.flush()
            with self._lock:
                values = list(self._values[name].items())
            return [Observation(value, self._attributes(name, labels)) for labels, value in values]

        return observe

    def _attributes(self, name: str, labels: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(self._labels[name], labels, strict=True))

    def _add(self, rows: list[Row]) -> None:
        with self._lock:
            for name, labels, change in rows:
                if isinstance(change, tuple):
                    histogram, bounds = self._histograms[name]
                    attributes = self._attributes(name, labels)
                    for value in spread(bounds, *change, most=_MOST_RECORDED):
                        histogram.record(value, attributes)
                else:
                    values = self._values[name]
                    values[labels] = values.get(labels, 0.0) + change


def _instrument(name: str) -> str:
    """The name of a metric by OpenTelemetry's conventions: no unit in it."""
    rest = name.removeprefix("idempotency_")
    if rest.endswith("_seconds"):
        return f"idempotency.{rest.removesuffix('_seconds')}.{'age' if rest.startswith('oldest_') else 'duration'}"
    return f"idempotency.{rest.removesuffix('_bytes')}.size" if rest.endswith("_bytes") else f"idempotency.{rest}"


def _attribute(label: str) -> str:
    return "error.type" if label == "error" else f"idempotency.{label}"


def spread(bounds: list[float], counts: list[int], total: float, most: int) -> list[float]:
    """Values that fall into the buckets as these did, and add up to as much.

    OpenTelemetry takes one value at a time, which costs some microseconds each: of more than ``most`` values a share is
    recorded, with the same shape and the same mean. The counters have how many there were.
    """
    count = sum(counts)
    share = min(1.0, most / count) if count else 1.0
    kept = [round(number * share) if share < 1 else number for number in counts]
    edges = list(zip([0.0, *bounds], [*bounds, max(bounds[-1] * 2, total)], kept, strict=True))
    least = sum(low * number for low, _, number in edges)
    widths = sum((high - low) * number for low, high, number in edges)
    # A value stands on the same part of each bucket; never on its lower bound, which belongs to the bucket below.
    part = min(1.0, max(1e-6, (total * share - least) / widths)) if widths else 1.0
    return [low + (high - low) * part for low, high, number in edges for _ in range(number)]
