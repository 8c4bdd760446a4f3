"""The Django application that the web benchmark loads: `SUBJECT` says who protects it, `STORE` where records live."""

import os

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import JsonResponse
from django.urls import path

OURS = os.environ["SUBJECT"] == "ours"
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


urlpatterns = [path("pay", pay)]
app = WSGIHandler()
