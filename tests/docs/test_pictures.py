"""The pictures of docs/ are made of their texts."""

from __future__ import annotations

import re
import runpy
from xml.etree import ElementTree

import pytest

import pages

MODULE = runpy.run_path(str(pages.DOCS / "write_pictures.py"))


def test_the_pictures_are_those_of_their_texts() -> None:
    written = MODULE["written"]()
    assert len(written) >= 6
    for file, svg in written.items():
        assert file.read_text() == svg, "run: make docs"
        ElementTree.fromstring(svg)


def test_every_picture_is_shown_and_has_words_for_who_does_not_see_it() -> None:
    shown = set()
    for page in pages.all_pages():
        file = pages.DOCS / f"{page}.md"
        for words, target in re.findall(r"!\[(.*?)\]\((\S+?\.svg)\)", file.read_text()):
            assert words, f"{page} shows {target} without words"
            shown.add((file.parent / target).resolve())
    assert set(MODULE["written"]()) <= shown


def test_a_line_that_is_no_line_of_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="not understood: a -> b words"):
        MODULE["picture"]("A title\nlanes a | b\na -> b words\n")
