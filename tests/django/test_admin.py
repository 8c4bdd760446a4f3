"""The operator's page in Django's admin: who sees it, and who may change what."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import Client, override_settings
from django.urls import path

from clients import new_key
from django_client import site
from django_site import Permission, User
from pyidempotent import attempt
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend

from django.contrib import admin  # isort: skip  # django_site has set Django up

__all__ = ["site"]

PAGE = "/admin/pyidempotent/record/"
OWN: Any = {"sec-fetch-site": "same-origin"}


@pytest.fixture
def backend(site: None) -> Iterator[Backend]:
    """The backend of a project with an admin."""
    backend = MemoryBackend()
    context = [
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
        "django.template.context_processors.request",
    ]
    templates = {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": context},
    }
    with override_settings(
        INSTALLED_APPS=[*settings.INSTALLED_APPS, "django.contrib.messages", "django.contrib.admin"],
        MIDDLEWARE=[*settings.MIDDLEWARE, "django.contrib.messages.middleware.MessageMiddleware"],
        TEMPLATES=[templates],
        PYIDEMPOTENT={"BACKEND": backend},
    ):
        call_command("migrate", verbosity=0)
        with override_settings(ROOT_URLCONF=(path("admin/", admin.site.urls),)):
            yield backend


def client_of(*permissions: str, is_staff: bool = True) -> Client:
    """Somebody who is logged in."""
    user = User.objects.create_user(new_key(), password="", is_staff=is_staff)
    for permission in permissions:
        user.user_permissions.add(Permission.objects.get(codename=permission))
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    return client


def left_unknown(backend: Backend) -> str:
    with contextlib.suppress(ZeroDivisionError), attempt(backend, key="s3cret", name="POST /pay", after_crash="refuse"):
        raise ZeroDivisionError
    return backend.unfinished()[0].id


def release(client: Client, id: str) -> Any:
    page = client.get(f"{PAGE}record/{id}").content.decode()
    fields = {name: "".join(re.findall(f'name="{name}" value="(.*?)"', page)[:1]) for name in ("token", "fence")}
    form = urlencode({**fields, "reason": "no such charge"})
    return client.post(f"{PAGE}record/{id}/release", form, "application/x-www-form-urlencoded", headers=OWN)


def test_who_may_change_finds_it_in_the_index_and_decides(backend: Backend) -> None:
    id = left_unknown(backend)
    client = client_of("view_record", "change_record")
    assert f'href="{PAGE}"' in client.get("/admin/").content.decode()
    page = client.get(PAGE)
    assert page.status_code == 200
    assert f'href="{PAGE}record/{id}"' in page.content.decode()
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert client.get(f"{PAGE}console.css").status_code == 200
    answer = release(client, id)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PAGE}records?released={id[:12]}")
    assert backend.get(id=id) is None


def test_who_may_view_only_looks(backend: Backend) -> None:
    id = left_unknown(backend)
    client = client_of("view_record")
    page = client.get(f"{PAGE}record/{id}").content.decode()
    assert "looking only" in page
    assert "<form" not in page
    assert release(client, id).status_code == 403
    assert backend.get(id=id) is not None


def test_others_see_nothing(backend: Backend) -> None:
    id = left_unknown(backend)
    staff = client_of()
    assert "/pyidempotent/" not in staff.get("/admin/").content.decode()
    assert staff.get(PAGE).status_code == 403
    assert release(staff, id).status_code == 403
    for client in (client_of("view_record", "change_record", is_staff=False), Client()):
        assert client.get(f"{PAGE}record/{id}").status_code == 302, "to the login"
    assert backend.get(id=id) is not None
