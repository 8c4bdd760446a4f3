"""Links between pages lead somewhere, and docs/llms.txt has the form of its kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pages

FILES = [*(pages.DOCS / f"{page}.md" for page in pages.all_pages()), pages.DOCS / "llms.txt"]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def links(file: Path) -> list[str]:
    """Targets of the file's links and pictures that are not on the web."""
    targets = re.findall(r"\]\(([^()\s]+)\)", without_code(file.read_text()))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(file: Path) -> set[str]:
    """The names of a page's headings, as they stand in links."""
    headings = re.findall(r"^#+ (.+)$", without_code(file.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(pages.DOCS)))
def test_links_lead_somewhere(file: Path) -> None:
    for target in links(file):
        path, _, anchor = target.partition("#")
        there = (file.parent / path) if path else file
        assert there.exists(), f"there is no {target}"
        assert not anchor or anchor in anchors(there), f"{path} has no heading {anchor}"


def test_llms_txt_has_its_form() -> None:
    """A title, a summary in a quote, words, then sections of links (llmstxt.org)."""
    text = (pages.DOCS / "llms.txt").read_text()
    title, summary, *_ = (line for line in text.splitlines() if line)
    assert title == "# pyidempotent"
    assert summary.startswith("> ")
    assert re.findall(r"^# ", text, re.MULTILINE) == ["# "]
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        _, *lines = filter(None, section.splitlines())
        assert lines
        assert all(re.match(r"- \[.+?\]\(\S+\)", line) for line in lines), section


def test_llms_txt_leads_to_every_page() -> None:
    """Those of start/ and reference/ have an index of their own there."""
    mapped = {target.partition("#")[0] for target in links(pages.DOCS / "llms.txt")}
    of_its_own = {page for page in pages.all_pages() if page.partition("/")[0] not in ("index", "start", "reference")}
    assert {f"{page}.md" for page in of_its_own} - mapped == set()
