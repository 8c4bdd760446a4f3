"""The site: `make docs`. Warnings are errors, links between pages among them."""

import re
import shutil
from importlib import metadata
from pathlib import Path
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
    """Links out of docs/ lead to the repository. The Markdown stands beside the site, where llms.txt leads to."""

    def outside(_: Any, name: str, source: list[str]) -> None:
        up = "../" * (name.count("/") + 1)
        source[0] = re.sub(rf"\]\({re.escape(up)}(?!\.\./)", f"]({REPOSITORY}/blob/main/", source[0])

    def beside(_: Any, error: Exception | None) -> None:
        for name in () if error else app.env.found_docs:
            shutil.copyfile(app.env.doc2path(name), Path(app.outdir, f"{name}.md"))

    app.connect("source-read", outside)
    app.connect("build-finished", beside)
