"""What an option may be. A check gets the option's name and value; it returns what is worked with, or says why not."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pyidempotent._native import SAFE_METHODS, Seal, postgres_schema
from pyidempotent.backends.seal import sealing

#: Raises TypeError or ValueError, whose message names the option.
Check = Callable[[str, Any], Any]


def anything(_: str, value: Any) -> Any:
    """What is only known to be right where it is used."""
    return value


@dataclass(frozen=True)
class TakesOne:
    """A callable with one parameter.

    Parameters:
        what: the argument, for the message.
    """

    what: str

    def __call__(self, name: str, value: Any) -> Any:
        """Checks one."""
        if not callable(value):
            raise TypeError(f"{name}= must be a callable that gets {self.what}, not {value!r}")
        try:
            inspect.signature(value).bind(None)
        except ValueError:  # some built-in callables do not tell
            pass
        except TypeError as error:
            raise TypeError(f"{name}= must be a callable with one parameter, {self.what}: {error}") from None
        return value


def one_of(words: Any) -> Check:
    """One of the words of a Literal."""

    def check(name: str, value: Any) -> Any:
        if value not in get_args(words):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(words)))}, not {value!r}")
        return value

    return check


def text(name: str, value: Any) -> str:
    """A str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")
    return value


def schema_name(name: str, value: Any) -> str:
    """A name that a schema of Postgres can have."""
    postgres_schema(text(name, value))
    return str(value)


def flag(name: str, value: Any) -> bool:
    """A bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def namespace(name: str, value: Any) -> Any:
    """A str, or a callable that returns one."""
    if not isinstance(value, str) and not callable(value):
        raise TypeError(f"{name} must be a str, or a callable that returns one, not {value!r}")
    return value


def header_name(name: str, value: Any) -> str:
    """The name of a header: a token (RFC 9110, section 5.1)."""
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text(name, value)):
        raise ValueError(f"{name} must be the name of a header, not {value!r}")
    return str(value)


def byte_count(name: str, value: Any) -> int:
    """A number of bytes, as Py_ssize_t can hold it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a number of bytes, 0 or more, not {value!r}")
    return min(value, sys.maxsize)


def seal(name: str, value: Any) -> Seal | None:
    """Keys to seal with."""
    if not isinstance(value, Iterable) and not hasattr(value, "native"):
        raise TypeError(f"{name} must be a Seal, a key or a list of keys, not a {type(value).__qualname__}")
    return sealing(value)


def url(name: str, value: Any) -> str:
    """An absolute URL."""
    if not isinstance(value, str) or "://" not in value:
        raise ValueError(f"{name} must be the absolute URL of your documentation, not {value!r}")
    return value


def exception_classes(name: str, value: Any) -> tuple[type[Exception], ...]:
    """Classes of exceptions, or one."""
    classes = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(cls, type) and issubclass(cls, Exception) for cls in classes):
        raise TypeError(f"{name} must be a tuple of exception classes, not {value!r}")
    return classes


#: Every method of HTTP that there is (https://www.iana.org/assignments/http-methods), and what caches are told with.
_METHODS = SAFE_METHODS | frozenset(
    """
    ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE LABEL LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL
    MKREDIRECTREF MKWORKSPACE MOVE ORDERPATCH PATCH POST PRI PROPFIND PROPPATCH PURGE PUT QUERY REBIND REPORT SEARCH
    UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL
    """.split()  # noqa: SIM905  # a list of them would be forty lines
)


def http_methods(name: str, value: Any) -> frozenset[str]:
    """Methods of HTTP that change something."""
    names = () if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else ()
    if not names or not all(isinstance(method, str) for method in names):
        raise TypeError(f"{name}= must be a collection of methods, like ('POST', 'PUT'), not {value!r}")
    methods = frozenset(method.upper() for method in names)
    if strange := methods - _METHODS:
        close = difflib.get_close_matches(min(strange), _METHODS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name}=: {min(strange)!r} is no method of HTTP{hint}")
    if safe := methods & SAFE_METHODS:
        raise ValueError(f"{name}=: a {min(safe)} request changes nothing, and is never protected")
    return methods


def path_options(name: str, value: Any) -> Mapping[str, Mapping[str, Any] | None]:
    """Patterns of paths, and options for each of them."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}= must be a dict, like {{'/pay': {{'required': True}}}}, not {value!r}")
    for pattern, own in value.items():
        if not isinstance(pattern, str) or not pattern.startswith(("/", "*")):
            raise ValueError(f"{name}: {pattern!r} must start with '/' or '*', like '/pay' or '/webhooks/*'")
        if own is not None and not isinstance(own, Mapping):
            raise TypeError(f"{name}: {pattern!r} needs a dict of options, or None to leave it out, not {own!r}")
    return value
