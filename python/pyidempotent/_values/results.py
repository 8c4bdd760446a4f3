"""What is stored as a result, and what a replay makes of it.

The first byte says what the rest is: a value, a value with the status and headers that an endpoint set beside it, a
whole HTTP answer, or an exception.
"""

from __future__ import annotations

import builtins
import copy
from collections.abc import Callable
from typing import Any

from pyidempotent import _native
from pyidempotent._native import Answer, Outcome
from pyidempotent._values.annotations import Named, subclasses_of
from pyidempotent._values.parts import Classes, class_name

__all__ = [
    "ANSWER",
    "ENDPOINT_VALUE",
    "EXCEPTION",
    "VALUE",
    "Answer",
    "Outcome",
    "Unstorable",
    "pack",
    "pack_answer",
    "pack_exception",
    "redacted",
    "unpack",
    "unpack_exception",
]

VALUE, ENDPOINT_VALUE, ANSWER, EXCEPTION = _native.RESULT_TAGS


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


def redacted(redact: Callable[[Any], Any], payload: bytes, outcome: Outcome, pack: Callable[[Outcome], bytes]) -> bytes:
    """The stored form of an end, without what ``redact=`` takes out.

    Parameters:
        payload: the stored form of the whole.
        pack: makes the stored form of an end.

    Raises:
        Unstorable: where that fails. The whole is not stored in its place.
    """
    try:
        if payload[:1] == EXCEPTION:
            return payload
        if payload[:1] != ANSWER:
            # A copy: what the first caller gets is the whole.
            return pack(Outcome(redact(copy.deepcopy(outcome.value))))
        whole = Answer.decode(payload[1:])
        left = redact(whole)
        if not isinstance(left, Answer):
            raise TypeError(f"it must return an Answer, not a {type(left).__qualname__}")
        # What says how long the body is must say it of this one.
        length = str(len(left.body)).encode()
        headers = [(name, length if name.lower() == b"content-length" else value) for name, value in left.headers]
        return pack_answer(Answer(left.status, headers, left.body), store_set_cookie=True)  # it is left out by now
    except Unstorable:
        raise
    except Exception as error:
        raise Unstorable(f"redact= failed: {type(error).__qualname__}: {error}") from error


def unpack(payload: bytes, classes: Classes) -> Any:
    """The value that `pack` stored.

    Raises:
        ValueError: where something else stored it, as a function in another language.
    """
    return _native.unpack(payload, classes)


def pack_exception(error: Exception, classes: Named, allowed: tuple[type[Exception], ...], **attributes: Any) -> bytes:
    """The stored form of an exception: its class, its arguments and its attributes, or ``attributes`` in their place.

    Parameters:
        classes: of which its arguments and attributes may be, beside those that the annotations of ``allowed`` name.
        allowed: the exception classes that are results. Their subclasses are too, and built-in exceptions always.

    Raises:
        Unstorable: for an exception of another class, or with parts that have no stored form.
    """
    name = class_name(type(error))
    if _exception_class(name, allowed) is not type(error):
        raise Unstorable(f"an exception of the class {name} can't be stored: name it in store_exceptions")
    parts = (name, error.args, {**error.__dict__, **attributes})
    return pack(EXCEPTION, parts, classes.also(*allowed))


def unpack_exception(payload: bytes, classes: Named, allowed: tuple[type[Exception], ...]) -> Exception:
    """The exception that `pack_exception` stored; only of classes that are stored at this call site."""
    name, args, attributes = unpack(payload, classes.also(*allowed))
    cls = _exception_class(name, allowed)
    if cls is None:
        raise TypeError(f"the stored exception {name} is not among store_exceptions")
    error: Exception = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def _exception_class(name: str, allowed: tuple[type[Exception], ...]) -> type[Exception] | None:
    module, _, path = name.partition(":")
    found = getattr(builtins, path, None) if module == "builtins" else None
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    own = {class_name(cls): cls for cls in allowed}
    return own.get(name) or {class_name(cls): cls for cls in subclasses_of(allowed)}.get(name)
