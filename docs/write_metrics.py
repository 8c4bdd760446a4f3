"""Writes the table of metrics into docs/metrics.md, from their declaration. `make docs`."""

from __future__ import annotations

from pathlib import Path

from pyidempotent import _native

PAGE = Path(__file__).parent / "metrics.md"
BEGIN, END = "<!-- the table of metrics: make docs -->\n", "<!-- the end of the table -->\n"


def table() -> str:
    """The table, as it stands on the page."""
    lines = ["| metric | kind | labels | |", "|---|---|---|---|"]
    for name, kind, _, words, labels, _ in _native.metrics():
        appears = f"{name}_total" if kind == "counter" else name
        lines.append(f"| `{appears}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {words} |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """The page with the table of now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
