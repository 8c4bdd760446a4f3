"""The classes that annotations name. Values of these may be stored and made again, of others never: a store that
somebody else can write to must not decide what is made.
"""

from __future__ import annotations

import inspect
import io
import sys
import types
import typing
from collections import abc
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pyidempotent._values.binding import resolved
from pyidempotent._values.parts import class_name, is_rebuilt

#: Their base classes (``object``, ``Exception``, ``Enum``, ``BaseModel``) promise no subclass in particular.
_LIBRARIES = frozenset({*sys.stdlib_module_names, "pydantic", "sqlmodel", "typing_extensions"})


#: Kinds of values that no store can keep, whatever class of the kind they are.
_NEVER_KEPT: dict[Any, str] = {
    abc.Iterator: "an iterator is gone when it is read: return a list",
    abc.Generator: "a generator is gone when it is read: return a list",
    abc.AsyncIterator: "an iterator is gone when it is read: return a list",
    abc.AsyncGenerator: "a generator is gone when it is read: return a list",
    abc.Awaitable: "what is to be awaited has not ended: make the function async def, and await it there",
    abc.Coroutine: "what is to be awaited has not ended: make the function async def, and await it there",
    abc.Callable: "a callable can't be stored: return what it is made from",
    typing.IO: "an open file can't be stored: return its path or its contents",
    typing.TextIO: "an open file can't be stored: return its path or its contents",
    typing.BinaryIO: "an open file can't be stored: return its path or its contents",
}


def never_kept(annotation: Any, _outer: tuple[Any, ...] = ()) -> str | None:
    """Why no value of an annotation can be stored; None where one may be.

    Of a union one member that may be stored is enough, of a collection of the standard library every part counts. The
    arguments of other generic classes say nothing about what is in their values.

    >>> never_kept(typing.Iterator[int] | None)
    'an iterator is gone when it is read: return a list'
    >>> never_kept(list[int] | typing.Iterator[int])
    """
    if any(annotation is part for part in _outer):  # an alias of itself
        return None
    origin = typing.get_origin(annotation) or annotation
    inside = (*_outer, annotation)
    parts = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        said = [never_kept(part, inside) for part in parts if part is not type(None)]
        return said[0] if said and all(said) else None
    if origin is typing.Annotated:
        return never_kept(annotation.__origin__, inside)
    if isinstance(origin, type) and issubclass(origin, list | tuple | set | frozenset | dict):
        return next(filter(None, (never_kept(part, inside) for part in parts)), None)
    if isinstance(origin, type) and issubclass(origin, io.IOBase):
        return _NEVER_KEPT[typing.IO]
    if (why := next((why for kind, why in _NEVER_KEPT.items() if kind is origin), None)) is not None:
        return why
    if parts or isinstance(annotation, type | typing.TypeVar):
        return None
    try:
        alias = getattr(annotation, "__supertype__", None) or getattr(annotation, "__value__", None)
    except Exception:  # it may name what only a type checker imports
        return None
    return None if alias is None else never_kept(alias, inside)


class Named(Mapping[str, type]):
    """The classes that annotations name, by the names that stored values have for them.

    Named are the classes in an annotation, in its arguments (``list[Item]``, ``Item | None``) and in the fields of the
    classes found; and their subclasses that exist when a value is stored or replayed. ``Any``, ``object`` and a
    library's base class, like pydantic's ``BaseModel``, name nothing. The annotations of an exception class are those
    of its attributes and of the parameters of its ``__init__``.

    Parameters:
        annotations: resolved as far as they go; what is still a string names nothing.

    >>> import dataclasses, enum
    >>> Colour = enum.Enum("Colour", "RED BLUE", module="shop")
    >>> Item = dataclasses.make_dataclass("Item", [("colour", Colour)], namespace={"__module__": "shop"})
    >>> sorted(Named(list[Item] | None))
    ['shop:Colour', 'shop:Item']
    """

    def __init__(self, *annotations: Any) -> None:
        self._annotations = annotations
        self._found: dict[str, type] = {}

    def also(self, *annotations: Any) -> Named:
        """The classes that these annotations name too."""
        return Named(*self._annotations, *annotations)

    def __getitem__(self, name: str) -> type:
        if name not in self._found:
            self._found = _find(self._annotations)  # for the first time, or a subclass was defined meanwhile
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_find(self._annotations))

    def __len__(self) -> int:
        return len(_find(self._annotations))


def subclasses_of(classes: Iterable[type]) -> Iterator[type]:
    """Every class that derives from these and exists, in the order in which they were made."""
    pending: list[type] = list(classes)
    seen: set[type] = set()
    while pending:
        derived: list[type] = type.__subclasses__(pending.pop(0))
        for cls in derived:
            if cls not in seen:
                seen.add(cls)
                pending.append(cls)
                yield cls


def _find(annotations: Iterable[Any]) -> dict[str, type]:
    named: dict[str, type] = {}
    derived: dict[str, type] = {}
    pending: list[Any] = list(annotations)
    subclasses: list[type] = []
    seen: dict[int, Any] = {}  # with the parts themselves: the identity of one that is gone may come again
    found = named
    while pending or subclasses:
        if not pending:
            # Of two classes with one name, the annotation's own counts, then the younger one.
            found, pending = derived, [subclasses.pop(0)]
        part = pending.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if not isinstance(part, type) or typing.get_origin(part) is not None:
            pending.extend(_parts(part))
            continue
        if is_rebuilt(part):
            found[class_name(part)] = part
            # A generic model of pydantic's is a class for each of its arguments; without them it is another one.
            if generic := (getattr(part, "__pydantic_generic_metadata__", None) or {}).get("origin"):
                found.setdefault(class_name(generic), generic)
        if is_rebuilt(part) or typing.is_typeddict(part) or issubclass(part, BaseException):
            pending.extend(_fields(part))
        if (part.__module__ or "").partition(".")[0] not in _LIBRARIES:
            subclasses.extend(type.__subclasses__(part))
    return {**derived, **named}


def _parts(annotation: Any) -> Iterable[Any]:
    """What an annotation that is no class consists of."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return [annotation.__origin__]
    if origin is typing.Literal:
        return map(type, typing.get_args(annotation))
    if origin is typing.ClassVar:
        return []
    if origin is not None:
        return [origin, *typing.get_args(annotation)]
    if isinstance(annotation, typing.TypeVar):
        return [annotation.__bound__, *annotation.__constraints__]
    try:
        # NewType, and the alias of a ``type`` statement, whose value is evaluated now.
        return [getattr(annotation, "__supertype__", None) or getattr(annotation, "__value__", None)]
    except Exception:  # it may name what only a type checker imports
        return []


def _fields(cls: type) -> Iterable[Any]:
    """The annotations of a class."""
    try:
        hints = typing.get_type_hints(cls)
    except Exception:  # one of them may name what only a type checker imports; the others count
        hints = {name: hint for base in reversed(cls.__mro__) for name, hint in _alone(base)}
    found = [*hints.values(), *(field.type for field in getattr(cls, "__attrs_attrs__", ()))]
    if issubclass(cls, BaseException) and isinstance(cls.__init__, types.FunctionType):
        found += [resolved(hint, cls.__init__.__globals__) for hint in cls.__init__.__annotations__.values()]
    # Of a generic model of pydantic's, only these have the arguments in them.
    return [*found, *(field.annotation for field in getattr(cls, "__pydantic_fields__", {}).values())]


def _alone(cls: type) -> Iterator[tuple[str, Any]]:
    names = getattr(sys.modules.get(cls.__module__), "__dict__", {})
    try:
        annotations = inspect.get_annotations(cls)
    except NameError:
        return
    for name, hint in annotations.items():
        yield name, resolved(hint, names)
