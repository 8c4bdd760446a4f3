"""A protected endpoint: finding its request, and a call of it by the rules of HTTP.

Knows Starlette (and so FastAPI) without importing it: an endpoint can only be given a request of a framework that is
imported already.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar

from pyidempotent._calls.current import Operation
from pyidempotent._calls.function import Function, FunctionCall, by_authorization, caller_bytes
from pyidempotent._http.callers import named_caller
from pyidempotent._http.rules import (
    REPLAYED,
    SAFE_METHODS,
    anonymous_caller,
    problem_answer,
)
from pyidempotent._http.starlette import (
    INJECTED_KEY,
    INJECTED_REQUEST,
    INJECTED_RESPONSE,
    find_request,
    is_http_exception,
    is_response,
    read_body,
    read_body_from_thread,
    rendered_by_route,
    response_of,
    scope_caller,
)
from pyidempotent._native import Facts, is_refusal, replayed, verdict_of
from pyidempotent._options import Site
from pyidempotent._values.annotations import Named
from pyidempotent._values.results import (
    ANSWER,
    ENDPOINT_VALUE,
    Answer,
    Outcome,
    Unstorable,
    pack,
    pack_answer,
    pack_exception,
    unpack,
)
from pyidempotent.exceptions import IdempotencyError


def endpoint_call(plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> EndpointCall | None:
    """A call that was given a request of Starlette's; else None. What FastAPI was asked for leaves the arguments."""
    request, response = None, None
    if plan.is_injected:
        request, response = kwargs.pop(INJECTED_REQUEST, None), kwargs.pop(INJECTED_RESPONSE, None)
        kwargs.pop(INJECTED_KEY, None)
    if request is None and (request := find_request(args, kwargs)) is None:
        return None
    for parameter in plan.responses:
        response = kwargs.get(parameter, response)
    return EndpointCall(plan, args, kwargs, request, response)


#: Where middleware that holds an attempt for a request leaves the attempt's options: in an ASGI scope, or an environ.
ATTEMPT = "pyidempotent.attempt"


class EndpointCall(FunctionCall):
    """A call of an endpoint: its request is the payload, its answer the result."""

    __slots__ = ("facts", "request", "response")

    #: How options are given to the framework's middleware, for a message.
    way_to_middleware: ClassVar[str] = "as routes={path: {...}}"

    def __init__(
        self, plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any], request: Any, response: Any
    ) -> None:
        super().__init__(plan, args, kwargs)
        self.request = request
        self.response = response
        self.facts = self.request_facts()

    def request_facts(self) -> Facts:
        """The facts of the request."""
        return Facts.of_scope(self.request.scope)

    def held(self) -> Site | None:
        """The options of the attempt that middleware holds for the request."""
        held: Site | None = self.request.scope.get(ATTEMPT)
        return held

    def user(self) -> bytes | None:
        """The authenticated user that the framework itself knows, if it does."""
        return scope_caller(self.request.scope, self.site, self.plan.name)

    def is_held(self) -> bool:
        """Whether the endpoint just runs: its method is safe, or middleware holds an attempt, which the endpoint joins.

        Raises:
            TypeError: where the endpoint has options that the middleware's attempt can't honour.
        """
        if self.plan.takes_key_from_header and self.facts.method in SAFE_METHODS:
            return True
        held = self.held()
        if self.site.owns_transaction and (held is not None or self.is_held_above()):
            raise TypeError(
                f"{self.plan.name} has its key in its own transaction, and the middleware would hold an attempt beside "
                f"it: leave the path out there, {self.way_to_middleware.replace('{...}', 'None')}"
            )
        if held is None:
            return self.is_held_above()
        held.refuse_inside(self.plan.name, self.site, self.way_to_middleware)
        return True

    def is_held_above(self) -> bool:
        """Whether an application of another interface holds the attempt, above this one."""
        return False

    async def prepare(self, run: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """Finds out what has to be awaited before the flow begins; what to run then."""
        return run

    def prepare_in_thread(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """What to run in a sync function's place, on its own thread."""
        return run

    def values(self) -> dict[str, Any]:
        """What a callable of the user's may ask for, by name: the request too."""
        return {"request": self.request, **super().values()}

    def key(self) -> str | None:
        """The key in the header, or as ``key=`` says."""
        return self.facts.key(self.site) if self.plan.takes_key_from_header else super().key()

    def operation(self) -> Operation:
        """Method and path as the client sent it, or ``name=``."""
        if self.plan.named:
            return self.plan.name
        return (self.facts.method, self.facts.path)

    def caller(self) -> bytes | None:
        """Who calls: as ``scope=`` says, or the user that the framework knows, or nobody where nobody claims to be."""
        plan = self.plan
        if plan.shared:
            return None
        if plan.by_authorization:
            # Of this request, whatever the endpoint's own parameters are called.
            found = by_authorization(self.request)
            if found is None:
                anonymous_caller(self.facts, self.site, plan.name)
            return None if found is None else caller_bytes(found)
        if plan.scope is not None:
            return named_caller(self.select(plan.scope), self.site, plan.name)
        user = self.user()
        if user is None:
            anonymous_caller(self.facts, self.site, plan.name)
        return user

    def fingerprint(self) -> bytes | None:
        """The digest of the request, which needs its body; or as ``fingerprint=`` says."""
        return super().fingerprint() if self.plan.asks_fingerprint else None

    def body(self) -> tuple[Any, int]:
        """This call, which reads its request, and how much of it may be read."""
        limit = self.site.max_request_bytes
        self.facts.refuse_declared(limit)
        return self, limit

    def read(self, limit: int) -> tuple[bytes, bytes]:
        """Content type and body of the request, for a sync endpoint; the endpoint can still read it."""
        return read_body_from_thread(self.request, limit)

    async def read_async(self, limit: int) -> tuple[bytes, bytes]:
        """Content type and body of the request; the endpoint can still read it."""
        return await read_body(self.request, limit)

    def fingerprint_of(self, body: tuple[bytes, bytes]) -> bytes:
        """The digest of the request."""
        content_type, content = body
        return self.facts.fingerprint(content, content_type, self.plan.by_json_body)

    def verdict(self, outcome: Outcome, /) -> str:
        """By the status table; an exception that is no answer releases the key, unless its type is stored."""
        status = self.status(outcome)
        if status is None:
            return super().verdict(outcome)
        return "release" if _passes_on_a_refusal(outcome.value) else verdict_of(status)

    def status(self, outcome: Outcome, /) -> int | None:
        """The status that the client sees, as far as an endpoint decides it."""
        error: Any = outcome.exception
        if error is not None:
            return error.status_code if is_http_exception(error) else None
        if is_response(outcome.value):
            return int(outcome.value.status_code)
        route = self.request.scope.get("route")
        return getattr(self.response, "status_code", None) or getattr(route, "status_code", None) or 200

    def pack(self, outcome: Outcome, /) -> bytes:
        """The answer: a response whole, anything else as FastAPI will render it again."""
        error, value = outcome.exception, outcome.value
        if error is not None and is_http_exception(error):
            headers = _lasting(getattr(error, "headers", None), self.site.store_set_cookie)
            return pack_exception(error, self.plan.classes, self.stored_exceptions(), headers=headers)
        if error is not None or (self.response is None and not is_response(value)):
            return super().pack(outcome)
        if not is_response(value):
            status, headers = self.response.status_code, self.response.raw_headers
            beside = Answer(status or 0, headers, b"").encode(self.site.store_set_cookie)
            try:
                return pack(ENDPOINT_VALUE, (beside, value), self._classes())
            except Unstorable:
                # No annotation names its class, but FastAPI can render it.
                rendered = rendered_by_route(self.request, self.plan.function, value, self.status(outcome))
                if rendered is None:
                    raise
                answer = Answer(rendered.status_code, [*rendered.raw_headers, *headers], rendered.body)
                return pack_answer(answer, self.site.store_set_cookie)
        body = getattr(value, "body", None)
        if body is None or hasattr(value, "body_iterator"):
            raise Unstorable(
                f"a {type(value).__name__} is streamed after the endpoint has ended; use the middleware for it"
            )
        answer = Answer(value.status_code, value.raw_headers, bytes(body))
        return pack_answer(answer, self.site.store_set_cookie)

    def _classes(self) -> Named:
        """The classes that the return annotation names, or the response model that FastAPI was given in its place."""
        model = getattr(self.request.scope.get("route"), "response_model", None)
        return self.plan.classes if model is None else self.plan.classes.also(model)

    def headers(self, outcome: Outcome, /) -> Iterable[tuple[bytes, bytes]]:
        """The headers of the answer."""
        answer = outcome.value if is_response(outcome.value) else self.response
        return () if answer is None else list(answer.raw_headers)

    def replay(self, payload: bytes, /) -> Outcome:
        """The stored answer, marked as a replay."""
        kind = payload[:1]
        if kind == ANSWER:
            return Outcome(value=response_of(replayed(payload)))
        if kind == ENDPOINT_VALUE:
            answer, value = unpack(payload, self._classes())
            beside = Answer.decode(answer)
            status, headers = beside.status, beside.headers
            if self.response is not None:
                self.response.status_code = status or self.response.status_code
                # What dependencies set beside it belongs to this request.
                stored = {name for name, _ in headers}
                fresh = [pair for pair in self.response.raw_headers if pair[0] not in stored]
                self.response.raw_headers[:] = [*fresh, *headers, REPLAYED]
            return Outcome(value=value)
        if self.response is not None:
            self.response.raw_headers.append(REPLAYED)
        outcome = super().replay(payload)
        if outcome.exception is not None and is_http_exception(outcome.exception):
            error: Any = outcome.exception
            error.headers = {**(error.headers or {}), REPLAYED[0].decode(): REPLAYED[1].decode()}
        return outcome

    def stored_exceptions(self) -> tuple[type[Exception], ...]:
        """The framework's own are answers."""
        return (*super().stored_exceptions(), sys.modules["starlette.exceptions"].HTTPException)

    def answer(self, error: IdempotencyError) -> Any:
        """The response to a refusal; ``None`` where it has to be raised: the app has a handler of its own for it."""
        handlers, _ = self.request.scope.get("starlette.exception_handlers") or ({}, {})
        if any(cls in handlers for cls in type(error).__mro__ if cls not in (Exception, BaseException)):
            return None
        if self._is_dependency():
            return None  # FastAPI would hand an answer to the endpoint as a value, and run it
        return response_of(problem_answer(error, self.facts.path.decode("latin-1"), self.site))

    def _is_dependency(self) -> bool:
        """Whether the function is no endpoint but what one of FastAPI's depends on."""
        dependant = getattr(self.request.scope.get("route"), "dependant", None)
        pending = list(getattr(dependant, "dependencies", ()))
        own = inspect.unwrap(self.plan.function)
        while pending:
            dependency = pending.pop()
            pending.extend(dependency.dependencies)
            if dependency.call is not None and inspect.unwrap(dependency.call) is own:
                return True
        return False


def _passes_on_a_refusal(response: Any) -> bool:
    """Whether a response, of any of the frameworks, is a refusal of ours from a service below."""
    content_type = (getattr(response, "headers", None) or {}).get("content-type") or ""
    if not content_type.startswith("application/problem+json") or getattr(response, "is_streamed", False):
        return False
    body = next((getattr(response, name) for name in ("body", "content", "data") if hasattr(response, name)), b"")
    return is_refusal(content_type.encode("latin-1", "replace"), bytes(body))


def _lasting(headers: Mapping[str, str] | None, store_set_cookie: bool) -> dict[str, str] | None:
    """The headers of an exception without those that are not stored."""
    if headers is None:
        return None
    raw = [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    kept = {name for name, _ in Answer.decode(Answer(0, raw, b"").encode(store_set_cookie)).headers}
    return {name: value for (sent, _), (name, value) in zip(raw, headers.items(), strict=True) if sent in kept}
