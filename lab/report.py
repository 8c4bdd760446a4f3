"""The tables of a run, and `lab/results.md`."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Iterable

from lab import ROOT
from lab.run import Result
from lab.scenarios import SCENARIOS

PAGE = ROOT / "lab" / "results.md"

HEADER = (
    "| scenario | store | operations | calls | bodies | faults | second bodies, permitted | refused "
    "| broken | s | seed |\n"
    "|---|---|--:|--:|--:|---|---|---|--:|--:|--:|"
)

FAILOVERS = (
    "| scenario | store | first answer after each promotion, in s | second bodies that they permit | of bodies "
    "| longest, in s |\n|---|---|---|--:|--:|--:|"
)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())) or "–"


def line(result: Result) -> str:
    """A row of the table."""
    last = f"{len(result.broken)} | {result.seconds:.0f} | {result.seed} |"
    if result.figures:
        seen = ", ".join(f"{name} {value:,.3g}" for name, value in result.figures.items() if isinstance(value, float))
        return f"| {result.scenario} | {result.store} | {result.operations:,} | | | {seen} | | | {last}"
    permitted = {name: count for name, count in result.reruns.items() if name != "nothing"}
    refused = {name.removeprefix("Idempotency"): count for name, count in result.refused.items()}
    return (
        f"| {result.scenario} | {result.store} | {result.operations:,} | {result.calls:,} | {result.bodies:,} "
        f"| {_counts(result.faults)} | {_counts(permitted)} | {_counts(refused)} | {last}"
    )


def failovers(result: Result) -> str | None:
    """A row of the table of failovers, if there were any."""
    if not result.failovers:
        return None
    ways: dict[str, list[str]] = {}
    for way, seconds in result.failovers:
        ways.setdefault(way, []).append(f"{seconds:.2f}")
    said = "; ".join(f"{way}: {', '.join(seconds)}" for way, seconds in ways.items())
    longest = max(seconds for _, seconds in result.failovers)
    lost = result.reruns.get("lost by a failover", 0)
    return f"| {result.scenario} | {result.store} | {said} | {lost:,} | {result.bodies:,} | {longest:.2f} |"


def write(results: list[Result]) -> None:
    """Writes `lab/results.md`. Scenarios that did not run keep their rows."""
    rows, failed_over = _written()
    for result in results:
        rows[result.scenario, result.store] = line(result)
        if row := failovers(result):
            failed_over[result.scenario, result.store] = row
    cells = [(scenario, store) for scenario, kind in SCENARIOS.items() for store in kind.stores]
    kept = [rows[cell] for cell in cells if cell in rows]
    totals: Counter[str] = Counter()
    for words in map(_words, kept):
        totals[words[1]] += _number(words[2]) if words[3] else 0
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"Linux {platform.release()}, CPython {platform.python_version()}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {system}"
    text = [
        "# What the fault lab has seen",
        "",
        f"`make lab` writes this page. Machine: {machine}. Each row is of the latest run",
        "of its scenario. The extension is built as for tests, without optimisation: times are not its speed.",
        "",
        "Operations in faults: " + ", ".join(f"{store} {count:,}" for store, count in totals.items() if count) + ".",
        f"Broken promises: {sum(_number(_words(row)[8]) for row in kept)}.",
        "[docs/lab.md](../docs/lab.md) says what is counted.",
        "",
        HEADER,
        *kept,
        "",
        *(
            f"- **{name}**: {scenario.says}."
            for name, scenario in SCENARIOS.items()
            if any(name == of for of, _ in rows)
        ),
        "",
        "## Failovers",
        "",
        "What a primary has acknowledged, and its replicas have not, is lost with it: such a key may run again. It is",
        "counted. A store called `-confirmed` has its writes confirmed by one replica (`replicas=1`).",
        "",
        FAILOVERS,
        *(failed_over[cell] for cell in cells if cell in failed_over),
        "",
    ]
    PAGE.write_text("\n".join(text))


def _written() -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]]:
    """The rows of both tables that the page has."""
    whole, _, last = (PAGE.read_text() if PAGE.exists() else "").partition("## Failovers")
    return _rows(whole.splitlines()), _rows(last.splitlines())


def _rows(lines: Iterable[str]) -> dict[tuple[str, str], str]:
    rows = {(words[0], words[1]): line for line in lines if len(words := _words(line)) > 2}
    return {cell: line for cell, line in rows.items() if cell[0] in SCENARIOS and cell[1] in SCENARIOS[cell[0]].stores}


def _words(row: str) -> list[str]:
    return [word.strip() for word in row.strip("|").split("|")]


def _number(word: str) -> int:
    return int(word.replace(",", ""))
