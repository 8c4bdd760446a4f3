"""Runs scenarios and counts what they have shown."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import ROOT
from lab.checker import Broken, check, reruns
from lab.drive import Drive
from lab.history import INFINITY, History
from lab.places import PLACES, folder
from lab.scenarios import SCENARIOS

#: Where the histories of runs that broke a promise are kept.
BROKEN = ROOT / "target" / "lab"


@dataclass
class Result:
    """What one run has shown.

    Parameters:
        operations: how many keys clients had work for; where they go on until all has been done to the store, more
            than were asked for.
        calls: how many calls they made.
        bodies: how many bodies ran.
        reruns: those that ran after another one of their record, by what permitted it.
        faults: how many there were, by their kind.
        refused: calls that were refused, by the refusal.
        unanswered: calls that never were, because their process died.
        broken: promises that were not kept.
        file: the history, if any is broken.
        figures: what was measured, by name.
        failovers: how the primary lost its place, and how many seconds after the promotion a call was answered that
            began after it; in order.
    """

    scenario: str
    store: str
    seed: int
    operations: int = 0
    calls: int = 0
    bodies: int = 0
    seconds: float = 0.0
    reruns: dict[str, int] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    broken: list[Broken] = field(default_factory=list)
    file: Path | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    failovers: list[tuple[str, float]] = field(default_factory=list)
    asked: int = 0

    def told(self) -> str:
        """What a failure says."""
        lines = [
            f"{len(self.broken)} promises broken; again: {again(self.scenario, self.store, self.seed, self.asked)}"
        ]
        return "\n".join([*lines, f"the history: {self.file}", *map(str, self.broken[:20])])


def again(scenario: str, store: str, seed: int, operations: int) -> str:
    """The line that repeats a run."""
    return f"python -m lab --scenario {scenario} --store {store} --seed {seed} --operations {operations}"


def measure(scenario: str, store: str, seed: int, operations: int) -> Result:
    """One run."""
    kind, began = SCENARIOS[scenario], time.monotonic()
    settings = kind.settings.but(operations=operations)
    result = Result(scenario, store, seed, operations, asked=operations)
    own = seed + zlib.crc32(f"{scenario} {store}".encode())
    with folder() as made, (kind.places.get(store) or PLACES[store])(made, settings.workers) as place:
        if kind.measured is not None:
            result.figures, result.broken = kind.measured(place, operations)
        elif kind.storm is not None:
            history, broken = kind.storm(place, settings, own)
            judge(history, broken, result)
        elif kind.plan is not None:
            with Drive(place, settings, own) as drive:
                kind.plan(drive)
                history = drive.run()
            judge(history, drive.broken, result)
            result.operations = operations - drive.left
            result.failovers = [(way, back_after(history, moment)) for way, moment in drive.promotions]
    result.seconds = time.monotonic() - began
    return result


def back_after(history: History, moment: float) -> float:
    """Seconds from a promotion to the first answer to a call that began after it."""
    answers = (
        call.answered
        for call in history.calls.values()
        if call.outcome == "value" and call.began is not None and call.began >= moment and call.answered is not None
    )
    return min(answers, default=INFINITY) - moment


def judge(history: History, seen: list[Broken], result: Result) -> None:
    """Fills a result in, and keeps a history that breaks a promise.

    Parameters:
        seen: what clients saw broken themselves.
    """
    result.calls, result.bodies = len(history.calls), len(history.bodies)
    result.reruns = reruns(history)
    result.faults = Counter(fault.kind for fault in history.faults)
    calls = history.calls.values()
    result.refused = Counter(call.outcome for call in calls if call.outcome not in ("value", "raised", None))
    result.unanswered = sum(call.answered is None for call in calls)
    result.broken = [*check(history), *seen]
    if result.broken:
        result.file = BROKEN / f"{result.scenario}-{result.store}-{result.seed}.jsonl"
        history.save(result.file)
