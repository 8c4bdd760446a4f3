"""The Django application that the web benchmark loads: `SUBJECT` says who protects it, `STORE` where records live."""

import os

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, JsonResponse
from django.urls import path

SUBJECT = os.environ["SUBJECT"]
OURS = SUBJECT == "ours"
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["pyidempotent.django"] if OURS else [],
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        *(["pyidempotent.django.IdempotencyMiddleware"] if OURS else []),
    ],
    PYIDEMPOTENT={"BACKEND": os.environ.get("STORE", "memory://")},
)
django.setup()


def pay(request):
    return JsonResponse({"status": "charged", "amount": int(request.GET["amount"])})


if SUBJECT.startswith("floor"):
    from web_floor import Redis

    server, view = Redis(os.environ["STORE"]), pay

    def pay(request):
        server.get()
        if SUBJECT == "floor of a replay":
            return HttpResponse(b'{"status": "charged", "amount": 42}', content_type="application/json")
        server.get()
        return view(request)


urlpatterns = [path("pay", pay)]
app = WSGIHandler()
