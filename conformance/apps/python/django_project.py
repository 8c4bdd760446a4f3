"""A Django project behind the middleware: its settings, and its one view, sync and async."""

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import include, re_path
from django.views.decorators.csrf import csrf_exempt
from handler import ROUTES, STORE, Handler

from pyidempotent import idempotent


def user(request: HttpRequest) -> str:
    return request.headers["x-user"]


routes = {**ROUTES, "/owned/*": {"scope": "django_project.user"}, "/shared/*": {"scope": "pyidempotent.shared"}}
settings.configure(
    SECRET_KEY="conformance",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF="django_project",
    LOGGING_CONFIG=None,
    INSTALLED_APPS=["pyidempotent.django"],
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "pyidempotent.django.IdempotencyMiddleware",
    ],
    PYIDEMPOTENT={
        "BACKEND": STORE,
        "ROUTES": {
            path: None if own is None else {name.upper(): value for name, value in own.items()}
            for path, own in routes.items()
        },
    },
)
django.setup()


def handler_of(request: HttpRequest) -> Handler:
    return Handler(request.headers["x-run"], request.headers.get("x-do", ""))


def answer_of(handler: Handler, request: HttpRequest, is_async: bool) -> HttpResponseBase:
    status, headers, content = handler.answer(request.body)
    answer: HttpResponseBase
    if handler.stream is None:
        answer = HttpResponse(content, status=status)
    else:
        answer = StreamingHttpResponse(handler.chunks_async() if is_async else handler.chunks(), status=status)
    for name, value in headers:
        # Django has one line for each name.
        fresh = name.lower() == "content-type" or name not in answer
        answer[name] = value if fresh else f"{answer[name]}, {value}"
    return answer


def handle(request: HttpRequest) -> HttpResponseBase:
    handler = handler_of(request)
    if handler.waits_first:
        handler.wait()
    return answer_of(handler, request, False)


async def handle_async(request: HttpRequest) -> HttpResponseBase:
    handler = handler_of(request)
    if handler.waits_first:
        await handler.wait_async()
    return answer_of(handler, request, True)


def urls(view: object) -> list[object]:
    """Every path, for a sync or an async view."""
    everywhere = re_path("", csrf_exempt(view))
    return [
        re_path("^mount-[ab]/", include([everywhere])),
        re_path("^joined/", csrf_exempt(idempotent()(view))),
        everywhere,
    ]


urlpatterns: list[object] = []
