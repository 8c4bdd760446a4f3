"""The package as a whole: what it imports, documents and promises to type checkers."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import django_site  # noqa: F401  # sets Django up, which its examples want
import pyidempotent
from scripts import output

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[2]
#: All but the one that Django alone imports, in a project that has its admin.
MODULES = [
    module.name
    for module in pkgutil.walk_packages(pyidempotent.__path__, "pyidempotent.")
    if module.name != "pyidempotent.django.admin"
]


def test_importing_it_imports_no_framework() -> None:
    code = """
    import sys, pyidempotent, pyidempotent.testing
    import pyidempotent.backends.redis, pyidempotent.backends.sqlite, pyidempotent.backends.memory
    print(*({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1:])))
    """
    frameworks = [
        "fastapi",
        "starlette",
        "pydantic",
        "flask",
        "django",
        "celery",
        "redis",
        "attrs",
        "anyio",
        "sqlite3",
        "sqlalchemy",
        "psycopg",
        "asyncpg",
        "aiosqlite",
        "pytest",
    ]
    assert output(code, *frameworks).split() == []


def test_importing_it_imports_no_face() -> None:
    code = "import sys, pyidempotent; print(*(name for name in sys.modules if name.startswith('pyidempotent.')))"
    faces = {"_http", "asgi", "fastapi", "flask", "django", "celery", "testing"}
    assert {name.split(".")[1] for name in output(code).split()} & faces == set()


@pytest.mark.parametrize("name", ["pyidempotent", *MODULES])
def test_examples_are_executed(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert failed == 0


def test_what_a_package_index_shows_is_true() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    faces = {"celery", "django", "fastapi", "flask", "starlette"}
    assert {*faces, "memory", "postgres", "redis", "sqlite", "opentelemetry", "prometheus"} == set(extras)
    versions = re.findall(r"Python :: (3\.\d+)\b", "\n".join(project["classifiers"]))
    assert project["requires-python"] == f">={versions[0]}"
    supported = (ROOT / "docs/versions.md").read_text()
    assert f"CPython {versions[0]} to {versions[-1]}" in supported
    rust = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    assert f"{rust['rust-version']} or later, which" in supported
    assert set(project["urls"].values()) <= {
        url for url in project["urls"].values() if url.startswith(rust["repository"])
    }


def test_public_names_are_documented_and_shown_by_example() -> None:
    for name in pyidempotent.__all__:
        public = getattr(pyidempotent, name)
        if name != "__version__":
            assert inspect.getdoc(public), name
    for public in (
        pyidempotent.idempotent,
        pyidempotent.attempt,
        pyidempotent.current,
        pyidempotent.transaction,
        pyidempotent.transactional,
    ):
        assert ">>>" in (inspect.getdoc(public) or "")


def test_every_option_is_documented() -> None:
    options = [name for name in inspect.signature(pyidempotent.idempotent).parameters if name != "unknown"]
    documented = inspect.getdoc(pyidempotent.idempotent) or ""
    assert [name for name in options if f"    {name}: " not in documented] == []


def test_versions_agree() -> None:
    (line,) = [line for line in (ROOT / "Cargo.toml").read_text().splitlines() if line.startswith("version = ")]
    version = line.split('"')[1]
    assert pyidempotent.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_crate_has_what_it_is_built_of() -> None:
    def said(*command: str) -> set[str]:
        return set(subprocess.check_output(command, cwd=ROOT / "crates/idempotency", text=True).split())

    packed = said("cargo", "package", "--list", "--allow-dirty")
    tracked = {name for name in said("git", "ls-files") if name.split("/")[0] not in ("benches", "examples", "tests")}
    assert tracked <= packed
