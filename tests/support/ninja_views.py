"""Endpoints of Django Ninja; every run is in `RUNS`."""

from __future__ import annotations

from typing import Any

from django.urls import path
from ninja import NinjaAPI, Schema
from ninja.decorators import decorate_view

from django_site import RUNS
from pyidempotent import idempotent

api = NinjaAPI()


class Charged(Schema):
    status: str


def charge() -> dict[str, Any]:
    RUNS.append("charge")
    return {"status": "charged", "secret": 1}


@api.post("/value", response={201: Charged})
@idempotent()
def value(request: Any) -> Any:
    return 201, charge()


@api.post("/nothing", response={204: None})
@idempotent()
def nothing(request: Any) -> None:
    charge()


@api.post("/above", response={201: Charged})
@decorate_view(idempotent())
def above(request: Any) -> Any:
    return 201, charge()


@api.post("/above-async", response={201: Charged})
@decorate_view(idempotent())
async def above_async(request: Any) -> Any:
    return 201, charge()


@api.post("/busy", response={503: Charged})
@idempotent()
def busy(request: Any) -> Any:
    return 503, charge()


urlpatterns = [path("api/", api.urls)]
