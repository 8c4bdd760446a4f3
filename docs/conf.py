"""The site: `make docs`. Warnings are errors, links between pages among them."""

import re
from importlib import metadata
from typing import Any

REPOSITORY = "https://github.com/pyidempotent/pyidempotent"

project = "pyidempotent"
author = "The pyidempotent maintainers"
release = metadata.version("pyidempotent")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"pyidempotent {release}"
html_extra_path = ["llms.txt"]
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}

myst_heading_anchors = 3
autodoc_member_order = "bysource"


def setup(app: Any) -> None:
    """What a page links to outside of docs/ is read in the repository."""

    def outside(_: Any, name: str, source: list[str]) -> None:
        up = "../" * (name.count("/") + 1)
        source[0] = re.sub(rf"\]\({re.escape(up)}(?!\.\./)", f"]({REPOSITORY}/blob/main/", source[0])

    app.connect("source-read", outside)
