"""The extension: which requests are protected, and how they begin."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from flask import Blueprint, Flask, current_app, has_request_context, request

from pyidempotent._calls.current import _current
from pyidempotent._calls.flow import advance, protect, refuse_to_block
from pyidempotent._http.endpoint import ATTEMPT
from pyidempotent._http.routes import Plan, RequestCall, Routes
from pyidempotent._http.rules import SAFE_METHODS, who_of
from pyidempotent._http.wsgi import environ_name, is_held_above
from pyidempotent._native import Facts
from pyidempotent._options import Site
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import MiddlewareOptions, RouteOptions
from pyidempotent._values.results import Outcome
from pyidempotent.backends import Backend, open_backend
from pyidempotent.exceptions import IdempotencyError
from pyidempotent.flask._command import command
from pyidempotent.flask._exchange import EXCHANGE, Exchange
from pyidempotent.flask._view import (
    EXTENSION,
    WAY_TO_EXTENSION,
    known_user,
    read_body,
    refusal,
    response_of,
    views_of,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask import Request
    from typing_extensions import Unpack

#: A view function, a class of views, a method of one, or a blueprint.
View = TypeVar("View", bound=Callable[..., Any] | Blueprint)

#: Where a view carries options of its own; decorators that keep ``__dict__`` carry it on.
_OWN = "__idempotency__"
_CONFIG = "IDEMPOTENCY_"
_UNSET: Any = object()

FACE = OptionReader("Idempotency", MiddlewareOptions)
_VIEW = OptionReader("Idempotency.options", RouteOptions)


@FACE.shows
class Idempotency:
    """Protects the views of a Flask application.

    Parameters:
        app: the application; without one, call `init_app`.
        backend: a backend or its URL.
        options: each by its name, where an editor shows what it means. docs/options.md has all of them.

    What is not given here is taken from ``app.config``, in capitals: ``IDEMPOTENCY_BACKEND``, ``IDEMPOTENCY_TTL``.

    Raises:
        TypeError, ValueError: for options that can't be.

    >>> from flask import Flask
    >>> app = Flask("shop")
    >>> idempotency = Idempotency(app, "memory://", ttl=3600)
    >>> @app.post("/pay")
    ... @idempotency.options(required=True)
    ... def pay():
    ...     print("charging")
    ...     return {"status": "charged"}, 201
    >>> client = app.test_client()
    >>> client.post("/pay").status
    '400 BAD REQUEST'
    >>> first, again = (client.post("/pay", headers={"Idempotency-Key": "order-7"}) for _ in range(2))
    charging
    >>> again.status, again.data == first.data, again.headers["Idempotent-Replayed"]
    ('201 CREATED', True, 'true')
    """

    def __init__(
        self, app: Flask | None = None, backend: Backend | str | None = None, **options: Unpack[MiddlewareOptions]
    ) -> None:
        if app is not None and not isinstance(app, Flask):
            raise TypeError(f"the first argument is the Flask application, not {app!r}; pass a backend as backend=")
        self._options: dict[str, Any] = {**options, **({} if backend is None else {"backend": backend})}
        _routes_of(self._options)  # what is wrong with them is said now
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Protects an application, for use with an application factory.

        Raises:
            TypeError, ValueError: for options that can't be, and without a backend.
            RuntimeError: where the application is protected already.
        """
        if EXTENSION in app.extensions:
            raise RuntimeError(f"{app.name} is protected already; an application takes one Idempotency")
        options = {**_configured(app), **self._options}
        if options.get("backend") is None:
            raise TypeError(
                "the extension needs a backend: pass backend=, a backend or a URL like 'redis://localhost', or set "
                "app.config['IDEMPOTENCY_BACKEND']"
            )
        protection = app.extensions[EXTENSION] = _Protection(app, options)
        app.cli.add_command(command(protection.operated))

    @_VIEW.shows
    def options(self, **options: Unpack[RouteOptions]) -> Callable[[View], View]:
        """Decorates a view (or takes a blueprint) that has options of its own; the extension's are its others.

        A view's own count before its blueprint's, and these before those of ``routes``.

        Parameters:
            options: each by its name, where an editor shows what it means. docs/options.md has all of them.

        Raises:
            TypeError, ValueError: for options that can't be.

        >>> idempotency = Idempotency()
        >>> @idempotency.options(required=True, ttl=60)
        ... def pay(): ...
        """
        _VIEW.refuse_unknown(options)
        _plan_of(options)

        def decorate(view: View) -> View:
            return _mark(view, options)

        return decorate

    def exempt(self, view: View) -> View:
        """Leaves a view (or a blueprint) out.

        >>> idempotency = Idempotency()
        >>> @idempotency.exempt
        ... def ping(): ...
        """
        return _mark(view, None)


def _mark(view: View, options: Mapping[str, Any] | None) -> View:
    if not callable(view) and not isinstance(view, Blueprint):
        raise TypeError(f"options and exempt take a view or a blueprint, not {view!r}")
    marked: Any = view if options is None or isinstance(view, Blueprint | type) else _seen(view)
    setattr(marked, _OWN, options)
    return cast("View", marked)


def _seen(view: Callable[..., Any]) -> Callable[..., Any]:
    """A marked view, which does not run where the extension has not found its mark."""
    if inspect.iscoroutinefunction(view):

        @functools.wraps(view)
        async def seen_async(*args: Any, **kwargs: Any) -> Any:
            _refuse_unseen(view)
            return await view(*args, **kwargs)

        return seen_async

    @functools.wraps(view)
    def seen(*args: Any, **kwargs: Any) -> Any:
        _refuse_unseen(view)
        return view(*args, **kwargs)

    return seen


def _refuse_unseen(view: Callable[..., Any]) -> None:
    """Refuses to run a view whose mark the extension has not found where it looked.

    Raises:
        RuntimeError: where it has not.
    """
    if not has_request_context() or request.method in SAFE_METHODS:
        return
    name = getattr(view, "__qualname__", repr(view))
    protection: _Protection | None = current_app.extensions.get(EXTENSION)
    if protection is None:
        raise RuntimeError(
            f"{name} has options of an Idempotency that does not protect {current_app.name}, and nothing runs: call "
            "init_app(app)"
        )
    if protection.own_of(request._get_current_object()) is _UNSET:  # type: ignore[attr-defined]  # of a LocalProxy
        raise RuntimeError(
            f"the extension can't see the options of {name}, and nothing runs: write functools.wraps in the decorators "
            "above it, or put options(...) above them"
        )


def _configured(app: Flask) -> dict[str, Any]:
    configured = {}
    for name in app.config:
        if name.startswith(_CONFIG):
            option = name[len(_CONFIG) :].lower()
            if option not in FACE.names:
                hint = FACE.instead(option, lambda known: f"{_CONFIG}{known.upper()}")
                raise TypeError(f"app.config[{name!r}] is no option{hint and f'; {hint}'}")
            configured[option] = app.config[name]
    return configured


def _routes_of(options: Mapping[str, Any]) -> Routes:
    routes = Routes(options, FACE)
    for plan in (routes.default, *(plan for _, plan in routes.patterns)):
        _refuse_underscore(plan)
    return routes


def _plan_of(options: Mapping[str, Any]) -> Plan:
    plan = Plan(options)
    _refuse_underscore(plan)
    return plan


def _refuse_underscore(plan: Plan | None) -> None:
    if plan is not None and "_" in plan.site.key_header:
        raise ValueError(f"key_header {plan.site.key_header!r} has a '_', which WSGI servers drop; use '-'")


class _Protection:
    """The extension on one application."""

    def __init__(self, app: Flask, options: Mapping[str, Any]) -> None:
        self.app = app
        self.routes = _routes_of(options)
        self._options = {name: value for name, value in options.items() if name != "routes"}
        #: The options of each view, by endpoint and method; `_UNSET` where it has none of its own.
        self._own: dict[tuple[str | None, str], Any] = {}
        self._sites: WeakKeyDictionary[Site, Site] = WeakKeyDictionary()
        self._dispatch, self._wsgi_app = app.dispatch_request, app.wsgi_app
        app.dispatch_request = self.dispatch_request  # type: ignore[method-assign]  # it has no hook around a view
        app.wsgi_app = self.wsgi_app  # type: ignore[method-assign]  # as Flask's documentation wraps it

    def operated(self) -> tuple[Backend, str]:
        """The backend and the namespace that an operator's commands are about."""
        options = self.routes.default.options
        namespace = options.get("namespace", "")
        return open_backend(options["backend"]), namespace if isinstance(namespace, str) else ""

    def site_of(self, site: Site) -> Site:
        """The options of a decorator that has no backend, over the extension's."""
        if site not in self._sites:
            self._sites[site] = site.on_backend_of(self.routes.default.site)
        return self._sites[site]

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Around all that the application does for a request: its attempt ends when that is done."""
        if environ["REQUEST_METHOD"] in SAFE_METHODS or EXCHANGE in environ:
            return self._wsgi_app(environ, start_response)
        exchange = environ[EXCHANGE] = Exchange(self.app, start_response)
        try:
            parts = self._wsgi_app(environ, exchange.start_response)
        except BaseException as error:
            exchange.fail(error)
            raise
        finally:
            del environ[EXCHANGE]
        return exchange.finish(parts, environ)

    def dispatch_request(self, *args: Any) -> Any:
        """In the place of the application's own: calls the view, or gives the answer of its first run."""
        current: Request = request._get_current_object()  # type: ignore[attr-defined]  # of a LocalProxy, which has its types
        plan = self._plan_for(current)
        try:
            if plan is None:
                return self._dispatch(*args)
            return self._protect(plan, current, *args)
        except IdempotencyError as error:  # ours, or that of a protected function that the view has called
            if (outer := _current.get()) is not None:
                outer._refused(error.status)  # of the view's call: nothing that a repeat should get
            answer = refusal(self.app, current, error, (plan or self.routes.default).site)
            if answer is None:
                raise
            return answer

    def _protect(self, plan: Plan, current: Request, *args: Any) -> Any:
        exchange: Exchange | None = current.environ.get(EXCHANGE)
        if exchange is None:
            raise RuntimeError(
                "a protected request did not come through app.wsgi_app as Idempotency left it: call the application "
                "itself, and put WSGI middleware that answers late around it after init_app"
            )
        if exchange.running is not None:  # an application around this one holds the attempt
            held: Site = current.environ[ATTEMPT]
            held.refuse_inside("An application inside", plan.site, WAY_TO_EXTENSION)
            return self._dispatch(*args)
        if plan.site.wait:
            refuse_to_block(plan.site.wait)
        facts = Facts.of_environ(current.environ)
        if "key" not in plan.asked and is_held_above(facts, plan.site):
            return self._dispatch(*args)
        call = _Request(plan, facts, current, self.app)
        if plan.asked:
            if "fingerprint" in plan.asked:
                call.read()  # its limit holds, whether or not it is looked at
            call.ask(current)
        flow = protect(call)
        begun = advance(call, flow, None, _Request.read)
        if type(begun) is Outcome:
            return response_of(self.app, begun.value)
        if begun is not None:
            exchange.begin(call, flow, begun, current)
        return self._dispatch(*args)

    def _plan_for(self, current: Request) -> Plan | None:
        """The options for a request that is protected; None for others."""
        if current.method in SAFE_METHODS or current.routing_exception is not None:
            return None
        plan = self.options_for(current)
        if plan is None or current.method not in plan.methods:
            return None
        site = plan.site
        is_concerned = site.required or "key" in plan.asked or environ_name(site.header) in current.environ
        return plan if is_concerned else None

    def options_for(self, current: Request) -> Plan | None:
        """The options of a request's view, its blueprint's, its path's, or all others'; None: it is left out."""
        own, routes = self.own_of(current), self.routes
        plan: Plan | None = own
        if own is _UNSET:
            plan = routes.plan_for(current.path) if routes.patterns else routes.default
        return plan

    def own_of(self, current: Request) -> Any:
        """The options of a request's view, its class or its blueprint; `_UNSET` where they have none of their own."""
        at = current.endpoint, current.method
        if at not in self._own:
            self._own[at] = self._own_plan(current)
        return self._own[at]

    def _own_plan(self, current: Request) -> Any:
        """The options of a view's own, or its blueprint's; the nearest count."""
        views = views_of(self.app, current)
        bearers = [*reversed(views), *(getattr(view, "view_class", None) for view in views[:1])]
        for bearer in (*bearers, *(self.app.blueprints[name] for name in current.blueprints)):
            own = getattr(bearer, _OWN, _UNSET)
            if own is not _UNSET:
                return None if own is None else _plan_of({**self._options, **own})
        return _UNSET


class _Request(RequestCall):
    """A request on its way to its view."""

    __slots__ = ("_app", "request")

    def __init__(self, plan: Plan, facts: Facts, request: Request, app: Flask) -> None:
        self.request = request
        self._app = app

    def read(self) -> tuple[bytes, bytes]:
        """Content type and body."""
        limit = self.site.max_request_bytes
        self.facts.refuse_declared(limit)
        return read_body(self.request, limit)

    def ask(self, request: Any) -> None:
        """Asks the callables of the user's, as Flask calls what may be async."""
        for option, asked in self.plan.asked.items():
            self.asked[option] = self._app.ensure_sync(asked)(request)

    def user(self) -> bytes | None:
        """The user that flask-login knows, or whom the server has authenticated."""
        return known_user(self._app, self.request, self.site, who_of(self.facts))
