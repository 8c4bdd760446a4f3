"""What FastAPI's documentation shows of the protection."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header

from clients import Local
from pyidempotent import (
    idempotent,
)
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.fastapi import document


def described(app: FastAPI) -> dict[str, Any]:
    first, second = (Local(app).post("/openapi.json", method="GET").text for _ in range(2))
    assert first == second
    found: dict[str, Any] = json.loads(first)["paths"]
    return found


def documented_app(**options: Any) -> FastAPI:
    app = FastAPI()

    @app.post("/pay")
    async def pay(amount: int) -> int:
        return amount

    @app.get("/pay")
    async def look() -> int:
        return 1

    @app.post("/internal/tick")
    async def tick() -> None: ...

    app.add_middleware(
        IdempotencyMiddleware, backend="memory://", routes={"/internal/*": None, "/pay": options}, required=False
    )
    return app


def test_the_documentation_shows_what_the_middleware_protects() -> None:
    app, plain = documented_app(required=True), documented_app()
    document(app)
    shown, before = described(app), described(plain)
    operation = shown["/pay"]["post"]
    (header,) = [parameter for parameter in operation["parameters"] if parameter["in"] == "header"]
    assert (header["name"], header["required"], header["schema"]["maxLength"]) == ("Idempotency-Key", True, 255)
    assert set(operation["responses"]) == {"200", "400", "409", "410", "422"}
    assert "Idempotent-Replayed" in operation["responses"]["200"]["headers"]
    assert set(operation["responses"]["422"]["content"]) == {"application/json", "application/problem+json"}
    assert shown["/pay"]["get"] == before["/pay"]["get"]
    assert shown["/internal/tick"] == before["/internal/tick"]


def test_the_documentation_shows_decorated_endpoints() -> None:
    app = FastAPI()
    router = APIRouter(prefix="/v1")

    @router.post("/pay")
    @idempotent("memory://", key_header="X-Key")
    async def pay(amount: int) -> int:
        return amount

    @router.post("/own")
    @idempotent("memory://")
    async def own(idempotency_key: Annotated[str, Header()]) -> str:
        return idempotency_key

    @router.post("/plain")
    async def plain() -> None: ...

    app.include_router(router)
    document(app)
    document(app)  # twice is once
    shown = described(app)
    assert [p["name"] for p in shown["/v1/pay"]["post"]["parameters"] if p["in"] == "header"] == ["X-Key"]
    assert "409" in shown["/v1/pay"]["post"]["responses"]
    headers = [p["name"].lower() for p in shown["/v1/own"]["post"]["parameters"] if p["in"] == "header"]
    assert headers == ["idempotency-key"]
    assert set(shown["/v1/plain"]["post"]["responses"]) == {"200"}


def test_the_documentation_is_a_valid_one() -> None:
    """As FastAPI's own tests have it: the document parses as the model of OpenAPI."""
    from fastapi.openapi.models import OpenAPI

    app = documented_app()
    document(app)
    OpenAPI.model_validate(app.openapi())


def test_routes_that_were_added_later_are_shown() -> None:
    app = documented_app()
    document(app)
    app.openapi()

    @app.post("/late")
    async def late() -> None: ...

    app.openapi_schema = None
    assert "409" in app.openapi()["paths"]["/late"]["post"]["responses"]
