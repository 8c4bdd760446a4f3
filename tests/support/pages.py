"""The Python blocks of a documentation page, to be executed."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[2] / "docs"


def all_pages() -> list[str]:
    """The names of all pages, those in sub-folders too: ``redis``, ``concepts/life``."""
    return sorted(page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md"))


def blocks(page: str) -> list[str]:
    """The page's blocks, in order."""
    return re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[tuple[str, str]]]:
    """The commands of each console block of a page, with what they are shown to print."""
    found = re.findall(r"^```console\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    return [re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE) for text in found]


def block(page: str, words: str) -> str:
    """The one block with these words."""
    (found,) = [text for text in blocks(page) if words in text]
    return found


def run(page: str, url: str, *, but: str | None = None, at: str = "redis://localhost") -> ModuleType:
    """A module of all blocks of a page, but the one with the words ``but``; the server of its URL ``at`` is the
    test's own.
    """
    module = ModuleType(f"page_{page.replace('/', '_')}")
    for text in blocks(page):
        if but is None or but not in text:
            code = text.replace(at, url)
            exec(compile(code, f"{page}.md", "exec", dont_inherit=True), module.__dict__)
    return module
