"""Which promises of ARCHITECTURE.md a history breaks, and by which calls: a pure function.

Every bound is counted from an event that the history has, never from how fast something should be. Two things are
permitted that look like a broken promise:

- A second body has a reason, of those that `_permits` lists.
- An answer "it runs" has somebody who may hold the key, as `_holds_until` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

from lab.history import INFINITY, Body, Call, Fault, History, Identity

#: What P4 allows beyond the lease, in seconds.
BEYOND_LEASE = 1.0

#: What a clock that counts in milliseconds may round away.
ROUNDING = 0.005

#: Faults for which an end may not have been stored when it was answered.
UNSTORED = ("cut", "away", "disturbed", "full", "missed")

#: What a call may be answered; None: nothing, for its process has died.
ANSWERS = {
    None,
    "value",
    "raised",
    "IdempotencyConflict",
    "IdempotencyNotKept",
    "IdempotencyProcessing",
    "IdempotencyStoreUnavailable",
    "IdempotencyUnknown",
}

PROMISES = {
    "P1": "one live claim",
    "P2": "one answer",
    "P3": "fences grow",
    "P4": "no stuck keys, no endless calls",
    "P5": "the crash policy",
    "P6": "nothing runs unprotected",
    "P7": "nobody reads another's answer, nor that of another payload",
}


@dataclass(frozen=True)
class Broken:
    """A promise that was not kept.

    Parameters:
        promise: ``P1`` to ``P7``.
        what: in words.
        identity: the record's.
        calls: the numbers of the calls that show it.
    """

    promise: str
    what: str
    identity: Identity
    calls: tuple[int, ...]

    def __str__(self) -> str:
        key = "/".join(self.identity)
        return f"{self.promise} ({PROMISES[self.promise]}): {self.what}; {key}, calls {', '.join(map(str, self.calls))}"


def check(history: History) -> list[Broken]:
    """Everything that is broken."""
    calls: dict[Identity, list[Call]] = defaultdict(list)
    bodies: dict[Identity, list[Body]] = defaultdict(list)
    for call in history.calls.values():
        calls[call.identity].append(call)
    for body in history.bodies:
        bodies[body.identity].append(body)
    broken: list[Broken] = []
    faults = _by_worker(history)
    for identity, its_calls in calls.items():
        its_bodies = sorted(bodies.pop(identity, []), key=lambda body: body.fence)
        record = _Record(history, identity, its_calls, its_bodies, faults)
        broken += record.check()
    for identity, strays in bodies.items():
        broken.append(Broken("P6", "a body ran that nobody asked for", identity, tuple(body.call for body in strays)))
    return broken


def reruns(history: History) -> dict[str, int]:
    """How many bodies ran after another one of the same record, by what permitted it."""
    counts: dict[str, int] = defaultdict(int)
    faults = _by_worker(history)
    by_identity: dict[Identity, list[Body]] = defaultdict(list)
    for body in sorted(history.bodies, key=lambda body: body.fence):
        by_identity[body.identity].append(body)
    again = {identity: bodies for identity, bodies in by_identity.items() if len(bodies) > 1}
    calls: dict[Identity, list[Call]] = defaultdict(list)
    for call in history.calls.values():
        if call.identity in again:
            calls[call.identity].append(call)
    for identity, bodies in again.items():
        record = _Record(history, identity, calls[identity], bodies, faults)
        for before, after in pairwise(bodies):
            counts[record.permits(before, after) or "nothing"] += 1
    return counts


def _by_worker(history: History) -> Mapping[int | None, list[Fault]]:
    """The faults of each process and of the store, in time. What a process says again and again is one."""
    faults: dict[int | None, list[Fault]] = defaultdict(list)
    for fault in sorted(history.faults, key=lambda fault: fault.began):
        last = next((other for other in reversed(faults[fault.worker]) if other.kind == fault.kind), None)
        if fault.kind == "missed" and last is not None and fault.began - last.ended < history.time_limit:
            last.ended = max(last.ended, fault.ended)
        else:
            faults[fault.worker].append(replace(fault))
    return faults


@dataclass
class _Record:
    """All that is known of one record."""

    history: History
    identity: Identity
    calls: list[Call]
    bodies: list[Body]
    faults: Mapping[int | None, list[Fault]]
    _held: dict[int, float] = field(default_factory=dict)

    def check(self) -> list[Broken]:
        return [
            *self._second_bodies(),
            *self._two_at_once(),
            *self._fences(),
            *self._answers(),
            *self._forgotten(),
            *self._payloads(),
            *self._stuck(),
            *self._long_calls(),
            *self._without_a_claim(),
        ]

    def _broken(self, promise: str, what: str, *calls: int) -> Broken:
        return Broken(promise, what, self.identity, calls)

    # What happened to whom

    def call_of(self, body: Body) -> Call:
        return self.history.calls[body.call]

    def died(self, worker: int) -> float:
        return min((fault.began for fault in self.faults[worker] if fault.kind == "killed"), default=INFINITY)

    def paused(self, worker: int, began: float, ended: float) -> float:
        """For how many seconds of this time it stood still; it may have been noticed twice."""
        spans = ((fault.began, fault.ended) for fault in self.faults[worker] if fault.kind == "paused")
        total, until = 0.0, began
        for first, last in sorted(spans):
            total += max(0.0, min(last, ended) - max(first, until))
            until = max(until, last)
        return total

    def cut(self, worker: int, began: float, ended: float, *kinds: str) -> float:
        faults = [*self.faults[worker], *self.faults[None]]
        return sum(fault.within(began, ended) for fault in faults if fault.kind in (kinds or ("cut",)))

    def lost(self, call: Call, until: float) -> str | None:
        """Why the store may not have had any more at a moment what it had told a call, or that of a replay's body."""
        for fault in self.faults[None]:
            if fault.began > until:
                continue
            if fault.kind == "lost" and call.sent <= fault.ended:
                return "lost by the store"
            if fault.kind == "replaced" and self._wrote_within(call, fault):
                return "lost by a failover"
        return None

    def _wrote_within(self, call: Call, fault: Fault) -> bool:
        """Whether it may have written while the primary lost its place: what was written before is not lost."""
        writer = call if call.value is None else self.history.calls.get(call.value, call)
        until = self.history.ended if writer.answered is None else writer.answered
        until = min(until, self.died(writer.worker))
        if self.cut(writer.worker, writer.sent, until, *UNSTORED):
            until += self.history.lease + self.history.grace  # its end was stored later
        return writer.sent <= fault.ended and fault.began <= until

    def end_of(self, body: Body) -> float:
        """When it certainly did not run any more."""
        return body.ended if body.ended is not None else min(self.died(self.call_of(body).worker), self.history.ended)

    def has_lost_its_lease(self, body: Body, until: float) -> str | None:
        """Whether something kept its process from renewing for long enough: a lease is renewed at a third of it."""
        call, enough = self.call_of(body), self.history.lease / 2
        if self.paused(call.worker, call.sent, until) >= enough:
            return "paused"
        if self.cut(call.worker, call.sent, until) >= enough:
            return "cut off"
        return None

    # P1, P5: second bodies

    def permits(self, before: Body, after: Body) -> str | None:
        """What permits a second body after another one, if anything does."""
        call, died = self.call_of(before), self.died(self.call_of(before).worker)
        policies = {call.policy, self.call_of(after).policy}
        ended_so = before.end == "released" or (before.end == "raised" and call.policy == "rerun")
        if ended_so and before.ended is not None and after.began >= before.ended:
            return "released"
        if why := self.lost(call, after.began):
            return why
        if "refuse" in policies or before.payload != after.payload:
            return None
        if after.began < call.sent + self.history.lease - ROUNDING:
            return None  # whatever happened: no lease of it can have ended
        # An answer that went out was stored, unless the store did not take it.
        stored = call.outcome == "value" and not self.cut(
            call.worker, call.sent, died, "cut", "away", "disturbed", "full"
        )
        if died <= after.began and not stored:
            return "killed"
        return self.has_lost_its_lease(before, after.began)

    def _second_bodies(self) -> Iterator[Broken]:
        for before, after in pairwise(self.bodies):
            if self.permits(before, after) is None:
                call = self.call_of(before)
                promise = "P5" if "refuse" in (call.policy, self.call_of(after).policy) else "P1"
                if before.payload != after.payload:
                    promise = "P7"
                seconds = after.began - call.sent
                what = f"a second body ran, {seconds:.3f} s after the first one's call, and nothing permits it"
                yield self._broken(promise, what, before.call, after.call)

    def _two_at_once(self) -> Iterator[Broken]:
        in_time = sorted(self.bodies, key=lambda body: body.began)
        for at, first in enumerate(in_time):
            for second in in_time[at + 1 :]:
                if second.began >= self.end_of(first):
                    continue
                earlier = min(first, second, key=lambda body: body.fence)
                begins = max(first.began, second.began)
                if self.has_lost_its_lease(earlier, begins) or self.lost(self.call_of(earlier), begins):
                    continue
                yield self._broken("P1", "two bodies ran at once", first.call, second.call)

    # P3

    def _fences(self) -> Iterator[Broken]:
        for before, after in pairwise(self.bodies):
            if before.fence == after.fence:
                yield self._broken("P3", f"two attempts have the fence {after.fence}", before.call, after.call)
            elif before.began > after.began:
                call = self.call_of(before)
                excused = self.paused(call.worker, call.sent, before.began) or self.lost(call, before.began)
                if not excused:
                    what = f"an attempt with the fence {before.fence} began after one with {after.fence}"
                    yield self._broken("P3", what, after.call, before.call)

    # P2, P7: answers

    def _answers(self) -> Iterator[Broken]:
        by_call = {body.call: body for body in self.bodies}
        stored: Call | None = None
        for call in sorted(self.calls, key=lambda call: call.answered or INFINITY):
            if call.outcome != "value" or call.answered is None or call.value is None:
                continue
            body = by_call.get(call.value)
            if body is None:
                other = self.history.calls.get(call.value)
                of = f"of {'/'.join(other.identity)}" if other else "that no body gave"
                yield self._broken("P7", f"it was answered with a result {of}", call.number, call.value)
                continue
            if body.payload != call.payload:
                yield self._broken("P7", "it was answered with the result of another payload", call.number, call.value)
            # Who released the key has its own result all the same.
            ends = ("returned", "released") if call.value == call.number else ("returned",)
            if body.ended is None or body.end not in ends or body.ended > call.answered:
                yield self._broken("P2", "it was answered with what was no result", call.number, call.value)
            if call.value == call.number:
                continue
            # A replay: what the store has.
            if stored is not None and call.value != stored.value and not self.lost(stored, call.answered):
                yield self._broken("P2", "the answer changed", stored.number, call.number)
            stored = call
            yield from self._first_hand(call)

    def _first_hand(self, replay: Call) -> Iterator[Broken]:
        """What the runners of bodies were answered, beside what is stored: another answer needs a lost claim."""
        assert replay.answered is not None
        for body in self.bodies:
            call = self.call_of(body)
            if call.outcome != "value" or call.value != call.number or call.number == replay.value:
                continue
            if body.end != "returned" or call.answered is None or call.answered > replay.answered:
                continue
            if not self.has_lost_its_lease(body, replay.answered) and not self.lost(call, replay.answered):
                if self.died(call.worker) < replay.answered and self.cut(
                    call.worker, call.sent, self.died(call.worker), *UNSTORED
                ):
                    continue  # it could not be stored, and who was to store it later was killed
                yield self._broken(
                    "P2", "it was answered, and later another answer was stored", call.number, replay.number
                )

    def _forgotten(self) -> Iterator[Broken]:
        """Results that were there, and are not any more; and answers that the product has no word for."""
        results = {body.call for body in self.bodies if body.end == "returned"}
        had = [call for call in self.calls if call.outcome == "value" and call.value in results]
        for call in self.calls:
            if call.outcome not in ANSWERS:
                yield self._broken("P6", f"it was answered with something else: {call.outcome}", call.number)
            if call.outcome not in ("IdempotencyUnknown", "IdempotencyNotKept"):
                continue
            asked = call.began if call.began is not None else call.sent
            for other in had:
                if other.payload != call.payload or other.answered is None or other.answered >= asked:
                    continue
                if not self.cut(other.worker, other.sent, asked, *UNSTORED) and not self.lost(other, asked):
                    what = f"there was an answer, and now it is told {call.outcome}"
                    yield self._broken("P2", what, other.number, call.number)
                    break

    # P7: payloads

    def _payloads(self) -> Iterator[Broken]:
        payloads = {call.payload for call in self.calls}
        for call in self.calls:
            if call.answered is None:
                continue
            others = [other for other in self.calls if other.payload != call.payload and other.sent <= call.answered]
            if call.outcome == "IdempotencyConflict" and not others:
                yield self._broken("P7", "a conflict, and nobody had sent another payload", call.number)
            if len(payloads) > 1 and call.outcome in ("IdempotencyProcessing", "IdempotencyUnknown"):
                # Certain where another payload's result was there before, and its own never was.
                done = [
                    other for other in others if other.outcome == "value" and (other.answered or INFINITY) < call.sent
                ]
                own = any(other.outcome == "value" and other.payload == call.payload for other in self.calls)
                for other in done[:1]:
                    deferred = self.cut(other.worker, other.sent, call.answered, *UNSTORED)
                    if not own and not deferred and not self.lost(other, call.answered):
                        what = f"another payload was answered with {call.outcome}, not with a conflict"
                        yield self._broken("P7", what, other.number, call.number)

    # P4

    def _holds_until(self, other: Call) -> float:
        """Until when this call may hold the key, at the latest."""
        if other.number not in self._held:
            self._held[other.number] = self._may_hold_until(other)
        return self._held[other.number]

    def _may_hold_until(self, other: Call) -> float:
        history, bound = self.history, self.history.lease + BEYOND_LEASE
        died = self.died(other.worker)
        if other.answered is None or died < other.answered:
            until = min(died, history.ended) + bound
        elif other.outcome in ("value", "raised"):
            # Its end was in the store before it was answered, unless the store did not take it.
            disturbed = self.cut(other.worker, other.sent, other.answered, *UNSTORED)
            until = other.answered + (bound if disturbed else 0.0)
            if died < INFINITY and disturbed:
                until = max(until, died + bound)
        elif other.outcome == "IdempotencyStoreUnavailable":
            until = other.answered + bound  # its claim may have arrived, and is given back
        else:
            until = other.answered
        return max(until, self._outage_until(other, until))

    def _outage_until(self, other: Call, until: float) -> float:
        """After the store was away an owner gets time to come back, and after a pause a process has to be heard."""
        history = self.history
        after = until
        for fault in sorted([*self.faults[None], *self.faults[other.worker]], key=lambda fault: fault.began):
            kinds = ("away", "cut", "disturbed", "full", "missed", "paused")
            if fault.kind in kinds and fault.began <= after and fault.ended >= other.sent:
                rest = 0.0 if fault.kind == "paused" else history.grace
                after = max(after, min(fault.ended, history.ended) + history.lease + rest + BEYOND_LEASE)
        return after

    def _takes_nobody_over(self, worker: int, at: float) -> bool:
        """Whether a process has just had its own outage: it tells repeats that the work runs, lapsed or not."""
        missed = (fault for fault in self.faults[worker] if fault.kind == "missed")
        return any(fault.began <= at <= fault.ended + self.history.grace + ROUNDING for fault in missed)

    def _stuck(self) -> Iterator[Broken]:
        policies = {call.policy for call in self.calls}
        for call in self.calls:
            if call.answered is None:
                continue
            others = [other for other in self.calls if other is not call and other.sent <= call.answered]
            if call.outcome == "IdempotencyProcessing":
                asked = call.began if call.began is not None else call.sent
                last = max((self._holds_until(other) for other in others), default=0.0)
                if last < asked and not (others and self._takes_nobody_over(call.worker, asked)):
                    what = f"the key is told to be in flight {asked - last:.2f} s after the last that may hold it"
                    yield self._broken("P4", what, call.number)
            if call.outcome == "IdempotencyUnknown" and "refuse" not in policies:
                yield self._broken("P5", "the outcome is unknown although every call wanted a rerun", call.number)

    def _long_calls(self) -> Iterator[Broken]:
        history, own = self.history, {body.call: body for body in self.bodies}
        for call in self.calls:
            if call.answered is None and self.died(call.worker) == INFINITY:
                yield self._broken("P4", "a call was never answered, and its process lived on", call.number)
            if call.answered is None or call.began is None:
                continue
            body = own.get(call.number)
            work = (body.ended or body.began) - body.began if body else 0.0
            paused = self.paused(call.worker, call.began, call.answered)
            took = call.answered - call.began - work - paused
            if took > history.time_limit + history.lease:
                yield self._broken("P4", f"a call took {took:.2f} s beside its work", call.number)

    # P6

    def _without_a_claim(self) -> Iterator[Broken]:
        for body in self.bodies:
            call = self.call_of(body)
            if any(fault.kind == "away" and fault.covers(call.sent, body.began) for fault in self.faults[None]) or any(
                fault.kind == "cut" and fault.covers(call.sent, body.began) for fault in self.faults[call.worker]
            ):
                yield self._broken("P6", "a body ran while its process could not reach the store", call.number)
