"""docs/options.md: its examples; tests of its table are in tests/options."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import FastAPI

import pages
from clients import Local, new_key
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend


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
