"""docs/options.md: its table has every option of every face, and its default."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI

import pages
from clients import Local, new_key
from pyidempotent import attempt, idempotent
from pyidempotent._http.routes import PlanOptions
from pyidempotent._options import Options
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.celery import idempotent_task
from pyidempotent.django._configuration import OPTIONS
from pyidempotent.flask import Idempotency

TEXT = (pages.DOCS / "options.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]
TABLE = {row[0].strip("`"): row[1:] for row in ROWS}
FACES = ("function", "middleware", "task", "block")


def documented(face: str) -> set[str]:
    """The options that the table says this face takes."""
    column = 1 + FACES.index(face)
    assert {row[column] for row in TABLE.values()} <= {"yes", "no"}
    return {name for name, row in TABLE.items() if row[column] == "yes"}


def taken(function: Callable[..., Any]) -> set[str]:
    """The named options that a callable takes."""
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind not in kinds} - {"self", "app"}


def test_the_table_has_the_options_of_every_face() -> None:
    assert documented("function") == taken(idempotent)
    assert documented("task") == taken(idempotent_task)
    assert documented("block") == taken(attempt.__init__)
    middleware = documented("middleware")
    assert middleware == taken(IdempotencyMiddleware.__init__) | set(Options.__annotations__)
    assert middleware == taken(Idempotency.__init__) | set(PlanOptions.__annotations__)
    assert middleware - {"routes"} == set(OPTIONS.values())


def test_the_table_has_their_defaults() -> None:
    words = {
        "–": None,
        "the lease": None,
        "30, at most `ttl`": None,
        "`ttl`": None,
        "10 MiB": 10 * 2**20,
        "1 MiB": 2**20,
    }
    for name, parameter in inspect.signature(idempotent).parameters.items():
        if name in TABLE:
            said = TABLE[name][0]
            expected = words[said] if said in words else eval(said.strip("`"))
            assert parameter.default == expected, name


def test_a_validation_error_can_be_free() -> None:
    names: dict[str, Any] = {}
    (block,) = pages.blocks("options")
    exec(block, names)

    def statuses(**options: Any) -> list[int]:
        app, key = FastAPI(), new_key()

        @app.post("/orders")
        async def order(amount: int) -> int:
            return amount

        app.add_middleware(IdempotencyMiddleware, backend=MemoryBackend(), **options)
        client = Local(app)
        return [client.post(url, key).status_code for url in ("/orders?amount=x", "/orders?amount=1")]

    assert statuses() == [422, 422]
    assert statuses(settle=names["validation_errors_are_free"]) == [422, 200]


@pytest.mark.parametrize("other", [{"allow_headers": []}, {"expose_headers": []}])
def test_cors_as_servers_md_has_it(other: dict[str, Any]) -> None:
    (block,) = pages.blocks("servers")
    key, origin = new_key(), {"Origin": "https://shop.example.com"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}

    def seen(text: str) -> tuple[int, str]:
        names: dict[str, Any] = {}
        exec(text.replace('"redis://localhost"', '"memory://"'), names)
        client = Local(names["app"])
        preflight = client.post("/orders", method="OPTIONS", headers={**origin, **asks})
        answers = [client.post("/orders?item=book", key, headers=origin) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        return preflight.status_code, answers[1].headers.get("access-control-expose-headers", "")

    assert seen(block) == (200, "Idempotent-Replayed, Retry-After")
    ((option, value),) = other.items()
    without = re.sub(rf"{option}=\[.*?\]", f"{option}={value}", block)
    assert seen(without) != seen(block)
