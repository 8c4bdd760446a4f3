"""Servers with worker processes of their own, which are killed one by one: gunicorn's and Celery's.

Clients do not choose a process. Who took a call is in the file of effects.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery

from lab import ROOT
from lab.bodies import process
from lab.checker import Broken
from lab.history import Call, Fault, History, Identity
from lab.places import Place
from lab.settings import MOST_OPEN, Settings
from servers import STARTUP, RedisServer, Server, free_port

#: After how many seconds the broker gives a message that was not acknowledged to another worker.
VISIBILITY = 3


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


class Gunicorn(Server):
    """Four workers with threads, which are forked from a process that has loaded the application."""

    is_group = True

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.port = free_port()
        self.options = options

    def command(self) -> list[str]:
        kind = ["--preload", "--workers", "4", "--worker-class", "gthread", "--threads", "12", "--timeout", "60"]
        where = ["--chdir", str(ROOT), "--bind", f"127.0.0.1:{self.port}", "--log-level", "warning"]
        return [sys.executable, "-m", "gunicorn", *kind, *where, "lab.flask_app:app"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "LAB_OPTIONS": json.dumps(self.options)}


@dataclass
class Wanted:
    """An operation of a client's.

    Parameters:
        dice: its own, so that clients in threads do not change each other's plans.
    """

    identity: Identity
    policy: str
    work: float
    dice: random.Random
    sent: int = 0
    open: set[int] = field(default_factory=set)
    #: How it came out.
    end: str | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def finish(self, outcome: str) -> None:
        """Takes an answer, if it is one to stop at."""
        if outcome in ("value", "IdempotencyUnknown", "IdempotencyConflict"):
            self.end = self.end or outcome
            self.done.set()


class Storm:
    """Clients of a fleet, and kills of its workers.

    Parameters:
        place: the store.
        settings: what clients ask for.
        seed: of everything random.
    """

    def __init__(self, place: Place, settings: Settings, seed: int) -> None:
        self.place, self.settings, self.seed = place, settings, seed
        self.history = History(settings.lease, settings.time_limit, 2 * settings.time_limit + 1.0)
        self.effects = place.folder / "effects"
        self.effects.touch()
        self.options = {
            "url": place.url(0),
            "lease": settings.lease,
            "time_limit": settings.time_limit,
            "effects": str(self.effects),
        }
        self.fault_dice = random.Random(f"faults {seed}")
        self.numbers = itertools.count()
        self.broken: list[Broken] = []
        self.over = threading.Event()

    # What a kind of fleet says

    #: Between two kills, in seconds: from, to.
    pauses = (0.3, 1.0)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Starts the fleet, and ends it."""
        raise NotImplementedError
        yield

    def workers(self) -> list[int]:
        """The processes that take calls."""
        raise NotImplementedError

    def ask(self, wanted: Wanted, payload: str, fate: str) -> None:
        """One call, in a thread of its own."""
        raise NotImplementedError

    # The run

    def run(self) -> History:
        """Lets clients work until all are answered, then asks everybody once more in peace."""
        with self.served(), ThreadPoolExecutor(200) as self.pool:
            killer = threading.Thread(target=self._kill)
            killer.start()
            try:
                with ThreadPoolExecutor(self.settings.clients) as clients:
                    done = list(clients.map(self._serve, range(self.settings.operations)))
            finally:
                self.over.set()
                killer.join()
            answered = [wanted for wanted in done if wanted.end == "value"]
            for wanted in answered:
                self._submit(wanted, "100", "returns")
            self.in_peace(len(answered))
        self.history.ended = time.monotonic()
        self.history.add_effects(self.effects.read_text().splitlines())
        # What no process took never reached the product.
        for number, call in list(self.history.calls.items()):
            if call.began is None:
                del self.history.calls[number]
        return self.history

    def in_peace(self, calls: int) -> None:
        """Returns when what was asked for last has been answered."""

    def _serve(self, number: int) -> Wanted:
        dice = random.Random(f"{self.seed} {number}")
        identity = Identity(dice.choice(("pay", "refund")), dice.choice(("anna", "ben")), f"{self.seed}-{number}")
        work = dice.choice((0.0, 0.01, 0.05, dice.uniform(0.05, self.settings.longest)))
        policy = "refuse" if dice.random() < self.settings.refuse else "rerun"
        wanted, since = Wanted(identity, policy, work, dice), time.monotonic()
        is_probed = dice.random() < self.settings.probes
        while wanted.end is None:
            for _ in range(dice.choice((1, 1, 2))):
                if len(wanted.open) < MOST_OPEN:
                    self._submit(wanted, "100", self._fate(wanted))
            if is_probed and dice.random() < 0.3:
                is_probed = False
                self._submit(wanted, "200", "returns")
            wanted.done.wait(self.settings.patience * dice.uniform(0.7, 1.3))
            if time.monotonic() - since > self.settings.gives_up:
                what = f"nobody was answered in {self.settings.gives_up:g} s"
                self.broken.append(Broken("P4", what, wanted.identity, ()))
                wanted.end = "nothing"
        return wanted

    def _fate(self, wanted: Wanted) -> str:
        left = wanted.dice.random()
        if wanted.sent < 4:
            for name, share in self.settings.fates:
                left -= share
                if left < 0:
                    return name
        return "returns"

    def _submit(self, wanted: Wanted, payload: str, fate: str) -> None:
        wanted.sent += 1
        self.pool.submit(self.ask, wanted, payload, fate)

    def told(self, wanted: Wanted, payload: str, fate: str) -> dict[str, Any]:
        """A call, as a process is told it."""
        who = {**wanted.identity._asdict(), "payload": payload, "policy": wanted.policy}
        return {**who, "work": wanted.work, "fate": fate}

    def _kill(self) -> None:
        while not self.over.wait(self.fault_dice.uniform(*self.pauses)):
            if workers := self.workers():
                self.kill(self.fault_dice.choice(workers))

    def kill(self, pid: int) -> None:
        """As ``kill -9``."""
        at = time.monotonic()
        with contextlib.suppress(OSError):  # it has just died
            number = process(pid)
            os.kill(pid, signal.SIGKILL)
            self.history.faults.append(Fault("killed", number, at, at))


class GunicornStorm(Storm):
    """Requests to a Flask application."""

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Starts gunicorn, and ends it."""
        with Gunicorn(self.options) as self.server:
            yield

    def workers(self) -> list[int]:
        """Gunicorn's."""
        return children(self.server.process.pid) if self.server.process else []

    def ask(self, wanted: Wanted, payload: str, fate: str) -> None:
        """One request; a connection that breaks is no answer."""
        told = {**self.told(wanted, payload, fate), "number": (number := next(self.numbers))}
        call = Call(number, wanted.identity, payload, wanted.policy, -1, time.monotonic())
        self.history.calls[number] = call
        wanted.open.add(number)
        headers = {
            "Idempotency-Key": wanted.identity.key,
            "X-Caller": wanted.identity.caller,
            "X-Call": json.dumps(told),
            "Content-Type": "text/plain",
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request("POST", f"/{wanted.policy}/{wanted.identity.operation}", payload, headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()
            wanted.open.discard(number)
        call.answered, call.outcome = time.monotonic(), outcome_of(answer.status, body)
        call.value = int(body) if call.outcome == "value" else None
        if payload == "100":
            wanted.finish(call.outcome)


def outcome_of(status: int, body: bytes) -> str:
    """What a history calls an HTTP answer."""
    if status == 200:
        return "value"
    with contextlib.suppress(ValueError):
        kind: str = json.loads(body)["type"].rpartition(":")[2]
        return "Idempotency" + "".join(word.capitalize() for word in kind.split("-"))
    return "raised" if status == 500 else f"{status}: {body[:200]!r}"


class CeleryStorm(Storm):
    """Messages to a Celery worker with four processes; now and then all of it is killed."""

    # Celery gives a process's place to another one at once, and its message back after ten seconds.
    pauses = (0.5, 2.0)
    #: The share of kills that hit the whole worker.
    WHOLE = 0.2

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Starts a broker and the worker, and ends them."""
        with RedisServer() as broker, contextlib.ExitStack() as stack:
            self.options |= {"broker": f"{broker.url}/1", "visibility": VISIBILITY}
            self.log = stack.enter_context((self.place.folder / "celery.log").open("w"))
            self.client = stack.enter_context(Celery("lab", broker=self.options["broker"]))
            self.client.conf.task_ignore_result = True
            self.wanted: dict[Identity, Wanted] = {}
            #: The processes of this worker that have had a message: their numbers, by their pids.
            self.seen: dict[int, int] = {}
            self.is_ended = threading.Event()
            reader = threading.Thread(target=self._read)
            reader.start()
            self._start()
            try:
                yield
            finally:
                self.is_ended.set()
                reader.join()
                self._kill_all()

    def _start(self) -> None:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [sys.executable, "-m", "celery", "-A", "lab.celery_app", "worker", "-P", "prefork", "-c", "4"]
        self.worker = subprocess.Popen(
            [*command, *quiet, "-l", "WARNING"],
            cwd=ROOT,
            env={**os.environ, "LAB_OPTIONS": json.dumps(self.options)},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def workers(self) -> list[int]:
        """The processes of the pool that have had a message: Celery gives up where they die before that."""
        if self.worker.poll() is not None:  # it has given up all the same
            self._kill_all()
            self._start()
        return [pid for pid in children(self.worker.pid) if pid in self.seen]

    def kill(self, pid: int) -> None:
        """Kills a process of the pool, or the whole worker, which is started again."""
        if self.fault_dice.random() >= self.WHOLE:
            super().kill(pid)
            self.seen.pop(pid, None)
            return
        self._kill_all()
        self._start()

    def _kill_all(self) -> None:
        at = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.worker.pid, signal.SIGKILL)
        self.worker.wait()
        self.history.faults += [Fault("killed", number, at, at) for number in self.seen.values()]
        self.seen.clear()

    def ask(self, wanted: Wanted, payload: str, fate: str) -> None:
        """One message; whether it has been answered is in the file of effects."""
        self.wanted[wanted.identity] = wanted
        who = wanted.identity
        told = {"key": who.key, "caller": who.caller, "payload": payload, "call": self.told(wanted, payload, fate)}
        self.client.send_task(f"{who.operation}-{wanted.policy}", kwargs=told)

    def _read(self) -> None:
        """Reads what the deliveries came to."""
        taken: dict[int, list[Any]] = {}
        with self.effects.open() as lines:
            rest = ""
            while not self.is_ended.wait(0.02):  # a file of other processes, of which nothing tells
                rest += lines.read()
                *whole, rest = rest.split("\n")
                for line in map(json.loads, whole):
                    if line[0] == "took":
                        taken[line[1]] = line
                        self.seen[line[7] % 2**22] = line[7]
                    elif line[0] == "answered":
                        _, _, operation, caller, key, payload, *_ = taken[line[1]]
                        if payload == "100":
                            self.wanted[Identity(operation, caller, key)].finish(line[3])

    def in_peace(self, calls: int) -> None:
        """Returns when the broker has no message left, or for some seconds none but those that died with a worker."""
        deadline = time.monotonic() + STARTUP
        with Celery("lab", broker=self.options["broker"]).connection_for_read() as connection:
            client = connection.default_channel.client
            empty_since = time.monotonic()
            while client.hlen("unacked") and time.monotonic() < min(deadline, empty_since + 2 * VISIBILITY):
                if client.llen("celery"):
                    empty_since = time.monotonic()
                time.sleep(0.05)  # nothing tells when a queue is empty
