"""docs/metrics.md: its blocks run, and its table is that of the engine."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import pages
from pyidempotent import _native
from pyidempotent.instrumentation import opentelemetry, prometheus
from scripts import output
from servers import RedisServer

PAGE = Path(__file__).parents[2] / "docs/metrics.md"


@pytest.fixture
def stopped() -> Iterator[None]:
    yield
    prometheus.stop()
    opentelemetry.stop()


@pytest.mark.usefixtures("stopped")
def test_the_blocks(redis_server: RedisServer, tmp_path: Path) -> None:
    page = pages.run("metrics", redis_server.url, but="def metrics")
    assert callable(page.child_exit)
    page.when_ready(None)
    code = "\n".join(pages.blocks("metrics")[:1]) + pages.block("metrics", "def metrics")
    code += """
from pyidempotent import attempt
with attempt("memory://", key="a", name="page"):
    pass
print(metrics().decode())
"""
    printed = output(code, environment={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})
    assert 'idempotency_calls_total{operation="page",outcome="claimed"} 1.0' in printed


def _writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_metrics", PAGE.parent / "write_metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_now() -> None:
    page = PAGE.read_text()
    assert _writer().written(page) == page, "make docs"


def test_what_the_page_alerts_on_is_there() -> None:
    names = {f"{name}_total" if kind == "counter" else name for name, kind, *_ in _native.metrics()}
    assert set(re.findall(r"\bidempotency_\w+", PAGE.read_text())) <= names
