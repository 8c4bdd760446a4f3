"""For tests: of your own code (`rehearse`), and of a backend of your own (`check_backend`).

With pytest, the fixture ``idempotency`` is a rehearsal that is there already::

    def test_a_crash_after_the_charge(idempotency):
        with idempotency.crash_after(bank, "charge"):
            pay("order-7", 42)
        idempotency.advance(30)  # until the lease has lapsed
        assert pay("order-7", 42) == "paid"
        assert len(set(bank.keys_seen)) == 1  # the bank was asked twice, with one key
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, NoReturn
from unittest import mock

from pyidempotent import _native, idempotent
from pyidempotent._http.routes import path_pattern
from pyidempotent._values.durations import seconds
from pyidempotent.backends import Backend
from pyidempotent.backends.memory import MemoryBackend
from pyidempotent.testing._operations import operations_of

__all__ = ["Crashed", "Rehearsal", "assert_protected", "check_backend", "rehearse"]


def assert_protected(app: Any, *, methods: Iterable[str] = ("POST", "PATCH"), but: Iterable[str] = ()) -> None:
    """Checks that everything that changes something is protected: the one line that every service's tests should have.

    It finds a decorator above the route, a view that somebody added without one, a path that ``routes=`` leaves out.

    Parameters:
        app: a FastAPI, Starlette, Flask or Django (``get_wsgi_application()``) application, or one of these below
            `pyidempotent.asgi.IdempotencyMiddleware`.
        methods: those that have to be protected. PUT and DELETE are idempotent by themselves, if they are written so.
        but: patterns of paths that need no protection (``"/login"``, ``"/internal/*"``).

    Raises:
        AssertionError: with every operation that is not protected.

    >>> from fastapi import FastAPI
    >>> app = FastAPI()
    >>> @app.post("/pay")
    ... def pay(): ...
    >>> assert_protected(app)
    Traceback (most recent call last):
      ...
    AssertionError: not protected: POST /pay
    >>> assert_protected(app, but=["/pay"])
    """
    left_out = [path_pattern(text) for text in but]
    found = [
        f"{operation.method} {operation.path}"
        for operation in operations_of(app, methods)
        if not operation.is_protected and not any(pattern.match(operation.path) for pattern in left_out)
    ]
    if found:
        raise AssertionError(f"not protected: {', '.join(sorted(set(found)))}")


class Crashed(BaseException):
    """The process ended here, as if by ``kill -9``. Not an `Exception`: your own handlers do not see it."""


class Rehearsal:
    """What a test does to the code that it tests. Made by `rehearse`."""

    def __init__(self, native: _native.Rehearsal) -> None:
        self._native = native
        #: The records, for `Backend.get` and `Backend.resolve`.
        self.backend: Backend = MemoryBackend()

    def advance(self, by: float | timedelta) -> None:
        """Moves the clock on, by seconds or a timedelta: leases lapse, results expire."""
        self._native.advance(seconds("by", by))

    def crash(self, *_: Any, **__: Any) -> NoReturn:
        """The process ends here: every attempt under way leaves its claim to lapse, and `Crashed` is raised.

        It takes any arguments, so that it can stand in for a function.
        """
        self._native.crash()
        raise Crashed

    @contextlib.contextmanager
    def crash_after(self, owner: Any, name: str) -> Iterator[None]:
        """Within the block, the process ends when ``owner.name(…)`` has done its work, the first time.

        The `Crashed` that leaves the block then is swallowed, alone or in a group, or as the cause of another error.

        Raises:
            AssertionError: where ``owner.name`` was never called, so that nothing crashed.
        """
        with self._crashing(owner, name, call_first=True):
            yield

    @contextlib.contextmanager
    def crash_before(self, owner: Any, name: str) -> Iterator[None]:
        """Crashes where ``owner.name(…)`` would begin."""
        with self._crashing(owner, name, call_first=False):
            yield

    @contextlib.contextmanager
    def _crashing(self, owner: Any, name: str, *, call_first: bool) -> Iterator[None]:
        original, crashed = getattr(owner, name), False

        def crash() -> NoReturn:
            nonlocal crashed
            crashed = True
            self.crash()

        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def stand_in(*args: Any, **kwargs: Any) -> Any:
                value = await original(*args, **kwargs) if call_first or crashed else None
                return value if crashed else crash()
        else:

            @functools.wraps(original)
            def stand_in(*args: Any, **kwargs: Any) -> Any:
                value = original(*args, **kwargs) if call_first or crashed else None
                return value if crashed else crash()

        is_bound = isinstance(inspect.getattr_static(owner, name), staticmethod | classmethod)
        with mock.patch.object(
            owner, name, staticmethod(stand_in) if is_bound and inspect.isclass(owner) else stand_in
        ):
            try:
                yield
            except BaseException as error:
                if not _is_crash(error):
                    raise
        if not crashed:
            raise AssertionError(f"{name} of {owner!r} was not called, so that nothing crashed")


def _is_crash(error: BaseException | None) -> bool:
    if error is None or isinstance(error, Crashed):
        return error is not None
    parts: tuple[BaseException, ...] = getattr(error, "exceptions", ())  # of a group
    return any(map(_is_crash, parts)) or _is_crash(error.__cause__) or _is_crash(error.__context__)


@contextlib.contextmanager
def rehearse() -> Iterator[Rehearsal]:
    """Within the block, every backend of this process is one in memory, empty, on a clock that the test moves.

    Code under test needs no change: its decorators and attempts keep their own backends, which rest meanwhile.

    >>> from pyidempotent import idempotent
    >>> from pyidempotent.testing import rehearse
    >>> class Bank:
    ...     charges = 0
    ...     def charge(self) -> None:
    ...         self.charges += 1
    >>> bank = Bank()
    >>> @idempotent("redis://a-server-that-is-not-needed", key="order", lease=30)
    ... def pay(order: str) -> str:
    ...     bank.charge()
    ...     return "paid"
    >>> with rehearse() as idempotency:
    ...     with idempotency.crash_after(bank, "charge"):
    ...         pay("order-7")
    ...     idempotency.advance(30)
    ...     pay("order-7"), bank.charges
    ('paid', 2)
    """
    native = _native.Rehearsal()
    try:
        yield Rehearsal(native)
    finally:
        native.end()


def check_backend(make_backend: Callable[[], Backend]) -> None:
    """Holds a backend against every rule of its contract, with keys of its own. Takes some seconds.

    Parameters:
        make_backend: makes one.

    Raises:
        AssertionError: names the first rule that does not hold.

    >>> from pyidempotent.backends.memory import MemoryBackend
    >>> check_backend(MemoryBackend)
    """
    backend = make_backend()
    if not isinstance(backend, Backend):
        raise TypeError(f"make_backend must return a backend, not {type(backend).__qualname__}")
    name, runs = type(backend).__name__, []

    @idempotent(backend, key="key", name="pyidempotent.testing.check_backend")
    def work(key: str) -> None:
        runs.append(key)

    try:
        backend.native.check()
        key = str(uuid.uuid4())
        work(key)
        removed = backend.purge()
        work(key)
        assert type(removed) is int, f"purge() returns how many values it removed, not {removed!r}"
        assert runs == [key], "purge() removes only what has expired"
    except AssertionError as broken:
        raise AssertionError(f"{name} breaks this rule of backends: {broken}") from None
