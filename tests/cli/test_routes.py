"""``pyidempotent routes``: what is protected, by what, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import SCRIPT, Ran, run

FASTAPI = """
from fastapi import FastAPI, Request
from pyidempotent import idempotent, shared

app = FastAPI()

@app.post("/pay")
@idempotent("memory://", scope=shared)
async def pay(request: Request): ...

@app.post("/login")
async def login(): ...

@app.delete("/orders/{id}")
async def delete(id: int): ...

@app.get("/orders")
async def orders(): ...
"""

FLASK = """
from flask import Flask
from pyidempotent.flask import Idempotency

def customer(request): return "alice"

def make():
    app = Flask(__name__)
    idempotency = Idempotency(app, "memory://", scope=customer, routes={"/login": None})
    app.post("/pay", endpoint="pay")(idempotency.options(required=True)(lambda: "paid"))
    app.post("/login", endpoint="login")(lambda: "welcome")
    return app
"""

DJANGO = """
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path
from django.views.decorators.http import require_POST

settings.configure(
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["pyidempotent.django"],
    MIDDLEWARE=["pyidempotent.django.IdempotencyMiddleware"],
    PYIDEMPOTENT={"BACKEND": "memory://", "ROUTES": {"/login": None}, "REQUIRED": True},
)
application = get_wsgi_application()

@require_POST
def pay(request): ...

@require_POST
def login(request): ...

urlpatterns = [path("pay", pay), path("login", login)]
"""


def routes(folder: Path, code: str, app: str, *arguments: str) -> Ran:
    (folder / "shop.py").write_text(code)
    return run([SCRIPT, "routes", f"shop:{app}", *arguments], PYTHONPATH=str(folder))


@pytest.mark.parametrize(
    ("code", "app", "by", "required", "scope"),
    [
        (FASTAPI, "app", "decorator", True, "shared"),
        (FLASK, "make()", "extension", True, "customer"),
        (DJANGO, "application", "middleware", True, "the framework's user"),
    ],
    ids=["fastapi", "flask", "django"],
)
def test_what_protects_what(tmp_path: Path, code: str, app: str, by: str, required: bool, scope: str) -> None:
    ran = routes(tmp_path, code, app, "--json")
    assert (ran.code, ran.err.endswith("change something and are not protected.\n")) == (0, True), ran
    found = {(told["method"], told["path"]): told for told in map(json.loads, ran.out.splitlines())}
    assert not any(method == "GET" for method, _ in found)
    pay, login = found["POST", "/pay"], found["POST", "/login"]
    assert (pay["by"], pay["required"], pay["scope"], pay["open"]) == (by, required, scope, False)
    assert (login["by"], login["open"]) == (None, True)
    table = routes(tmp_path, code, app).out
    assert "NOT PROTECTED" in table
    assert routes(tmp_path, code, app, "--strict").code == 5
    assert routes(tmp_path, code, app, "--strict", "--but", "/login").code == 0


def test_what_can_t_be_read(tmp_path: Path) -> None:
    for app, code, words in (
        ("nothing", 2, "shop has no nothing"),
        ("app.routes", 1, "the operations of a"),
        ("FastAPI.nothing", 2, "shop has no FastAPI.nothing"),
    ):
        ran = routes(tmp_path, FASTAPI, app)
        assert (ran.code, ran.out, words in ran.err) == (code, "", True), ran
    assert routes(tmp_path, "raise RuntimeError('no database')", "app").code == 1
    assert run([SCRIPT, "routes", "no_such_module:app"]).code == 2
    assert run([SCRIPT, "routes", "shop"]).code == 2
    assert run([SCRIPT, "routes"]).code == 2
    assert run([SCRIPT, "routes", "--help"]).code == 0


def test_the_help_of_the_whole_lists_it() -> None:
    assert "\n  routes " in run([SCRIPT, "--help"]).out
