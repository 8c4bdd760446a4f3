"""Faults of processes."""

from __future__ import annotations

from lab.drive import Drive


def kills(drive: Drive) -> None:
    """Kills a process again and again; now and then two at once."""

    def kill() -> None:
        for _ in range(drive.fault_dice.choice((1, 1, 2))):
            if (process := drive.somebody()).is_ready:
                drive.kill(process)

    drive.every(0.4, 1.2, kill)


def stops(drive: Drive) -> None:
    """Lets a process stand still for one to three leases, again and again; never more than half of them."""

    def stop() -> None:
        standing = sum(process.is_stopped for process in drive.slots)
        if standing < len(drive.slots) // 2:
            drive.stop(drive.somebody(), drive.fault_dice.uniform(1.2, 3) * drive.settings.lease)

    drive.every(0.3, 1.0, stop)


def forks(drive: Drive) -> None:
    """Processes fork in the middle of what they do, and are killed now and then; their children live on."""
    drive.every(0.1, 0.4, lambda: drive.fork(drive.somebody()))

    def kill() -> None:
        if (process := drive.somebody()).is_ready:
            drive.kill(process)

    drive.every(1.0, 2.0, kill)
