"""The views of the tests' Django project."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django_site import BEGUN, ENDED, FOLDER, GATE, RUNS, charge, ran  # isort: skip  # sets Django up

from django.core.exceptions import BadRequest, PermissionDenied
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions, views
from rest_framework.authentication import BaseAuthentication
from rest_framework.decorators import api_view
from rest_framework.response import Response

from pyidempotent import IdempotencyConflict, current, idempotent
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.django import idempotency_exempt, idempotency_options, idempotency_required

# Views.


def pay(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"run": ran("pay"), "key": getattr(request, "k", None)}, status=201)


async def pay_async(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"run": ran("pay_async")}, status=201)


def echo(request: HttpRequest) -> HttpResponse:
    """The body, in whatever way it is wanted."""
    ran("echo")
    how = request.headers.get("x-how", "body")
    if how == "read":
        return HttpResponse(request.read())
    if how == "files":
        return HttpResponse(request.FILES["file"].read() + request.POST.get("note", "").encode())
    return HttpResponse(request.body)


def ends(request: HttpRequest, how: str) -> Any:
    """Ends in the way that it is told, the first time."""
    ran(f"ends {how}")
    if how == "raise" and RUNS.count("ends raise") > 1:
        return HttpResponse("done")
    if how == "none":
        return None
    if how.isdigit():
        return HttpResponse(f"{how} {len(RUNS)}", status=int(how))
    raise {
        "404": Http404("no such order"),
        "missing": Http404("no such order"),
        "forbidden": PermissionDenied(),
        "bad": BadRequest("bad"),
        "raise": RuntimeError("this run fails"),
    }[how]


def longer(request: HttpRequest) -> HttpResponse:
    ran("longer")
    return HttpResponse(b"longer than that", headers={"Content-Length": "2"})


def stream(request: HttpRequest) -> HttpResponseBase:
    def parts() -> Iterator[bytes]:
        yield f"run {ran('stream')} ".encode()
        if request.headers.get("x-break"):
            raise RuntimeError("this stream breaks")
        yield current().key.encode()

    return StreamingHttpResponse(parts())


async def stream_async(request: HttpRequest) -> HttpResponseBase:
    async def parts() -> AsyncIterator[bytes]:
        yield f"run {ran('stream')} ".encode()
        if request.headers.get("x-break"):
            raise RuntimeError("this stream breaks")
        yield current().key.encode()

    return StreamingHttpResponse(parts())


def file(request: HttpRequest) -> HttpResponseBase:
    ran("file")
    return FileResponse((FOLDER / "receipt.txt").open("rb"), as_attachment=True)


def cookies(request: HttpRequest) -> HttpResponse:
    answer = HttpResponse("set")
    answer.set_cookie("seen", "1")
    answer.headers["X-Kept"] = "caf\u00e9"
    return answer


def gated(request: HttpRequest) -> HttpResponse:
    ran("gated")
    BEGUN.set()
    assert GATE.wait(20)
    ENDED.set()
    return HttpResponse("through")


async def gated_async(request: HttpRequest) -> HttpResponse:
    ran("gated")
    BEGUN.set()
    while not GATE.is_set():
        await asyncio.sleep(0.005)
    ENDED.set()
    return HttpResponse("through")


def db(request: HttpRequest, user: int) -> HttpResponse:
    """Writes for a user; of one that is nobody the commit fails."""
    ran("db")
    charge(1, user or None)
    return HttpResponse(f"charged {len(RUNS)}")


def raises_after_write(request: HttpRequest) -> HttpResponse:
    charge(1)
    if ran("raises") == 1:
        raise RuntimeError("this run fails")
    return HttpResponse("charged")


# Marked views.


@idempotency_required
def must(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"run {ran('must')}")


@idempotency_options(key_header="X-Key", scope=lambda request: request.headers["X-Tenant"])
@idempotency_required
def tenant(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"run {ran('tenant')}")


@idempotency_exempt
async def never(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"run {ran('never')}")


@method_decorator([idempotency_options(max_request_bytes=10), idempotency_required, csrf_exempt], name="dispatch")
class Marked(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("got")

    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(f"run {ran('marked')}")


class Unseen(View):
    @method_decorator(idempotency_required)
    def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(f"run {ran('unseen')}")


@api_view(["POST"])
@idempotency_required
def unseen_rest(request: Any) -> Response:
    return Response({"run": ran("unseen")})


# Decorated views.

RECORDS = MemoryBackend()
protect = idempotent(RECORDS)


@protect
def decorated(request: HttpRequest, how: str) -> Any:
    """Answers in the way that it is told."""
    n = ran("decorated")
    return {
        "plain": lambda: HttpResponse(f"run {n}", status=201, headers={"X-Run": str(n)}),
        "template": lambda: TemplateResponse(request, "paid.html", {"n": n}, status=202),
        "stream": lambda: StreamingHttpResponse([b"run"]),
        "none": lambda: None,
        "missing": lambda: _raise(Http404(f"order {n}")),
        "bad": lambda: _raise(BadRequest(f"order {n}")),
        "forbidden": lambda: _raise(PermissionDenied()),
        "fails": lambda: _raise(RuntimeError("this run fails")),
        "500": lambda: HttpResponse(status=500),
        "longer": lambda: HttpResponse(b"longer than that", headers={"Content-Length": "2"}),
    }[how]()


def _raise(error: Exception) -> Any:
    raise error


@idempotent()
async def decorated_async(request: HttpRequest) -> HttpResponse:
    return TemplateResponse(request, "paid.html", {"n": ran("decorated")})


@idempotent(after_crash="refuse")
def decorated_otherwise(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"run {ran('decorated')}")


class Decorated(View):
    @method_decorator(idempotent(scope=lambda request, order: f"order-{order}"))
    def post(self, request: HttpRequest, order: int) -> HttpResponse:
        return HttpResponse(f"run {ran('class')}")

    @idempotent()
    def patch(self, request: HttpRequest, order: int) -> HttpResponse:
        return HttpResponse(f"run {ran('class')}")


class DecoratedAsync(View):
    @method_decorator([idempotent(), csrf_exempt])
    async def post(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse(f"run {ran('class')}")


# Django REST Framework.


class Token:
    is_authenticated = True

    def __init__(self, pk: str) -> None:
        self.pk = pk


class TokenAuthentication(BaseAuthentication):
    """The token is the user's name."""

    def authenticate(self, request: Any) -> tuple[Token, None] | None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        return (Token(token.partition("-")[0]), None) if kind == "Bearer" else None


def exception_handler(request: HttpRequest, error: Exception) -> HttpResponse | None:
    return HttpResponse("theirs", status=499) if isinstance(error, IdempotencyConflict) else None


def rest_exception(error: Exception, context: Any) -> Response | None:
    if isinstance(error, IdempotencyConflict):
        return Response({"ours": "no", "theirs": "yes"}, status=422)
    return views.exception_handler(error, context)


class Rest(views.APIView):
    authentication_classes = (TokenAuthentication,)

    @idempotent()
    def post(self, request: Any, how: str) -> Response:
        n = ran("rest")
        if how == "payment":
            raise PaymentRequired({"run": n})
        if how == "missing":
            raise Http404
        return Response({"run": n, "data": request.data}, status=201)


class PaymentRequired(exceptions.APIException):
    status_code = 402


@api_view(["POST"])
@idempotent()
def rest_function(request: Any) -> Response:
    return Response({"run": ran("rest")})


urlpatterns = [
    path("pay", csrf_exempt(pay)),
    path("pay-async", csrf_exempt(pay_async)),
    path("form", echo),
    path("echo", csrf_exempt(echo)),
    path("ends/<how>", csrf_exempt(ends)),
    path("longer", csrf_exempt(longer)),
    path("stream", csrf_exempt(stream)),
    path("stream-async", csrf_exempt(stream_async)),
    path("file", csrf_exempt(file)),
    path("cookies", csrf_exempt(cookies)),
    path("gated", csrf_exempt(gated)),
    path("gated-async", csrf_exempt(gated_async)),
    path("db/<int:user>", csrf_exempt(db)),
    path("raises", csrf_exempt(raises_after_write)),
    path("must", csrf_exempt(must)),
    path("tenant", csrf_exempt(tenant)),
    path("never", csrf_exempt(never)),
    path("marked", Marked.as_view()),
    path("unseen", csrf_exempt(Unseen.as_view())),
    path("unseen-rest", unseen_rest),
    path("decorated/<how>", idempotency_exempt(csrf_exempt(decorated))),
    path("decorated-async", idempotency_exempt(csrf_exempt(decorated_async))),
    path("decorated-db/<int:user>", idempotency_exempt(csrf_exempt(protect(db)))),
    path("decorated-raises", idempotency_exempt(csrf_exempt(protect(raises_after_write)))),
    path("twice/<how>", csrf_exempt(idempotent()(ends))),
    path("otherwise", csrf_exempt(decorated_otherwise)),
    path("class/<int:order>", idempotency_exempt(csrf_exempt(Decorated.as_view()))),
    path("class-async", idempotency_exempt(csrf_exempt(DecoratedAsync.as_view()))),
    path("rest/<how>", idempotency_exempt(Rest.as_view())),
    path("rest-function", idempotency_exempt(rest_function)),
]
