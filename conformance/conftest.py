"""Which product of faces and stores the scenarios are played on, and its matrix at the end."""

from __future__ import annotations

import pytest

from faces import RESULTS, matrix
from fixtures import redis_server

__all__ = ["redis_server"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--product",
        choices=["test", "matrix"],
        default="test",
        help="test: every face on its two stores (faces.toml says which); matrix: every face on every store",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if RESULTS:
        terminalreporter.section("conformance")
        for line in matrix(config.getoption("product")):
            terminalreporter.write_line(line)
