"""Celery (5.3 or later): a message may be delivered twice; the body of its task runs once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore
from celery.signals import worker_process_init, worker_process_shutdown

from pyidempotent._calls.flow import advance, protect
from pyidempotent._calls.function import Function, FunctionCall, json_body
from pyidempotent._calls.tasks import PASSING, is_put_back, put_back
from pyidempotent._lifecycle import end
from pyidempotent._options import Site
from pyidempotent._options.reading import OptionReader
from pyidempotent._options.table import TaskOptions
from pyidempotent._values.results import Outcome
from pyidempotent.backends import Backend
from pyidempotent.backends._urls import warn_of_memory

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["idempotent_task"]

FACE = OptionReader("idempotent_task()", TaskOptions)


@FACE.shows
def idempotent_task(backend: Backend | str, **options: Unpack[TaskOptions]) -> type[Task]:
    """A base class of tasks whose body runs once per key, however often their message arrives.

    By default the key is the task's id, and the operation the task's name. A message that arrives again after the body
    has ended gets the stored result. One that arrives while the body still runs, or while the store can't be reached,
    is put back for later as it is: it takes no slot of the worker and no retry. ``self.retry()``, ``autoretry_for`` and
    ``Reject`` free the key, also under ``after_crash="refuse"``; ``Ignore`` (and with it ``self.replace()``) is a
    result.

    To join it with a base class of yours that wraps the body, name it first: ``class Shop(Once, ContextTask)``.

    A direct call, ``task(…)``, has no id: it is protected where there is a ``key=``, and is a plain call otherwise.

    Parameters:
        backend: a backend or its URL.
        options: each by its name, where an editor shows what it means. docs/options.md has all of them.

    Raises:
        TypeError, ValueError: for options that can't be.

    >>> from celery import Celery
    >>> app = Celery("shop", broker="memory://")
    >>> @app.task(base=idempotent_task("memory://", key="order_id", ttl=3600), acks_late=True)
    ... def charge(order_id: str, amount: int) -> str:
    ...     print("charging")
    ...     return f"charged {amount}"
    >>> charge.apply(("order-7", 42)).get(), charge.apply(("order-7", 42)).get()
    charging
    ('charged 42', 'charged 42')
    """
    read = FACE.read(options)
    if read["fingerprint"] is json_body:
        json_body()
    site = Site(backend, read)

    def analyse(task: Task) -> Function:
        own = {option: read[option] for option in ("key", "scope", "fingerprint")}
        return Function(task.run, site, name=read["name"] or task.name, **own)

    return type("IdempotentTask", (_IdempotentTask,), {"_analyse": staticmethod(analyse), "__module__": __name__})


#: The options that a task has no attributes of.
_OPTIONS = FACE.names - {"backend", "name"}


class _IdempotentTask(Task):  # type: ignore[misc]  # Celery is untyped
    _analyse: Callable[[Task], Function]

    def __init__(self, *given: Any) -> None:
        if given:
            raise TypeError("idempotent_task() makes a base class: write @app.task(base=idempotent_task(…))")
        super().__init__()
        if astray := _OPTIONS & vars(type(self)).keys():
            raise TypeError(
                f"{min(astray)}= is given to @app.task of {self.name}, where it does nothing: give it to "
                f"idempotent_task(…, {min(astray)}=…)"
            )
        mro = type(self).__mro__
        before = next(cls for cls in mro if "__call__" in vars(cls))
        if before is not _IdempotentTask:
            raise TypeError(
                f"{before.__name__} of the task {self.name} has a __call__ of its own, which would go around the "
                f"protection: let it have no base of idempotent_task()'s, and write class Mine(Once, {before.__name__})"
            )
        after = next(cls for cls in mro[mro.index(_IdempotentTask) + 1 :] if "__call__" in vars(cls))
        #: Whether another base class wraps the body, to give it an application context, say.
        self._is_wrapped = after is not Task
        if self.name is not None:
            _ = self._idempotent  # says now what is wrong with it

    @cached_property
    def _idempotent(self) -> Function | None:
        # Celery's own tasks count on being run again; they have this base where it is the application's.
        is_own = getattr(self.run, "__module__", "").startswith("celery.app.")
        return None if is_own else self._analyse(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Called by the worker for a message, and by anybody directly."""
        request, called = self.request, partial(super().__call__, *args, **kwargs)
        is_direct = request.called_directly or getattr(request, "_idempotent", False)
        plan = self._idempotent
        if plan is None or (is_direct and plan.takes_key_from_header):
            return called()
        call = _TaskCall(plan, args, kwargs)
        if is_direct:
            outcome = advance(call, protect(call), None, _no_body, called)
        else:
            # A direct call from within the body is another call.
            request._idempotent, call.task_id = True, request.id
            # Not Task.__call__, which would give the body a request that is nobody's.
            body = called if self._is_wrapped else partial(self.run, *args, **kwargs)
            try:
                outcome = advance(call, protect(call), None, _no_body, body)
                if isinstance(outcome.exception, PASSING):  # of a protected call in the body
                    raise outcome.exception
            except PASSING as error:
                put_back(self, error)
        if outcome.exception is not None:
            raise outcome.exception
        return outcome.value


class _TaskCall(FunctionCall):
    """A call of a task's body."""

    __slots__ = ("task_id",)

    def __init__(self, plan: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(plan, args, kwargs)
        self.task_id: str | None = None

    def key(self) -> str | None:
        """As ``key=`` says, or the task's id."""
        return self.task_id if self.plan.takes_key_from_header else super().key()

    def stored_exceptions(self) -> tuple[type[Exception], ...]:
        """``Ignore`` is how a task ends that has nothing to say."""
        return (*super().stored_exceptions(), Ignore)

    def verdict(self, outcome: Outcome) -> str:
        """As of a function; and it may be ignored."""
        is_ignored = isinstance(outcome.exception, Ignore) and not is_put_back(outcome.exception)
        return "store" if is_ignored else super().verdict(outcome)


def _no_body(_: Any) -> Any:
    raise AssertionError("a task has no request")


@worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery is untyped
def _warn_of_memory(**_: Any) -> None:
    """In a child of the prefork pool."""
    if ("memory://",) in Backend._shared:
        warn_of_memory("a process of a prefork pool")


@worker_process_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery is untyped
def _drain(**_: Any) -> None:
    # A child of the prefork pool ends without the interpreter's own exit.
    end()
