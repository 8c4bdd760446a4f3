"""`make wheel`: a wheel for other machines, a source distribution, and both tried in fresh environments.

Zig links the wheel against the C library of manylinux_2_28. It comes from the package index, as any library does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "target" / "wheels"
PLATFORM = "manylinux_2_28"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")

#: What a stranger does first: the embedded store, a repeat, another payload.
FIRST_STEPS = """
import sys, tempfile
from pyidempotent import IdempotencyConflict, idempotent
from pyidempotent.backends.sqlite import SqliteBackend

ran = []

@idempotent(SqliteBackend(tempfile.mkdtemp() + "/keys.db"), key="order", ttl=60)
def charge(order, amount):
    ran.append(amount)
    return {"charged": amount}

assert charge("order-7", 42) == charge("order-7", 42) == {"charged": 42}
assert ran == [42]
try:
    charge("order-7", 43)
except IdempotencyConflict:
    print(sys.version.split()[0], "charged once")
"""


def run(*command: str | Path, **more: str) -> str:
    """What a command prints that ends well."""
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env={**os.environ, **more}, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def interpreters() -> list[str]:
    """The supported versions of Python that this machine has; one that pyenv has counts."""
    found = []
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        known = [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
        if on_path := shutil.which(f"python{version}"):
            known.append(on_path)
        found += [path for path in known if _runs(path)][:1]
    return found


def _runs(python: str) -> bool:
    return subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode == 0


def installed(python: str, package: Path, folder: Path) -> Path:
    """A fresh environment with the package and nothing else; its interpreter."""
    run(python, "-m", "venv", folder)
    own = folder / "bin" / "python"
    run(own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package)
    return own


def main() -> None:
    """Builds, checks and tries."""
    maturin = [sys.executable, "-m", "maturin"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where maturin looks for zig
    shutil.rmtree(DIST, ignore_errors=True)
    run(*maturin, "build", "--release", "--zig", "--compatibility", PLATFORM, "--out", DIST, PATH=path)
    run(*maturin, "sdist", "--out", DIST)
    (wheel,), (source,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    shown = run(sys.executable, "-m", "auditwheel", "show", wheel)
    assert f'"{PLATFORM}_' in " ".join(shown.split()) or "manylinux_2_17" in shown, shown
    print(" ".join(shown.split()))
    print(run(sys.executable, "-m", "twine", "check", "--strict", wheel, source).strip())
    with zipfile.ZipFile(wheel) as files:
        largest = max(files.infolist(), key=lambda file: file.file_size)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        print(f"  {largest.filename}: {largest.file_size / 1e6:.1f} MB")
    print(f"{source.name}: {source.stat().st_size / 1e6:.1f} MB")
    found = interpreters()
    if not found:
        sys.exit(f"none of Python {', '.join(VERSIONS)} is here to try the wheel on")
    # Without a compiler: nothing but the environment's own programs is found.
    with tempfile.TemporaryDirectory() as folder:
        for at, python in enumerate(found):
            own = installed(python, wheel, Path(folder) / str(at))
            print(run(own, "-I", "-c", FIRST_STEPS, PATH=str(own.parent)).strip())
        print("from source:", end=" ", flush=True)
        own = installed(sys.executable, source, Path(folder) / "source")
        print(run(own, "-I", "-c", FIRST_STEPS).strip())


if __name__ == "__main__":
    main()
