"""Stored values that are damaged or made up: a value that comes back equal, or an error."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"


@pytest.fixture(scope="module")
def value() -> Callable[[bytes], None]:
    target: Callable[[bytes], None] = runpy.run_path(str(FUZZ / "value.py"))["value"]
    return target


@pytest.mark.parametrize("made", sorted((FUZZ / "corpus" / "value").iterdir()), ids=lambda path: path.name)
def test_a_value_comes_back_or_is_an_error(value: Callable[[bytes], None], made: Path) -> None:
    value(made.read_bytes())
