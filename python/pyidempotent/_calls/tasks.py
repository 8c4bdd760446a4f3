"""Inside a Celery task: which one runs, and how its message is put back.

Celery is looked for among what is imported already, and never imported by a call that is not inside a task.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from pyidempotent.exceptions import IdempotencyError, IdempotencyProcessing, IdempotencyStoreUnavailable

logger = logging.getLogger("pyidempotent")

#: Nothing ran, and it may go better later.
PASSING = (IdempotencyProcessing, IdempotencyStoreUnavailable)


def is_task(function: Any) -> bool:
    """Whether this is a task of Celery's, made by its decorator, or one that Celery makes when it is first used."""
    task, local = sys.modules.get("celery.app.task"), sys.modules.get("celery.local")
    if local is not None and type(function) is local.PromiseProxy:
        return True
    return task is not None and isinstance(function, task.Task)


def running_task(function: Callable[..., Any]) -> Any:
    """The task whose message is being worked on, if this is its own function; a call from another's body is not."""
    celery = sys.modules.get("celery")
    task = celery._state.get_current_task() if celery is not None and "celery._state" in sys.modules else None
    if task is None or task.request.called_directly:
        return None
    run: Any = task.run
    while run is not None:
        run = getattr(run, "__func__", run)
        if run is function:
            return task
        run = getattr(run, "__wrapped__", None)
    return None


def is_put_back(error: BaseException | None) -> bool:
    """Whether a delivery ended because its message was put back: what protects the task from outside lets go too."""
    return getattr(error, "is_put_back", False) is True


def is_to_run_again(error: Exception, function: Callable[..., Any]) -> bool:
    """Whether a task's body ended with its own word that it may run again: a retry, or a rejection of its message."""
    if is_put_back(error):
        return True
    names = {(cls.__module__, cls.__name__) for cls in type(error).__mro__}
    if names & {("celery.exceptions", "Retry"), ("celery.exceptions", "Reject")}:
        return True
    task = running_task(function)
    if task is None or not isinstance(error, tuple(getattr(task, "autoretry_for", ()))):
        return False
    if isinstance(error, tuple(getattr(task, "dont_autoretry_for", ()))):
        return False
    limit = {"max_retries": task.max_retries, **getattr(task, "retry_kwargs", {})}["max_retries"]
    return limit is None or task.request.retries < limit


def put_back(task: Any, error: IdempotencyError) -> NoReturn:
    """Sends the running task's message again, for later, as the same task and try; raises what ends this delivery."""
    from celery.exceptions import Ignore, Reject

    if task.request.is_eager:  # there is no message: it would be worked on at once, and at once again
        raise error
    pause = error.retry_after or 1.0
    try:
        # Not task.retry(): it would count, and be caught or recorded as what it is not.
        task.signature_from_request(countdown=pause).apply_async(add_to_parent=False)
    except Exception as unsent:
        if not task.acks_late:
            raise
        raise Reject(unsent, requeue=True) from unsent
    level = logging.INFO if isinstance(error, IdempotencyProcessing) else logging.WARNING
    # Without the task's id, which may be the key. Celery's own lines about the message have it.
    logger.log(level, "the task %s is put back for %.3g s: %s", task.name, pause, error)
    ignored = Ignore(str(error))
    ignored.is_put_back = True
    raise ignored from error
