"""Records in one file: for any number of processes of one machine."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from pyidempotent import _native
from pyidempotent.backends._backend import Backend
from pyidempotent.backends.seal import Sealing, sealing

__all__ = ["SqliteBackend"]


class SqliteBackend(Backend):
    """Records in one SQLite file, durable across a loss of power.

    Give it a file of its own, and do not open that file with Python's ``sqlite3`` in the same process: two SQLite
    libraries in one process corrupt each other's files. From another process it is safe. Not for network file systems.

    Parameters:
        path: the file; made when first used. Its folder must exist.
        time_limit: the longest an operation may take, in seconds.
        seal: the keys that results are encrypted with before they leave the process: a `Seal`, or what makes one.

    Raises:
        FileNotFoundError: where the folder does not exist.
        ValueError: for ``:memory:``, which is no file.

    >>> import os, tempfile
    >>> backend = SqliteBackend(os.path.join(tempfile.mkdtemp(), "idempotency.db"))
    """

    def __init__(
        self, path: str | os.PathLike[str], *, time_limit: float | timedelta = 5.0, seal: Sealing | None = None
    ) -> None:
        from pyidempotent._values.durations import seconds

        if os.fspath(path) in ("", ":memory:"):
            raise ValueError(
                f"SqliteBackend keeps records in a file, not in {os.fspath(path)!r}; MemoryBackend keeps them in memory"
            )
        file = Path(os.fspath(path)).absolute()
        if not file.parent.is_dir():
            raise FileNotFoundError(f"the SQLite store {file} can't be made: there is no folder {file.parent}")
        if file.is_dir():
            raise IsADirectoryError(f"the SQLite store {file} is a folder; name a file in it")
        settings = (str(file), seconds("time_limit", time_limit), sealing(seal))
        shared = Backend._shared.get(("sqlite", *settings)) or _native.Backend.sqlite(*settings)
        super().__init__(Backend._shared.setdefault(("sqlite", *settings), shared))
