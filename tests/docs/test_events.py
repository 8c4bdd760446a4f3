"""docs/events.md: its blocks run, and its table has every event."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pages
from pyidempotent import idempotent
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.instrumentation import flush

ROOT = Path(__file__).parents[2]


def test_the_blocks() -> None:
    told: list[tuple[str, str]] = []
    names: dict[str, Any] = {"page_somebody": lambda operation, record: told.append((operation, record))}
    level = logging.getLogger("pyidempotent").level
    blocks = pages.blocks("events")
    assert len(blocks) == 2
    try:
        for block in blocks:
            exec(block, names)
    finally:
        logging.getLogger("pyidempotent").setLevel(level)

    @idempotent(backend=MemoryBackend(), key="order", after_crash="refuse", name="shop.charge")
    def charge(order: str) -> None:
        raise RuntimeError

    try:
        charge("a")
    except RuntimeError:
        assert flush()
    names["observation"].stop()
    assert [operation for operation, _ in told] == ["shop.charge"]


def test_every_event_is_in_the_table() -> None:
    source = (ROOT / "crates/idempotency/src/events/mod.rs").read_text()
    names = re.findall(r'Self::\w+(?: \{ \.\. \})? => "(\w+)"', source)
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/events.md").read_text(), re.MULTILINE)
    assert rows == names
