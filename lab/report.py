"""The table of a run, and `lab/results.md`."""

from __future__ import annotations

import os
import platform
from collections import Counter

from lab import ROOT
from lab.run import Result
from lab.scenarios import SCENARIOS

HEADER = (
    "| scenario | store | operations | calls | bodies | faults | second bodies, permitted | refused | broken | s |\n"
    "|---|---|--:|--:|--:|---|---|---|--:|--:|"
)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "–"


def line(result: Result) -> str:
    """A row of the table."""
    if result.figures:
        seen = ", ".join(f"{name} {value:,.3g}" for name, value in result.figures.items() if isinstance(value, float))
        seen = f"{result.operations:,} | | | {seen} | |"
        return f"| {result.scenario} | {result.store} | {seen} | {len(result.broken)} | {result.seconds:.0f} |"
    permitted = {name: count for name, count in result.reruns.items() if name != "nothing"}
    refused = {name.removeprefix("Idempotency"): count for name, count in result.refused.items()}
    return (
        f"| {result.scenario} | {result.store} | {result.operations:,} | {result.calls:,} | {result.bodies:,} "
        f"| {_counts(result.faults)} | {_counts(permitted)} | {_counts(refused)} | {len(result.broken)} "
        f"| {result.seconds:.0f} |"
    )


def write(results: list[Result], seed: int) -> None:
    """Writes `lab/results.md`."""
    totals: Counter[str] = Counter()
    for result in results:
        totals[result.store] += 0 if result.figures else result.operations
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"Linux {platform.release()}, CPython {platform.python_version()}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {system}"
    used = {result.scenario for result in results}
    text = [
        "# What the fault lab has seen",
        "",
        f"`make lab` writes this page. Machine: {machine}. Seed: {seed}. The extension is built as for tests, without",
        "optimisation: times are not its speed.",
        "",
        "Operations in faults: " + ", ".join(f"{store} {count:,}" for store, count in totals.items()) + ".",
        f"Broken promises: {sum(len(result.broken) for result in results)}.",
        "[docs/lab.md](../docs/lab.md) says what is counted.",
        "",
        HEADER,
        *map(line, results),
        "",
        *(f"- **{name}**: {scenario.says}." for name, scenario in SCENARIOS.items() if name in used),
        "",
    ]
    (ROOT / "lab" / "results.md").write_text("\n".join(text))
