"""docs/troubleshooting.md quotes messages of the program, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pages

ROOT = Path(__file__).parents[2]
PLACEHOLDER = "{…}"


def quoted() -> list[str]:
    """The messages that are headings of the page."""
    return re.findall(r"^### (.+)$", (pages.DOCS / "troubleshooting.md").read_text(), re.MULTILINE)


def texts() -> str:
    """The sources, with what stands between the parts of one string taken out."""
    files = [*(ROOT / "python").rglob("*.py"), *(ROOT / "crates").rglob("*.rs")]
    source = "\n".join(file.read_text() for file in sorted(files) if "tests" not in file.relative_to(ROOT).parts)
    source = re.sub(r"^\s*//.*\n", "", source, flags=re.MULTILINE)  # comments say nothing to anybody
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # two strings in a row, in Python
    return re.sub(r"\\\n\s*", "", source).replace('\\"', '"')  # a string that goes on in the next line, in Rust


@pytest.fixture(scope="module")
def source() -> str:
    return texts()


def test_the_page_has_messages() -> None:
    assert len(quoted()) > 50


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_one_of_the_programs(message: str, source: str) -> None:
    parts = [re.escape(part) for part in message.split(PLACEHOLDER)]
    assert len(max(message.split(PLACEHOLDER), key=len)) >= 12, "too short to be found again"
    assert re.search(r"[^\n]{0,120}?".join(parts), source), f"no message of the program's says {message!r}"
