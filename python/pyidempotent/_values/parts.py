"""Taking values apart and together that the engine's encoding has no tag for.

`reduce` and `rebuild` are called by the extension. A class is named ``module:qualname``; a name is looked up among the
classes that an annotation names and nowhere else. Nothing is ever imported or executed for it.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import sys
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

#: The classes of which values may be stored and made again, by name.
Classes = Mapping[str, type]

#: In their place, for a value that is stored on an operator's word: whoever replays it decides what may be made of it.
EVERY: Classes = MappingProxyType({})

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def class_name(cls: type) -> str:
    """The name a class goes by in stored values."""
    return f"{cls.__module__}:{cls.__qualname__}"


def reduce(value: Any, classes: Classes | None) -> tuple[str, str | None, Any]:
    """Kind, class and parts of a value. Without ``classes``: its canonical parts, for a fingerprint."""
    cls = type(value)
    plain = _PLAIN.get(cls)
    if plain is not None:
        kind, canonical, exact = plain
        return kind, None, exact(value) if classes is not None else canonical(value)
    for kind, (matches, canonical, exact, _) in _CLASSES.items():
        if matches(cls):
            if classes is None:
                return kind, class_name(cls), canonical(value)
            if classes is not EVERY and classes.get(class_name(cls)) is not cls:
                raise TypeError(
                    f"a value of the class {class_name(cls)} can't be stored: a replay makes values only of classes "
                    "that the return annotation names; name it there, imported at run time (the result of an attempt() "
                    "has no annotation: make it of standard types)"
                )
            return kind, class_name(cls), exact(value)
    raise TypeError(
        f"a value of type {cls.__module__}.{cls.__qualname__} is not supported: only standard types, dataclasses, "
        "enums, named tuples, attrs and pydantic models are"
    )


def rebuild(kind: str, name: str | None, parts: Any, classes: Classes) -> Any:
    """The value that `reduce` took apart."""
    if kind not in (_REBUILD_PLAIN if name is None else _CLASSES):
        raise ValueError(f"the stored value is damaged, or of a newer version of pyidempotent: {kind!r} is unknown")
    if name is None:
        return _REBUILD_PLAIN[kind](parts)
    matches, _, _, build = _CLASSES[kind]
    cls = classes.get(name)
    if cls is None or not matches(cls):
        raise TypeError(
            f"the stored value is of the class {name}, which the return annotation does not name, or which is not what "
            "it was"
        )
    return build(cls, parts)


# Plain types: one kind, no class.


def _zone(value: datetime | time) -> Any:
    zone = value.tzinfo
    if zone is None:
        return None
    if isinstance(zone, ZoneInfo) and zone.key:
        return zone.key
    # Of one offset, whatever its class (pydantic has its own): the datetime that is made again is equal.
    offset = zone.utcoffset(None)
    if isinstance(offset, timedelta):
        return (*_delta(offset), zone.tzname(None))
    raise TypeError(f"a {type(value).__name__} with a tzinfo of type {type(zone).__qualname__} is not supported")


def _build_zone(parts: Any) -> timezone | ZoneInfo | None:
    if parts is None or isinstance(parts, str):
        return ZoneInfo(parts) if parts else None
    *offset, name = parts
    plain = timezone(timedelta(*offset))
    return plain if plain.tzname(None) == name else timezone(timedelta(*offset), name)


def _delta(value: timedelta) -> tuple[int, int, int]:
    return value.days, value.seconds, value.microseconds


def _canonical_datetime(value: datetime) -> Any:
    # Equal instants are equal arguments, whatever zone they are told in; naive ones know no fold.
    return value.replace(fold=0).isoformat() if value.utcoffset() is None else _delta(value - _EPOCH)


def _canonical_time(value: time) -> Any:
    offset = value.utcoffset()
    if offset is None:
        return value.replace(tzinfo=None, fold=0).isoformat()
    clock = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond)
    return _delta(clock - offset)


def _exact_datetime(value: datetime) -> Any:
    return value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _zone(value)


def _exact_time(value: time) -> Any:
    return value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _zone(value)


def _canonical_decimal(value: Decimal) -> Any:
    if not value.is_finite():
        return str(value)
    sign, digits, exponent = value.as_tuple()
    number = int("".join(map(str, digits)))
    if number == 0:
        return 0
    assert isinstance(exponent, int)
    while number % 10 == 0:
        number, exponent = number // 10, exponent + 1
    return (-number if sign else number), exponent


_PLAIN: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    datetime: ("datetime", _canonical_datetime, _exact_datetime),
    date: ("date", date.isoformat, date.isoformat),
    time: ("time", _canonical_time, _exact_time),
    timedelta: ("timedelta", _delta, _delta),
    Decimal: ("decimal", _canonical_decimal, str),
    UUID: ("uuid", lambda value: value.bytes, lambda value: value.bytes),
    **{
        cls: (cls.__name__, str, str)
        for cls in (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath)
    },
}

_REBUILD_PLAIN: dict[str, Callable[[Any], Any]] = {
    "datetime": lambda p: datetime.fromisoformat(p[0]).replace(fold=p[1], tzinfo=_build_zone(p[2])),
    "date": date.fromisoformat,
    "time": lambda p: time.fromisoformat(p[0]).replace(fold=p[1], tzinfo=_build_zone(p[2])),
    "timedelta": lambda p: timedelta(*p),
    "decimal": Decimal,
    "uuid": lambda p: UUID(bytes=p),
    **{
        cls.__name__: cls
        for cls in (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath)
    },
}


# Types with a class of the user's.


def _is_enum(cls: type) -> bool:
    return issubclass(cls, enum.Enum)


def _is_flag(cls: type) -> bool:
    return issubclass(cls, enum.Flag)


def _is_namedtuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields") and tuple in cls.__bases__


def _is_attrs(cls: type) -> bool:
    return hasattr(cls, "__attrs_attrs__")


def _is_pydantic(cls: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and hasattr(cls, "__pydantic_fields__") and issubclass(cls, pydantic.BaseModel)


_MISSING = object()


def _named(value: Any, names: typing.Iterable[str]) -> dict[str, Any]:
    """The attributes that are set."""
    pairs = ((name, getattr(value, name, _MISSING)) for name in names)
    return {name: part for name, part in pairs if part is not _MISSING}


def _set_attributes(cls: type, parts: dict[str, Any]) -> Any:
    # Past __init__ and frozen: the value existed once, and is not made but restored.
    value: Any = object.__new__(cls)
    for name, part in parts.items():
        object.__setattr__(value, name, part)
    return value


_PYDANTIC_STATE = ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")


def _pydantic_state(value: Any) -> dict[str, Any]:
    state = {name: getattr(value, name) for name in _PYDANTIC_STATE}
    private = state["__pydantic_private__"]
    if private is not None:
        undefined = sys.modules["pydantic_core"].PydanticUndefined
        state["__pydantic_private__"] = {name: part for name, part in private.items() if part is not undefined}
    return state


def _build_pydantic(cls: type, state: dict[str, Any]) -> Any:
    value: Any = object.__new__(cls)
    for name, part in state.items():
        object.__setattr__(value, name, part)
    return value


#: kind -> (which classes, canonical parts, exact parts, together again)
_CLASSES: dict[
    str, tuple[Callable[[type], bool], Callable[[Any], Any], Callable[[Any], Any], Callable[[Any, Any], Any]]
] = {
    "flag": (_is_flag, lambda v: v.value, lambda v: v.value, lambda cls, p: cls(p)),
    "enum": (_is_enum, lambda v: v.name, lambda v: v.name, lambda cls, p: cls[p]),
    "namedtuple": (_is_namedtuple, tuple, tuple, lambda cls, p: tuple.__new__(cls, p)),
    "pydantic": (
        _is_pydantic,
        lambda v: (v.__dict__, v.__pydantic_extra__),
        _pydantic_state,
        _build_pydantic,
    ),
    "attrs": (
        _is_attrs,
        lambda v: _named(v, [field.name for field in type(v).__attrs_attrs__ if field.eq]),
        lambda v: _named(v, [field.name for field in type(v).__attrs_attrs__]),
        _set_attributes,
    ),
    "dataclass": (
        dataclasses.is_dataclass,
        lambda v: _named(v, [field.name for field in dataclasses.fields(v) if field.compare]),
        lambda v: _named(v, [field.name for field in dataclasses.fields(v)]),
        _set_attributes,
    ),
}


def is_rebuilt(cls: type) -> bool:
    """Whether values of a class are taken apart and made again."""
    return any(matches(cls) for matches, *_ in _CLASSES.values())
