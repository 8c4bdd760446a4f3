"""The options of a face that protects requests and stores whole answers, by route; and a request under them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pyidempotent._current import Operation
from pyidempotent._function import by_authorization, caller_bytes, shared
from pyidempotent._http import AnswerCall, Facts, anonymous_caller, key_in_header, refuse_declared
from pyidempotent._native import fingerprint_call
from pyidempotent._site import Options, Site
from pyidempotent.backends import Backend
from pyidempotent.exceptions import IdempotencyKeyInvalid

#: A callable of the user's on the framework's request.
Asked = Callable[[Any], Any]


class PlanOptions(Options, total=False):
    """The options of a route: a face that stores whole answers takes all of them by these names."""

    key: Asked | None
    name: str | None
    scope: Asked | None
    fingerprint: Asked | None


class Routes:
    """The options of every path.

    Parameters:
        options: those of every path that has none of its own.
        routes: a pattern of a path (``"/webhooks/*"``) → a dict of options that replace some, or None to leave the path
            out. The first pattern that fits counts.

    Raises:
        TypeError, ValueError: for options that can't be.

    >>> routes = Routes({"backend": "memory://", "required": False}, {"/pay": {"required": True}, "/health": None})
    >>> routes.plan_for("/pay").site.required, routes.plan_for("/health"), routes.plan_for("/refund").site.required
    (True, None, False)
    """

    def __init__(self, options: Mapping[str, Any], routes: Mapping[str, Mapping[str, Any] | None] | None) -> None:
        self.default = Plan(**options)
        self.patterns: list[tuple[str, Plan | None]] = []
        for pattern, own in (routes or {}).items():
            if not isinstance(pattern, str) or not pattern.startswith(("/", "*")):
                raise ValueError(f"routes: {pattern!r} is no pattern of a path; write '/pay' or '/webhooks/*'")
            if own is not None and not isinstance(own, Mapping):
                raise TypeError(f"routes: {pattern!r} needs a dict of options, or None to leave it out, not {own!r}")
            self.patterns.append((pattern, None if own is None else Plan(**{**options, **own})))

    def plan_for(self, path: str) -> Plan | None:
        """The options for a path; None where it is left out."""
        for pattern, plan in self.patterns:
            if fnmatchcase(path, pattern):
                return plan
        return self.default


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
        **options: Any,
    ) -> None:
        if "store_exceptions" in options:
            raise TypeError("store_exceptions is for functions; middleware stores answers: say with settle= which")
        for option, value in (("key", key), ("scope", scope), ("fingerprint", fingerprint)):
            if value is not None and not callable(value):
                raise TypeError(f"{option}= must be a callable on the request, not {value!r}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r}")
        self.site = Site(backend, **options)
        self.name = name
        self.shared = scope is shared
        asked = {"key": key, "scope": None if self.shared else scope, "fingerprint": fingerprint}
        #: The callables of the user's, by option.
        self.asked = {option: value for option, value in asked.items() if value is not None}

    def concerns(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request is to be protected."""
        if self.site.required or "key" in self.asked:
            return True
        header = self.site.header
        for name, _ in headers:  # noqa: SIM110  # twice as fast as any(), on every request
            if name == header:
                return True
        return False


class RequestCall(AnswerCall):
    """A request under a plan, as `protect` sees it."""

    def __init__(self, plan: Plan, facts: Facts) -> None:
        super().__init__(plan.site, facts)
        self.plan = plan
        self._asked: dict[str, Any] = {}

    def ask(self, request: Any) -> None:
        """Asks the callables of the user's."""
        for option, asked in self.plan.asked.items():
            self._asked[option] = asked(request)

    async def ask_async(self, request: Any) -> None:
        """The same, where they may be async."""
        for option, asked in self.plan.asked.items():
            answer = asked(request)
            self._asked[option] = await answer if inspect.isawaitable(answer) else answer

    def user(self) -> bytes | None:
        """The authenticated user that the framework itself knows, if it does."""
        return None

    def key(self) -> str | None:
        """The key in the header, or as ``key=`` says."""
        if "key" not in self._asked:
            return key_in_header(self.facts, self.site)
        key = self._asked["key"]
        if key is not None and not isinstance(key, str):
            raise IdempotencyKeyInvalid(f"key= must return a str or None, not {type(key).__qualname__}")
        return key

    def operation(self) -> Operation:
        """Method and path as the client sent it, or ``name=``."""
        return self.plan.name or (self.facts.method, self.facts.path)

    def caller(self) -> bytes | None:
        """Who calls: as ``scope=`` says, or the user that the framework knows, or nobody where nobody claims to be."""
        if self.plan.shared:
            return None
        if "scope" in self._asked:
            found = self._asked["scope"]
            if found is not None or self.plan.asked["scope"] is not by_authorization:
                return caller_bytes(found)
            # Without the header `by_authorization` has nobody to tell apart.
        user = self.user()
        if user is None:
            anonymous_caller(self.facts, self.site, f"{self.facts.method} {self.facts.path.decode('latin-1')}")
        return user

    def fingerprint(self) -> bytes | None:
        """The body comes first, which the application will want anyway."""
        return None

    def body(self) -> Any:
        """What has to be read."""
        refuse_declared(self.facts, self.site.max_request_bytes)
        return self

    def fingerprint_of(self, body: bytes) -> bytes:
        """The digest of the request, or as ``fingerprint=`` says."""
        if "fingerprint" in self._asked:
            return fingerprint_call({"fingerprint": self._asked["fingerprint"]})
        return self.facts.fingerprint(body)
