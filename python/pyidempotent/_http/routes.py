"""The options of a face that protects requests and stores whole answers, by route; and a request under them."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from typing import Any

from pyidempotent import _native
from pyidempotent._calls.function import by_authorization, json_body, shared
from pyidempotent._http.callers import named_caller
from pyidempotent._http.rules import METHODS, SAFE_METHODS
from pyidempotent._options import Options, Site, takes_one
from pyidempotent.backends import Backend

#: A callable of the user's on the framework's request.
Asked = Callable[[Any], Any]


class PlanOptions(Options, total=False):
    """The options of a route: a face that stores whole answers takes all of them by these names.

    ``methods`` are those of the requests that are protected: POST and PATCH unless told.
    """

    methods: Iterable[str]
    key: Asked | None
    name: str | None
    scope: Asked | None
    fingerprint: Asked | None


class Routes:
    """The options of every path.

    Parameters:
        options: those of every path that has none of its own.
        routes: a pattern of a path (``"/webhooks/*"``, ``"/orders/{id}"``) → a dict of options that replace some, or
            None to leave the path out. The first pattern that fits counts.

    Raises:
        TypeError, ValueError: for options that can't be.

    >>> routes = Routes({"backend": "memory://", "required": False}, {"/pay": {"required": True}, "/health": None})
    >>> routes.plan_for("/pay").site.required, routes.plan_for("/health"), routes.plan_for("/refund").site.required
    (True, None, False)
    """

    def __init__(self, options: Mapping[str, Any], routes: Mapping[str, Mapping[str, Any] | None] | None) -> None:
        self.default = Plan(**options)
        self.patterns: list[tuple[re.Pattern[str], Plan | None]] = []
        if routes is not None and not isinstance(routes, Mapping):
            raise TypeError(f"routes= must be a dict, like {{'/pay': {{'required': True}}}}, not {routes!r}")
        for pattern, own in (routes or {}).items():
            if not isinstance(pattern, str) or not pattern.startswith(("/", "*")):
                raise ValueError(f"routes: {pattern!r} must start with '/' or '*', like '/pay' or '/webhooks/*'")
            if own is not None and not isinstance(own, Mapping):
                raise TypeError(f"routes: {pattern!r} needs a dict of options, or None to leave it out, not {own!r}")
            self.patterns.append((path_pattern(pattern), None if own is None else _route(pattern, {**options, **own})))

    def plan_for(self, path: str) -> Plan | None:
        """The options for a path; None where it is left out."""
        for pattern, plan in self.patterns:
            if pattern.match(path):
                return plan
        return self.default


def _route(pattern: str, options: dict[str, Any]) -> Plan:
    """The options of one path; what is wrong with them is said with the path."""
    try:
        return Plan(**options)
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
    """The options for one route of a face that stores whole answers."""

    def __init__(
        self,
        *,
        backend: Backend | str | None,
        key: Asked | None = None,
        name: str | None = None,
        scope: Asked | None = None,
        fingerprint: Asked | None = None,
        methods: Iterable[str] = METHODS,
        **options: Any,
    ) -> None:
        if "store_exceptions" in options:
            raise TypeError("store_exceptions is for functions; middleware stores answers: say with settle= which")
        for option, value in (("key", key), ("scope", scope), ("fingerprint", fingerprint)):
            if value is not None:
                takes_one(option, value, "the request")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        self.site = Site(backend, **options)
        #: As they were given.
        self.options = {
            "backend": backend,
            "key": key,
            "name": name,
            "scope": scope,
            "fingerprint": fingerprint,
            "methods": methods,
            **options,
        }
        self.methods = _methods(methods)
        self.name = name
        self.shared = scope is shared
        self.by_json_body = fingerprint is json_body
        namespace = self.site.namespace if callable(self.site.namespace) else None
        asked = {
            "key": key,
            "scope": None if self.shared else scope,
            "namespace": namespace,
            "fingerprint": None if self.by_json_body else fingerprint,
        }
        #: The callables of the user's, by option.
        self.asked = {option: value for option, value in asked.items() if value is not None}
        is_given = {"name": name is not None, "fingerprint": self.by_json_body}
        #: The options that were given and that its site does not have.
        self.own = [*self.asked, *(option for option, is_so in is_given.items() if is_so)]

    def concerns(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request is to be protected. A request that is not protected is never validated."""
        if self.site.required or "key" in self.asked:
            return True
        header = self.site.header
        for name, _ in headers:  # noqa: SIM110  # twice as fast as any(), on every request
            if name == header:
                return True
        return False


#: Every method of HTTP that there is (https://www.iana.org/assignments/http-methods), and what caches are told with.
_METHODS = SAFE_METHODS | frozenset(
    """
    ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE LABEL LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL
    MKREDIRECTREF MKWORKSPACE MOVE ORDERPATCH PATCH POST PRI PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH
    UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL
    """.split()  # noqa: SIM905  # a list of them would be forty lines
)


def _methods(given: Any) -> frozenset[str]:
    """The methods that a plan protects."""
    names = () if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"methods= must be a collection of methods, like ('POST', 'PUT'), not {given!r}")
    methods = frozenset(name.upper() for name in names)
    if strange := methods - _METHODS:
        close = difflib.get_close_matches(min(strange), _METHODS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"methods=: {min(strange)!r} is no method of HTTP{hint}")
    if safe := methods & SAFE_METHODS:
        raise ValueError(f"methods=: a {min(safe)} request changes nothing, and is never protected")
    return methods


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
