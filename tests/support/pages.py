"""The Python blocks of a documentation page, to be executed."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    """The page's blocks, in order."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)


def block(page: str, words: str) -> str:
    """The one block with these words."""
    (found,) = [text for text in blocks(page) if words in text]
    return found


def run(page: str, redis: str, *, but: str | None = None) -> ModuleType:
    """A module of all of a page's blocks, but the one with the words ``but``; with a Redis of the test's own."""
    module = ModuleType(f"page_{page}")
    for text in blocks(page):
        if but is None or but not in text:
            code = text.replace("redis://localhost", redis)
            exec(compile(code, f"{page}.md", "exec", dont_inherit=True), module.__dict__)
    return module
