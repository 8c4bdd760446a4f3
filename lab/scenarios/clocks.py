"""Wall clocks of processes that are wrong, and that jump."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.drive import Drive
from servers import installed

SOURCE = Path(__file__).parents[1] / "clock.c"

HOUR = 3600 * 10**9


def clocks(drive: Drive) -> None:
    """One process is right; one is an hour ahead, one an hour behind, and the rest jump between the two."""
    library = drive.place.folder / "clock.so"
    compiler = installed("cc", "apt-get install gcc libc6-dev")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)], check=True)
    files = [drive.place.folder / f"clock-{slot}" for slot in range(drive.settings.workers)]

    def move(file: Path, by: int) -> None:
        with file.open("r+b" if file.exists() else "wb") as opened:  # in place: the processes have it mapped
            opened.write(by.to_bytes(8, "little", signed=True))

    for slot, file in enumerate(files):
        move(file, (0, HOUR, -HOUR, 0)[min(slot, 3)])
        drive.environments[slot] = {"LD_PRELOAD": str(library), "LAB_CLOCK": str(file)}

    def jump() -> None:
        for file in files[3:]:
            move(file, drive.fault_dice.choice((-HOUR, -(10**9), 0, 10**9, 10**10, HOUR)))

    drive.every(0.1, 0.5, jump)

    def kill() -> None:
        if (process := drive.somebody()).is_ready:
            drive.kill(process)

    drive.every(1.5, 3.0, kill)
