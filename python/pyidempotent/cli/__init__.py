"""The command line: ``pyidempotent …``, or ``python -m pyidempotent …``.

Its commands are the engine's, the same as of ``cargo install idempotency --features cli``, but for those that look into
a Python application; docs/cli.md has all of them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from pyidempotent.backends._command import run

__all__ = ["main"]

_NAME = "pyidempotent"

#: The commands that are written in Python, each a module of its own that is loaded when it is asked for.
_OWN = {"routes": "Shows every route of an application that changes something, and what protects it"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Parameters:
        arguments: the command line without the program's name, by default this process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in _OWN:
        own: Callable[[list[str], str], int] = importlib.import_module(f"pyidempotent.cli._{given[0]}").main
        return own(given[1:], f"{_NAME} {given[0]}")
    return run(given, _NAME, others=_OWN)
