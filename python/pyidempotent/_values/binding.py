"""What a function's signature says, and callables of the user's that take some of its arguments."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any


class Binding:
    """A function's signature, its annotations and its defaults."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.signature = inspect.signature(function)
        self.hints = _hints(function)
        parameters = self.signature.parameters.values()
        self.names = [p.name for p in parameters]
        self.defaults: dict[str, Any] = {
            p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty
        }


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations, resolved as far as they go."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # one of them may name what only a type checker imports; the others count
        names = getattr(inspect.unwrap(function), "__globals__", {})
        return {name: resolved(hint, names) for name, hint in getattr(function, "__annotations__", {}).items()}


def resolved(hint: Any, names: dict[str, Any]) -> Any:
    """One annotation, resolved as far as it goes among these names."""

    def alone() -> None: ...

    alone.__annotations__ = {"hint": hint}
    try:
        return typing.get_type_hints(alone, names, include_extras=True)["hint"]
    except Exception:
        return hint


class Selector:
    """A callable of the user's that takes some of a function's arguments, by name.

    Parameters:
        option: the option it was given as, for messages.
        function: the callable; its parameters name arguments of the function, or are ``*args, **kwargs``.
        binding: of the function.
        also: names that are known beside the function's own.
    """

    def __init__(self, option: str, function: Callable[..., Any], binding: Binding, also: tuple[str, ...] = ()) -> None:
        self._function = function
        self._names: list[str] | None = None
        own = [name for name in binding.names if name not in ("self", "cls")]
        try:
            wanted: list[inspect.Parameter] | None = list(inspect.signature(function).parameters.values())
        except ValueError:  # some built-in callables do not tell
            wanted = None
        if wanted is not None and any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in wanted):
            return
        names = None if wanted is None else [p.name for p in wanted if p.default is p.empty]
        if names is not None and all(name in binding.names or name in also for name in names):
            self._names = names
        elif option == "key" and len(own) == 1 and (names is None or len(names) == 1):
            self._names = own  # there is only one that it can mean
        else:
            raise TypeError(
                f"{option}= must be a callable whose parameters are named as the function's ({', '.join(own)}), "
                f"or that takes *args and **kwargs; this one takes {', '.join(names or ['something unknown'])}"
            )

    def __call__(self, values: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the callable makes of a call; ``values`` are its arguments by name, defaults included."""
        if self._names is None:
            return self._function(*args, **kwargs)
        return self._function(*[values[name] for name in self._names])
