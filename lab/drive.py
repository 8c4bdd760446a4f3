"""Clients that repeat their calls until they are answered, and the history of what they were answered.

Everything random comes from one seed: what is asked for, when, of whom, and the faults that a scenario plans.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.checker import Broken
from lab.history import Call, Fault, History, Identity
from lab.places import Place
from lab.processes import Events, Process
from lab.settings import MOST_OPEN, Settings

#: How long the start of a process may take, in seconds, on a machine that has other things to do.
STARTUP = 60.0


@dataclass
class Operation:
    """What one client wants done.

    Parameters:
        work: how long its body works, in seconds.
        colour: ``thread`` or ``loop``.
    """

    identity: Identity
    payload: str
    policy: str
    colour: str
    work: float
    first_sent: float = 0.0
    sent: int = 0
    open: set[int] = field(default_factory=set)
    #: How it came out: ``value``, ``unknown``, ``conflict``.
    end: str | None = None


class Drive:
    """A run of clients against workers.

    Parameters:
        place: the store.
        settings: what is asked for.
        seed: of everything random.
    """

    def __init__(self, place: Place, settings: Settings, seed: int) -> None:
        self.place, self.settings, self.seed = place, settings, seed
        #: Of the slots' processes, beside this process's own.
        self.environments: dict[int, dict[str, str]] = {}
        self.dice = random.Random(seed)
        #: For faults alone, so that what clients do does not change what is done to them.
        self.fault_dice = random.Random(f"faults {seed}")
        grace = 2 * settings.time_limit + 1.0
        self.history = History(settings.lease, settings.time_limit, grace)
        self.effects = place.folder / f"effects-{seed}-{time.monotonic_ns()}"
        self.effects.touch()
        self.events: Events = queue.Queue()
        self.slots: list[Process] = []
        self.all: list[Process] = []
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers, self.order, self.process_numbers = itertools.count(), itertools.count(), itertools.count()
        self.of_call: dict[int, Operation] = {}
        self.left = settings.operations
        self.running: dict[Identity, Operation] = {}
        self.broken: list[Broken] = []
        self.is_over, self.over = False, threading.Event()
        #: What a scenario undoes at the end.
        self.mends = contextlib.ExitStack()
        #: Since when a process says that it misses the store.
        self.missing: dict[int, float] = {}
        #: What a scenario does in threads of its own, and what failed there.
        self.beside: list[threading.Thread] = []
        self.failed: list[BaseException] = []
        #: A primary's way out, and when another one had taken its place.
        self.promotions: list[tuple[str, float]] = []
        #: The process that a child is to be forked from, until the child has been heard.
        self.forks: dict[int, Process] = {}

    # Time

    def at(self, moment: float, action: Callable[[], None]) -> None:
        """Does something then."""
        heapq.heappush(self.due, (moment, next(self.order), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Does something in so many seconds."""
        self.at(time.monotonic() + seconds, action)

    def undo_after(self, seconds: float, undo: Callable[[], object]) -> None:
        """Undoes a fault in so many seconds, or when the clients have what they want."""
        is_done = False

        def once() -> None:
            nonlocal is_done
            if not is_done:
                is_done = True
                undo()

        self.mends.callback(once)
        self.after(seconds, once)

    def every(self, shortest: float, longest: float, action: Callable[[], None]) -> None:
        """Does something soon, and again and again after pauses of random lengths, while clients want something."""

        def again() -> None:
            if not self.is_over:
                action()
                self.after(self.fault_dice.uniform(shortest, longest), again)

        self.after(self.fault_dice.uniform(0.1, max(0.2, min(shortest, 0.8))), again)

    def in_a_thread(self, work: Callable[[], None]) -> None:
        """Does what takes its time beside the clients, once they work; they go on until it is done."""

        def begin() -> None:
            try:
                work()
            except BaseException as error:
                self.failed.append(error)

        self.beside.append(threading.Thread(target=begin))
        self.after(0.0, self.beside[-1].start)

    def _is_wanted(self) -> bool:
        """Whether clients go on."""
        return self.left > 0 or any(thread.ident is None or thread.is_alive() for thread in self.beside)

    def _hear_until(self, moment: float) -> None:
        with contextlib.suppress(queue.Empty):
            while (left := moment - time.monotonic()) > 0:
                self._hear(*self.events.get(timeout=left))
                if self.due and self.due[0][0] < moment:
                    return
            for _ in range(200):
                self._hear(*self.events.get_nowait())

    # Processes

    def start(self, slot: int) -> Process:
        """Starts a process in a slot."""
        options = {
            "url": self.place.url(slot),
            "prefix": self.place.prefix,
            "lease": self.settings.lease,
            "ttl": self.settings.ttls[slot % len(self.settings.ttls)],
            "time_limit": self.settings.time_limit,
            "effects": str(self.effects),
        }
        process = Process(
            next(self.process_numbers), slot, options, self.events, self.environments.get(slot), self.place.enter()
        )
        self.all.append(process)
        return process

    def start_all(self) -> None:
        """Starts a process in every slot, and returns when all are ready."""
        self.slots = [self.start(slot) for slot in range(self.settings.workers)]
        deadline = time.monotonic() + STARTUP
        while not all(process.is_ready for process in self.slots):
            self._hear(*self.events.get(timeout=max(deadline - time.monotonic(), 0.01)))

    def kill(self, process: Process) -> None:
        """Kills a process, and starts another one in its slot."""
        if not process.is_dead:
            self._dies(process, process.kill())

    def _dies(self, process: Process, at: float) -> None:
        process.is_dead = True
        if process.is_stopped:
            self.fault("paused", process, process.stopped_at, at)
        self.fault("killed", process, at, at)
        if not self.is_over:
            self.slots[process.slot] = self.start(process.slot)

    def stop(self, process: Process, seconds: float) -> None:
        """Lets a process stand still for a time."""
        if process.is_dead or process.is_stopped:
            return
        process.stop()

        def go_on() -> None:
            if not process.is_dead:
                process.go_on()
                self.fault("paused", process, process.stopped_at, time.monotonic())

        self.undo_after(seconds, go_on)

    def fault(self, kind: str, process: Process | None, began: float, ended: float) -> None:
        """Writes down what was done."""
        self.history.faults.append(Fault(kind, process.number if process else None, began, ended))

    def somebody(self) -> Process:
        """A process, for a fault."""
        return self.fault_dice.choice(self.slots)

    # Clients

    def _new_operation(self) -> Operation:
        dice, number = self.dice, self.settings.operations - self.left
        self.left -= 1
        identity = Identity(dice.choice(("pay", "refund")), dice.choice(("anna", "ben")), f"{self.seed}-{number}")
        work = dice.choice((0.0, 0.01, 0.05, dice.uniform(0.05, self.settings.longest)))
        policy = "refuse" if dice.random() < self.settings.refuse else "rerun"
        operation = Operation(identity, "100", policy, dice.choice(("thread", "loop")), work)
        if dice.random() < self.settings.probes:
            probe = replace(operation, payload="200", open=set())
            self.after(dice.choice((0.0, dice.uniform(0, 3))), lambda: self._probe(operation, probe))
        return operation

    def _probe(self, operation: Operation, probe: Operation) -> None:
        """Another payload under the same key: it is a conflict, unless nothing stands there."""
        if operation.sent:
            self._call(probe)

    def _twin(self, operation: Operation) -> None:
        """The same key of another caller, or under another operation: another record."""
        was = operation.identity
        other = "ben" if was.caller == "anna" else "anna"
        identity = was._replace(caller=other) if self.dice.random() < 0.5 else was._replace(operation="payout")
        if identity.operation == "payout":
            identity = was._replace(operation="refund" if was.operation == "pay" else "pay")
        self._begin(replace(operation, identity=identity, open=set(), sent=0, end=None))

    def _begin(self, operation: Operation) -> None:
        self.running[operation.identity] = operation
        operation.first_sent = time.monotonic()
        for _ in range(self.dice.choice((1, 1, 2, 3))):
            self._call(operation)
        self.after(self.settings.patience, lambda: self._again(operation))

    def _call(self, operation: Operation) -> None:
        ready = [process for process in self.slots if process.is_ready and not process.is_dead]
        if not ready:
            return
        process = self.dice.choice(ready)
        fate = "returns"
        if operation.sent < 4 and operation.payload == "100":
            dice = self.dice.random()
            for name, share in self.settings.fates:
                dice -= share
                if dice < 0:
                    fate = name
                    break
        process.tell(self._told(operation, process.number, fate))

    def _told(self, operation: Operation, worker: int, fate: str) -> dict[str, Any]:
        """A call, written down, as a process is told it."""
        number = next(self.numbers)
        operation.sent += 1
        operation.open.add(number)
        self.of_call[number] = operation
        call = Call(number, operation.identity, operation.payload, operation.policy, worker, time.monotonic())
        self.history.calls[number] = call
        told = {**operation.identity._asdict(), "payload": operation.payload, "policy": operation.policy}
        return {**told, "number": number, "colour": operation.colour, "work": operation.work, "fate": fate}

    def fork(self, process: Process) -> None:
        """Lets a process fork in the middle of what it does; its child makes some calls that clients wait for."""
        if process.is_dead or not process.is_ready or not self.running:
            return
        child, calls = next(self.process_numbers), []
        for operation in self.fault_dice.sample(list(self.running.values()), min(3, len(self.running))):
            calls.append(self._told(operation, child, "returns"))
        self.forks[child] = process
        process.tell({"fork": calls, "child": child})
        self.fault("forked", process, time.monotonic(), time.monotonic())

    def _again(self, operation: Operation) -> None:
        """The client's next try, if it still wants one."""
        if operation.end is not None:
            return
        if time.monotonic() - operation.first_sent > self.settings.gives_up:
            last = max(operation.open, default=next(self.numbers))
            what = f"nobody was answered in {self.settings.gives_up:g} s"
            self.broken.append(Broken("P4", what, operation.identity, (last,)))
            self._finish(operation, "nothing")
            return
        # Now and then to several processes at one moment: who finds a lapsed claim is not alone.
        for _ in range(self.dice.choice((1, 1, 1, 2, 3))):
            if len(operation.open) < MOST_OPEN:
                self._call(operation)
        self.after(self.settings.pause * self.dice.uniform(0.7, 1.3), lambda: self._again(operation))

    def _finish(self, operation: Operation, end: str) -> None:
        operation.end = end
        self.running.pop(operation.identity, None)
        self._next_operation()
        if end == "value" and self.dice.random() < 0.3:
            self.after(self.dice.uniform(0, 2), lambda: self._call(operation))  # somebody repeats it later
        if end == "value" and self.dice.random() < self.settings.twins:
            self._twin(operation)

    def _next_operation(self) -> None:
        if self._is_wanted() and not self.is_over:
            self._begin(self._new_operation())

    # What processes say

    def _hear(self, process: Process, what: list[Any]) -> None:
        match what:
            case ["ready"]:
                process.is_ready = True
            case ["answered", number, began, answered, outcome, value]:
                call, operation = self.history.calls[number], self.of_call[number]
                call.began, call.answered, call.outcome, call.value = began, answered, outcome, value
                operation.open.discard(number)
                ends = {"value": "value", "IdempotencyUnknown": "unknown", "IdempotencyConflict": "conflict"}
                if outcome in ends and operation.end is None and operation.payload == "100":
                    self._finish(operation, ends[outcome])
            case ["paused", began, ended]:
                self.fault("paused", process, began, ended)
            case ["store", "lost", at]:
                self.missing.setdefault(process.number, at)
            case ["store", "back", at]:
                if (began := self.missing.pop(process.number, None)) is not None:
                    self.fault("missed", process, began, at)
            case ["forked", child]:
                del self.forks[child]
            case ["dies", at]:
                self._dies(process, at)
            case ["gone"]:
                if not process.is_dead and not self.is_over:
                    raise RuntimeError(f"a process ended with {process.process.wait()}:\n{process.output()}")
                gone = {process.number, *(child for child, parent in self.forks.items() if parent is process)}
                for number, call in self.history.calls.items():
                    if call.worker in gone:
                        self.of_call[number].open.discard(number)

    # The run

    def run(self) -> History:
        """Lets the clients work until all are answered, then asks for every answer once more in peace."""
        self.start_all()
        for _ in range(min(self.settings.clients, self.left)):
            self._next_operation()
        while self.running or self._is_wanted():
            self._turn()
            if self.failed:
                raise self.failed[0]
        self.is_over = True
        self.mends.close()
        self._in_peace()
        died = {fault.worker: fault.began for fault in self.history.faults if fault.kind == "killed"}
        for number, began in self.missing.items():
            self.history.faults.append(Fault("missed", number, began, time.monotonic()))
        for child, process in self.forks.items():  # killed before it forked
            self.history.faults.append(Fault("killed", child, died[process.number], died[process.number]))
        self.history.ended = time.monotonic()
        self.history.add_effects(self.effects.read_text().splitlines())
        return self.history

    def _turn(self) -> None:
        if not self.due:
            self._hear_until(time.monotonic() + 0.1)
            return
        self._hear_until(self.due[0][0])
        if self.due[0][0] <= time.monotonic():
            heapq.heappop(self.due)[2]()

    def _in_peace(self) -> None:
        """Everybody who was answered asks once more; what is open gets its time to end."""
        again = [
            operation
            for operation in {id(each): each for each in self.of_call.values()}.values()
            if operation.end == "value"
        ]
        deadline = time.monotonic() + self.settings.gives_up
        for operation in again:
            self._call(operation)
            while len([1 for each in again if each.open]) > self.settings.clients and time.monotonic() < deadline:
                self._hear_until(time.monotonic() + 0.05)
        while any(operation.open for operation in self.of_call.values()) and time.monotonic() < deadline:
            self._hear_until(time.monotonic() + 0.05)

    def __enter__(self) -> Drive:
        return self

    def __exit__(self, *error: object) -> None:
        self.is_over = True
        self.over.set()
        self.mends.close()
        for thread in self.beside:
            if thread.ident is not None:
                thread.join()
        for process in self.all:
            process.end()
        with contextlib.suppress(OSError):
            Path(self.effects).unlink()
