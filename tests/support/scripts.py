"""Python programs of a test's own, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping


def start(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A program that reads what it is told and prints lines; development mode makes it strict."""
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-u", "-c", textwrap.dedent(code), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        preexec_fn=_apart,
    )


def _apart() -> None:
    os.setpgrp()  # so that its children can be killed with it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # below a shell's background job an interrupt is ignored


def output(
    code: str,
    *arguments: str,
    limit: float = 30,
    environment: Mapping[str, str] | None = None,
    complains: str = "",
) -> str:
    """What a program prints that ends well and complains about nothing, but for a line with these words."""
    process = start(code, *arguments, environment=environment)
    try:
        printed, complaints = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, complaints = process.communicate()
        raise AssertionError(f"it hangs after {printed!r}; {complaints}") from None
    others = [line for line in complaints.splitlines() if not complains or complains not in line]
    assert (process.returncode, others) == (0, []), f"{printed}\n{complaints}"
    assert complains in complaints, complaints
    return printed


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a program prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
