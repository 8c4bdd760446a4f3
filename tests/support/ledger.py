"""The ledger lab: transfers that are sent several times by processes which are killed, over a database that is too.

By hand: ``python tests/support/ledger.py postgres`` or ``sqlite`` makes the whole run and prints what it saw.
"""

from __future__ import annotations

import mmap
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psycopg

from ledger_worker import PHASES
from pyidempotent.backends.postgres import PostgresBackend
from pyidempotent.transactions import create_table
from servers import PostgresServer

ACCOUNTS, BALANCE = 20, 1_000

#: Where a worker kills itself: after the claim, after the business write, before the commit, before the answer.
DELIBERATE = ["claims", "writes", "stores", "commits"]

WORKER = Path(__file__).with_name("ledger_worker.py")

Transfer = tuple[str, int, int, int]


@dataclass
class Report:
    """What a run saw."""

    answers: Counter[str] = field(default_factory=Counter)
    #: The phases in which random kills hit.
    hits: Counter[str] = field(default_factory=Counter)
    deliberate: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    #: How often the sum of all accounts was looked at while transfers ran.
    sums: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Lab:
    """A run.

    Parameters:
        place: the database, with its tables.
        server: of the database, if it is to be killed too.
        transfers, copies: how many transfers, and how often each is sent.
        workers: how many processes.
        kills: how many of them are killed at random times.
        crashes: how often the server is.
    """

    def __init__(
        self,
        place: str,
        server: PostgresServer | None,
        *,
        transfers: int,
        copies: int,
        workers: int,
        kills: int,
        crashes: int,
    ) -> None:
        self.place, self.server = place, server
        self.kills, self.crashes = kills, crashes
        choose = random.Random(17)
        self.transfers: list[Transfer] = []
        for number in range(transfers):
            source, target = choose.sample(range(ACCOUNTS), 2)
            self.transfers.append((f"t{number}", source, target, choose.randint(1, 9)))
        sends = [(transfer, "-") for transfer in self.transfers for _ in range(copies)]
        choose.shuffle(sends)
        # The first of all, and their repeats the last: a repeat has not all of the phases.
        dying = self.transfers[: len(DELIBERATE)]
        for transfer in dying:
            sends.remove((transfer, "-"))
        sends = [*zip(dying, DELIBERATE, strict=True), *sorted(sends, key=lambda send: send[0] in dying)]
        self.sends: SimpleQueue[tuple[Transfer, str]] = SimpleQueue()
        for send in sends:
            self.sends.put(send)
        self.count = len(sends)
        self.choose, self.report = choose, Report()
        self.lock = threading.Condition()
        self.answered = 0
        self.folder = tempfile.TemporaryDirectory()
        self.phases = Path(self.folder.name) / "phases"
        self.phases.write_bytes(bytes(workers))
        self.processes: list[subprocess.Popen[str]] = [self.start(number) for number in range(workers)]
        #: Those that were killed at random, for their threads to tell from those that have killed themselves.
        self.killed: set[int] = set()

    def start(self, number: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(WORKER), self.place, str(self.phases), str(number)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def work(self, number: int) -> None:
        """Sends to one worker, and again to its successor what its predecessor did not answer."""
        self.read(number)
        while True:
            try:
                transfer, die = self.sends.get_nowait()
            except Empty:
                return
            while (answer := self.ask(number, transfer, die)) is None:
                phase = PHASES[self.phases.read_bytes()[number]]
                with self.lock:
                    if self.processes[number].pid in self.killed:
                        self.report.hits[phase] += 1
                    elif phase == die:
                        self.report.deliberate[phase] += 1
                        die = "-"
                    else:
                        self.report.wrong.append(f"a worker ended by itself, while it {phase}")
                        return
                    self.processes[number].wait()
                    with self.phases.open("r+b") as file:
                        file.seek(number)
                        file.write(b"\0")
                    self.processes[number] = self.start(number)
                self.read(number)
            self.told(transfer, answer)

    def read(self, number: int) -> str | None:
        stdout = self.processes[number].stdout
        assert stdout is not None
        line = stdout.readline()
        return line.strip() if line.endswith("\n") else None  # a part of one is what a killed worker leaves

    def ask(self, number: int, transfer: Transfer, die: str) -> str | None:
        stdin = self.processes[number].stdin
        assert stdin is not None
        try:
            print(*transfer, die, file=stdin, flush=True)
        except BrokenPipeError:
            return None
        return self.read(number)

    def told(self, transfer: Transfer, answer: str) -> None:
        key, source, target, amount = transfer
        got, kind, result = answer.split()
        with self.lock:
            if (got, result) != (key, f"{source}>{target}:{amount}"):
                self.report.wrong.append(f"{transfer} was answered {answer}")
            self.report.answers[kind] += 1
            self.answered += 1
            self.lock.notify_all()

    def disturb(self) -> None:
        """Kills workers and the server while answers come in."""
        steps = ["kill"] * self.kills
        for number in range(self.crashes):
            steps.insert((number + 1) * len(steps) // (self.crashes + 1), "crash")
        for number, step in enumerate(steps, 1):
            with self.lock:
                # Some answers later; all of it in the first nine tenths.
                until = number * self.count * 9 // 10 // len(steps)
                self.lock.wait_for(lambda until=until: self.answered >= until or self.report.wrong, 120)  # type: ignore[misc]
            time.sleep(self.choose.random() * 0.01)  # at no moment in particular
            if step == "crash":
                assert self.server is not None
                self.server.kill()
                self.server.start()
                self.report.crashes += 1
                continue
            chosen = self.choose.randrange(len(self.processes))
            if number % 2:
                self.await_phase(chosen, min(range(1, len(PHASES)), key=lambda phase: self.report.hits[PHASES[phase]]))
            with self.lock:
                process = self.processes[chosen]
                if process.poll() is None:
                    self.killed.add(process.pid)
                    process.kill()

    def await_phase(self, number: int, phase: int) -> None:
        """Returns when a worker is in a phase, or after a while: every second kill is to hit one that was hit least."""
        until = time.monotonic() + 0.5
        with self.phases.open("r+b") as file, mmap.mmap(file.fileno(), 0) as phases:
            while phases[number] != phase and time.monotonic() < until:
                pass

    def watch(self, done: threading.Event) -> None:
        """The sum of all accounts, again and again."""
        while not done.wait(0.05):
            try:
                found = self.ask_database("SELECT sum(balance) FROM accounts")[0][0]
            except psycopg.OperationalError:
                continue
            self.report.sums += 1
            if found != ACCOUNTS * BALANCE:
                self.report.wrong.append(f"the sum is {found}")

    def ask_database(self, sql: str) -> list[tuple[Any, ...]]:
        if self.server is not None:
            with psycopg.connect(self.place) as connection:
                return connection.execute(sql).fetchall()  # type: ignore[call-overload, no-any-return]
        with closing(sqlite3.connect(self.place, timeout=60)) as connection:
            return connection.execute(sql).fetchall()

    def run(self) -> Report:
        began, done = time.monotonic(), threading.Event()
        watching = threading.Thread(target=self.watch, args=(done,))
        disturbing = threading.Thread(target=self.disturb)
        working = [threading.Thread(target=self.work, args=(number,)) for number in range(len(self.processes))]
        for thread in (watching, disturbing, *working):
            thread.start()
        for thread in (*working, disturbing):
            thread.join()
        self.repeat()
        done.set()
        watching.join()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)
        self.check()
        self.folder.cleanup()
        self.report.seconds = time.monotonic() - began
        return self.report

    def repeat(self) -> None:
        """Every transfer once more, in peace: every one is replayed."""
        self.processes.append(self.start(0))
        self.read(-1)
        for transfer in self.transfers:
            answer = self.ask(-1, transfer, "-")
            if answer is None or answer.split()[1] != "replayed":
                self.report.wrong.append(f"a later repeat of {transfer} was answered {answer}")

    def check(self) -> None:
        made = Counter(key for (key,) in self.ask_database("SELECT key FROM transfers"))
        if made != Counter(key for key, *_ in self.transfers):
            self.report.wrong.append("not every transfer was made exactly once")
        balances = Counter(dict.fromkeys(range(ACCOUNTS), BALANCE))
        for _, source, target, amount in self.transfers:
            balances[source] -= amount
            balances[target] += amount
        if dict(self.ask_database("SELECT id, balance FROM accounts")) != dict(balances):  # type: ignore[arg-type]
            self.report.wrong.append("the accounts do not have what the transfers make of them")


TABLES = [
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
    "CREATE TABLE transfers (key TEXT NOT NULL)",
    *(f"INSERT INTO accounts VALUES ({account}, {BALANCE})" for account in range(ACCOUNTS)),
]


def on_postgres(**size: int) -> Report:
    """A run on a Postgres of its own, with its default durability."""
    with PostgresServer() as server:
        server.sql(";".join(TABLES))
        PostgresBackend(server.url, time_limit=20).create_table()
        return Lab(server.url, server, **size).run()


def on_sqlite(folder: Path, **size: int) -> Report:
    """A run on a file in a folder, with SQLite's default durability."""
    path = str(folder / "ledger.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in TABLES:
            connection.execute(statement)
        create_table(connection)
    return Lab(path, None, crashes=0, **size).run()


if __name__ == "__main__":
    whole = {"transfers": 2000, "copies": 3, "workers": 8, "kills": 60}
    if sys.argv[1:] == ["postgres"]:
        report = on_postgres(**whole, crashes=3)
    else:
        with tempfile.TemporaryDirectory() as folder:
            report = on_sqlite(Path(folder), **whole)
    print(report)
    sys.exit(bool(report.wrong))
