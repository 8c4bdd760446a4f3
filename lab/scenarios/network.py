"""Faults of the network between a process and the store."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab.drive import Drive
from lab.history import Fault
from proxy import Proxy

#: How a proxy begins to misbehave, and how it stops.
Way = Callable[[Proxy], tuple[Callable[[], None], Callable[[], None]]]


def open_fault(drive: Drive, kind: str, slot: int | None) -> Callable[[], None]:
    """A fault that begins now; the function ends it."""
    number = None if slot is None else drive.slots[slot].number
    fault = Fault(kind, number, time.monotonic())
    drive.history.faults.append(fault)

    def end() -> None:
        fault.ended = time.monotonic()

    return end


def _slot(drive: Drive) -> int:
    return drive.fault_dice.randrange(len(drive.slots))


def cuts(drive: Drive) -> None:
    """The next command of a process closes its connection, before or after it reached the server."""

    def cut() -> None:
        proxy = drive.place.proxies[slot := _slot(drive)]
        end = open_fault(drive, "disturbed", slot)
        drive.fault_dice.choice((proxy.cut_before_commands, proxy.cut_after_commands))()

        def is_over() -> None:
            if proxy.cut is None:
                end()
            else:
                drive.after(0.05, is_over)  # no command has come yet

        drive.after(0.05, is_over)

    drive.every(0.05, 0.3, cut)


#: How a process does not reach the store.
WAYS_AWAY: list[Way] = [
    lambda proxy: (proxy.refuse, proxy.listen),
    lambda proxy: (proxy.hold_all, proxy.let_all_go),
    lambda proxy: (proxy.lose_all, proxy.let_all_go),
]


def _late(proxy: Proxy) -> tuple[Callable[[], None], Callable[[], None]]:
    return proxy.hold_answers, proxy.let_answers_go


def _lost(proxy: Proxy) -> tuple[Callable[[], None], Callable[[], None]]:
    return proxy.lose_all, proxy.let_all_go


def swallows(drive: Drive) -> None:
    """What a process sends, and what it is answered, vanishes for less than a lease."""
    _for_a_time(drive, "disturbed", [_lost], 0.1, 0.4)


def delays(drive: Drive) -> None:
    """A process is answered late: often beyond the time limit, never beyond what a renewal may wait for."""
    _for_a_time(drive, "disturbed", [_late], 0.1, 0.6)


def late_claims(drive: Drive) -> None:
    """A process alone gets its answers later than its leases last: what it claimed meanwhile is another's by then."""
    _for_a_time(drive, "cut", [_late], 1.3, 2.5)


def partitions(drive: Drive) -> None:
    """A process alone does not reach the store for longer than its leases last, in one of three ways, and works on."""
    _for_a_time(drive, "cut", WAYS_AWAY, 1.2, 3)


def _for_a_time(drive: Drive, kind: str, ways: list[Way], shortest: float, longest: float) -> None:
    """Does it to some process for so many leases, again and again; no more than half of them are cut off at once."""
    busy: set[int] = set()
    workers = drive.settings.workers
    most, pauses = (workers // 2, (0.4, 1.2)) if kind == "cut" else (workers, (0.2, 0.6))

    def begin() -> None:
        slot = _slot(drive)
        if len(busy) >= most or slot in busy:
            return
        busy.add(slot)
        do, undo = drive.fault_dice.choice(ways)(drive.place.proxies[slot])
        end = open_fault(drive, kind, slot)
        do()

        def over() -> None:
            undo()
            end()
            busy.discard(slot)

        drive.undo_after(drive.fault_dice.uniform(shortest, longest) * drive.settings.lease, over)

    drive.every(*pauses, begin)


def pieces(drive: Drive) -> None:
    """All that passes is split, merged and delayed, and processes are killed meanwhile."""
    for proxy in drive.place.proxies:
        proxy.shape(drive.fault_dice.randrange(2**32))
        drive.mends.callback(proxy.shape, None)

    def kill() -> None:
        if (process := drive.somebody()).is_ready:
            drive.kill(process)

    drive.every(1.0, 2.0, kill)


def holes(drive: Drive) -> None:
    """Nobody reaches the store for half a lease to three leases, in one of three ways."""
    is_away = False

    def begin() -> None:
        nonlocal is_away
        if is_away:
            return
        is_away = True
        way = drive.fault_dice.choice(WAYS_AWAY)
        undone = []
        for proxy in drive.place.proxies:
            do, undo = way(proxy)
            do()
            undone.append(undo)
        end = open_fault(drive, "away", None)

        def over() -> None:
            nonlocal is_away
            end()  # before it is: what happens from here on may be an answer of the store's
            for undo in undone:
                undo()
            is_away = False

        drive.undo_after(drive.fault_dice.uniform(0.5, 3) * drive.settings.lease, over)

    drive.every(3.5, 5.0, begin)
