"""What a server has received, and who asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

__all__ = ["ConsoleRequest", "checked", "operator_of"]


@dataclasses.dataclass(frozen=True)
class ConsoleRequest:
    """A request for the page.

    Parameters:
        path: below the place where the page is mounted.
        mount: the path of that place.
        is_secure: whether it came by HTTPS.
        is_allowed: whether an operator asks.
        who: the operator's name, for the log.
        may_change: whether this operator may resolve and release, or only look.
    """

    method: str
    path: str
    query: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    mount: str
    is_secure: bool
    is_allowed: bool
    who: str | None = None
    may_change: bool = True


def checked(name: str, allow: Callable[..., Any] | None, asks: str) -> Callable[..., Any]:
    """What says who is an operator.

    Raises:
        TypeError: where nothing says it.
    """
    if callable(allow):
        return allow
    raise TypeError(
        f"{name}() shows what was asked for, and lets people change it: say who may, by allow=, a callable that gets "
        f"the {asks} and returns the operator's name (or True), or False for everybody else"
    )


def operator_of(answer: Any) -> tuple[bool, str | None]:
    """Whether ``allow`` has named an operator, and which.

    Raises:
        TypeError: where it has answered something else.
    """
    if answer is None or isinstance(answer, bool):
        return bool(answer), None
    if isinstance(answer, str):
        return answer != "", answer or None
    raise TypeError(f"allow= returned {type(answer).__name__}; return the operator's name, True or False")
