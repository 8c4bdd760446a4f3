"""`@idempotent` on the endpoints of Django Ninja, which makes an answer of their value."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.conf import settings
from django.test import override_settings

from clients import new_key
from django_client import Browser, site
from django_site import OURS, RUNS

__all__ = ["site"]

pytestmark = pytest.mark.filterwarnings("ignore:Returning tuple:DeprecationWarning")


@pytest.fixture
def browser(site: None) -> Iterator[Browser]:
    others = [name for name in settings.MIDDLEWARE if name != OURS]
    with override_settings(ROOT_URLCONF="ninja_views", MIDDLEWARE=others):
        yield Browser("sync")


@pytest.mark.parametrize(
    ("name", "status", "marked"),
    [("value", 201, False), ("nothing", 204, False), ("above", 201, True), ("above-async", 201, True)],
)
def test_an_endpoint_runs_once(browser: Browser, name: str, status: int, marked: bool) -> None:
    key = new_key()
    missing = browser.post(f"/api/{name}")
    first, again = (browser.post(f"/api/{name}", key) for _ in range(2))
    other = browser.post(f"/api/{name}?other=1", key)
    assert (missing.status_code, other.status_code) == (400, 422)
    assert (first.status_code, again.status_code, again.content) == (status, status, first.content)
    assert ("idempotent-replayed" in again.headers) is marked
    assert b"secret" not in first.content
    assert RUNS == ["charge"]


def test_a_5xx_releases(browser: Browser) -> None:
    key = new_key()
    assert [browser.post("/api/busy", key).status_code for _ in range(2)] == [503, 503]
    assert RUNS == ["charge", "charge"]
