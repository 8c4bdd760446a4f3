"""Options of views, as Django's own decorators mark them: the middleware looks when the view is known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured

from pyidempotent._http.routes import Plan
from pyidempotent._http.rules import METHODS, SAFE_METHODS
from pyidempotent._http.wsgi import environ_name
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import ViewOptions
from pyidempotent.backends import Backend

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["idempotency_exempt", "idempotency_options", "idempotency_required"]

View = TypeVar("View", bound=Callable[..., Any])

_FACE = OptionReader("idempotency_options", ViewOptions)

#: The attribute of a marked view that says so; each option has one of its own, since ``method_decorator`` copies them
#: one by one.
EXEMPT, PREFIX = "idempotency_exempt", "idempotency_option_"

#: Where the middleware leaves what it has seen of a request's view, in the request's ``META``.
SEEN = "pyidempotent.seen"

#: Where the keys of marked views are, beside those of the setting.
KEY_HEADERS: set[str] = set()


def marks_of(view: Any) -> dict[str, Any]:
    """The options that a view is marked with, by name.

    >>> @idempotency_options(ttl=60)
    ... @idempotency_required
    ... def pay(request): ...
    >>> marks_of(pay)
    {'required': True, 'ttl': 60}
    """
    start = len(PREFIX)
    return {name[start:]: value for name, value in vars(view).items() if name.startswith(PREFIX)}


def idempotency_exempt(view: View) -> View:
    """Leaves a view out: the middleware does nothing about its requests.

    >>> @idempotency_exempt
    ... def health(request): ...
    """
    return _marked(view, {EXEMPT: True}, {})


def idempotency_required(view: View) -> View:
    """A view whose requests must have a key: without one they are refused with 400.

    >>> @idempotency_required
    ... def pay(request): ...

    On a class: ``@method_decorator(idempotency_required, name="dispatch")``.

    Raises:
        ImproperlyConfigured: at a request, where the middleware can't see the mark.
    """
    return idempotency_options(required=True)(view)


@_FACE.shows
def idempotency_options(backend: Backend | str | None = None, **options: Unpack[ViewOptions]) -> Callable[[View], View]:
    """Options of a view's own, in place of the setting's, by the names of `pyidempotent.idempotent`.

    Parameters:
        backend: a backend or its URL.
        options: each by its name, where an editor shows what it means. docs/options.md has all of them.

    Raises:
        TypeError, ValueError: at once, for options that can't be.
        ImproperlyConfigured: at a request, where the middleware can't see the mark.

    >>> @idempotency_options(ttl=3600, scope=lambda request: request.headers["X-Tenant"])
    ... def pay(request): ...
    """
    given: dict[str, Any] = {**options, **({} if backend is None else {"backend": backend})}
    _FACE.refuse_unknown(given)
    plan = Plan({"backend": "memory://", **given})
    if "key_header" in given:
        KEY_HEADERS.add(environ_name(plan.site.header))
    return lambda view: _marked(view, {PREFIX + name: value for name, value in given.items()}, given)


def _marked(view: View, attributes: dict[str, Any], options: dict[str, Any]) -> View:
    if isinstance(view, type):
        raise TypeError(f'{view.__name__} is a class: write @method_decorator(…, name="dispatch") above it')

    marked: Any
    if iscoroutinefunction(view):

        async def marked_async(request: Any, *args: Any, **kwargs: Any) -> Any:
            _refuse_unseen(view, request, options)
            return await view(request, *args, **kwargs)

        marked = marked_async

    else:

        def marked_sync(request: Any, *args: Any, **kwargs: Any) -> Any:
            _refuse_unseen(view, request, options)
            return view(request, *args, **kwargs)

        marked = marked_sync

    functools.update_wrapper(marked, view)
    vars(marked).update(attributes)
    return cast("View", marked)


def _refuse_unseen(view: Any, request: Any, options: dict[str, Any]) -> None:
    """Refuses to run a view whose mark the middleware has not found where it looked."""
    name = getattr(view, "__qualname__", view)
    if not hasattr(request, "META"):
        raise ImproperlyConfigured(
            f"{name} is a method: mark it with method_decorator(…, name='dispatch') on its class"
        )
    seen = request.META.get(SEEN)
    if seen is None and options and request.method not in SAFE_METHODS and request.resolver_match is not None:
        raise ImproperlyConfigured(
            f"{name} has options of IdempotencyMiddleware, which is not in MIDDLEWARE, and nothing runs: put "
            "'pyidempotent.django.IdempotencyMiddleware' there, last"
        )
    if seen is not None and request.method in options.get("methods", METHODS) and not options.keys() <= seen.keys():
        raise ImproperlyConfigured(
            f"the middleware can't see the options of {name}, and nothing runs: put their decorator outside of every "
            "other (above @api_view), and on a class at name='dispatch'"
        )
