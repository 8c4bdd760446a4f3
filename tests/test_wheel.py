"""The wheel, on the oldest FastAPI that is supported and on the one installed here: one script on both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fastapi

ROOT = Path(__file__).parent.parent
SCRIPT = Path(__file__).parent / "apps" / "oldest_fastapi.py"


def run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_the_installed_one() -> None:
    assert run(sys.executable, SCRIPT) == fastapi.__version__


def test_the_oldest_one(tmp_path: Path) -> None:
    run(sys.executable, "-m", "maturin", "build", "-q", "-o", tmp_path / "wheel")
    (wheel,) = (tmp_path / "wheel").iterdir()
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    wanted = ["fastapi==0.107.*", "httpx", "python-multipart==0.0.9"]
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted, wheel)
    assert run(python, "-I", SCRIPT).startswith("0.107.")
