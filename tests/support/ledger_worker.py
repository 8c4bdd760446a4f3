"""A process of the ledger lab: makes the transfers that it is told, each in a transaction with its key.

``ledger_worker.py PLACE PHASES NUMBER``: the database, the file in which it says where it stands, and its byte there.
A line of its input is ``id from to amount die``; ``die`` is the phase at whose end it kills itself, or ``-``.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import sqlite3
import sys
import time
from typing import Any

import psycopg

from pyidempotent import IdempotencyError, transaction

PHASES = ["waits", "claims", "writes", "stores", "commits", "answers"]


class Ledger:
    """A connection, made anew whenever it fails."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.connection: Any = None

    def connect(self) -> Any:
        while self.connection is None:
            try:
                if self.place.startswith("postgresql:"):
                    self.connection = psycopg.connect(self.place)
                else:
                    self.connection = sqlite3.connect(self.place, timeout=60)
            except psycopg.OperationalError:
                time.sleep(0.05)  # the server is down, and nothing tells when it is up
        return self.connection

    def rollback(self) -> None:
        try:
            self.connection.rollback()
        except psycopg.Error:
            self.connection = None

    def run(self, sql: str, values: tuple[Any, ...]) -> None:
        self.connection.execute(sql if self.place.startswith("postgresql:") else sql.replace("%s", "?"), values)


def main() -> None:
    place, file, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(file, "r+b") as opened:
        phases = mmap.mmap(opened.fileno(), 0)
    ledger = Ledger(place)
    die = "-"

    def enter(phase: str) -> None:
        """The phase before has ended."""
        at = phases[number]
        if PHASES[at] == die:
            os.kill(os.getpid(), signal.SIGKILL)
        phases[number] = PHASES.index(phase)
        time.sleep(random.random() * 0.002)  # so that a kill may hit the short ones too

    def transfer(key: str, source: int, target: int, amount: int) -> str:
        connection = ledger.connect()
        enter("claims")
        with transaction(connection, key=key, payload=[source, target, amount], name="transfer", wait=5) as op:
            if not op.replayed:
                enter("writes")
                # In one order, so that no two wait for each other.
                for account, change in sorted([(source, -amount), (target, amount)]):
                    ledger.run("UPDATE accounts SET balance = balance + %s WHERE id = %s", (change, account))
                ledger.run("INSERT INTO transfers VALUES (%s)", (key,))
                enter("stores")
                op.result = f"{source}>{target}:{amount}"
        enter("commits")
        connection.commit()
        enter("answers")
        return f"{'replayed' if op.replayed else 'ran'} {op.result}"

    print("ready", flush=True)
    for line in sys.stdin:
        key, source, target, amount, die = line.split()
        while True:
            try:
                answer = transfer(key, int(source), int(target), int(amount))
                break
            except (IdempotencyError, psycopg.Error):
                ledger.rollback()  # sent again
        print(key, answer, flush=True)
        enter("waits")


if __name__ == "__main__":
    main()
