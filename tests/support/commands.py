"""The command line in processes of its own, with and without a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: As pip installs it.
SCRIPT = str(Path(sys.executable).parent / "pyidempotent")

LIMIT = 60.0


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def environment(url: str | None, more: Mapping[str, str] | None = None) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("IDEMPOTENCY_URL", "NO_COLOR")}
    return {**own, **({} if url is None else {"IDEMPOTENCY_URL": url}), "TERM": "xterm", **(more or {})}


def run(command: list[str], url: str | None = None, **more: str) -> Ran:
    """Runs a command that nobody sits at."""
    done = subprocess.run(
        command, env=environment(url, more), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def pyidempotent(*arguments: str, url: str | None = None, **more: str) -> Ran:
    """Runs the installed script."""
    return run([SCRIPT, *arguments], url, **more)


class Terminal:
    """A command that a person sits at."""

    def __init__(self, *arguments: str, url: str, **more: str) -> None:
        self._screen, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [SCRIPT, *arguments],
            env=environment(url, more),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, words: str) -> str:
        """What stands on the screen once these words do."""
        while words not in self.shown:
            self.shown += self._read() or self._missing(words)
        return self.shown

    def type(self, line: str) -> None:
        os.write(self._screen, f"{line}\n".encode())

    def end(self) -> int:
        """Reads the rest, and returns the exit code."""
        while more := self._read():
            self.shown += more
        os.close(self._screen)
        return self.process.wait(LIMIT)

    def _read(self) -> str:
        try:
            return os.read(self._screen, 65536).decode(errors="replace")
        except OSError:  # the other side has been closed
            return ""

    def _missing(self, words: str) -> str:
        self.process.kill()
        raise AssertionError(f"{words!r} is not in {self.shown!r}")
