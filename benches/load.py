"""Servers under wrk, by turns: what the web figures and the native ones have in common.

Every row is measured in interleaved rounds with 64 connections, against one server process each; the table has medians
with the least and the most, and the median of the rounds' ratios. Every answer's status is checked.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from run import HERE, ROOT, ROUNDS, Neighbours, commit

sys.path.insert(0, str(ROOT / "tests" / "support"))
from servers import RedisServer, Server, free_port, installed  # the tests' own

SECONDS = os.environ.get("SECONDS", "2")


@dataclass(frozen=True)
class Subject:
    """A server.

    Parameters:
        command: what serves it; ``{port}`` is filled in.
        settings: for its environment variables; ``{redis}`` is filled in.
        may_refuse: whether it refuses some requests under this load, and still gets them counted.
    """

    command: tuple[str, ...]
    settings: Mapping[str, str]
    may_refuse: bool = False


POST, GET = ("POST", "/pay?amount=42"), ("GET", "/pay?amount=42")


@dataclass
class Row:
    """One line of the table: the same load on our server and others.

    Parameters:
        name: what is measured.
        load: method and path.
        key: ``new``, ``same`` or ``none``.
        ours: our server.
        others: the others, and how many times theirs ours must be; None: only shown.
        is_close: whether the bar leaves noise no room: it is measured in four times as many rounds, a second each.
        took: subject → requests per second.
    """

    name: str
    load: tuple[str, str]
    key: str
    ours: str
    others: Mapping[str, float | None]
    is_close: bool = False
    took: dict[str, list[float]] = field(default_factory=dict)

    def order(self, number: int) -> list[str]:
        """Whose turn it is in a round: now ours first, now theirs."""
        names = [self.ours, *self.others]
        return names[::-1] if (number + number // 4) % 2 else names

    def ratio(self, other: str) -> float:
        """How many times theirs ours is: of what was measured one after the other, so that the machine was the same."""
        return statistics.median(
            ours / theirs for ours, theirs in zip(self.took[self.ours], self.took[other], strict=True)
        )


class Running(Server):
    """A subject that listens."""

    is_group = True

    def __init__(self, subject: Subject, redis: str) -> None:
        super().__init__()
        self.port = free_port()
        self.subject = subject
        self.redis = redis

    def start(self) -> None:
        super().start()
        # gunicorn listens before its worker has imported anything.
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/pay?amount=1", timeout=30).close()

    def command(self) -> list[str]:
        return [part.format(port=self.port) for part in self.subject.command]

    def environment(self) -> Mapping[str, str]:
        settings = {name: value.format(redis=self.redis) for name, value in self.subject.settings.items()}
        return {**os.environ, "PYTHONPATH": str(HERE), "PYTHONWARNINGS": "ignore", **settings}

    def load(self, load: tuple[str, str], key: str, seconds: str) -> float:
        """Requests per second."""
        wrk = installed("wrk", "apt-get install wrk")
        prefix = "-" if key == "none" else uuid.uuid4().hex
        options = ["-t1", "-c64", f"-d{seconds}s", "-s", str(HERE / "load.lua"), f"http://127.0.0.1:{self.port}"]
        if key == "same" and load == POST:  # the one that runs, before the load
            self._wrk([wrk, "-t1", "-c1", "-d1s", *options[3:], "--", *load, prefix, key])
        return self._wrk([wrk, *options, "--", *load, prefix, key])

    def _wrk(self, command: list[str]) -> float:
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if not self.subject.may_refuse and ("Non-2xx" in printed or "Socket errors" in printed):
            said = self.output()[-2000:]
            raise RuntimeError(f"{self.subject}: not every request was answered well:\n{printed}\n{said}")
        (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", printed)
        return float(rate)


def measure(rows: list[Row], subjects: Mapping[str, Subject]) -> float:
    """Fills the rows; returns how much of the processors other processes took meanwhile."""
    neighbours = Neighbours()
    with RedisServer() as redis:
        for number in range(ROUNDS * 4):
            turns = [row for row in rows if row.is_close or number % 4 == 0]
            # New processes in every round: two of one program differ by some per cent, as addresses and hashes fall.
            with contextlib.ExitStack() as servers:
                running: dict[str, Running] = {}
                for row in turns:
                    for name in row.order(number):
                        if name not in running:
                            running[name] = servers.enter_context(Running(subjects[name], redis.url))
                        took = running[name].load(row.load, row.key, "1" if row.is_close else SECONDS)
                        row.took.setdefault(name, []).append(took)
                        redis.cli("FLUSHALL")
                    said = " ".join(f"{name} {took[-1]:.0f}" for name, took in row.took.items())
                    print(f"round {number + 1} of {ROUNDS * 4}: {row.name:28} {said}", flush=True)
    return neighbours.share()


def cell(took: list[float]) -> str:
    return f"**{statistics.median(took):.0f}** ({min(took):.0f}–{max(took):.0f})"


def head(title: str, machine: str, others: float) -> list[str]:
    return [
        f"# {title}",
        "",
        f"Written by `make bench` at commit `{commit()}`: {machine}.",
        f"Requests per second, one server process, wrk with 64 connections, median of {ROUNDS} interleaved rounds of "
        f"{SECONDS} s (least–most), and of {ROUNDS * 4} of 1 s for what only passes, with new servers in every round. "
        "The ratio is ours to theirs, the median of the rounds'.",
        f"Other processes took {others:.0%} of the processors meanwhile.",
    ]


#: A row and who stands beside it, and in words what was missed.
Miss = tuple[tuple[str, str], str]


def table(rows: list[Row]) -> tuple[list[str], list[Miss]]:
    """The rows as Markdown, and which bars were missed."""
    lines = ["", "| | ratio | bar | | ours | beside | theirs |", "|---|---|---|---|---|---|---|"]
    missed: list[Miss] = []
    for row in rows:
        for name, least in row.others.items():
            ratio = row.ratio(name)
            verdict = "" if least is None else "✓" if ratio >= least else "missed"
            if verdict == "missed":
                missed.append(((row.name, name), f"{ratio:.2f} × {name}, the bar is {least:.2g} ×"))
            bar = "" if least is None else f"{least:.2g} ×"
            lines.append(
                f"| {row.name} | {ratio:.2f} × | {bar} | {verdict} "
                f"| {cell(row.took[row.ours])} | {name} | {cell(row.took[name])} |"
            )
    return lines, missed


def write(file: str, lines: list[str], missed: list[Miss], known: Mapping[tuple[str, str], str]) -> None:
    """Writes and prints the results; exits non-zero where a bar is missed that ``known`` does not explain."""
    if missed:
        lines = [*lines, "", "## Missed", ""]
        lines += [f"- {row[0]}: {what}. {known.get(row, 'Not explained.')}" for row, what in missed]
    text = "\n".join(lines) + "\n"
    (HERE / file).write_text(text)
    print(text)
    unexplained = [f"{row[0]}: {what}" for row, what in missed if row not in known]
    for what in unexplained:
        print(f"MISSED  {what}", file=sys.stderr)
    sys.exit(bool(unexplained))
