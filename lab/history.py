"""What a run of the lab has seen: calls and their answers, bodies, faults. Imports nothing of the product.

All times are those of ``time.monotonic``, which every process of a machine shares.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

INFINITY = float("inf")


class Identity(NamedTuple):
    """What a record belongs to."""

    operation: str
    caller: str
    key: str


@dataclass
class Call:
    """One call of a client's, and what it was answered.

    Parameters:
        number: its own, in the whole run.
        identity, payload: what was asked for.
        policy: ``rerun`` or ``refuse``.
        worker: the number of the process that was asked.
        sent: when the client sent it.
        began: when the process began with it.
        answered: when the process had its answer; None: never, because it died.
        outcome: ``value``; ``raised``, where its own body did; the name of a refusal; None: no answer.
        value: the number of the call whose body made this answer.
    """

    number: int
    identity: Identity
    payload: str
    policy: str
    worker: int
    sent: float
    began: float | None = None
    answered: float | None = None
    outcome: str | None = None
    value: int | None = None


@dataclass
class Body:
    """A body that ran: one effect.

    Parameters:
        call: the number of the call that it ran for.
        fence: what the product says its fencing number is.
        pid: of the process, as the process itself says.
        began, ended: when; None: it never came to its end.
        end: ``returned``, ``raised``, ``released`` (it declared that it did nothing, and returned).
    """

    call: int
    identity: Identity
    payload: str
    fence: int
    pid: int
    began: float
    ended: float | None = None
    end: str | None = None


@dataclass
class Fault:
    """Something that was done to a process or to the store.

    Parameters:
        kind: ``killed``: the process died at ``began``. ``paused``: it stood still. ``cut``: it alone could not reach
            the store. ``away``: nobody could. ``lost``: the store lost what it had. ``replaced``: another server took
            the primary's place, and what was written meanwhile may be lost. ``disturbed``: calls may fail, but the
            store answers most of them. ``full``: the store had no room. ``forked``: the process did.
            ``missed``: the process says that the store did not answer, planned or not.
        worker: the process; None: the store.
        began, ended: from when to when.
    """

    kind: str
    worker: int | None
    began: float
    ended: float = INFINITY

    def covers(self, began: float, ended: float) -> bool:
        """Whether it lasted throughout this time."""
        return self.began <= began and ended <= self.ended

    def within(self, began: float, ended: float) -> float:
        """How many seconds of this time it lasted."""
        return max(0.0, min(self.ended, ended) - max(self.began, began))


@dataclass
class History:
    """A run.

    Parameters:
        lease, time_limit: of all its processes, in seconds.
        grace: how long nobody takes over after an outage of the store, in seconds.
        ended: when nobody looked any more.
    """

    lease: float
    time_limit: float
    grace: float
    calls: dict[int, Call] = field(default_factory=dict)
    bodies: list[Body] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ended: float = INFINITY

    def add_effects(self, lines: Iterable[str]) -> None:
        """Takes what the processes have written into the file of effects.

        A line for each beginning of a body and each end; where clients do not know which process has their call, also
        for each call that a process takes, for each answer to one, for each pause that a process notices, and
        for each death by its own hand.
        """
        begun: dict[int, Body] = {body.call: body for body in self.bodies}
        for line in lines:
            match json.loads(line):
                case ["began", call, operation, caller, key, payload, fence, pid, at]:
                    begun[call] = Body(call, Identity(operation, caller, key), payload, fence, pid, at)
                    self.bodies.append(begun[call])
                case ["ended", call, at, end]:
                    begun[call].ended, begun[call].end = at, end
                case ["took", call, operation, caller, key, payload, policy, pid, at]:
                    identity = Identity(operation, caller, key)
                    taken = self.calls.setdefault(call, Call(call, identity, payload, policy, pid, at))
                    taken.worker, taken.began = pid, at
                case ["answered", call, at, outcome, value]:
                    told = self.calls[call]
                    told.answered, told.outcome, told.value = at, outcome, value
                case ["paused", pid, began, ended]:
                    self.faults.append(Fault("paused", pid, began, ended))
                case ["dies", pid, at]:
                    self.faults.append(Fault("killed", pid, at, at))

    def save(self, file: Path) -> None:
        """Writes everything down, a line for each thing, for whoever looks into a broken promise."""
        settings: dict[str, Any] = {"lease": self.lease, "time_limit": self.time_limit, "grace": self.grace}
        things: list[Call | Body | Fault] = [*self.calls.values(), *self.bodies, *self.faults]
        lines = [json.dumps(settings), *(json.dumps({type(thing).__name__: asdict(thing)}) for thing in things)]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
