"""docs/problems.md has every refusal, by its name, with its status and its effect."""

from __future__ import annotations

import re

import pages
from pyidempotent import _native, exceptions

SECTIONS = dict(
    re.findall(r"^## (\S+)\n\n(.*?)(?=^## |\Z)", (pages.DOCS / "problems.md").read_text(), re.DOTALL | re.MULTILINE)
)


def test_each_refusal_has_a_section() -> None:
    refusals = _native.refusals()
    assert set(SECTIONS) == set(refusals)
    for name, (status, effect, _) in refusals.items():
        assert re.match(rf"\*\*{status}\*\*.*?, effect `{effect}`", SECTIONS[name]), name


def test_each_exception_stands_with_its_refusal() -> None:
    classes = [getattr(exceptions, name) for name in exceptions.__all__ if name != "IdempotencyError"]
    for refused in classes:
        assert f"`{refused.__name__}`" in SECTIONS[refused.name].split(".")[0], refused
