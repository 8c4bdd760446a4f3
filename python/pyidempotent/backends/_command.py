"""`run`: the operator's commands, which are the engine's, with what belongs to Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from pyidempotent import _native
from pyidempotent._values.parts import EVERY
from pyidempotent._values.results import VALUE
from pyidempotent.backends._backend import Backend

#: What a shell is told of a command that Ctrl-C has ended.
INTERRUPTED = 130


def run(
    arguments: Sequence[str],
    name: str,
    *,
    backend: Backend | None = None,
    namespace: str = "",
    others: Mapping[str, str] | None = None,
    files: tuple[IO[str], IO[str]] | None = None,
) -> int:
    """Runs a command and returns its exit code.

    Parameters:
        arguments: the command line, without the program's name.
        name: what its users type.
        backend: the application's own; without one the command line or ``IDEMPOTENCY_URL`` says which.
        namespace: of keys, where the command line names none.
        others: commands that somebody else runs, and what they do.
        files: where to write, in place of the process's own streams.
    """
    if files is None:
        if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()  # what was written before comes first
        else:
            files = (sys.stdout, sys.stderr)
    native = None if backend is None else backend.native
    told = list((others or {}).items())
    try:
        return _native.command_line(list(arguments), name, _stored, native, namespace, told, files)
    except KeyboardInterrupt:
        return INTERRUPTED


def _stored(text: str) -> bytes:
    """The stored form of a function's result, from its JSON."""
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--result is not JSON: {error}") from None
    return VALUE + _native.encode(value, EVERY)
