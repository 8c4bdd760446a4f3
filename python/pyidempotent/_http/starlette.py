"""Starlette's requests and responses, and FastAPI's endpoints, without importing either."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import quote

from pyidempotent import _native
from pyidempotent._calls.function import Function
from pyidempotent._http.callers import certificate_caller, user_caller
from pyidempotent._http.forms import form_content
from pyidempotent._http.rules import too_large
from pyidempotent._options import Site
from pyidempotent._values.results import Answer

#: The names of the parameters that FastAPI is asked for.
INJECTED_REQUEST, INJECTED_RESPONSE, INJECTED_KEY = "_idempotent_request", "_idempotent_response", "idempotency_key_"


def find_request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any | None:
    """The Starlette request among a call's arguments."""
    return _native.find_instance(sys.modules["starlette.requests"].Request, args, kwargs)


def injected_parameters(plan: Function) -> list[inspect.Parameter]:
    """The parameters that FastAPI is asked for, where the function may be an endpoint of it and has not got them."""
    if plan.takes_django_request:
        return []
    fastapi = sys.modules["fastapi"]
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


def path_of(scope: Any) -> bytes:
    """The path as the client sent it, without the query."""
    if raw := scope.get("raw_path"):
        return bytes(raw).partition(b"?")[0]
    # Not every server tells it. Until Starlette 0.33 a mounted app's path came without its mount.
    utils = sys.modules.get("starlette._utils")
    is_whole = utils is None or hasattr(utils, "get_route_path")
    return quote(scope["path"] if is_whole else scope.get("root_path", "") + scope["path"]).encode()


def is_response(value: Any) -> bool:
    """Whether a value is a response of Starlette's."""
    starlette = sys.modules.get("starlette.responses")
    return starlette is not None and isinstance(value, starlette.Response)


def is_http_exception(error: Exception) -> bool:
    """Whether an exception is an answer of Starlette's or FastAPI's."""
    starlette = sys.modules.get("starlette.exceptions")
    return starlette is not None and isinstance(error, starlette.HTTPException)


def response_of(answer: Answer) -> Any:
    """An answer as Starlette's response."""
    response = sys.modules["starlette.responses"].Response(status_code=answer.status)
    response.body = answer.body
    response.raw_headers = answer.headers
    return response


def scope_caller(scope: Mapping[str, Any], site: Site, who: str) -> bytes | None:
    """The user that stands in an ASGI scope, or whom its server has authenticated."""
    user = scope.get("user")
    if user is None:
        return certificate_caller(scope)
    starlette = sys.modules.get("starlette.authentication")
    # A name to display is all that this class has; of any other class two users may have one.
    is_simple = starlette is not None and type(user) is starlette.SimpleUser
    identity = attrgetter("display_name" if is_simple else "identity")
    caller = user_caller(user, identity, "an attribute identity", site, who)
    return certificate_caller(scope) if caller is None else caller


#: How FastAPI renders a value, beside its model.
_RENDERING = ("include", "exclude", "by_alias", "exclude_unset", "exclude_defaults", "exclude_none")


def rendered_by_route(request: Any, function: Any, value: Any, status: int | None) -> Any:
    """The response that FastAPI will make of the endpoint's value; None where the function is not the endpoint, or
    where making one would use the value up."""
    route = request.scope.get("route")
    endpoint = getattr(route, "endpoint", None)
    serialize = getattr(sys.modules.get("fastapi.routing"), "serialize_response", None)
    if (
        isinstance(value, Iterator)
        or serialize is None
        or endpoint is None
        or inspect.unwrap(endpoint) is not inspect.unwrap(function)
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


# Reading the body.


async def read_body(request: Any, limit: int) -> tuple[bytes, bytes]:
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


def read_body_from_thread(request: Any, limit: int) -> tuple[bytes, bytes]:
    """Content type and body for a sync endpoint, which Starlette runs on a thread beside its loop."""
    if _has_form(request):
        return _form_content(request, limit)
    if hasattr(request, "_body"):
        return _content(request, limit)
    from anyio import from_thread  # Starlette's own way back

    return from_thread.run(read_body, request, limit)


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
