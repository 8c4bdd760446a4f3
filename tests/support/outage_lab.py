"""What an outage of the store does to operations that run: bodies counted by key, and how long a key stays blocked.

    python tests/support/outage_lab.py --full                      every kind, length and number of processes
    python tests/support/outage_lab.py --kind refused --length 3 --processes 4

Operations are claimed before the outage, half of them just before it; half of them end in it, half after it. Their
clients have given up on the first call: they repeat it to any of the processes until one replays the answer.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from clients import APPS
from proxy import Proxy
from servers import RedisServer

PROGRAM = APPS / "operations.py"

KINDS = {
    "refused": "connections are cut, and refused until the end",
    "held": "nothing passes; at the end all of it arrives",
    "lost": "nothing passes; at the end connections are cut, and what was sent is lost",
    "killed": "the server is killed (SIGKILL), and started again on its file",
    "terminated": "the server is ended (SIGTERM), and started again on its file",
    "stopped": "the server stands still (SIGSTOP), and goes on",
}
LENGTHS = (0.5, 1.5, 3.0)
PROCESSES = (1, 4)


@dataclass(frozen=True)
class Cell:
    """One outage.

    Parameters:
        kind: one of `KINDS`.
        length: in leases.
        processes: how many share the store.
    """

    kind: str
    length: float
    processes: int
    keys: int = 64
    lease: float = 1.0
    time_limit: float = 0.3
    pause: float = 0.3
    seed: int = 1

    @property
    def longest_block(self) -> float:
        """Seconds that a key may stay blocked: a lease, a grace of at most another one for its owner, and one more."""
        return 2 * self.lease + 1


@dataclass(frozen=True)
class Counts:
    """What was seen.

    Parameters:
        keys: how many operations there were.
        bodies: how many bodies ran.
        second: bodies that ran although their key had had one.
        overlapping: keys of which two bodies ran at once.
        unanswered: keys that nobody had an answer for when the clients gave up.
        blocked: the longest that a key stayed without an answer, from the store's return or from its operation's end,
            whichever came later.
    """

    keys: int
    bodies: int
    second: int
    overlapping: int
    unanswered: int
    blocked: float


class Operations:
    """A process that runs operations."""

    def __init__(self, url: str, cell: Cell, events: queue.Queue[list[Any]]) -> None:
        options = {"url": url, "lease": cell.lease, "time_limit": cell.time_limit}
        self.events = events
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in stop
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(PROGRAM), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.put(json.loads(line))

    def call(self, number: int, function: str, key: str, until: float) -> None:
        assert self.process.stdin is not None
        if self.process.poll() is not None:
            self.log.seek(0)
            raise RuntimeError(f"a process ended with {self.process.returncode}:\n{self.log.read()}")
        told = {"number": number, "function": function, "key": key, "until": until}
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@contextlib.contextmanager
def store(kind: str) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """A Redis that keeps what it has acknowledged: its URL, and how it goes away and comes back."""
    with tempfile.TemporaryDirectory() as folder:
        keeps = ("--appendonly", "yes", "--appendfsync", "always", "--dir", folder)
        with RedisServer(*keeps) as server, Proxy(server.port) as proxy:
            match kind:
                case "refused":
                    yield proxy.url, proxy.refuse, proxy.listen
                case "held":
                    yield proxy.url, proxy.hold_all, proxy.let_all_go
                case "lost":
                    yield proxy.url, proxy.lose_all, proxy.let_all_go
                case "killed":
                    yield server.url, server.kill, server.start
                case "terminated":
                    yield server.url, server.stop, server.start
                case "stopped":
                    yield (
                        server.url,
                        lambda: server.signal(signal.SIGSTOP),
                        lambda: server.signal(signal.SIGCONT),
                    )
                case _:
                    raise ValueError(f"no such kind of outage: {kind!r}; there are {', '.join(KINDS)}")


@dataclass(frozen=True)
class Operation:
    key: str
    function: str
    claimed: float
    until: float


def plan(cell: Cell, away: float, back: float) -> list[Operation]:
    """The operations around an outage between these two times."""
    dice = random.Random(cell.seed)
    operations = []
    for number in range(cell.keys):
        just_before, ends_after, in_loop = number % 2, number // 2 % 2, number // 4 % 2
        claimed = away - (dice.uniform(0, 0.05) if just_before else dice.uniform(0.7, 1.4) * cell.lease)
        until = back + dice.uniform(0.2, 1.5) * cell.lease if ends_after else dice.uniform(away, back)
        function = "in_loop" if in_loop else "in_thread"
        operations.append(Operation(f"{cell.seed}-{number}", function, claimed, until))
    return operations


def measure(cell: Cell) -> Counts:
    """Runs one outage and counts."""
    events: queue.Queue[list[Any]] = queue.Queue()
    with store(cell.kind) as (url, go_away, come_back):
        processes = [Operations(url, cell, events) for _ in range(cell.processes)]
        try:
            # Each has its connection and its scripts before anything begins.
            for number, process in enumerate(processes):
                process.call(-1 - number, "in_thread", f"warm-{number}", 0)
            ready = 0
            while ready < len(processes):
                ready += events.get(timeout=20)[0] == "answered"
            return _around(cell, processes, events, go_away, come_back)
        finally:
            for process in processes:
                process.stop()


def _around(
    cell: Cell,
    processes: list[Operations],
    events: queue.Queue[list[Any]],
    go_away: Callable[[], Any],
    come_back: Callable[[], Any],
) -> Counts:
    """Repeats every operation until it is answered, with the outage in between."""
    dice = random.Random(cell.seed)
    away = time.monotonic() + 1.5 * cell.lease
    back = away + cell.length * cell.lease
    operations = {operation.key: operation for operation in plan(cell, away, back)}
    begun: dict[str, dict[int, float]] = defaultdict(dict)
    ended: dict[int, float] = {}
    answered: dict[str, float] = {}
    numbers = itertools.count()
    due: list[tuple[float, str]] = [(operation.claimed, operation.key) for operation in operations.values()]
    due += [(away, ""), (back, "")]
    heapq.heapify(due)
    is_away = False
    gives_up = float("inf")

    def note(what: str, key: str, number: int, at: float, more: Any) -> None:
        if what == "began":
            begun[key][number] = at
        elif what == "ended":
            ended[number] = at
        elif what == "answered" and more != number and key in operations:
            answered.setdefault(key, at)

    while len(answered) < len(operations) and time.monotonic() < gives_up:
        _note_until(due[0][0], events, note)
        _, key = heapq.heappop(due)
        if not key:
            (come_back if is_away else go_away)()
            is_away = not is_away
            if not is_away:
                back = time.monotonic()
                last = max(back, *(operation.until for operation in operations.values()))
                gives_up = last + cell.longest_block + 2
        elif key not in answered:
            operation = operations[key]
            dice.choice(processes).call(next(numbers), operation.function, key, operation.until)
            heapq.heappush(due, (time.monotonic() + cell.pause, key))
    _note_until(time.monotonic() + cell.pause, events, note)  # a body that began at the last moment

    now = time.monotonic()
    mine = [begun[key] for key in operations]
    blocked = [answered.get(key, now) - max(back, operation.until) for key, operation in operations.items()]
    return Counts(
        keys=len(operations),
        bodies=sum(map(len, mine)),
        second=sum(max(len(bodies) - 1, 0) for bodies in mine),
        overlapping=sum(_overlap(bodies, ended) for bodies in mine),
        unanswered=len(operations) - len(answered),
        blocked=max(blocked),
    )


def _note_until(moment: float, events: queue.Queue[list[Any]], note: Callable[..., None]) -> None:
    """Takes what happens up to a moment."""
    with contextlib.suppress(queue.Empty):
        while (left := moment - time.monotonic()) > 0:
            note(*events.get(timeout=left))
        while True:
            note(*events.get_nowait())


def _overlap(begun: dict[int, float], ended: dict[int, float]) -> bool:
    spans = sorted((began, ended.get(number, float("inf"))) for number, began in begun.items())
    return any(later < end for (_, end), (later, _) in itertools.pairwise(spans))


def main() -> None:
    """Measures what the command line asks for, and prints a table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--full", action="store_true", help="every kind, length and number of processes")
    words.add_argument("--kind", choices=KINDS, action="append", help="this kind of outage; may be given again")
    words.add_argument("--length", type=float, action="append", help="in leases; may be given again")
    words.add_argument("--processes", type=int, action="append", help="how many; may be given again")
    words.add_argument("--keys", type=int, default=64)
    words.add_argument("--lease", type=float, default=1.0, help="in seconds")
    words.add_argument("--time-limit", type=float, default=0.3, help="of the store, in seconds")
    words.add_argument("--pause", type=float, default=0.3, help="between a client's repeats, in seconds")
    words.add_argument("--times", type=int, default=1, help="measure each this often, with other random numbers")
    asked = words.parse_args()
    if not (asked.full or asked.kind or asked.length or asked.processes):
        words.error("say --full, or which outages: --kind, --length, --processes")
    every = itertools.product(asked.kind or KINDS, asked.length or LENGTHS, asked.processes or PROCESSES)
    for kind in asked.kind or KINDS:
        print(f"{kind}: {KINDS[kind]}")
    print(
        "\n| outage | leases | processes | keys | bodies | second bodies | keys with two at once | unanswered "
        "| longest blocked |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for (kind, length, processes), seed in itertools.product(every, range(1, asked.times + 1)):
        settings = {"lease": asked.lease, "time_limit": asked.time_limit, "pause": asked.pause}
        seen = measure(Cell(kind, length, processes, asked.keys, seed=seed, **settings))
        print(
            f"| {kind} | {length:g} | {processes} | {seen.keys} | {seen.bodies} | {seen.second} | {seen.overlapping} "
            f"| {seen.unanswered} | {seen.blocked:.1f} s |",
            flush=True,
        )


if __name__ == "__main__":
    main()
