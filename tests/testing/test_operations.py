"""`assert_protected`: what changes something and is not protected is listed, on every framework."""

from __future__ import annotations

from typing import Any

import flask
import pytest
from django.core.wsgi import get_wsgi_application
from django.test import override_settings
from django.urls import include, path, re_path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe
from fastapi import APIRouter, FastAPI, Request
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from django_client import site
from pyidempotent import idempotent
from pyidempotent.asgi import IdempotencyMiddleware
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.django import idempotency_exempt
from pyidempotent.flask import Idempotency
from pyidempotent.testing import assert_protected

__all__ = ["site"]

BACKEND = MemoryBackend()


def unprotected(app: Any, **options: Any) -> list[str]:
    try:
        assert_protected(app, **options)
    except AssertionError as error:
        return str(error).removeprefix("not protected: ").split(", ")
    return []


def fastapi_app() -> FastAPI:
    app, router, inner = FastAPI(), APIRouter(prefix="/routed"), FastAPI()

    async def handle(request: Request) -> None: ...

    protected = idempotent(BACKEND)(handle)
    app.post("/bare")(handle)
    app.post("/decorated")(protected)
    idempotent(BACKEND)(app.post("/wrong-order")(handle))
    app.get("/read")(handle)
    app.delete("/order/{id}")(handle)
    router.patch("/bare")(handle)
    router.patch("/decorated/{id}")(protected)
    inner.post("/bare")(handle)
    app.include_router(router)
    app.mount("/inner", inner)
    return app


def test_fastapi() -> None:
    app = fastapi_app()
    expected = ["PATCH /routed/bare", "POST /bare", "POST /inner/bare", "POST /wrong-order"]
    assert unprotected(app) == expected
    assert unprotected(app, but=["/bare", "/inner/*"]) == ["PATCH /routed/bare", "POST /wrong-order"]
    assert unprotected(app, methods=["delete"]) == ["DELETE /order/{id}"]
    assert unprotected(IdempotencyMiddleware(app, BACKEND)) == []
    app.add_middleware(IdempotencyMiddleware, backend=BACKEND, routes={"/inner/*": None, "/routed/{x}": None})
    assert unprotected(app) == ["PATCH /routed/bare", "POST /inner/bare"]


def test_starlette() -> None:
    async def handle(request: Any) -> None: ...

    routes = [
        Route("/a/{id:int}", handle, methods=["POST"]),
        Mount("/b", routes=[Route("/c", handle, methods=["PATCH"])]),
    ]
    assert unprotected(Starlette(routes=routes)) == ["PATCH /b/c", "POST /a/{id}"]


def test_middleware_around_a_mounted_application_knows_its_paths_without_the_mount() -> None:
    async def handle(request: Any) -> None: ...

    inner = Starlette(routes=[Route("/pay", handle, methods=["POST"]), Route("/out", handle, methods=["POST"])])
    wrapped = IdempotencyMiddleware(inner, BACKEND, routes={"/out": None})
    app = Starlette(routes=[Mount("/shop", wrapped), Mount("/other", lambda scope, receive, send: None)])
    assert unprotected(app) == ["POST /shop/out"]


def test_flask() -> None:
    app = flask.Flask("shop")
    extension, hooks = Idempotency(), flask.Blueprint("hooks", __name__, url_prefix="/hooks")
    hooks.post("/github")(lambda: "seen")

    class Orders(MethodView):
        @idempotent(BACKEND)
        def post(self) -> str:
            return "ordered"

        @extension.exempt
        def patch(self) -> str:
            return "changed"

    app.add_url_rule("/orders/<int:id>", view_func=Orders.as_view("orders"))
    app.add_url_rule("/bare", "bare", lambda: "bare", methods=["POST"])
    app.register_blueprint(hooks)
    assert unprotected(app) == ["PATCH /orders/<int:id>", "POST /bare", "POST /hooks/github"]
    extension.exempt(hooks)
    app.config["IDEMPOTENCY_BACKEND"] = "memory://"
    extension.init_app(app)
    assert unprotected(app) == ["PATCH /orders/<int:id>", "POST /hooks/github"]


def bare(request: Any) -> None: ...


@method_decorator(idempotent(BACKEND), name="post")
class Orders(View):
    def post(self, request: Any) -> None: ...

    def patch(self, request: Any) -> None: ...


urlpatterns = [
    path("bare", bare),
    path("decorated", idempotent(BACKEND)(bare)),
    path("read", csrf_exempt(require_safe(bare))),
    path("form", require_http_methods(["GET", "POST"])(bare)),
    path("orders/<int:id>", Orders.as_view()),
    path("inner/", include([re_path("^bare$", idempotency_exempt(bare))])),
]


def test_django(site: None) -> None:
    with override_settings(ROOT_URLCONF=__name__, PYIDEMPOTENT={"BACKEND": "memory://"}, MIDDLEWARE=[]):
        expected = ["PATCH /bare", "PATCH /inner/bare", "PATCH /orders/<int:id>", "POST /bare", "POST /form"]
        assert unprotected(get_wsgi_application()) == [*expected, "POST /inner/bare"]
    ours = {"MIDDLEWARE": ["pyidempotent.django.IdempotencyMiddleware"], "ROOT_URLCONF": __name__}
    with override_settings(PYIDEMPOTENT={"BACKEND": "memory://", "ROUTES": {"/bare": None}}, **ours):
        expected = ["PATCH /bare", "PATCH /inner/bare", "POST /bare", "POST /inner/bare"]
        assert unprotected(get_wsgi_application()) == expected


def test_another_application_is_refused() -> None:
    with pytest.raises(TypeError, match="the operations of a object are not known"):
        assert_protected(object())
