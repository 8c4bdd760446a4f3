"""Two backends of one's own: over a dict and a lock, and over a dbm file."""

import contextlib
import dbm
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyidempotent.backends.custom import CustomBackend, Step, expires_at


class DictBackend(CustomBackend):
    """Records in a dict, for one process. A forked child starts with none."""

    def __init__(self) -> None:
        self._start_empty()
        os.register_at_fork(after_in_child=self._start_empty)  # another thread may hold the lock at the fork

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[bytes, bytes] = {}

    def claim(self, key: bytes, step: Step) -> None:
        """Any step: reads the value, and lets stand what the step returns."""
        with self._lock:
            value = step(self._values.get(key))
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value

    renew = complete = release = claim

    def purge(self) -> int:
        with self._lock:
            expired = [key for key, value in self._values.items() if expires_at(value) <= time.time()]
            for key in expired:
                del self._values[key]
            return len(expired)


class DbmBackend(CustomBackend):
    """Records in a dbm file, for the processes of one machine. A second file is the lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def _file(self) -> Iterator[Any]:
        # Opened anew each time: another process may have written, and a forked child inherits no lock.
        with Path(f"{self._path}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with dbm.open(str(self._path), "c") as file:
                yield file

    def claim(self, key: bytes, step: Step) -> None:
        """Any step: reads the value, and lets stand what the step returns."""
        with self._file() as file:
            before = file.get(key)
            after = step(before)
            if after is None and before is not None:
                del file[key]
            elif after is not None and after is not before:
                file[key] = after

    renew = complete = release = claim

    def purge(self) -> int:
        with self._file() as file:
            expired = [key for key in file.keys() if expires_at(file[key]) <= time.time()]  # noqa: SIM118  # not a dict
            for key in expired:
                del file[key]
            return len(expired)
