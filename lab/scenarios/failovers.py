"""Redis beyond one server: another one takes the primary's place, and slots move.

What each plan does takes its time, so that it is done in a thread beside the clients. They go on until it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from clients import until
from lab.deployments import LIMIT, Deployment, Failover, OneReplica, Slots
from lab.drive import Drive
from lab.history import Fault
from lab.scenarios.network import WAYS_AWAY, open_fault
from redis_groups import WAYS

#: How many failovers there are in `make test`, and in `make lab`.
FEW, MANY = 3, 10

#: From so many operations on a run is one of `make lab`.
IS_LARGE = 500


def _promoted(drive: Drive, failover: Failover) -> Callable[[], None]:
    """Writes down what a failover may lose; the function ends the time in which the old primary acknowledges more."""
    drive.promotions.append((failover.way, failover.promoted))
    fault = Fault("replaced" if failover.loses else "moved", None, failover.began, failover.promoted)
    drive.history.faults.append(fault)

    def end() -> None:
        fault.ended = time.monotonic()

    return end


def _rounds(drive: Drive) -> range:
    return range(MANY if drive.settings.operations >= IS_LARGE else FEW)


def failovers(drive: Drive) -> None:
    """A replica takes the primary's place, in each of three ways; what is lost with the old one is counted."""
    place, dice = drive.place, drive.fault_dice
    assert isinstance(place, Deployment)

    def work() -> None:
        for number in _rounds(drive):
            if drive.over.wait(dice.uniform(0.5, 1.5)):
                return
            disturbed = open_fault(drive, "disturbed", None)
            failover = place.fail(WAYS[number % len(WAYS)])
            lost = _promoted(drive, failover)
            if failover.way == "stopped":
                drive.over.wait(dice.uniform(0, 1.5))
            elif failover.way == "killed":
                # It comes back without its data: where it is still named, that is what everybody would get.
                until(place.is_known, LIMIT)
            place.heal(failover)
            until(place.is_healed, LIMIT)
            if failover.way != "killed":
                lost()
            disturbed()

    drive.in_a_thread(work)


def far_side(drive: Drive) -> None:
    """Half of the processes do not reach the primary, the replica is promoted, and the other half still writes.

    Where a claim counts only when the replica has it nothing is lost by that: it is the replica that is promoted, it
    confirms nothing more, and no lease ends meanwhile.
    """
    place, dice = drive.place, drive.fault_dice
    assert isinstance(place, OneReplica)

    def work() -> None:
        for _ in _rounds(drive):
            if drive.over.wait(dice.uniform(0.5, 1.5)):
                return
            disturbed = open_fault(drive, "disturbed", None)
            old, (replica,), began = place.primary, place.replicas, place.caught_up()
            link = place.links[replica]
            if dice.random() < 0.5:
                link.hold_answers()
                drive.over.wait(dice.uniform(0.2, 0.6))
            near = dice.sample(range(place.slots), place.slots // 2)
            cuts = []
            for slot in near:
                do, undo = dice.choice(WAYS_AWAY)(place.proxies[slot])
                cuts.append((open_fault(drive, "cut", slot), undo))
                do()
            drive.over.wait(dice.uniform(0.1, 0.4))
            place.promote()
            link.let_answers_go()  # too late
            failover = Failover("cut off", old, place.primary, began, time.monotonic(), loses=not place.confirmed)
            for end, undo in cuts:
                end()  # before it is: what happens from here on may be an answer of the store's
                undo()
            place.lead(near)
            lost = _promoted(drive, failover)
            drive.over.wait(dice.uniform(0.2, 0.8))
            place.lead(range(place.slots))
            place.heal(failover)
            until(place.is_healed, LIMIT)
            if failover.loses:
                lost()
            disturbed()

    drive.in_a_thread(work)


def resharding(drive: Drive) -> None:
    """The slot of all keys goes from node to node, some keys at a time: calls are sent on, and nothing is lost."""
    place, dice = drive.place, drive.fault_dice
    assert isinstance(place, Slots)
    group = place.group

    def work() -> None:
        slot = group.nodes[0].cli("CLUSTER", "KEYSLOT", place.prefix)
        moves = 0
        while (drive.left > 0 or moves < len(_rounds(drive))) and not drive.over.wait(dice.uniform(0, 0.5)):
            moves += 1
            source = group.owner(place.prefix)
            target = dice.choice([node for node in group.nodes if node is not source])
            moved = open_fault(drive, "moved", None)
            group.move(slot, source, target, keys=dice.choice((50, 200)))
            moved()

    drive.in_a_thread(work)
