"""The wheel, on the oldest frameworks that are supported and on those installed here: one script each on both."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from clients import APPS

ROOT = Path(__file__).parents[2]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("framework", ["fastapi", "flask", "django"])
def test_the_installed_one(framework: str) -> None:
    assert run(sys.executable, APPS / f"oldest_{framework}.py") == version(framework)


def test_the_oldest_one(tmp_path: Path) -> None:
    run(sys.executable, "-m", "maturin", "build", "-q", "-o", tmp_path / "wheel")
    (wheel,) = (tmp_path / "wheel").iterdir()
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    oldest = ["fastapi==0.107.*", "flask[async]==3.0.0", "werkzeug==3.0.0", "django==5.0.*"]
    wanted = [*oldest, "httpx", "python-multipart==0.0.9"]
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted, wheel)
    assert run(python, "-I", APPS / "oldest_fastapi.py").startswith("0.107.")
    assert run(python, "-I", APPS / "oldest_flask.py") == "3.0.0"
    assert run(python, "-I", APPS / "oldest_django.py").startswith("5.0.")
