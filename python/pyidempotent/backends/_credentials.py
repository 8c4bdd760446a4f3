"""Who logs in to Redis, where that changes: callables, and the credential providers of redis-py."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Protocol

from pyidempotent._values.durations import seconds

__all__ = ["CredentialProvider", "Credentials", "Login", "Question", "question"]

#: A user's name (``None``: the server's default user) and a password, and for how long they hold, where that is known:
#: in seconds, or as a timedelta.
Login = tuple[str | None, str] | tuple[str | None, str, float | timedelta | None]


class CredentialProvider(Protocol):
    """A credential provider of redis-py."""

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """A password, or a user's name and a password."""


#: What is asked for a login whenever one is needed.
Credentials = Callable[[], Login] | Callable[[], Awaitable[Login]] | CredentialProvider

#: What the engine calls for a login, and what errors call it.
Question = tuple[Callable[[], tuple[str | None, str, float | None]], str]


def question(credentials: Any, *, is_asyncio: bool = False) -> Question:
    """What the engine calls, on a thread of its own, for ``credentials`` as a user gives them.

    Parameters:
        is_asyncio: whether a provider is asked by its ``get_credentials_async``, if it has one of its own.

    Raises:
        TypeError: for anything that can't be asked.
    """
    ask = credentials
    if hasattr(credentials, "get_credentials"):
        ask = credentials.get_credentials
        by_default = getattr(_base(credentials), "get_credentials_async", None)
        if is_asyncio and getattr(type(credentials), "get_credentials_async", by_default) is not by_default:
            ask = credentials.get_credentials_async
    if not callable(ask):
        raise TypeError(
            "credentials must be a callable that returns (username, password) or (username, password, seconds), or a "
            f"credential provider of redis-py, not a {type(credentials).__qualname__}"
        )
    name = getattr(credentials, "__qualname__", type(credentials).__qualname__)

    def answer() -> tuple[str | None, str, float | None]:
        answered = ask()
        if inspect.isawaitable(answered):
            answered = asyncio.run(_awaited(answered))
        return _login(answered, name)

    return answer, name


def _base(provider: Any) -> type | None:
    """redis-py's own class, whose ``get_credentials_async`` only warns that there is none."""
    classes = (cls for cls in type(provider).__mro__ if cls.__name__ == "CredentialProvider")
    return next((cls for cls in classes if cls.__module__.startswith("redis.")), None)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def _login(answered: Any, name: str) -> tuple[str | None, str, float | None]:
    if isinstance(answered, tuple | list) and len(answered) in (1, 2, 3):
        if len(answered) == 1:  # as redis-py's providers do
            answered = (None, *answered)
        user, password, left = (*answered, None)[:3]
        if isinstance(user, str | None) and isinstance(password, str):
            return user or None, password, None if left is None else seconds("the time that credentials hold", left)
    # Not what it returned: that is secret.
    raise TypeError(f"{name} must return (username, password) or (username, password, seconds)")
