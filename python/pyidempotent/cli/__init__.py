"""The command line: ``pyidempotent …``, or ``python -m pyidempotent …``.

Its commands are the engine's, the same as of ``cargo install idempotency --features cli``; docs/cli.md has all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pyidempotent.backends._command import run

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Parameters:
        arguments: the command line without the program's name, by default this process's.
    """
    return run(sys.argv[1:] if arguments is None else arguments, "pyidempotent")
