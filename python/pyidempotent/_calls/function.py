"""A protected function: its analysis, made once. Calls of it are `FunctionCall`s."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, Literal, get_args, get_origin
from uuid import UUID

from pyidempotent import _native
from pyidempotent._native import FunctionCall
from pyidempotent._options import Site
from pyidempotent._values.annotations import Named, never_kept
from pyidempotent._values.binding import Binding, Selector
from pyidempotent.exceptions import IdempotencyScopeMissing

__all__ = [
    "Function",
    "FunctionCall",
    "arguments",
    "by_authorization",
    "caller_bytes",
    "is_framework_object",
    "json_body",
    "shared",
]

#: Framework objects that say nothing about what is asked for, by where their class is defined.
_FRAMEWORK_CLASSES = frozenset(
    {
        ("starlette.requests", "HTTPConnection"),
        ("starlette.responses", "Response"),
        ("starlette.background", "BackgroundTask"),
        ("fastapi.security.oauth2", "SecurityScopes"),
        ("werkzeug.sansio.request", "Request"),
        ("django.http.request", "HttpRequest"),
        ("celery.app.task", "Task"),
    }
)


def arguments(*_args: Any, **_kwargs: Any) -> str:
    """As ``key=``: the arguments are the key. Equal calls are one call."""
    raise TypeError("pyidempotent.arguments is a marker: pass it as key=arguments")


def shared(*_args: Any, **_kwargs: Any) -> None:
    """As ``scope=``: all callers share their keys, whatever credentials they send."""


def json_body(*_args: Any, **_kwargs: Any) -> None:
    """As ``fingerprint=``: a JSON body is compared by what it says (RFC 8785), not byte for byte.

    The order of names, white space, escapes and the form of a number (``10``, ``1e1``) do not count. Method, path,
    query and content type count as without it. A body counts byte for byte if it is larger than 256 KiB, if its content
    type is not ``application/json`` or ``…+json`` in UTF-8, or if it has a name twice in one object or an integer
    beyond 2**53 - 1. Other numbers are compared as doubles: where your service reads more than 15 digits, have them
    sent as strings.

    Raises:
        TypeError: at the call of a function that is not an endpoint: it has no body.

    >>> from pyidempotent import idempotent, json_body
    >>> protected = idempotent("memory://", fingerprint=json_body)
    """
    raise TypeError(
        "fingerprint=pyidempotent.json_body compares the body of an HTTP request; this function is not the endpoint of "
        "one: leave fingerprint= out, and its arguments are compared"
    )


def by_authorization(request: Any) -> str | None:
    """As ``scope=``: callers are told apart by a digest of their ``Authorization`` header.

    Only for static API keys: a refreshed token would be another caller.
    """
    header = request.headers.get("authorization")
    return None if header is None else _native.authorization_caller(header)


def is_framework_object(value: Any) -> bool:
    """Whether a value is a framework's request, response or background task."""
    return any((cls.__module__, cls.__name__) in _FRAMEWORK_CLASSES for cls in type(value).__mro__)


def module_of(wrapper: Any) -> str:
    """Where a decorator's wrapper is defined, whatever its ``__module__`` says that it has copied."""
    names = getattr(wrapper, "__globals__", None)
    return str(type(wrapper).__module__ if names is None else names.get("__name__"))


def modules_above(view: Any, wrapper: Any) -> list[str] | None:
    """Where the decorators are defined that stand between a view and what is inside of it; None where it is not.

    Parameters:
        view: the outermost wrapper; each leaves what it wraps in ``__wrapped__``.
        wrapper: what is looked for; None: all of them count.
    """
    found: list[str] = []
    while view is not wrapper:
        if view is None:
            return None
        found.append(module_of(view))
        view = getattr(view, "__wrapped__", None)
    return found


class Function:
    """What is worked out once about a decorated function."""

    def __init__(
        self,
        function: Callable[..., Any],
        site: Site,
        *,
        key: Callable[..., Any] | str | None,
        scope: Callable[..., Any] | None,
        fingerprint: Callable[..., Any] | None,
        name: str | None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"@idempotent decorates functions, not {type(function).__qualname__}")
        if isinstance(function, type):
            raise TypeError(
                f"@idempotent decorates functions; {function.__qualname__} is a class: decorate its methods"
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a generator function: what it yields can't be stored unconsumed. "
                "Return a list, or protect the function that consumes it"
            )
        qualified = getattr(function, "__qualname__", "")
        if name is None and ("<lambda>" in qualified or not qualified):
            raise TypeError("a lambda (or a nameless callable) needs name=: its qualified name tells it from no other")
        self.function = function
        #: Whether its framework is asked for parameters that are not its own.
        self.is_injected = False
        #: What stands in its place.
        self.wrapper: Callable[..., Any] | None = None
        self.site = site
        self.named = name is not None
        self.name = name or f"{function.__module__}.{qualified}"
        self.binding = Binding(function)
        self.is_method = "." in qualified.rpartition("<locals>.")[2] and self.binding.names[:1] in (["self"], ["cls"])
        if key is not None and (why := never_kept(self.binding.hints.get("return"))):
            raise TypeError(f"{qualified} returns what can't be kept for a repeat: {why}")
        self.key_is_arguments = key is arguments
        if self.key_is_arguments and self.is_method and fingerprint is None:
            raise TypeError(
                f"key=arguments on the method {qualified} needs a fingerprint= that says whether self counts"
            )
        if isinstance(key, str) and key not in self.binding.names:
            raise TypeError(f"key={key!r} names no parameter of {qualified}({', '.join(self.binding.names)})")
        self.key_parameter = key if isinstance(key, str) else None
        self.key = None if key is None or self.key_parameter or self.key_is_arguments else self._selector("key", key)
        self.shared = scope is shared
        self.by_authorization = scope is by_authorization
        self.scope = None if scope is None or self.shared else self._selector("scope", scope)
        self.namespace = self._selector("namespace", site.namespace) if callable(site.namespace) else None
        self.by_json_body = fingerprint is json_body
        self.fingerprint = None if fingerprint is None else self._selector("fingerprint", fingerprint)
        self.requests = [name for name in self.binding.names if self._is_hinted(name, "starlette.requests", "Request")]
        self.responses = [
            name for name in self.binding.names if self._is_hinted(name, "starlette.responses", "Response")
        ]
        markers = {name: self._fastapi_markers(name) for name in self.binding.names}
        self.left_out = frozenset(name for name, found in markers.items() if "Depends" in found)
        if self.is_method:
            self.left_out |= {self.binding.names[0]}
        #: What its calls need, without a Python instruction.
        self.native = self._native_plan()

    def of(self, function: Callable[..., Any]) -> Function:
        """This analysis for another function with these parameters, like the method bound to another instance."""
        other = copy.copy(self)
        other.function = function
        other.native = other._native_plan()
        return other

    def _native_plan(self) -> _native.Plan:
        return _native.Plan(
            self,
            self.site,
            self.name,
            list(self.binding.signature.parameters.values()),
            self.left_out,
            key=self._key_source(),
            key_parameter=self.key_parameter,
            has_scope=self.scope is not None,
            has_namespace=self.namespace is not None,
            has_fingerprint=self.fingerprint is not None,
        )

    @property
    def takes_django_request(self) -> bool:
        """Whether the first parameter is Django's request, as its name or its annotation tells."""
        name = next(iter(self.binding.names), "")
        is_untold = name == "request" and self.binding.hints.get(name, Any) is Any and name not in self.binding.defaults
        return "django.http.request" in sys.modules and (
            is_untold or self._is_hinted(name, "django.http.request", "HttpRequest")
        )

    @property
    def asks_fingerprint(self) -> bool:
        """Whether ``fingerprint=`` is a callable that gets the arguments, also of an endpoint."""
        return self.fingerprint is not None and not self.by_json_body

    @property
    def takes_key_from_header(self) -> bool:
        """Whether no ``key=`` was given."""
        return self.key is None and self.key_parameter is None and not self.key_is_arguments

    def _key_source(self) -> Literal["request", "arguments", "callable", "parameter"]:
        if self.key_is_arguments:
            return "arguments"
        if self.key_parameter is not None:
            return "parameter"
        return "request" if self.key is None else "callable"

    def _selector(self, option: str, function: Any) -> Selector:
        if not callable(function):
            raise TypeError(f"{option}= must be a callable, not {function!r}")
        return Selector(option, function, self.binding, also=("request",))

    def _is_hinted(self, name: str, module: str, cls: str) -> bool:
        """Whether a parameter is annotated with a class of a framework, or one derived from it."""
        mro = getattr(self.binding.hints.get(name), "__mro__", ())
        return (module, cls) in {(base.__module__, base.__name__) for base in mro}

    def _fastapi_markers(self, name: str) -> set[str]:
        """``Depends``, ``Body`` and the like, by which FastAPI is told where a parameter comes from."""
        hint = self.binding.hints.get(name)
        markers = [self.binding.defaults.get(name), *(get_args(hint)[1:] if get_origin(hint) is Annotated else ())]
        bases = {base for marker in markers for base in type(marker).__mro__}
        return {base.__name__ for base in bases if base.__module__ == "fastapi.params"}

    @cached_property
    def classes(self) -> Named:
        """The classes that the return annotation names; looked up late, when all of its module is defined."""
        return Named(Binding(self.function).hints.get("return"))


def caller_bytes(caller: Any) -> bytes:
    """What ``scope=`` returned, as the one form that every language writes."""
    if isinstance(caller, str):
        return caller.encode("utf-8", "surrogatepass")
    if isinstance(caller, int) and not isinstance(caller, bool):
        return b"%d" % caller
    if isinstance(caller, UUID):
        return str(caller).encode()
    if isinstance(caller, bytes):
        return caller
    if caller is None:
        raise IdempotencyScopeMissing(
            "scope= returned None, which names nobody; return '' for callers that share their keys, or use shared"
        )
    raise TypeError(f"scope= must return a str, int, UUID or bytes, not {type(caller).__qualname__}")
