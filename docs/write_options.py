"""Writes the table of docs/options.md from the declarations in pyidempotent/_options/table.py: ``make docs``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyidempotent._options.table import TAKERS, UNSET, Option, RouteOptions, documentation, options_of

PAGE = Path(__file__).parent / "options.md"
COLUMNS = ("function", "middleware", "task", "block")


def written(default: Any) -> str:
    """A default, as the page has it."""
    if default is None or default is UNSET:
        return "–"
    if isinstance(default, frozenset):
        return ", ".join(f"`{word}`" for word in sorted(default))
    if type(default) is int and default >= 2**20:
        return f"{default // 2**20} MiB"
    return f"`{json.dumps(default)}`" if isinstance(default, str) else f"`{default!r}`"


def table() -> str:
    """A line for every field that declares an option. Fields with one name stand together."""
    backend = options_of(RouteOptions)["backend"][1]
    names = {
        option: name for fields in (RouteOptions, *TAKERS.values()) for name, (_, option) in options_of(fields).items()
    }
    order = list(dict.fromkeys(names[option] for option in (backend, *documentation())))

    def row(option: Option) -> str:
        takers = [
            column
            for column, fields in zip(COLUMNS, TAKERS.values(), strict=True)
            if option is backend or option in (other for _, other in options_of(fields).values())
        ]
        taken_by = "all" if len(takers) == len(COLUMNS) else ", ".join(takers)
        text = documentation()[option].replace("``", "`")
        return f"| `{names[option]}` | {written(option.default)} | {taken_by} | {text} |"

    options = sorted(documentation(), key=lambda option: order.index(names[option]))
    return "\n".join(["| option | default | taken by | what it decides |", "|---|---|---|---|", *map(row, options)])


def page() -> str:
    """The whole page, with the table as it is declared."""
    before, rest = PAGE.read_text().split("| option |", 1)
    _, after = rest.split("\n\n", 1)
    return f"{before}{table()}\n\n{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
