"""What is stored as a result, and what a replay makes of it.

The first byte says what the rest is: ``V`` a value, ``W`` a value with the status and headers that a view set beside
it, ``R`` a whole HTTP answer, ``X`` an exception.
"""

from __future__ import annotations

from typing import Any

from pyidempotent import _native
from pyidempotent._native import Answer, Outcome
from pyidempotent._values import Classes, class_name, find_class

__all__ = [
    "ANSWER",
    "EXCEPTION",
    "VALUE",
    "VIEW_VALUE",
    "Answer",
    "Outcome",
    "Unstorable",
    "pack",
    "pack_answer",
    "pack_exception",
    "unpack",
    "unpack_exception",
]

VALUE, VIEW_VALUE, ANSWER, EXCEPTION = b"V", b"W", b"R", b"X"


class Unstorable(Exception):
    """A result that can't be kept, and why."""


def pack_answer(answer: Answer, store_set_cookie: bool = False) -> bytes:
    """The stored form of an answer, without the headers that are not stored.

    Raises:
        Unstorable: where it is malformed.
    """
    try:
        return ANSWER + answer.encode(store_set_cookie)
    except (TypeError, ValueError) as error:
        raise Unstorable(f"it is malformed: {error}") from error


def pack(kind: bytes, value: Any, classes: Classes) -> bytes:
    """The stored form of a value.

    Raises:
        Unstorable: where it has none.
    """
    try:
        return kind + _native.encode(value, classes)
    except (TypeError, ValueError) as error:
        raise Unstorable(str(error)) from error


def unpack(payload: bytes, classes: Classes) -> Any:
    """The value that `pack` stored."""
    return _native.decode(payload[1:], classes)


def pack_exception(
    error: Exception, classes: Classes, allowed: tuple[type[Exception], ...], **attributes: Any
) -> bytes:
    """The stored form of an exception: its class, its arguments and its attributes, or ``attributes`` in their place.

    Raises:
        Unstorable: where `unpack_exception` would not find the class.
    """
    name = class_name(type(error))
    if _exception_class(name, classes, allowed) is not type(error):
        raise Unstorable(f"the exception class {name} can't be found by its name; define it at the top of a module")
    return pack(EXCEPTION, (name, error.args, {**error.__dict__, **attributes}), classes)


def unpack_exception(payload: bytes, classes: Classes, allowed: tuple[type[Exception], ...]) -> Exception:
    """The exception that `pack_exception` stored; only of classes that are stored at this call site."""
    name, args, attributes = unpack(payload, classes)
    cls = _exception_class(name, classes, allowed)
    if cls is None or not issubclass(cls, allowed):
        raise TypeError(f"the stored exception {name} is not among store_exceptions, or not imported")
    error: Exception = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def _exception_class(name: str, classes: Classes, allowed: tuple[type[Exception], ...]) -> type | None:
    return {class_name(cls): cls for cls in allowed}.get(name) or find_class(name, classes)
