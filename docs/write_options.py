"""Writes the table of docs/options.md from the declarations in pyidempotent/_options/table.py: ``make docs``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyidempotent._options import table as declared
from pyidempotent._options.table import TAKERS, UNSET, groups, options_of

PAGE = Path(__file__).parent / "options.md"
COLUMNS = ("function", "middleware", "task", "block", "transaction", "transactional")


def written(default: Any) -> str:
    """A default, as the page has it."""
    if default is None or default is UNSET:
        return "–"
    if isinstance(default, frozenset):
        return ", ".join(f"`{word}`" for word in sorted(default))
    if type(default) is int and default >= 2**20:
        return f"{default // 2**20} MiB"
    return f"`{json.dumps(default)}`" if isinstance(default, str) else f"`{default!r}`"


def joins(name: str, group: str) -> bool:
    """Whether a TypedDict has the fields of another."""
    return name == group or any(joins(base, group) for base in groups()[name][0] if base in groups())


def table() -> str:
    """A line for every field that declares an option. Fields with one name stand together."""
    rows: dict[str, list[str]] = {"backend": []}
    for group, (_, texts) in groups().items():
        for name, text in texts.items():
            _, option = options_of(getattr(declared, group))[name]
            by = [
                column
                for column, fields in zip(COLUMNS, TAKERS.values(), strict=True)
                if (not column.startswith("transaction") if name == "backend" else joins(fields.__name__, group))
            ]
            taken_by = "all" if len(by) == len(COLUMNS) else ", ".join(by)
            cells = f"`{name}`", written(option.default), taken_by, text.replace("``", "`")
            rows.setdefault(name, []).append(f"| {' | '.join(cells)} |")
    head = ["| option | default | taken by | what it decides |", "|---|---|---|---|"]
    return "\n".join([*head, *(row for named in rows.values() for row in named)])


def page() -> str:
    """The whole page, with the table as it is declared."""
    before, rest = PAGE.read_text().split("| option |", 1)
    _, after = rest.split("\n\n", 1)
    return f"{before}{table()}\n\n{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
