"""Orders in a Django project of one file, behind the middleware: python django_shop.py runserver.

Then look at its keys: python django_shop.py idempotency list.
"""

import json
import os
import sys
from uuid import uuid4

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from pyidempotent import IdempotencyError, current

#: Who may order, by the API key that they send.
CUSTOMERS = {"Bearer alice-key": "alice", "Bearer bob-key": "bob"}


def customer(request: HttpRequest) -> str:
    """Who asks: a key belongs to one customer, and nobody reads another's answer."""
    return CUSTOMERS.get(request.headers.get("authorization", ""), "")


def refused(request: HttpRequest, error: IdempotencyError) -> HttpResponse | None:
    """How this shop says that a key is missing; every other refusal is a problem document."""
    return HttpResponse("Send an Idempotency-Key.\n", status=400) if error.name == "key-missing" else None


settings.configure(
    DEBUG=True,
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["pyidempotent.django"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "pyidempotent.django.IdempotencyMiddleware"],
    PYIDEMPOTENT={
        "BACKEND": os.environ.get("ORDERS_STORE", "sqlite:///idempotency.db"),
        "TTL": 24 * 3600,
        "SCOPE": customer,  # in a settings file: "shop.views.customer"
        "EXCEPTION_HANDLER": refused,
    },
)
django.setup()

# Once Django is set up.
from pyidempotent.django import idempotency_exempt, idempotency_required  # noqa: E402

orders: dict[str, dict[str, str | int]] = {}


@method_decorator(idempotency_required, name="dispatch")
class Orders(View):
    """Places an order: a POST must have a key."""

    def post(self, request: HttpRequest) -> HttpResponse:
        if not customer(request):
            return HttpResponse("Send 'Authorization: Bearer alice-key'.\n", status=401)
        number = uuid4().hex
        order = json.loads(request.body)
        # What a warehouse would be sent as its own idempotency key: the same for every attempt of this key.
        orders[number] = {"item": order["item"], "warehouse_key": current().derive("warehouse")}
        return JsonResponse({"order": number, **orders[number]}, status=201, headers={"Location": f"/orders/{number}"})


def look(request: HttpRequest, number: str) -> HttpResponse:
    """Looks an order up."""
    if number not in orders:
        raise Http404
    return JsonResponse(orders[number])


@idempotency_exempt
def ping(request: HttpRequest) -> HttpResponse:
    """Has no effect, and needs no protection."""
    return JsonResponse({"pong": True})


urlpatterns = [path("orders", Orders.as_view()), path("orders/<number>", look), path("ping", ping)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
