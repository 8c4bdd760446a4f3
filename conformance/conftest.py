"""Which product of faces and stores the scenarios are played on, and its matrix at the end."""

from __future__ import annotations

import pytest

from faces import RESULTS, columns, matrix
from fixtures import postgres_server, redis_server

__all__ = ["postgres_server", "redis_server"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--product",
        choices=["test", "matrix"],
        default="test",
        help="test: every face on its two stores (faces.toml says which); matrix: every face on every store",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All cells of a face on a store, one after the other: pytest's own order starts a server for every cell."""
    order = columns(config.getoption("product"))

    def place(item: pytest.Item) -> int:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        return order.index(parameters["column"]) if "column" in parameters else len(order)

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if RESULTS:
        terminalreporter.section("conformance")
        for line in matrix(config.getoption("product")):
            terminalreporter.write_line(line)
