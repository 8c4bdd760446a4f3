"""Worker processes: started, told what to do, stopped and killed."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

from lab import ROOT

Events = queue.Queue["tuple[Process, list[Any]]"]


class Process:
    """A process of `lab.worker`.

    Parameters:
        number: its own, in the whole run; a process that is started in the place of a dead one has another number.
        slot: its place among those that run.
        options: for the worker.
        events: where what it says goes; ``["gone"]`` is the last.
        environment: beside this process's own.
        enter: what starts a program where it is to run.
    """

    def __init__(
        self,
        number: int,
        slot: int,
        options: dict[str, Any],
        events: Events,
        environment: dict[str, str] | None = None,
        enter: Sequence[str] = (),
    ) -> None:
        self.number, self.slot = number, slot
        self.events = events
        self.is_ready = self.is_dead = self.is_stopped = False
        self.stopped_at = 0.0
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in end
        self.process = subprocess.Popen(
            [*enter, sys.executable, "-u", "-m", "lab.worker", json.dumps(options)],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._write)]
        for thread in self.threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(json.JSONDecodeError):  # cut off by a kill
                self.events.put((self, json.loads(line)))
        self.events.put((self, ["gone"]))

    def _write(self) -> None:
        """In a thread: a process that stands still does not read, and must not keep the lab waiting."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            while (line := self.told.get()) is not None:
                self.process.stdin.write(line)
                self.process.stdin.flush()

    @property
    def pid(self) -> int:
        """Of the operating system."""
        return self.process.pid

    def tell(self, told: dict[str, Any]) -> None:
        """Tells it a call. One that has died meanwhile hears nothing."""
        self.told.put(json.dumps(told) + "\n")

    def kill(self) -> float:
        """As ``kill -9``; when."""
        at = time.monotonic()
        self.is_dead = True
        self.process.send_signal(signal.SIGKILL)
        return at

    def stop(self) -> None:
        """It stands still (SIGSTOP)."""
        self.is_stopped, self.stopped_at = True, time.monotonic()
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """It goes on (SIGCONT)."""
        self.process.send_signal(signal.SIGCONT)
        self.is_stopped = False

    def output(self) -> str:
        """What it has written to its standard error."""
        self.log.seek(0)
        return self.log.read()

    def end(self) -> None:
        """Kills it and forgets it."""
        self.process.kill()
        self.process.wait()
        self.told.put(None)
        for thread in self.threads:
            thread.join()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
