"""Protected views on the Django that is installed, asked and checked by this script; it prints the version."""

import asyncio
import contextlib
import io
import logging
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import django
from django.conf import settings
from django.db import connection, transaction

settings.configure(
    SECRET_KEY="oldest",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    LOGGING_CONFIG=None,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["pyidempotent.django"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "pyidempotent.django.IdempotencyMiddleware"],
    PYIDEMPOTENT={"BACKEND": "memory://"},
)
django.setup()

from django.core.management import call_command  # noqa: E402  # Django is set up first
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse  # noqa: E402
from django.test import AsyncClient, Client  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.decorators import method_decorator  # noqa: E402
from django.views import View  # noqa: E402

from pyidempotent import idempotent  # noqa: E402
from pyidempotent.django import idempotency_exempt, idempotency_required  # noqa: E402


def receipt(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{uuid4().hex} {request.body!r}", status=201)


async def receipt_async(request: HttpRequest) -> HttpResponse:
    return receipt(request)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse([uuid4().bytes, uuid4().bytes])


class Decorated(View):
    @method_decorator(idempotent())
    def post(self, request: HttpRequest) -> HttpResponse:
        return receipt(request)


@idempotent(key="order", wait=10)
def charge(order: str) -> str:
    return uuid4().hex


urlpatterns = [
    path("receipt", idempotency_required(receipt)),
    path("receipt-async", receipt_async),
    path("stream", stream),
    path("decorated", idempotency_exempt(Decorated.as_view())),
]


def check(where: str, post: Any) -> None:
    """First, replay, conflict."""
    key = uuid4().hex
    first, again, other = post(where, key, b"A"), post(where, key, b"A"), post(where, key, b"B")
    assert (again.status_code, again.body) == (first.status_code, first.body), where
    assert again.headers["Idempotent-Replayed"] == "true", where
    assert other.status_code == 422, where


def post_async(where: str, key: str, body: bytes) -> Any:
    async def post() -> Any:
        answer = await AsyncClient().post(where, body, "text/plain", headers={"Idempotency-Key": key})
        answer.body = answer.content
        return answer

    return asyncio.run(post())


def post_sync(where: str, key: str, body: bytes) -> Any:
    answer = Client().post(where, body, "text/plain", headers={"Idempotency-Key": key})
    answer.body = b"".join(answer)
    return answer


logging.disable(logging.WARNING)
call_command("check", stdout=io.StringIO())
for where in ("/receipt", "/receipt-async", "/decorated"):
    check(where, post_sync)
    check(where, post_async)
check("/stream", post_sync)
assert Client().post("/receipt").status_code == 400

connection.ensure_connection()
with transaction.atomic():
    first = charge("order-7")
assert charge("order-7") == first
with contextlib.suppress(ZeroDivisionError), transaction.atomic():
    lost = charge("order-8")
    raise ZeroDivisionError
assert charge("order-8") != lost  # waits for the release, which nobody waits for at a rollback
print(version("django"))
