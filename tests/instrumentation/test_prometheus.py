"""Metrics for Prometheus: in one process, in forked children, and under gunicorn in multiprocess mode."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pyidempotent import IdempotencyConflict, _native, attempt, idempotent
from pyidempotent.backends import Backend, StoredRecord
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.instrumentation import prometheus
from pyidempotent.instrumentation._ages import oldest
from pyidempotent.instrumentation.prometheus import _add_sizes
from scripts import output
from servers import RedisServer, Server, free_port


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    prometheus.install(registry)
    yield registry
    prometheus.stop()


def test_a_scrape_has_what_has_happened(registry: CollectorRegistry) -> None:
    @idempotent(backend=MemoryBackend(), key="order", name="shop.charge")
    def charge(order: str, amount: int) -> str:
        return "charged"

    for _ in range(3):
        charge("a", 42)
    with pytest.raises(IdempotencyConflict):
        charge("a", 43)

    scraped = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return scraped[(name, *sorted({"operation": "shop.charge", **labels}.items()))]

    outcomes = {
        outcome: value("idempotency_calls_total", outcome=outcome) for outcome in ("claimed", "replayed", "conflict")
    }
    assert outcomes == {"claimed": 1, "replayed": 2, "conflict": 1}
    assert value("idempotency_attempts_total", outcome="completed") == 1
    assert value("idempotency_attempts_in_flight") == 0
    assert value("idempotency_attempt_seconds_count") == 1
    assert 0 < value("idempotency_attempt_seconds_sum") < 60
    assert value("idempotency_attempt_seconds_bucket", le="+Inf") == 1
    assert scraped["idempotency_store_operation_seconds_count", ("command", "claim"), ("store", "memory")] == 4


def test_many_values_at_once_are_what_the_library_makes_of_each() -> None:
    """The buckets are added to themselves; `Histogram.observe` is the library's way."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bounds = [0.1, 1.0, 2.5]
    added = Histogram("h", "Words.", buckets=bounds, registry=ours)
    observed = Histogram("h", "Words.", buckets=bounds, registry=theirs)
    _add_sizes(added, [2, 0, 1, 3], 0.05 + 0.1 + 2.0 + 3 * 7.0)
    for value in (0.05, 0.1, 2.0, 7.0, 7.0, 7.0):
        observed.observe(value)

    def figures(registry: CollectorRegistry) -> list[tuple[str, object, float]]:
        return [
            (sample.name, sample.labels, sample.value)
            for family in registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]

    assert figures(ours) == figures(theirs)


def test_installed_twice_stopped_and_installed_again(registry: CollectorRegistry) -> None:
    def claimed() -> float | None:
        labels = {"operation": "once.more", "outcome": "claimed"}
        return registry.get_sample_value("idempotency_calls_total", labels)

    @idempotent(backend=MemoryBackend(), key="order", name="once.more")
    def charge(order: str) -> None: ...

    prometheus.install(registry)
    charge("a")
    assert claimed() == 1
    with pytest.raises(ValueError, match="another registry"):
        prometheus.install(CollectorRegistry())
    prometheus.stop()
    prometheus.stop()
    charge("b")
    assert claimed() is None
    prometheus.install(registry)
    charge("c")
    assert claimed() == 1


def test_what_could_not_be_handed_over_is_said_once(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @idempotent(backend=MemoryBackend(), key="order")
    def charge(order: str) -> str:
        return "charged"

    monkeypatch.setattr("pyidempotent.instrumentation.prometheus._add_sizes", lambda *_: 1 / 0)
    for order in "ab":
        assert charge(order) == "charged"
        prometheus.flush()
    assert [record.levelname for record in caplog.records if "handed over" in record.message] == ["ERROR"]


def _age(registry: CollectorRegistry, state: str) -> float | None:
    return registry.get_sample_value(f"idempotency_oldest_{state}_seconds", {"store": "memory"})


def _until(is_so: object, limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a thread of its own looks


def test_the_ages_of_the_oldest_records(registry: CollectorRegistry) -> None:
    backend = MemoryBackend()
    with pytest.raises(RuntimeError), attempt(backend, key="a", after_crash="refuse"):
        raise RuntimeError
    with attempt(backend, key="b"):
        prometheus.watch(backend, every=0.01)
        _until(lambda: (_age(registry, "in_flight") or 0) > 0 and (_age(registry, "unknown") or 0) > 0)
    _until(lambda: _age(registry, "in_flight") == 0)
    unknown = _age(registry, "unknown")
    assert unknown is not None
    assert 0 < unknown < 600


def test_a_look_that_fails_is_counted(registry: CollectorRegistry) -> None:
    with RedisServer() as server:
        url = server.url
    prometheus.watch(url, every=0.01)
    _until(lambda: registry.get_sample_value("idempotency_looks_failed_total", {"store": "redis"}))


def test_which_record_is_the_oldest() -> None:
    def record(state: str, age: float) -> StoredRecord:
        return StoredRecord("", state, int((1000 - age) * 1e6), 0.0, b"", "")

    records = [record("in flight", 2), record("lapsed", 30), record("unknown", 7), record("unknown", 5)]
    assert oldest(records, 1000.0) == {"in_flight": 30.0, "unknown": 7.0}
    assert oldest([record("in flight", -3)], 1000.0) == {"in_flight": 0.0, "unknown": 0.0}


def test_what_does_not_fit() -> None:
    with pytest.raises(RuntimeError, match="install"):
        prometheus.watch(MemoryBackend())
    assert isinstance(MemoryBackend(), Backend)
    prometheus.install(CollectorRegistry())
    try:
        with pytest.raises(ValueError, match="more than 0"):
            prometheus.watch(MemoryBackend(), every=0)
    finally:
        prometheus.stop()


def test_without_the_library_the_way_to_it_is_named() -> None:
    code = """
    import sys
    sys.modules["prometheus_client"] = None
    try:
        import pyidempotent.instrumentation.prometheus
    except ImportError as error:
        print(error)
    """
    assert "pip install 'pyidempotent[prometheus]'" in output(code)


_FORKING = """
import os, sys
from prometheus_client import CollectorRegistry, multiprocess
from pyidempotent import idempotent
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.instrumentation import prometheus

prometheus.install()

@idempotent(backend=MemoryBackend(), key="order", name="charge")
def charge(order):
    return order

def claimed():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return registry.get_sample_value("idempotency_calls_total", {"operation": "charge", "outcome": "claimed"})

charge("a")
"""


def test_a_forked_child_counts_into_a_file_of_its_own(tmp_path: Path) -> None:
    code = (
        _FORKING
        + """
for number in range(3):
    if not (child := os.fork()):
        charge("b")
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
prometheus.flush()
print(claimed())
"""
    )
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    assert output(code, environment=environment) == "4.0\n"


def test_what_is_counted_at_the_very_end_of_a_process_is_in_its_file(tmp_path: Path) -> None:
    code = _FORKING + "import atexit\natexit.register(lambda: charge('b'))\n"
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    output(code, environment=environment)
    seen = _FORKING.partition('charge("a")')[0] + "print(claimed())"
    assert output(seen, environment=environment) == "2.0\n"


class Gunicorn(Server):
    """Two workers in multiprocess mode; forked from a process that has installed the metrics already, with preload."""

    def __init__(self, folder: Path, store: str, *options: str) -> None:
        super().__init__()
        self.port = free_port()
        self.folder = folder
        self.store = store
        self.options = options
        (folder / "values").mkdir()
        (folder / "served.py").write_text(_SERVED)
        (folder / "gunicorn.conf.py").write_text(
            "from prometheus_client import multiprocess\n"
            "def child_exit(server, worker):\n"
            "    multiprocess.mark_process_dead(worker.pid)\n"
            "def when_ready(server):\n"
            "    from pyidempotent.instrumentation import prometheus\n"
            "    prometheus.install()\n"
            f"    prometheus.watch({store!r}, every=0.1)\n"
        )

    def command(self) -> list[str]:
        options = ["--workers", "2", "--bind", f"127.0.0.1:{self.port}", "--log-level", "warning", *self.options]
        at = ["--chdir", str(self.folder), "--config", str(self.folder / "gunicorn.conf.py")]
        return [sys.executable, "-m", "gunicorn", *at, *options, "served:app"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "STORE": self.store, "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "values")}


_SERVED = """
import os
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from pyidempotent import idempotent
from pyidempotent.instrumentation import prometheus

prometheus.install()

@idempotent(os.environ["STORE"], key="order", ttl=60, name="charge")
def charge(order):
    return str(os.getpid())

def app(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        body = generate_latest(registry)
    else:
        charge(environ["PATH_INFO"])
        body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each loads", "preloaded"])
def test_gunicorn_s_workers_add_up(tmp_path: Path, redis_server: RedisServer, options: tuple[str, ...]) -> None:
    redis_server.cli("FLUSHALL")
    with (
        Gunicorn(tmp_path, redis_server.url, *options) as server,
        httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=30) as client,
    ):
        at = f"http://127.0.0.1:{server.port}"

        def scraped() -> str:
            return client.get(f"{at}/metrics").text

        def figures() -> dict[str, float]:
            families = text_string_to_metric_families(scraped())
            return {
                sample.labels["outcome"]: sample.value
                for family in families
                for sample in family.samples
                if sample.name == "idempotency_calls_total"
            }

        def ask(paths: range) -> set[int]:
            return {int(client.get(f"{at}/{path}").text) for path in paths for _ in range(2)}

        _until(lambda: 'idempotency_oldest_unknown_seconds{store="redis"} 0.0' in scraped())
        workers = ask(range(20))
        _until(lambda: figures() == {"claimed": 20.0, "replayed": 20.0})
        victim = workers.pop()
        os.kill(victim, signal.SIGKILL)
        _until(lambda: victim not in ask(range(1)))
        before = figures()["claimed"]
        assert before == 20.0
        ask(range(100, 120))
        _until(lambda: figures()["claimed"] == 40.0)
        assert server.stop() == 0, server.output()


def test_every_metric_is_of_bounded_cardinality() -> None:
    assert {label for _, _, _, _, labels, _ in _native.metrics() for label in labels} <= {
        "operation",
        "outcome",
        "reason",
        "store",
        "command",
        "error",
    }
