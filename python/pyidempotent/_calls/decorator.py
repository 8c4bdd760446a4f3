"""`idempotent`: the decorator."""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from pyidempotent._calls.current import _current
from pyidempotent._calls.flow import advance, advance_async, protect, refuse_to_block
from pyidempotent._calls.function import Function, FunctionCall
from pyidempotent._calls.tasks import PASSING, is_task, put_back, running_task
from pyidempotent._frameworks import call_of, parameters_of
from pyidempotent._options import Site
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import FunctionOptions
from pyidempotent.backends import Backend
from pyidempotent.exceptions import IdempotencyError

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["idempotent"]

P = ParamSpec("P")
R = TypeVar("R")


FACE = OptionReader("@idempotent", FunctionOptions)


@FACE.shows
def idempotent(
    backend: Backend | str | None = None, **options: Unpack[FunctionOptions]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Runs a function once per key; a repeat gets the stored result.

    In a FastAPI or Starlette endpoint the key is the request's ``Idempotency-Key`` header
    (draft-ietf-httpapi-idempotency-key-header-07), the payload is the request, and what goes wrong becomes an answer
    (RFC 9457). Elsewhere ``key=`` says what the key is.

    Parameters:
        backend: a backend or its URL.
        options: each by its name, where an editor shows what it means. docs/options.md has all of them.

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
    read = FACE.read(options)
    site = Site(backend, read)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if is_task(function):
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
            return cast("Callable[P, R]", wrapped(known.of(function)))
        return cast("Callable[P, R]", wrapped(analyse(function)))

    def analyse(function: Callable[..., Any]) -> Function:
        return Function(function, site, **{name: read[name] for name in ("key", "scope", "fingerprint", "name")})

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


def _through_store(
    call: Any, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], read: Callable[[Any], Any]
) -> Any:
    """Carries a sync call to its end, over the store of its site."""
    return advance(call, protect(call), None, read, run, args, kwargs)


def _through_store_async(
    call: Any, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], read: Callable[[Any], Any]
) -> Any:
    """Carries an async call to its end, over the store of its site."""
    return advance_async(call, protect(call), None, read, run, args, kwargs)


def wrapped(
    plan: Function,
    through: Callable[..., Any] = _through_store,
    through_async: Callable[..., Any] = _through_store_async,
) -> Callable[..., Any]:
    """What stands in a function's place.

    Parameters:
        plan: its analysis.
        through: carries a sync call to its end.
        through_async: carries an async call to its end.
    """
    function, native, injected = plan.function, plan.native, parameters_of(plan)
    plan.is_injected = bool(injected)
    plain_call = FunctionCall.of

    def enter(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = call_of(plan, args, kwargs)
        return plain_call(native, args, kwargs) if call is None else call

    if _is_async(function) or _is_async(getattr(function, "__call__", None)):  # noqa: B004  # of an instance

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            call = enter(args, kwargs)
            run: Callable[..., Any] = function
            given, named = args, kwargs
            endpoint = None if type(call) is FunctionCall else call
            if endpoint is not None and endpoint.is_held():
                return await function(*args, **kwargs)
            try:
                if endpoint is not None:
                    run, given, named = await endpoint.prepare(functools.partial(function, *args, **kwargs)), (), {}
                outcome = await through_async(call, run, given, named, _read_async)
                if outcome.exception is not None:
                    raise outcome.exception
                return outcome.value
            except IdempotencyError as error:
                return _answer(call, error)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            refuse_to_block(plan.site.wait)
            call = enter(args, kwargs)
            run: Callable[..., Any] = function
            given, named = args, kwargs
            endpoint = None if type(call) is FunctionCall else call
            if endpoint is not None and endpoint.is_held():
                return function(*args, **kwargs)
            try:
                if endpoint is not None:
                    run, given, named = endpoint.prepare_in_thread(functools.partial(function, *args, **kwargs)), (), {}
                outcome = through(call, run, given, named, _read)
                if outcome.exception is not None:
                    raise outcome.exception
                return outcome.value
            except IdempotencyError as error:
                return _answer(call, error)

    wrapper.__signature__ = _signature(plan, injected)  # type: ignore[attr-defined]  # what inspect looks for
    wrapper.__idempotent__ = plan  # type: ignore[attr-defined]  # what a framework's documentation looks for
    plan.wrapper = wrapper
    return wrapper


def _is_async(function: Any) -> bool:
    """Whether a call returns a coroutine; also of what is only marked so, as Django marks an async view of a class."""
    mark = getattr(function, "_is_coroutine", None)  # until Python 3.12
    return inspect.iscoroutinefunction(function) or (
        mark is not None and mark is getattr(asyncio.coroutines, "_is_coroutine", None)
    )


def _read(wanted: tuple[Any, Any]) -> Any:
    """Reads what an endpoint's call wants read, on the function's thread."""
    call, limit = wanted
    return call.read(limit)


async def _read_async(wanted: tuple[Any, Any]) -> Any:
    """Reads what an endpoint's call wants read, in the function's loop."""
    call, limit = wanted
    return await call.read_async(limit)


def _answer(call: Any, error: IdempotencyError) -> Any:
    outer = _current.get()
    if outer is not None:
        outer._refused(error.status)  # whoever stores the outer call's answer must know
    answer = None if type(call) is FunctionCall else call.answer(error)
    if answer is not None:
        return answer
    if isinstance(error, PASSING) and (task := running_task(call.plan.function)) is not None:
        put_back(task, error)
    raise error


def _signature(plan: Function, injected: list[inspect.Parameter]) -> inspect.Signature:
    """The function's own, with its annotations resolved: a framework would look for their names in this module."""
    hints, signature = plan.binding.hints, plan.binding.signature
    own = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in signature.parameters.values()]
    rest = [p for p in own if p.kind is p.VAR_KEYWORD]
    parameters = [*(p for p in own if p.kind is not p.VAR_KEYWORD), *injected, *rest]
    returned = hints.get("return", signature.return_annotation)
    # To FastAPI, NoneType is a model of the body, and None the absence of one: what a 204 must have.
    return signature.replace(parameters=parameters, return_annotation=None if returned is type(None) else returned)
