"""The web figures of `make bench`: requests per second through the faces, beside the framework's own plain application.

Every row is measured in interleaved rounds with wrk, 64 connections, against one server process; the table has medians
with the least and the most, and the median of the rounds' ratios. Writes web.md here. Exits non-zero where a bar is
missed that `KNOWN_MISSES` does not explain.
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

from run import HERE, ROOT, ROUNDS, build_wheel, commit, environment, machine

sys.path.insert(0, str(ROOT / "tests" / "support"))
from servers import RedisServer, Server, free_port, installed  # the tests' own

SECONDS = os.environ.get("SECONDS", "2")
FASTAPI = ["fastapi==0.165.0", "uvicorn[standard]==0.54.0", "redis[hiredis]==8.1.0"]
WSGI = ["flask==3.1.3", "django==5.2.19", "gunicorn==27.0.1"]

#: What ours must reach of its floor, the least that anything would have to do: see `web_floor`.
OF_FLOOR = 0.8

#: Rows whose bar beside the plain application is missed, and why. A row that is missed and not here fails the run.
KNOWN_MISSES: dict[tuple[str, str], str] = {
    **{
        (f"{name}, Redis, new key", f"plain {name}"): (
            "Its floor is the plain application with two bare GETs. A sync call waits for the store on its own thread, "
            "and each time threads and the GIL change hands. Beyond the floor are about 40 µs of our own, and two "
            "scripts that take the server longer than bare GETs do"
        )
        for name in ("Flask", "Django")
    },
    **{
        (f"{name}, Redis, replay", f"plain {name}"): (
            "The bar is above its floor: the application with one bare GET and an answer that is ready. A replay "
            "spares the view and the rendering of its value, which here are less than a round trip; routing and what "
            "runs before the view, authentication above all, run for a replay too"
        )
        for name in ("Flask", "Django")
    },
    ("FastAPI, memory, new key", "plain"): (
        "Of fifteen rounds in three runs the median was 0.71 ×, and that of its floor, a middleware of thirty lines "
        "over a dict, 0.84 ×. By itself ours takes 8 µs beyond an application that does nothing, and 19 around "
        "FastAPI, whose code and ours evict each other from the caches; under load everything takes about 1.6 times as "
        "long. What is left is half the interpreter's (a dozen functions) and half the engine's (the claim, the lease, "
        "the record, two digests)"
    ),
}


@dataclass(frozen=True)
class Subject:
    """A server.

    Parameters:
        python: the environment it runs in.
        command: what serves it, after ``python -m``; ``{port}`` is filled in.
        settings: for its environment variables; ``{redis}`` is filled in.
    """

    python: str
    command: tuple[str, ...]
    settings: Mapping[str, str]


UVICORN = ("uvicorn", "web_fastapi:app", "--port", "{port}", "--no-access-log", "--log-level", "warning")


def fastapi(python: str, subject: str, store: str = "memory://") -> Subject:
    return Subject(python, UVICORN, {"SUBJECT": subject, "STORE": store})


def wsgi(app: str, subject: str) -> Subject:
    """On gunicorn with threads, which keep connections open as uvicorn does."""
    options = ("--bind", "127.0.0.1:{port}", "--threads", "8", "--keep-alive", "60", "--log-level", "warning")
    return Subject("web-ours", ("gunicorn", *options, f"{app}:app"), {"SUBJECT": subject, "STORE": "{redis}"})


SUBJECTS = {
    "plain": fastapi("web-ours", "plain"),
    "redis": fastapi("web-ours", "ours", "{redis}"),
    "memory": fastapi("web-ours", "ours"),
    "idemkit redis": fastapi("web-idemkit", "idemkit", "{redis}"),
    "idemkit memory": fastapi("web-idemkit", "idemkit"),
    "a dict": fastapi("web-ours", "floor"),
    **{
        f"{prefix}{name}": wsgi(f"web_{name.lower()}", subject)
        for name in ("Flask", "Django")
        for prefix, subject in (
            ("", "ours"),
            ("plain ", "plain"),
            ("two GETs and ", "floor of a new key"),
            ("one GET before ", "floor of a replay"),
        )
    },
}

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


ROWS = [
    Row("FastAPI, Redis, new key", POST, "new", "redis", {"plain": 0.65, "idemkit redis": 2}),
    Row("FastAPI, Redis, replay", POST, "same", "redis", {"plain": 1.1, "idemkit redis": None}),
    Row("FastAPI, memory, new key", POST, "new", "memory", {"plain": 0.8, "a dict": OF_FLOOR, "idemkit memory": None}),
    Row("FastAPI, memory, replay", POST, "same", "memory", {"plain": 1.2, "idemkit memory": None}),
    Row("FastAPI, no key", POST, "none", "redis", {"plain": None}),
    Row("FastAPI, GET", GET, "same", "redis", {"plain": 0.97}, is_close=True),
    *(
        row
        for name in ("Flask", "Django")
        for row in (
            Row(
                f"{name}, Redis, new key",
                POST,
                "new",
                name,
                {f"plain {name}": 0.65, f"two GETs and {name}": OF_FLOOR},
            ),
            Row(
                f"{name}, Redis, replay",
                POST,
                "same",
                name,
                {f"plain {name}": 1.0, f"one GET before {name}": OF_FLOOR},
            ),
            Row(f"{name}, no key", POST, "none", name, {f"plain {name}": 0.97}, is_close=True),
            Row(f"{name}, GET", GET, "same", name, {f"plain {name}": 0.97}, is_close=True),
        )
    ),
]


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
        python = str(ROOT / ".bench" / self.subject.python / "bin" / "python")
        return [python, "-m", *(part.format(port=self.port) for part in self.subject.command)]

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
        # A rival that refuses some requests under this load still gets them counted.
        if "idemkit" not in self.subject.python and ("Non-2xx" in printed or "Socket errors" in printed):
            said = self.output()[-2000:]
            raise RuntimeError(f"{self.subject}: not every request was answered well:\n{printed}\n{said}")
        (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", printed)
        return float(rate)


def prepare() -> None:
    environment("web-ours", [*FASTAPI, *WSGI])
    environment("web-idemkit", ["idemkit==1.0.2", *FASTAPI])
    build_wheel("web-ours")


def measure() -> None:
    with RedisServer() as redis:
        for number in range(ROUNDS * 4):
            rows = [row for row in ROWS if row.is_close or number % 4 == 0]
            # New processes in every round: two of one program differ by some per cent, as addresses and hashes fall.
            with contextlib.ExitStack() as servers:
                running: dict[str, Running] = {}
                for row in rows:
                    for name in row.order(number):
                        if name not in running:
                            running[name] = servers.enter_context(Running(SUBJECTS[name], redis.url))
                        took = running[name].load(row.load, row.key, "1" if row.is_close else SECONDS)
                        row.took.setdefault(name, []).append(took)
                        redis.cli("FLUSHALL")
                    said = " ".join(f"{name} {took[-1]:.0f}" for name, took in row.took.items())
                    print(f"round {number + 1} of {ROUNDS * 4}: {row.name:28} {said}", flush=True)


def alone() -> float:
    """Microseconds that a GET spends in the middleware itself."""
    python = ROOT / ".bench" / "web-ours" / "bin" / "python"
    answers = [float(subprocess.check_output([python, HERE / "web_alone.py"])) for _ in range(ROUNDS)]
    return statistics.median(answers)


def cell(took: list[float]) -> str:
    return f"**{statistics.median(took):.0f}** ({min(took):.0f}–{max(took):.0f})"


def report(own: float) -> tuple[str, list[str]]:
    """The results as Markdown, and what was missed without a reason."""
    lines = [
        "# Web figures",
        "",
        f"Written by `make bench` at commit `{commit()}`: {machine()}.",
        f"Requests per second, one server process, wrk with 64 connections, median of {ROUNDS} interleaved rounds of "
        f"{SECONDS} s (least–most), and of {ROUNDS * 4} of 1 s for what only passes, with new servers in every round. "
        "The ratio is ours to theirs, the median of the rounds'.",
        "",
        "| | ours | beside | theirs | ratio | bar | |",
        "|---|---|---|---|---|---|---|",
    ]
    missed: list[tuple[tuple[str, str], str]] = []
    for row in ROWS:
        for name, least in row.others.items():
            ratio = row.ratio(name)
            verdict = "" if least is None else "✓" if ratio >= least else "missed"
            if verdict == "missed":
                missed.append(((row.name, name), f"{ratio:.2f} × {name}, the bar is {least} ×"))
            bar = "" if least is None else f"{least} ×"
            lines.append(
                f"| {row.name} | {cell(row.took[row.ours])} | {name} | {cell(row.took[name])} | {ratio:.2f} × | {bar} "
                f"| {verdict} |"
            )
    within = own < 1
    lines += [
        "",
        f"A GET spends {own:.2f} µs in the ASGI middleware itself (the bar is 1 µs: {'✓' if within else 'missed'}).",
    ]
    if not within:
        missed.append((("A GET", "by itself"), f"{own:.2f} µs, the bar is 1 µs"))
    if missed:
        lines += ["", "## Missed", ""]
        lines += [f"- {row[0]}: {what}. {KNOWN_MISSES.get(row, 'Not explained.')}" for row, what in missed]
    return "\n".join(lines) + "\n", [f"{row[0]}: {what}" for row, what in missed if row not in KNOWN_MISSES]


def main() -> None:
    """Prepares, measures, writes."""
    prepare()
    measure()
    text, unexplained = report(alone())
    (HERE / "web.md").write_text(text)
    print(text)
    for missed in unexplained:
        print(f"MISSED  {missed}", file=sys.stderr)
    sys.exit(bool(unexplained))


if __name__ == "__main__":
    main()
