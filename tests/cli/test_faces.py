"""The same commands on an application's own backend: ``manage.py idempotency`` and ``flask idempotency``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import Ran, run
from pyidempotent import attempt
from pyidempotent.backends.sqlite import SqliteBackend

EXAMPLES = Path(__file__).parents[2] / "examples"

FLASK = """
from flask import Flask
from pyidempotent.flask import Idempotency

app = Flask(__name__)
Idempotency(app, {url!r})
"""

#: An application's command, on the store in a folder.
Command = Callable[..., Ran]


@pytest.fixture(params=["django", "flask"])
def operate(request: pytest.FixtureRequest, tmp_path: Path) -> Command:
    url = f"sqlite:///{tmp_path}/keys.db"
    if request.param == "django":
        program = [sys.executable, str(EXAMPLES / "django_shop.py"), "idempotency"]
        return lambda *arguments: run([*program, *arguments], ORDERS_STORE=url)
    (tmp_path / "shop.py").write_text(FLASK.format(url=url))
    program = [sys.executable, "-m", "flask", "--app", str(tmp_path / "shop.py"), "idempotency"]
    return lambda *arguments: run([*program, *arguments])


def test_the_commands(operate: Command, tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "keys.db")
    with pytest.raises(RuntimeError), attempt(backend, key="evt_1", name="webhook", after_crash="refuse"):
        raise RuntimeError
    (listed,) = operate("list", "--json").documents
    assert (listed["label"], listed["state"]) == ("webhook evt_1", "unknown")
    name = ("evt_1", "--operation", "webhook")
    assert "  state      unknown\n" in operate("get", *name).out
    assert operate("get", "evt_2", "--operation", "webhook").code == 3
    assert operate("release", *name).code == 2
    assert operate("release", *name, "--fence", "7", "--yes").code == 4
    resolved = operate("resolve", *name, "--result", '{"sent": true}', "--yes")
    assert (resolved.code, resolved.out, resolved.err) == (0, "resolved: webhook evt_1\n", "")
    with attempt(backend, key="evt_1", name="webhook", after_crash="refuse") as again:
        assert again.result == {"sent": True}
    assert operate("purge").code == 0
    assert operate("ping").out.startswith("SQLite ")


def test_help_and_mistakes(operate: Command) -> None:
    for words in (("--help",), ("list", "--help")):
        helped = operate(*words)
        assert helped.code == 0
        assert "idempotency" in helped.out
        assert "--url" not in helped.out, "it is on the application's own store"
    assert "Exit codes: 0 done" in operate("--help").out
    assert operate("lsit").code == 2
    refused = operate("list", "--url", "redis://elsewhere")
    assert (refused.code, "application's own store" in refused.err) == (2, True)


@pytest.mark.parametrize("own", [("--settings", "shop"), ("--verbosity=0", "--traceback"), ("--no-color",)])
def test_djangos_own_options_may_stand_anywhere(tmp_path: Path, own: tuple[str, ...]) -> None:
    program = [sys.executable, str(EXAMPLES / "django_shop.py"), "idempotency"]
    for arguments in ([*own, "list", "--json"], ["list", *own, "--json"], ["list", "--json", *own]):
        ran = run([*program, *arguments], ORDERS_STORE=f"sqlite:///{tmp_path}/keys.db")
        assert (ran.code, ran.out, ran.err) == (0, "", "Nothing is in flight, lapsed or unknown.\n")


def test_djangos_help_is_the_command_s(tmp_path: Path) -> None:
    program = [sys.executable, str(EXAMPLES / "django_shop.py"), "help", "idempotency"]
    ran = run(program, ORDERS_STORE=f"sqlite:///{tmp_path}/keys.db")
    assert "Exit codes: 0 done" in ran.out
