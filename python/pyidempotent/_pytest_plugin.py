"""The pytest plugin; pytest finds it by its entry point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyidempotent.testing import Rehearsal


@pytest.fixture
def idempotency() -> Iterator[Rehearsal]:
    """Every backend is one in memory, on a clock that the test moves; see `pyidempotent.testing.Rehearsal`."""
    from pyidempotent.testing import rehearse

    with rehearse() as rehearsal:
        yield rehearsal
