"""What an application does by which method and path, and how it is protected: for a test, and for an operator."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

from pyidempotent._calls.function import shared
from pyidempotent._http.routes import Plan, Routes
from pyidempotent._options import Site
from pyidempotent.asgi._middleware import IdempotencyMiddleware, middleware_of

#: The routes of a middleware, and the path below which it stands: it knows paths without that.
Around = tuple[Routes, str]


class Operation(NamedTuple):
    """One method of one path.

    Parameters:
        method: the method, in upper case.
        path: the path as the framework writes it, with its parameters.
        by: what protects a request with a key: ``"decorator"``, ``"middleware"``, ``"extension"``; empty: nothing does.
        required: whether a request without a key is refused, or its key does not come from the header.
        scope: where the caller comes from whose key it is.
    """

    method: str
    path: str
    by: str = ""
    required: bool = False
    scope: str = ""

    @property
    def is_protected(self) -> bool:
        """Whether a request with a key is protected."""
        return bool(self.by)

    @classmethod
    def under(cls, method: str, path: str, around: tuple[str, Plan | None], *views: Any) -> Operation:
        """The operation of views, and of a face around them that may have a plan for it.

        A face holds the attempt that a decorator below it joins.
        """
        by, plan = around
        site: Site | None = plan.site if plan is not None and method in plan.methods else None
        if site is None:
            by = "decorator"
            marks = (view.__idempotent__ for view in views if hasattr(view, "__idempotent__"))
            site = next((getattr(mark, "site", mark) for mark in marks), None)
        if site is None:
            return cls(method, path)
        return cls(method, path, by, site.required or site.options.get("key") is not None, _scope(site))


def _scope(site: Site) -> str:
    scope = site.options.get("scope")
    if scope is None:
        return "the framework's user"
    return "shared" if scope is shared else getattr(scope, "__qualname__", type(scope).__qualname__)


def operations_of(app: Any, methods: Iterable[str]) -> Iterator[Operation]:
    """The operations of an application.

    Raises:
        TypeError: for an application of another framework.
    """
    wanted = {method.upper() for method in methods}
    around: list[Around] = []
    while isinstance(app, IdempotencyMiddleware):
        around.append((app.routes, ""))
        app = app.app
    starlette, flask = sys.modules.get("starlette.applications"), sys.modules.get("flask")
    if starlette is not None and isinstance(app, starlette.Starlette):
        yield from _of_starlette(app, wanted, around, "")
    elif flask is not None and isinstance(app, flask.Flask):
        yield from _of_flask(app, wanted)
    elif type(app).__module__.startswith("django.core.handlers."):
        yield from _of_django(wanted)
    else:
        raise TypeError(
            f"the operations of a {type(app).__qualname__} are not known: pass a FastAPI, Starlette, Flask "
            "or Django application, or one of these below IdempotencyMiddleware"
        )


def _covers(plan: Plan | None, method: str) -> bool:
    return plan is not None and method in plan.methods


def _of_starlette(app: Any, wanted: set[str], around: list[Around], prefix: str) -> Iterator[Operation]:
    while isinstance(app, IdempotencyMiddleware):
        around, app = [*around, (app.routes, prefix)], app.app
    if not hasattr(app, "routes"):
        return  # an application of another kind, which is not known
    middleware = middleware_of(app) if hasattr(app, "user_middleware") else None
    if middleware is not None:
        around = [*around, (middleware.routes, prefix)]
    fastapi = sys.modules.get("fastapi.routing")
    # Newer releases of FastAPI keep included routers as they are, and tell where their routes end up.
    for route in getattr(fastapi, "iter_route_contexts", iter)(app.routes):
        endpoint, methods = getattr(route, "endpoint", None), getattr(route, "methods", None)
        below = getattr(route, "app", None)
        if methods is None and hasattr(below, "routes"):
            yield from _of_starlette(below, wanted, around, prefix + route.path)
            continue
        path = prefix + (getattr(route, "path_format", None) or getattr(route, "path", None) or "")
        for method in sorted(wanted & set(methods or ())):
            of_class = getattr(endpoint, method.lower(), None) if isinstance(endpoint, type) else None
            plans = (routes.plan_for(path.removeprefix(root)) for routes, root in around)
            covering = next((plan for plan in plans if _covers(plan, method)), None)
            yield Operation.under(method, path, ("middleware", covering), endpoint, of_class)


def _of_flask(app: Any, wanted: set[str]) -> Iterator[Operation]:
    from pyidempotent.flask._view import EXTENSION, views_of

    extension = app.extensions.get(EXTENSION)
    for rule in app.url_map.iter_rules():
        for method in sorted(wanted & set(rule.methods or ())):
            parts = rule.endpoint.split(".")[:-1]
            blueprints = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
            request: Any = SimpleNamespace(endpoint=rule.endpoint, method=method, blueprints=blueprints, path=rule.rule)
            plan = None if extension is None else extension.options_for(request)
            yield Operation.under(method, rule.rule, ("extension", plan), *views_of(app, request))


def _of_django(wanted: set[str]) -> Iterator[Operation]:
    from django.conf import settings
    from django.urls import get_resolver
    from django.utils.module_loading import import_string

    from pyidempotent.django import IdempotencyMiddleware as Middleware
    from pyidempotent.django._configuration import configuration
    from pyidempotent.django._marks import marks_of
    from pyidempotent.django._middleware import plan_of

    classes = [import_string(path) for path in settings.MIDDLEWARE]
    is_there = any(isinstance(cls, type) and issubclass(cls, Middleware) for cls in classes)
    routes = configuration().routes if is_there else None
    for path, view in _views_below(get_resolver(), "/"):
        cls = getattr(view, "view_class", None) or getattr(view, "cls", None)
        actions: dict[str, str] = getattr(view, "actions", None) or {}
        for method in sorted(wanted):
            of_class = getattr(cls, actions.get(method.lower(), method.lower()), None)
            if (cls is not None and of_class is None) or method not in _allowed(view, wanted):
                continue
            plan = None if routes is None else plan_of(view, marks_of(view), path, routes)
            yield Operation.under(method, path, ("middleware", plan), view, of_class, getattr(cls, "dispatch", None))


def _allowed(view: Any, wanted: set[str]) -> Iterable[str]:
    """The methods that a function view answers, as ``require_http_methods`` and the like have it."""
    while view is not None:
        if isinstance(view, FunctionType):
            told: Iterable[str] | None = inspect.getclosurevars(view).nonlocals.get("request_method_list")
            if told is not None:
                return told
        view = getattr(view, "__wrapped__", None)
    return wanted


def _views_below(resolver: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for pattern in resolver.url_patterns:
        path = prefix + str(pattern.pattern).removeprefix("^").removesuffix("$").removesuffix(r"\Z")
        if hasattr(pattern, "url_patterns"):
            yield from _views_below(pattern, path)
        else:
            yield path, pattern.callback
