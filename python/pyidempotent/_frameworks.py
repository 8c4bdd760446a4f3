"""The one table of frameworks: what is loaded decides which face is asked about a call.

A face is imported when its framework is there and a protected function is decorated or called: `import pyidempotent`
loads none.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyidempotent._calls.function import Function

#: The module by which a framework is there → the hook that says what a call is: an endpoint's, or None.
_CALLS = {
    "starlette.requests": ("pyidempotent._http.endpoint", "endpoint_call"),
    "flask": ("pyidempotent.flask._view", "flask_call"),
    "django.http.request": ("pyidempotent.django._view", "view_call"),
}

#: The module by which a framework is there → the hook that says which parameters the framework is asked for.
_PARAMETERS = {"fastapi": ("pyidempotent._http.starlette", "injected_parameters")}

#: The module by which a library of connections is there → the hook that says how a key is kept on one of them, or None
#: where it is not one of its own. Those that stand over another library's come first.
_CONNECTIONS = {
    "sqlalchemy.engine": ("pyidempotent.transactions._sqlalchemy", "connection_of"),
    "django.db.backends.base.base": ("pyidempotent.transactions._django", "connection_of"),
    "psycopg": ("pyidempotent.transactions._psycopg", "connection_of"),
    "asyncpg": ("pyidempotent.transactions._asyncpg", "connection_of"),
    "aiosqlite": ("pyidempotent.transactions._aiosqlite", "connection_of"),
    "sqlite3": ("pyidempotent.transactions._sqlite3", "connection_of"),
}

#: The hooks of the frameworks that are there, and how many modules there were when they were looked for.
_hooks: tuple[Callable[..., Any], ...] = ()
_modules = 0


def call_of(plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call of an endpoint or a view, as its framework's face has it; None for any other function's."""
    if len(sys.modules) != _modules:
        _look()
    for hook in _hooks:
        call = hook(plan, args, kwargs)
        if call is not None:
            return call
    return None


def _look() -> None:
    """Finds the hooks of the frameworks that are there by now."""
    global _hooks, _modules
    _hooks = tuple(_find(hook) for framework, hook in _CALLS.items() if framework in sys.modules)
    _modules = len(sys.modules)  # with those that were imported for it


def parameters_of(plan: Function) -> list[inspect.Parameter]:
    """The parameters that a framework is asked for, beside the function's own."""
    hooks = [hook for framework, hook in _PARAMETERS.items() if framework in sys.modules]
    return [parameter for hook in hooks for parameter in _find(hook)(plan)]


def connection_of(connection: Any) -> Any:
    """A connection or a session of the application's, as `pyidempotent.transactions` works with it; None: of a library
    that it does not know.
    """
    hooks = (_find(hook) for library, hook in _CONNECTIONS.items() if library in sys.modules)
    return next(filter(None, (hook(connection) for hook in hooks)), None)


def connection_libraries() -> list[str]:
    """The libraries whose connections are known."""
    return [module.partition(".")[0] for module in _CONNECTIONS]


def _find(hook: tuple[str, str]) -> Callable[..., Any]:
    module, name = hook
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
