"""The operator's page in Django's admin, which finds this module by its name."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.urls import path, reverse
from django.views.decorators.csrf import csrf_exempt

from pyidempotent import _native
from pyidempotent.console._request import ConsoleRequest
from pyidempotent.django._configuration import configuration
from pyidempotent.django._marks import idempotency_exempt
from pyidempotent.django.models import Record

__all__ = ["RecordAdmin"]


@admin.register(Record)
class RecordAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The page: for staff who may view idempotency keys; who may change them may resolve and release."""

    def get_urls(self) -> list[Any]:
        """All that is below the entry in the admin's index."""
        # The page's forms have a token of their own, and an idempotency key has no business with them.
        view = idempotency_exempt(self.admin_site.admin_view(csrf_exempt(self._page)))
        name = "pyidempotent_record_changelist"
        return [path("", view, name=name), path("<path:below>", view)]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Records are not added by hand."""
        return False

    def _page(self, request: HttpRequest, below: str = "") -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        mount = reverse(f"{self.admin_site.name}:pyidempotent_record_changelist")
        console = _native.Console(configuration().backend.native)
        status, headers, body = console.answer(
            ConsoleRequest(
                method=request.method or "GET",
                path=f"/{below}",
                query=request.META.get("QUERY_STRING", ""),
                headers=[(name.encode(), value.encode("latin-1")) for name, value in request.headers.items()],
                body=request.body,
                mount=mount,
                is_secure=request.is_secure(),
                is_allowed=True,
                who=request.user.get_username(),
                may_change=self.has_change_permission(request),
            )
        )
        response = HttpResponse(body, status=status)
        for name, value in headers:
            if name == b"set-cookie":
                response.cookies.load(value.decode("latin-1"))
            else:
                response[name.decode("latin-1")] = value.decode("latin-1")
        return response
