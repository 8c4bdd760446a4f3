"""The lab's scenarios with few operations: nothing that was promised is broken. ``make lab`` has many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from lab.run import Result, measure
from lab.scenarios import SCENARIOS

SEED = int(os.environ.get("LAB_SEED", "1"))

CELLS = [
    (scenario, store) for scenario, kind in SCENARIOS.items() for store in kind.stores if store not in kind.left_out
]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Future[Result]]]:
    """The runs that were asked for. They mostly wait, so that some go side by side."""
    asked = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    cells = [cell for cell in CELLS if {"scenario": cell[0], "store": cell[1]} in asked]
    with ThreadPoolExecutor(3) as pool:
        yield {cell: pool.submit(measure, *cell, SEED, SCENARIOS[cell[0]].small) for cell in cells}


@pytest.mark.parametrize(("scenario", "store"), CELLS)
def test_no_promise_is_broken(scenario: str, store: str, runs: dict[tuple[str, str], Future[Result]]) -> None:
    result = runs[scenario, store].result()
    assert not result.broken, result.told()
    if not result.figures:
        assert result.bodies >= result.operations * 0.9
        assert result.faults, "nothing was done to it"
