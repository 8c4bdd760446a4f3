"""Django behind the middleware, with GZipMiddleware and ConditionalGetMiddleware around and inside of it; see
`impatient`. ``SERVES`` says as what."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import django
import impatient
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import decorator_from_middleware
from django.views.decorators.gzip import gzip_page

from pyidempotent import idempotent
from pyidempotent.django import idempotency_exempt

IS_ASYNC = os.environ["SERVES"] == "asgi"

settings.configure(
    SECRET_KEY="tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="impatient_django",
    LOGGING_CONFIG=None,
    INSTALLED_APPS=["pyidempotent.django"],
    MIDDLEWARE=[
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "pyidempotent.django.IdempotencyMiddleware",
    ],
    PYIDEMPOTENT={
        "BACKEND": impatient.STORE,
        "LEASE": impatient.LEASE,
        "ROUTES": {
            f"*/{kind}": {name.upper(): value for name, value in options.items()}
            for kind, options in impatient.ROUTES.items()
        },
    },
)
django.setup()

from django.middleware.http import ConditionalGetMiddleware  # noqa: E402  # Django is set up first


def answer(request: HttpRequest, kind: str) -> HttpResponseBase:
    key = request.headers["Idempotency-Key"]
    impatient.note(key)
    if kind not in ("trickle", "endless"):
        time.sleep(impatient.WORK)  # it outlasts its client
    return rendered(key, kind)


async def answer_async(request: HttpRequest, kind: str) -> HttpResponseBase:
    key = request.headers["Idempotency-Key"]
    impatient.note(key)
    if kind not in ("trickle", "endless"):
        await asyncio.sleep(impatient.WORK)
    return rendered(key, kind)


def rendered(key: str, kind: str) -> HttpResponseBase:
    if kind == "json":
        return JsonResponse({"charged": key})
    if kind == "file":
        return FileResponse(open(impatient.FILE, "rb"), content_type="text/plain")
    return StreamingHttpResponse(stream_async(key, kind) if IS_ASYNC else impatient.stream(key, kind))


async def stream_async(key: str, kind: str) -> AsyncIterator[bytes]:
    for part in impatient.parts_of(kind):
        impatient.note(key, "part")
        yield part
        await asyncio.sleep(impatient.pause_of(kind))


view: Any = answer_async if IS_ASYNC else answer


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


conditional = decorator_from_middleware(ConditionalGetMiddleware)
urlpatterns = [
    path("plain/<kind>", view),
    path("gzip/<kind>", view),  # by the middleware around ours
    path("inside/<kind>", gzip_page(conditional(view))),
    path("decorated/<kind>", idempotency_exempt(idempotent(lease=impatient.LEASE)(view))),
    path("on-a-thread/<kind>", answer),
]
app = ASGIHandler() if IS_ASYNC else WSGIHandler()
