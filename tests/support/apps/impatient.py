"""What the applications of `test_impatient_clients` have in common: slow work, and the answers that it comes to."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

STORE = os.environ["STORE"]
#: How long the work takes; its clients wait for less.
WORK = 0.6
#: Between two parts of what trickles.
PAUSE = 0.15

#: More than one part for every server, less than the default limit of what is kept.
FILE = Path(tempfile.gettempdir()) / f"impatient-{os.getpid()}.txt"
FILE.write_bytes(b"0123456789abcdef" * 16_000)

PARTS = [b"one ", b"two ", b"three"]
BIG = [bytes([65 + number % 26]) * 65_536 for number in range(32)]
TRICKLE = [b"%d " % number for number in range(6)]
ENDLESS = [b"%d " % number for number in range(200)]

#: Options of their own for some answers, by their last segment.
ROUTES = {
    "big": {"max_response_bytes": 4 * 1024 * 1024},
    "endless": {"disconnect_grace": 0.3, "after_crash": "refuse"},
}
LEASE = 5.0


def note(key: str, what: str = "charged") -> None:
    """Adds a line to the file ``RUNS``, whole, from any process."""
    with open(os.environ["RUNS"], "a") as book:
        book.write(f"{key} {what}\n")


def parts_of(kind: str) -> list[bytes]:
    """The parts of a streamed answer. ``over`` is as large as ``big``, where that is too large to be kept."""
    return {"parts": PARTS, "big": BIG, "over": BIG, "trickle": TRICKLE, "endless": ENDLESS}[kind]


def pause_of(kind: str) -> float:
    return PAUSE if kind in ("trickle", "endless") else 0


def stream(key: str, kind: str) -> Iterator[bytes]:
    for part in parts_of(kind):
        note(key, "part")
        yield part
        time.sleep(pause_of(kind))  # the work, which outlasts its client
