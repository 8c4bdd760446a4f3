"""A Celery application, whose workers are killed: ``LAB_OPTIONS``, a JSON object, says what it needs.

``url``, ``broker``, ``visibility`` (the broker's timeout in seconds), ``lease``, ``time_limit``, ``effects`` (a file).
Every delivery of a message is a call of its own, and writes down its beginning and its answer as Celery sees them.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from typing import Any, Literal

from celery import Celery, signals

from lab.bodies import Failed, begin, die, end, open_effects, outcome, process, store, take, write
from pyidempotent.celery import idempotent_task

OPTIONS = json.loads(os.environ["LAB_OPTIONS"])

effects = open_effects(OPTIONS["effects"])
backend = store(OPTIONS["url"], OPTIONS["time_limit"])

app = Celery("lab", broker=OPTIONS["broker"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": OPTIONS["visibility"]},
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    # What a killed process had counts against this for ten seconds.
    worker_prefetch_multiplier=4,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
)

#: The delivery that this process works on: one at a time.
this: dict[str, Any] = {}


def make(operation: str, policy: Literal["rerun", "refuse"]) -> None:
    """The task of an operation under a policy."""
    base = idempotent_task(
        backend,
        key="key",
        scope=lambda caller: caller,
        fingerprint=lambda payload: payload,
        lease=OPTIONS["lease"],
        retry_after=0.3,
        after_crash=policy,
    )

    @app.task(base=base, name=f"{operation}-{policy}")  # type: ignore[untyped-decorator]  # Celery has no types
    def run(key: str, caller: str, payload: str, call: dict[str, Any]) -> int:
        if this["fate"] == "dies first":
            die(effects, process())
        begin(effects, this)
        time.sleep(this["work"])
        is_to_raise = end(effects, this)
        if this["fate"] == "dies last":
            die(effects, process())
        if is_to_raise:
            raise Failed
        number: int = this["number"]
        return number


make("pay", "rerun")
make("pay", "refuse")
make("refund", "rerun")
make("refund", "refuse")


@signals.task_prerun.connect  # type: ignore[untyped-decorator]  # Celery has no types
def takes(sender: Any, kwargs: dict[str, Any], **_: Any) -> None:
    """A delivery begins. One that comes again does not die by its own hand once more."""
    this.clear()
    this.update(kwargs["call"], number=secrets.randbits(50))
    if sender.request.delivery_info.get("redelivered"):
        this["fate"] = "returns"
    take(effects, this, OPTIONS["lease"])


@signals.task_postrun.connect  # type: ignore[untyped-decorator]  # Celery has no types
def answered(retval: Any, **_: Any) -> None:
    """A delivery ends: with a value, with an error, or put back for a reason."""
    if isinstance(retval, BaseException):
        why = retval.__cause__ if getattr(retval, "is_put_back", False) else retval
        told: tuple[str, int | None] = (outcome(why or retval), None)
    else:
        told = ("value", retval)
    write(effects, "answered", this["number"], time.monotonic(), *told)
