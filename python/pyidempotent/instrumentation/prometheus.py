"""Metrics for Prometheus, by the package ``prometheus-client``: `install`, once, where the application starts.

Scraped in the process that counts, the figures are those of the scrape. In multiprocess mode
(``PROMETHEUS_MULTIPROC_DIR``), as under gunicorn, each process brings its file up to date each second and at its end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pyidempotent import _native
from pyidempotent.backends import Backend
from pyidempotent.instrumentation._ages import Watch
from pyidempotent.instrumentation._feed import Feed, Row

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric
except ImportError as error:
    raise ImportError(
        "pyidempotent.instrumentation.prometheus needs prometheus-client: pip install 'pyidempotent[prometheus]'"
    ) from error

__all__ = ["flush", "install", "stop", "watch"]


def install(registry: CollectorRegistry = REGISTRY) -> None:
    """Counts from now on, in this process and in its forked children. Installed already, it does nothing more.

    Parameters:
        registry: where the metrics are registered.

    Raises:
        ValueError: where another registry has them already, or somebody else's metrics in this one have their names.

    >>> from prometheus_client import CollectorRegistry
    >>> from pyidempotent import idempotent
    >>> from pyidempotent.instrumentation import prometheus
    >>> registry = CollectorRegistry()
    >>> prometheus.install(registry)
    >>> @idempotent("memory://", key="order", name="counted.charge")
    ... def charge(order: str) -> str:
    ...     return "charged"
    >>> charge("order-7"), charge("order-7")
    ('charged', 'charged')
    >>> registry.get_sample_value("idempotency_calls_total", {"operation": "counted.charge", "outcome": "replayed"})
    1.0
    >>> prometheus.stop()
    """
    global _installed
    with _lock:
        if _installed is None:
            _installed = _Metrics(registry)
        elif _installed.registry is not registry:
            raise ValueError("prometheus.install() was called with another registry before; stop() ends that")


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
        RuntimeError: where `install` was not called before.

    >>> from prometheus_client import CollectorRegistry
    >>> from pyidempotent.instrumentation import prometheus
    >>> registry = CollectorRegistry()
    >>> prometheus.install(registry)
    >>> prometheus.watch("memory://", every=60)
    >>> prometheus.stop()
    """
    with _lock:
        if _installed is None:
            raise RuntimeError("call prometheus.install() before prometheus.watch()")
        _installed.watches.append(Watch(backend, every, limit, _installed))


def flush() -> None:
    """Brings the metrics up to date: for tests, and before a scrape in multiprocess mode."""
    with _lock:
        installed = _installed
    if installed is not None:
        installed.flush()


def stop() -> None:
    """Counts nothing more, and takes the metrics out of their registry. `install` begins anew."""
    global _installed
    with _lock:
        installed, _installed = _installed, None
    if installed is not None:
        installed.stop()


_lock = threading.Lock()
_installed: _Metrics | None = None


class _Metrics:
    """The table of metrics as the library's own, registered as one collector that brings them up to date."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.watches: list[Watch] = []
        self._metrics = {row[0]: _made(*row) for row in _native.metrics()}
        registry.register(self)
        self._feed = Feed(self._add)

    def describe(self) -> Iterator[Metric]:
        """What is registered, without a look at the figures."""
        for metric in self._metrics.values():
            yield from metric.describe()

    def collect(self) -> Iterator[Metric]:
        """The figures of now."""
        self.flush()
        for metric in self._metrics.values():
            yield from metric.collect()

    def flush(self) -> None:
        """Brings the figures up to date."""
        self._feed.flush()

    def set_age(self, name: str, store: str, age: float) -> None:
        """The age of a store's oldest record, in seconds."""
        with self._feed.lock:
            self._metrics[name].labels(store).set(age)

    def add(self, name: str, *labels: str) -> None:
        """Counts one more."""
        with self._feed.lock:
            self._metrics[name].labels(*labels).inc()

    def stop(self) -> None:
        """Ends it."""
        for watch in self.watches:
            watch.stop()
        self._feed.stop()
        self.registry.unregister(self)

    def _add(self, rows: list[Row]) -> None:
        for name, labels, change in rows:
            metric = self._metrics[name]
            child = metric.labels(*labels) if labels else metric
            if isinstance(change, tuple):
                _add_sizes(child, *change)
            else:
                child.inc(change)


def _made(name: str, kind: str, unit: str, words: str, labels: list[str], bounds: list[float]) -> Any:
    if kind == "counter":
        return Counter(name, words, labels, registry=None)
    if kind == "histogram":
        return Histogram(name, words, labels, buckets=bounds, registry=None)
    # Of several processes: what is in flight adds up over those that live; an age is what was seen last.
    mode = "livemostrecent" if name.startswith("idempotency_oldest_") else "livesum"
    return Gauge(name, words, labels, multiprocess_mode=mode, registry=None)  # type: ignore[arg-type]


def _add_sizes(histogram: Any, counts: list[int], total: float) -> None:
    """Adds many values at once.

    The library has no public way but one call per value, which would cost each protected call some microseconds. A
    collector of our own could add them, but not to the files of multiprocess mode. So the buckets are added to
    themselves, as `Histogram.observe` does it; a test holds that against the library's own figures.
    """
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)
    histogram._sum.inc(total)
