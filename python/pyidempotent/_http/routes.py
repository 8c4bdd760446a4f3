"""The options of a face that protects requests and stores whole answers, by route; and a request under them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from typing import Any

from pyidempotent import _native
from pyidempotent._calls.function import by_authorization, json_body, shared
from pyidempotent._http.callers import named_caller
from pyidempotent._options import Site
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import MiddlewareOptions, RouteOptions

#: ASGI's and Django's.
MIDDLEWARE = OptionReader("IdempotencyMiddleware", MiddlewareOptions)

_ROUTE = OptionReader("a route", RouteOptions)


class Routes:
    """The options of every path.

    Parameters:
        options: as they were given to a face. ``routes`` are the options of their own that some paths have.
        face: who takes them.

    Raises:
        TypeError, ValueError: for options that can't be.

    >>> routes = Routes({"backend": "memory://", "routes": {"/pay": {"required": True}, "/health": None}})
    >>> routes.plan_for("/pay").site.required, routes.plan_for("/health"), routes.plan_for("/refund").site.required
    (True, None, False)
    """

    def __init__(self, options: Mapping[str, Any], face: OptionReader = MIDDLEWARE) -> None:
        routes = face.read(options)["routes"] or {}
        every = {name: value for name, value in options.items() if name != "routes"}
        self.default = Plan(every)
        self.patterns: list[tuple[re.Pattern[str], Plan | None]] = []
        for pattern, own in routes.items():
            self.patterns.append((path_pattern(pattern), None if own is None else _route(face, pattern, every, own)))

    def plan_for(self, path: str) -> Plan | None:
        """The options for a path; None where it is left out."""
        for pattern, plan in self.patterns:
            if pattern.match(path):
                return plan
        return self.default


def _route(face: OptionReader, pattern: str, every: Mapping[str, Any], own: Mapping[str, Any]) -> Plan:
    """The options of one path; what is wrong with them is said with the path."""
    OptionReader(f"{face.name}, routes[{pattern!r}]", RouteOptions).refuse_unknown(own)
    try:
        return Plan({**every, **own})
    except (TypeError, ValueError) as error:
        raise type(error)(f"routes[{pattern!r}]: {error}") from None


#: A parameter in the template of a path, as the frameworks write it: ``{id}``, ``{file:path}``, ``<id>``, ``<int:id>``.
_PARAMETER = re.compile(r"\{(?P<name>\w+)(?::(?P<kind>\w+))?\}|<(?:(?P<first>\w+)(?:\([^)]*\))?:)?\w+>")


def path_pattern(text: str) -> re.Pattern[str]:
    """A pattern of a path, ready to match.

    >>> texts = "/orders/*", "/orders/{id}/{rest:path}", "/orders/<int:id>/<path:rest>", "/orders/{id}"
    >>> [path_pattern(text).match("/orders/7/lines/a") is not None for text in texts]
    [True, True, True, False]
    """
    pattern, end = "", 0
    for found in _PARAMETER.finditer(text):
        is_rest = "path" in (found["kind"], found["first"])
        # Each part is a pattern of its own; what translate puts around it is taken off.
        pattern += _fnmatched(text[end : found.start()]) + (".+" if is_rest else "[^/]+")
        end = found.end()
    return re.compile(rf"(?s:{pattern}{_fnmatched(text[end:])})\Z")


def _fnmatched(text: str) -> str:
    return translate(text)[len("(?s:") : translate(text).rindex(")")]


class Plan:
    """The options for one route of a face that stores whole answers.

    Parameters:
        options: as they were given.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        read = _ROUTE.read(options)
        self.site = Site(read.pop("backend"), read)
        #: As they were given.
        self.options = options
        self.methods: frozenset[str] = read["methods"]
        self.name: str | None = read["name"]
        self.shared = read["scope"] is shared
        self.by_json_body = read["fingerprint"] is json_body
        asked = {
            "key": read["key"],
            "scope": None if self.shared else read["scope"],
            "namespace": read["namespace"] if callable(read["namespace"]) else None,
            "fingerprint": None if self.by_json_body else read["fingerprint"],
        }
        #: The callables of the user's, by option.
        self.asked = {option: value for option, value in asked.items() if value is not None}

    def concerns(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request is to be protected. A request that is not protected is never validated."""
        if self.site.required or "key" in self.asked:
            return True
        header = self.site.header
        for name, _ in headers:  # noqa: SIM110  # twice as fast as any(), on every request
            if name == header:
                return True
        return False


#: What the extension answers for a request, without a look at the class.
_ANSWERED = frozenset(
    {
        "body",
        "caller",
        "fingerprint",
        "fingerprint_of",
        "headers",
        "key",
        "namespace",
        "operation",
        "pack",
        "replay",
        "status",
        "verdict",
    }
)


class RequestCall(_native.RequestCall):
    """A request under a plan, as `protect` sees it. A face says who the user is (``user``), and reads the body.

    Raises:
        TypeError: where a class derived from it is made that answers what the extension answers: nobody would ask it.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        if astray := _ANSWERED & vars(cls).keys():
            raise TypeError(f"{cls.__qualname__}.{min(astray)} would never be called: the extension answers it")

    def ask(self, request: Any) -> None:
        """Asks the callables of the user's."""
        for option, asked in self.plan.asked.items():
            answer = asked(request)
            if inspect.iscoroutine(answer):
                answer.close()
                raise TypeError(f"{option}= is async, and this application is not: pass a plain callable")
            self.asked[option] = answer

    async def ask_async(self, request: Any) -> None:
        """Asks the callables of the user's, which may be async."""
        for option, asked in self.plan.asked.items():
            answer = asked(request)
            self.asked[option] = await answer if inspect.isawaitable(answer) else answer


def caller_of(plan: Plan, found: Any, who: str) -> bytes | None:
    """Who calls, of what ``scope=`` has returned; None: nobody says.

    Parameters:
        who: the operation, for the log.
    """
    if found is None and plan.asked["scope"] is by_authorization:
        return None  # without the header it has nobody to tell apart
    return named_caller(found, plan.site, who)
