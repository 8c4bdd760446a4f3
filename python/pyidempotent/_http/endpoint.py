"""A protected endpoint: finding its request, and a call of it by the rules of HTTP.

Knows Starlette (and so FastAPI) without importing it: an endpoint can only be given a request of a framework that is
imported already.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Annotated, Any, ClassVar, get_args, get_origin
from urllib.parse import quote

from pyidempotent import _native
from pyidempotent._calls.current import Operation
from pyidempotent._calls.function import Function, FunctionCall, by_authorization, caller_bytes
from pyidempotent._http.callers import certificate_caller, named_caller, user_caller
from pyidempotent._http.rules import (
    REPLAYED,
    SAFE_METHODS,
    anonymous_caller,
    problem_answer,
    too_large,
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

#: The names of the parameters that FastAPI is asked for.
INJECTED_REQUEST, INJECTED_RESPONSE, INJECTED_KEY = "_idempotent_request", "_idempotent_response", "idempotency_key_"


def find_request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any | None:
    """The Starlette request among a call's arguments."""
    starlette = sys.modules.get("starlette.requests")
    return None if starlette is None else _native.find_instance(starlette.Request, args, kwargs)


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


def injected_parameters(plan: Function) -> list[inspect.Parameter]:
    """The parameters that FastAPI is asked for, where the function may be an endpoint of it and has not got them."""
    fastapi = sys.modules.get("fastapi")
    if fastapi is None or plan.takes_django_request:
        return []
    wanted: list[inspect.Parameter] = []

    def ask(name: str, annotation: Any) -> None:
        wanted.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    # FastAPI fills one parameter of each type only: a second one would take the function's own away.
    if not plan.requests:
        ask(INJECTED_REQUEST, fastapi.Request)
    if not plan.responses:
        ask(INJECTED_RESPONSE, fastapi.Response)
    if plan.takes_key_from_header and not _shows_key(plan, fastapi.params.Header):
        words = "A value of your choice, new for every operation: a repeat with the same key gets the first answer."
        header = fastapi.Header(alias=plan.site.key_header, description=words)
        ask(INJECTED_KEY, Annotated[str | None, header])
    return wanted


def _shows_key(plan: Function, header: type) -> bool:
    """Whether a parameter of the function's own is the key's header, or a model that has to be alone."""
    for name in plan.binding.names:
        hint = plan.binding.hints.get(name)
        declared, *markers = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        for marker in (plan.binding.defaults.get(name), *markers):
            if isinstance(marker, header):
                alias = getattr(marker, "alias", None) or name.replace("_", "-")
                if alias.lower() == plan.site.key_header.lower() or hasattr(declared, "model_fields"):
                    return True
    return False


#: Where middleware that holds an attempt for a request leaves the attempt's options: in an ASGI scope, or an environ.
ATTEMPT = "pyidempotent.attempt"


def path_of(scope: Any) -> bytes:
    """The path as the client sent it, without the query."""
    if raw := scope.get("raw_path"):
        return bytes(raw).partition(b"?")[0]
    # Not every server tells it. Until Starlette 0.33 a mounted app's path came without its mount.
    utils = sys.modules.get("starlette._utils")
    is_whole = utils is None or hasattr(utils, "get_route_path")
    return quote(scope["path"] if is_whole else scope.get("root_path", "") + scope["path"]).encode()


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
        if held is None:
            return self.is_held_above()
        plan = self.plan
        own = {"key": not plan.takes_key_from_header, "name": plan.named}
        own |= {"scope": plan.shared or plan.scope is not None, "fingerprint": plan.fingerprint is not None}
        given = [name for name, is_given in own.items() if is_given]
        held.refuse_inside(plan.name, given, self.site, self.way_to_middleware)
        return True

    def is_held_above(self) -> bool:
        """Whether an application of another interface holds the attempt, above this one."""
        return False

    async def prepare(self, run: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        """Finds out what has to be awaited before the flow begins; what to run then."""
        return run

    def prepare_in_thread(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """The same for a sync function."""
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
        return _read_body_from_thread(self.request, limit)

    async def read_async(self, limit: int) -> tuple[bytes, bytes]:
        """Content type and body of the request; the endpoint can still read it."""
        return await _read_body(self.request, limit)

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
            return error.status_code if _is_http_exception(error) else None
        if _is_response(outcome.value):
            return int(outcome.value.status_code)
        route = self.request.scope.get("route")
        return getattr(self.response, "status_code", None) or getattr(route, "status_code", None) or 200

    def pack(self, outcome: Outcome, /) -> bytes:
        """The answer: a response whole, anything else as FastAPI will render it again."""
        error, value = outcome.exception, outcome.value
        if error is not None and _is_http_exception(error):
            headers = _lasting(getattr(error, "headers", None), self.site.store_set_cookie)
            return pack_exception(error, self.plan.classes, self.stored_exceptions(), headers=headers)
        if error is not None or (self.response is None and not _is_response(value)):
            return super().pack(outcome)
        if not _is_response(value):
            status, headers = self.response.status_code, self.response.raw_headers
            beside = Answer(status or 0, headers, b"").encode(self.site.store_set_cookie)
            try:
                return pack(ENDPOINT_VALUE, (beside, value), self._classes())
            except Unstorable:
                # No annotation names its class, but FastAPI can render it.
                rendered = self._rendered(value, self.status(outcome))
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

    def _rendered(self, value: Any, status: int | None) -> Any:
        """The response that FastAPI will make of the endpoint's value; None where the function is not the endpoint, or
        where making one would use the value up."""
        route = self.request.scope.get("route")
        endpoint = getattr(route, "endpoint", None)
        serialize = getattr(sys.modules.get("fastapi.routing"), "serialize_response", None)
        if (
            isinstance(value, Iterator)
            or serialize is None
            or endpoint is None
            or inspect.unwrap(endpoint) is not inspect.unwrap(self.plan.function)
        ):
            return None
        known = inspect.signature(serialize).parameters
        field, response_class = route.response_field, route.response_class
        is_default = hasattr(response_class, "value")
        given = {name: getattr(route, f"response_model_{name}", None) for name in _RENDERING if name in known}
        if is_bytes := is_default and field is not None and "dump_json" in known:
            given["dump_json"] = True
        try:  # a coroutine that waits for nothing
            serialize(field=field, response_content=value, is_coroutine=True, **given).send(None)
        except StopIteration as ended:
            content = ended.value
        else:
            return None
        kind = sys.modules["starlette.responses"].Response if is_bytes else response_class
        response = (kind.value if is_default and not is_bytes else kind)(
            content, status_code=status, **({"media_type": "application/json"} if is_bytes else {})
        )
        if not sys.modules["fastapi.utils"].is_body_allowed_for_status_code(status):
            response.body = b""
        return response

    def headers(self, outcome: Outcome, /) -> Iterable[tuple[bytes, bytes]]:
        """The headers of the answer."""
        answer = outcome.value if _is_response(outcome.value) else self.response
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
        if outcome.exception is not None and _is_http_exception(outcome.exception):
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


#: How FastAPI renders a value, beside its model.
_RENDERING = ("include", "exclude", "by_alias", "exclude_unset", "exclude_defaults", "exclude_none")


def _is_response(value: Any) -> bool:
    starlette = sys.modules.get("starlette.responses")
    return starlette is not None and isinstance(value, starlette.Response)


def _is_http_exception(error: Exception) -> bool:
    starlette = sys.modules.get("starlette.exceptions")
    return starlette is not None and isinstance(error, starlette.HTTPException)


def _lasting(headers: Mapping[str, str] | None, store_set_cookie: bool) -> dict[str, str] | None:
    """The headers of an exception without those that are not stored."""
    if headers is None:
        return None
    raw = [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    kept = {name for name, _ in Answer.decode(Answer(0, raw, b"").encode(store_set_cookie)).headers}
    return {name: value for (sent, _), (name, value) in zip(raw, headers.items(), strict=True) if sent in kept}


def response_of(answer: Answer) -> Any:
    """An answer as Starlette's response."""
    response = sys.modules["starlette.responses"].Response(status_code=answer.status)
    response.body = answer.body
    response.raw_headers = answer.headers
    return response


def scope_caller(scope: Mapping[str, Any], site: Site, who: str) -> bytes | None:
    """The user that stands in an ASGI scope, or whom its server has authenticated."""
    user = scope.get("user")
    starlette = sys.modules.get("starlette.authentication")
    # A name to display is all that this class has; of any other class two users may have one.
    is_simple = starlette is not None and type(user) is starlette.SimpleUser
    identity = attrgetter("display_name" if is_simple else "identity")
    caller = user_caller(user, identity, "an attribute identity", site, who)
    return certificate_caller(scope) if caller is None else caller


# Reading the body.


async def _read_body(request: Any, limit: int) -> tuple[bytes, bytes]:
    """Content type and body of a Starlette request, at most ``limit`` bytes; the endpoint can still read it."""
    if _has_form(request):
        return _form_content(request, limit)
    if not hasattr(request, "_body"):
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)
        request._body = b"".join(chunks)
    return _content(request, limit)


def _read_body_from_thread(request: Any, limit: int) -> tuple[bytes, bytes]:
    """Content type and body for a sync endpoint, which Starlette runs on a thread beside its loop."""
    if _has_form(request):
        return _form_content(request, limit)
    if hasattr(request, "_body"):
        return _content(request, limit)
    from anyio import from_thread  # Starlette's own way back

    return from_thread.run(_read_body, request, limit)


def _content(request: Any, limit: int) -> tuple[bytes, bytes]:
    if len(request._body) > limit:
        raise too_large(limit)
    return request.headers.get("content-type", "").encode("latin-1"), request._body


def _has_form(request: Any) -> bool:
    """Whether FastAPI has parsed a form already, for which it consumed the body."""
    return not hasattr(request, "_body") and getattr(request, "_form", None) is not None


def _form_content(request: Any, limit: int) -> tuple[bytes, bytes]:
    fields = request._form.multi_items()
    return form_content(
        [(name, v if isinstance(v, str) else (v.filename, v.content_type, v.file)) for name, v in fields], limit
    )


def form_content(fields: Iterable[tuple[str, str | tuple[Any, Any, Any]]], limit: int) -> tuple[bytes, bytes]:
    """A parsed form, in the place of the body it came from: names, values, and the digests of its files.

    Parameters:
        fields: name and value; of a file, name and ``(filename, content type, file)``.
    """
    said: list[Any] = []
    size = 0
    for name, value in fields:
        if isinstance(value, str):
            size += len(name) + len(value)
            said.append((name, value))
            continue
        filename, content_type, file = value
        digest, before = hashlib.sha256(), file.tell()
        file.seek(0)
        while chunk := file.read(65536):
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            digest.update(chunk)
        file.seek(before)
        said.append((name, filename, content_type, digest.digest()))
    if size > limit:
        raise too_large(limit)
    return b"form", _native.encode(said, {})
