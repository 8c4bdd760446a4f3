"""Django with the decorator on each view."""

import re
from typing import Any

import django_project
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponseBase
from django.urls import include, re_path
from django.views.decorators.csrf import csrf_exempt
from handler import ROUTES, STORE

from pyidempotent import idempotent, shared
from pyidempotent.django import idempotency_exempt


def view(path: str, options: dict[str, Any] | None) -> Any:
    handle: Any = django_project.handle
    protected = handle if options is None else idempotent(STORE, **{"required": False, **options})(handle)

    def of_method(request: HttpRequest) -> HttpResponseBase:
        return handle(request) if request.method in ("PUT", "DELETE") else protected(request)

    return re_path(path, idempotency_exempt(csrf_exempt(of_method)))


django_project.urlpatterns += [
    *(view(f"^{re.escape(pattern[1:-1])}", options) for pattern, options in ROUTES.items()),
    view("^owned/", {"scope": django_project.user}),
    view("^shared/", {"scope": shared}),
    re_path("^mount-[ab]/", include([view("", {})])),
    view("", {}),
]
app = WSGIHandler()
