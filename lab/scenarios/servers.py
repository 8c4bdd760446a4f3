"""Faults of the server, and of what it has: its memory, its scripts, its data, its disk."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

from lab.drive import Drive
from lab.history import Fault
from lab.places import Postgres, PostgresOnSmallDisk, Redis, SqliteOnSmallDisk
from lab.scenarios.network import open_fault
from servers import PostgresServer, RedisServer


def restarts(drive: Drive) -> None:
    """The server is killed, ended or stopped for half a lease to three leases, and comes back with its data."""
    assert isinstance(drive.place, Redis | Postgres)
    server, is_away = drive.place.server, False

    def begin() -> None:
        nonlocal is_away
        if is_away:
            return
        is_away = True
        ways: list[tuple[Callable[[], object], Callable[[], object]]] = [(server.kill, server.start)]
        if isinstance(server, RedisServer):
            ways.append((server.stop, server.start))
            ways.append((lambda: server.signal(signal.SIGSTOP), lambda: server.signal(signal.SIGCONT)))
        else:
            ways.append((partial(_end_now, server), server.start))
        do, undo = drive.fault_dice.choice(ways)
        disturbed = open_fault(drive, "disturbed", None)  # while it goes and comes somebody may still be answered
        do()
        away = open_fault(drive, "away", None)

        def over() -> None:
            nonlocal is_away
            away()
            undo()
            disturbed()
            is_away = False

        drive.undo_after(drive.fault_dice.uniform(0.5, 3) * drive.settings.lease, over)

    drive.every(3.5, 5.0, begin)


def _end_now(server: PostgresServer) -> None:
    """Postgres would wait for its clients; it has many processes, so that it is never stopped either."""
    assert server.process is not None
    server.signal(signal.SIGINT)
    server.process.wait(30)
    server.kill()


def scripts(drive: Drive) -> None:
    """The server forgets the scripts (SCRIPT FLUSH), again and again."""
    assert isinstance(drive.place, Redis)
    server = drive.place.server
    drive.every(0.05, 0.2, lambda: _quietly(drive, lambda: server.cli("SCRIPT", "FLUSH")))


def _quietly(drive: Drive, do: Callable[[], object]) -> None:
    began = time.monotonic()
    do()
    drive.history.faults.append(Fault("disturbed", None, began, time.monotonic()))


def losses(drive: Drive) -> None:
    """The server loses all it has (FLUSHALL). What runs again afterwards is counted as lost."""
    assert isinstance(drive.place, Redis)
    server = drive.place.server

    def flush() -> None:
        end = open_fault(drive, "lost", None)
        server.cli("FLUSHALL")
        end()

    drive.every(0.5, 1.5, flush)


def memory(drive: Drive) -> None:
    """The server is out of memory (maxmemory) for a time: it takes no claim, and every end."""
    assert isinstance(drive.place, Redis)
    server = drive.place.server
    _full_for_a_time(
        drive,
        lambda: server.cli("CONFIG", "SET", "maxmemory", "1"),
        lambda: server.cli("CONFIG", "SET", "maxmemory", "0"),
    )


def disk(drive: Drive) -> None:
    """The disk is full for a time: a file gets no larger, and Postgres may end itself for want of room."""
    assert isinstance(drive.place, SqliteOnSmallDisk | PostgresOnSmallDisk)
    _full_for_a_time(drive, drive.place.disk.fill, drive.place.make_room)


def _full_for_a_time(drive: Drive, fill: Callable[[], object], make_room: Callable[[], object]) -> None:
    is_full = False

    def begin() -> None:
        nonlocal is_full
        if is_full:
            return
        is_full = True
        end = open_fault(drive, "full", None)
        fill()

        def over() -> None:
            nonlocal is_full
            make_room()
            end()
            is_full = False

        drive.undo_after(drive.fault_dice.uniform(0.3, 2) * drive.settings.lease, over)

    drive.every(0.3, 1.5, begin)


def read_only(drive: Drive) -> None:
    """All processes die, their disk comes back read-only, and so do they; after a time it takes writes again."""
    place, is_read_only = drive.place, False
    assert isinstance(place, SqliteOnSmallDisk)

    def begin() -> None:
        nonlocal is_read_only
        if is_read_only or not all(process.is_ready for process in drive.slots):
            return
        is_read_only = True
        end = open_fault(drive, "full", None)
        dead = list(drive.slots)
        for process in dead:
            process.process.kill()
        for process in dead:
            process.process.wait()  # a disk with a file that is open for writing stays as it is
        place.disk.remount("ro")
        for process in dead:
            drive.kill(process)

        def over() -> None:
            nonlocal is_read_only
            place.disk.remount("rw")
            end()
            is_read_only = False

        drive.undo_after(drive.fault_dice.uniform(1, 3) * drive.settings.lease, over)

    # After each the processes must get to work: they take nobody over for a grace.
    drive.every(8.0, 10.0, begin)
