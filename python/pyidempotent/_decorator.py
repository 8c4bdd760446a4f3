"""`idempotent`: the decorator."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar, cast, get_args, get_origin

from pyidempotent._current import _current
from pyidempotent._flask_view import flask_call
from pyidempotent._flow import advance, advance_async, protect, refuse_to_block
from pyidempotent._function import Function, FunctionCall
from pyidempotent._requests import (
    INJECTED_KEY,
    INJECTED_REQUEST,
    INJECTED_RESPONSE,
    EndpointCall,
    find_request,
    read_body,
    read_body_from_thread,
)
from pyidempotent._site import (
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES,
    AfterCrash,
    KeyFormat,
    Seconds,
    Settle,
    Site,
    refuse_unknown,
)
from pyidempotent._tasks import PASSING, put_back, running_task
from pyidempotent.backends import Backend
from pyidempotent.exceptions import IdempotencyError

__all__ = ["idempotent"]

P = ParamSpec("P")
R = TypeVar("R")


def idempotent(
    backend: Backend | str | None = None,
    *,
    ttl: Seconds = 86400,
    lease: Seconds | None = None,
    wait: Seconds = 0,
    key: Callable[..., Any] | str | None = None,
    key_header: str = "Idempotency-Key",
    key_format: KeyFormat = "lenient",
    required: bool = True,
    name: str | None = None,
    scope: Callable[..., Any] | None = None,
    namespace: str | Callable[..., str] = "",
    fingerprint: Callable[..., Any] | None = None,
    after_crash: AfterCrash = "rerun",
    settle: Settle | None = None,
    store_exceptions: tuple[type[Exception], ...] | type[Exception] = (),
    retry_after: Seconds = 1,
    run_limit: Seconds | None = None,
    disconnect_grace: Seconds | None = None,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    max_response_bytes: int = MAX_RESPONSE_BYTES,
    store_set_cookie: bool = False,
    problem_docs: str | None = None,
    **unknown: NoReturn,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Runs a function once per key; a repeat gets the stored result.

    In a FastAPI or Starlette endpoint the key is the request's ``Idempotency-Key`` header
    (draft-ietf-httpapi-idempotency-key-header-07), the payload is the request, and what goes wrong becomes an answer
    (RFC 9457). Elsewhere ``key=`` says what the key is.

    Parameters:
        backend: a backend or its URL.
        ttl: how long a result is kept, counted from completion: seconds or a timedelta. Choose it beyond every retry.
        lease: how long a crash blocks the key; renewed while the function runs. At most 30 s unless told.
        wait: how long a repeat waits for the first answer. 0: it is told at once that the first still runs.
        key: a callable on the function's arguments, by their names, that returns a str, an int, a UUID or None; the
            name of a parameter; or `arguments`. A Starlette endpoint that has it needs a parameter
            ``request: Request``; FastAPI gives the request to every endpoint.
        key_header: the header's name.
        key_format: ``"lenient"`` takes a bare key beside the quoted String of RFC 9651, ``"strict"`` only the String.
        required: whether a call without a key is refused; otherwise it runs unprotected.
        name: the operation's name, instead of the function's qualified name or the request's method and path.
        scope: who calls: a callable on the function's arguments (and ``request``), `by_authorization` or `shared`.
        namespace: keeps applications apart that share a store; or a callable, as ``scope=`` takes, that keeps tenants
            apart: ``namespace=lambda request: request.url.hostname``.
        fingerprint: a callable on the function's arguments that returns what tells two requests apart.
        after_crash: ``"rerun"`` (at least once) or ``"refuse"`` (at most once: what is unknown waits for an operator).
        settle: a callable on an `Outcome` that returns ``"store"``, ``"release"``, ``"hold"`` or None for the default.
        store_exceptions: exception types that are results too; any other exception releases the key.
        retry_after: the most seconds that a repeat is told to wait while the first still runs.
        run_limit: how long the lease is renewed at the most; ``ttl`` unless told.
        disconnect_grace: how long an HTTP request goes on after its client has left, so that a repeat finds the answer.
            The lease unless told; 0 tells the application at once. A request that ends without an answer is held.
        max_request_bytes: a larger request body is refused with 413.
        max_response_bytes: a larger result is not kept: a repeat is told so, and runs nothing.
        store_set_cookie: whether ``Set-Cookie`` headers are stored and replayed.
        problem_docs: the URL of your documentation of the refusals: a problem's ``type`` is this and the refusal's name
            (``https://docs.example.com/errors#`` makes ``…#conflict``), and a ``Link`` header points there.

    Raises:
        TypeError, ValueError: at decoration, for options or functions that can't be.
        IdempotencyError: at a call; each of its classes says when.

    >>> from pyidempotent import idempotent
    >>> @idempotent("memory://", key=lambda order: order, ttl=3600)
    ... def charge(order: str, amount: int) -> dict:
    ...     print("charging")
    ...     return {"status": "charged", "amount": amount}
    >>> charge("order-7", 42)
    charging
    {'status': 'charged', 'amount': 42}
    >>> charge("order-7", 42)
    {'status': 'charged', 'amount': 42}
    >>> charge("order-7", 43)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pyidempotent.exceptions.IdempotencyConflict: This key was used with another request; ...
    """
    refuse_unknown(unknown, "@idempotent")
    site = Site(
        backend,
        ttl=ttl,
        lease=lease,
        wait=wait,
        key_header=key_header,
        key_format=key_format,
        required=required,
        namespace=namespace,
        after_crash=after_crash,
        settle=settle,
        store_exceptions=store_exceptions,
        retry_after=retry_after,
        run_limit=run_limit,
        disconnect_grace=disconnect_grace,
        max_request_bytes=max_request_bytes,
        max_response_bytes=max_response_bytes,
        store_set_cookie=store_set_cookie,
        problem_docs=problem_docs,
    )

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if _is_task(function):
            raise TypeError(
                "@idempotent stands above @app.task, and would protect nothing that .delay() starts: put it below, or "
                "use base=pyidempotent.celery.idempotent_task(…)"
            )
        if isinstance(function, staticmethod | classmethod):
            return cast("Callable[P, R]", type(function)(decorate(function.__func__)))
        if getattr(function, "__module__", None) == "django.utils.decorators":
            # method_decorator's own, on which it tries what attributes a decorator sets.
            function.__idempotent__ = site  # type: ignore[attr-defined]  # it goes on to the method
            return function
        if (method := _method_below(function)) is not None:
            known = methods.get(method.__func__)
            if known is None:
                known = methods[method.__func__] = analyse(method).of(method.__func__)
            return cast("Callable[P, R]", _wrap(known.of(function)))
        return cast("Callable[P, R]", _wrap(analyse(function)))

    def analyse(function: Callable[..., Any]) -> Function:
        return Function(function, site, key=key, scope=scope, fingerprint=fingerprint, name=name)

    #: The analysis of methods that are decorated anew for every request.
    methods: dict[Any, Function] = {}
    return decorate


def _method_below(function: Any) -> types.MethodType | None:
    """The method of an instance that Django's method_decorator hands to its decorators, for every call anew."""
    while function is not None:
        if isinstance(function, functools.partial) and isinstance(function.func, types.MethodType):
            return function.func if hasattr(function, "__wrapped__") else None
        function = getattr(function, "__wrapped__", None)
    return None


def _wrap(plan: Function) -> Callable[..., Any]:
    function, injected, modules = plan.function, _injected(plan), sys.modules

    def enter(args: tuple[Any, ...], kwargs: dict[str, Any]) -> FunctionCall:
        request, response = None, None
        if injected:
            request, response = kwargs.pop(INJECTED_REQUEST, None), kwargs.pop(INJECTED_RESPONSE, None)
            kwargs.pop(INJECTED_KEY, None)
        if request is None:
            request = find_request(args, kwargs)
        if request is None:
            if "flask" in modules or "django.http.request" in modules:
                view = flask_call(plan, args, kwargs) or _django_call(plan, args, kwargs)
                if view is not None:
                    return view
            return FunctionCall.of(plan.native, args, kwargs)
        for parameter in plan.responses:
            response = kwargs.get(parameter, response)
        return EndpointCall(plan, args, kwargs, request, response)

    if _is_async(function) or _is_async(getattr(function, "__call__", None)):  # noqa: B004  # of an instance

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            call = enter(args, kwargs)
            run: Callable[..., Any] = function
            given, named = args, kwargs
            endpoint = call if isinstance(call, EndpointCall) else None
            if endpoint is not None and endpoint.is_held():
                return await function(*args, **kwargs)
            try:
                if endpoint is not None:
                    run, given, named = await endpoint.prepare(functools.partial(function, *args, **kwargs)), (), {}
                outcome = await advance_async(call, protect(call), None, read_body, run, given, named)
                if outcome.exception is not None:
                    raise outcome.exception
                return outcome.value
            except IdempotencyError as error:
                return _answer(call, error)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            refuse_to_block(plan.site)
            call = enter(args, kwargs)
            run: Callable[..., Any] = function
            given, named = args, kwargs
            endpoint = call if isinstance(call, EndpointCall) else None
            if endpoint is not None and endpoint.is_held():
                return function(*args, **kwargs)
            try:
                if endpoint is not None:
                    run, given, named = endpoint.prepare_in_thread(functools.partial(function, *args, **kwargs)), (), {}
                outcome = advance(call, protect(call), None, read_body_from_thread, run, given, named)
                if outcome.exception is not None:
                    raise outcome.exception
                return outcome.value
            except IdempotencyError as error:
                return _answer(call, error)

    wrapper.__signature__ = _signature(plan, injected)  # type: ignore[attr-defined]  # what inspect looks for
    wrapper.__idempotent__ = plan  # type: ignore[attr-defined]  # what a framework's documentation looks for
    plan.wrapper = wrapper
    return wrapper


def _is_task(function: Any) -> bool:
    """Whether this is a task of Celery's, made by its decorator, or one that Celery makes when it is first used."""
    task, local = sys.modules.get("celery.app.task"), sys.modules.get("celery.local")
    if local is not None and type(function) is local.PromiseProxy:
        return True
    return task is not None and isinstance(function, task.Task)


def _is_async(function: Any) -> bool:
    """Whether a call returns a coroutine; also of what is only marked so, as Django marks an async view of a class."""
    mark = getattr(function, "_is_coroutine", None)  # until Python 3.12
    return inspect.iscoroutinefunction(function) or (
        mark is not None and mark is getattr(asyncio.coroutines, "_is_coroutine", None)
    )


def _django_call(plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> EndpointCall | None:
    """A call of a Django view, where it is one."""
    if "django.http.request" not in sys.modules:
        return None
    from pyidempotent.django._view import view_call

    return view_call(plan, args, kwargs)


def _answer(call: FunctionCall, error: IdempotencyError) -> Any:
    outer = _current.get()
    if outer is not None:
        outer._refused(error.status)  # whoever stores the outer call's answer must know
    answer = call.answer(error) if isinstance(call, EndpointCall) else None
    if answer is not None:
        return answer
    if isinstance(error, PASSING) and (task := running_task(call.plan.function)) is not None:
        put_back(task, error)
    raise error


def _injected(plan: Function) -> list[inspect.Parameter]:
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


def _signature(plan: Function, injected: list[inspect.Parameter]) -> inspect.Signature:
    """The function's own, with its annotations resolved: a framework would look for their names in this module."""
    hints, signature = plan.binding.hints, plan.binding.signature
    own = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in signature.parameters.values()]
    rest = [p for p in own if p.kind is p.VAR_KEYWORD]
    parameters = [*(p for p in own if p.kind is not p.VAR_KEYWORD), *injected, *rest]
    returned = hints.get("return", signature.return_annotation)
    # To FastAPI, NoneType is a model of the body, and None the absence of one: what a 204 must have.
    return signature.replace(parameters=parameters, return_annotation=None if returned is type(None) else returned)
