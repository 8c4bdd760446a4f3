"""A Celery application whose bodies are counted across processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject

from pyidempotent import current, idempotent
from pyidempotent.celery import idempotent_task

STORE = os.environ["STORE"]
FOLDER = Path(os.environ["FOLDER"])
LEASE = float(os.environ.get("LEASE", "2"))

app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": float(os.environ.get("VISIBILITY", "3600"))},
    task_acks_late=True,
    task_reject_on_worker_lost="REJECT_ON_WORKER_LOST" in os.environ,
    task_track_started=True,
    worker_max_tasks_per_child=int(os.environ.get("TASKS_PER_CHILD", "0")) or None,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
)


def note(*words: Any) -> None:
    """Writes a line that other processes can count."""
    with (FOLDER / "book").open("a") as book:
        book.write(" ".join(map(str, words)) + "\n")


def wait_at_gate(name: str) -> None:
    """Until a test opens it."""
    gate = FOLDER / f"gate-{name}"
    deadline = time.monotonic() + 30
    while not gate.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # a file of another process's, of which nothing tells


Once = idempotent_task(STORE, lease=LEASE, ttl=600)
Refusing = idempotent_task(STORE, lease=LEASE, ttl=600, after_crash="refuse")


@app.task(base=Once)
def add(a: int, b: int) -> int:
    note("add", a, b)
    return a + b


@app.task(base=Once, bind=True)
def slow(self: Task, name: str) -> str:
    """Runs until its gate is open."""
    note("slow", name, self.request.retries, os.getpid())
    wait_at_gate(name)
    note("end", name, current().key == self.request.id)
    return name


@app.task(base=Refusing)
def slow_refusing(name: str) -> str:
    note("slow", name, 0, os.getpid())
    wait_at_gate(name)
    return name


@app.task(base=Once, autoretry_for=(Exception,), max_retries=0)
def slow_autoretry(name: str) -> str:
    note("slow", name)
    wait_at_gate(name)
    return name


@app.task(base=Refusing, bind=True, max_retries=5, default_retry_delay=0.1)
def retries(self: Task, name: str, times: int) -> int:
    note("retries", name)
    if self.request.retries < times:
        raise self.retry()
    return int(self.request.retries)


@app.task(base=Refusing, autoretry_for=(OSError,), retry_kwargs={"max_retries": 2, "countdown": 0.1})
def autoretries(name: str) -> None:
    note("autoretries", name)
    raise OSError("the bank is closed")


@app.task(base=Refusing, bind=True, max_retries=5)
def rejects(self: Task, name: str) -> str:
    note("rejects", name)
    if len((FOLDER / "book").read_text().split(f"rejects {name}\n")) < 4:
        raise Reject(name, requeue=True)
    return name


@app.task(base=Refusing)
def fails(name: str) -> None:
    note("fails", name)
    raise ValueError("no")


@app.task(base=idempotent_task(STORE, key="order", lease=LEASE, ttl=600))
def by_order(order: str, amount: int) -> list[Any]:
    note("by_order", order)
    return [order, amount, current().derive("charge")]


@app.task(base=Once, bind=True)
def replaced(self: Task, a: int) -> None:
    note("replaced", a)
    raise self.replace(add.s(a, 1))


@app.task(bind=True, autoretry_for=(Exception,), max_retries=0)
@idempotent(STORE, key="order", lease=LEASE, ttl=600)
def plain(self: Task, order: str) -> str:
    note("plain", order, self.request.retries)
    wait_at_gate(order)
    return order


@app.task(bind=True, autoretry_for=(OSError,), retry_kwargs={"max_retries": 2, "countdown": 0.1})
@idempotent(STORE, key="order", lease=LEASE, ttl=600, after_crash="refuse")
def plain_retries(self: Task, order: str, times: int) -> int:
    note("plain_retries", order)
    if self.request.retries < times:
        raise OSError("the bank is closed")
    return int(self.request.retries)


@app.task(base=Once, acks_late=False)
def recurses(depth: int) -> int:
    note("recurses", depth)
    return depth if depth == 0 else int(recurses(depth - 1))


def effect_of(name: str, gate: str | None) -> str:
    note("begin", name, os.getpid())
    note("effect", name)
    if gate is None:
        time.sleep(0.005)  # so that a kill may fall in between
    else:
        wait_at_gate(gate)
    note("end", name)
    return name


@app.task(base=Once)
def effect(name: str, gate: str | None = None) -> str:
    return effect_of(name, gate)


@app.task(base=Refusing)
def effect_refusing(name: str, gate: str | None = None) -> str:
    return effect_of(name, gate)


@app.task
def report(value: Any) -> None:
    note("report", value)


@app.task(base=Once)
@idempotent(STORE, key="order", lease=LEASE, ttl=600, name="layered")
def layered(order: str) -> str:
    """Protected twice: by its message, and by its order."""
    note("body", order)
    wait_at_gate(order)
    return order


@idempotent(STORE, key="order", lease=LEASE, ttl=600, name="helper")
def helper(order: str) -> str:
    note("body", order)
    wait_at_gate(order)
    return order


@app.task(base=Once)
def helped(order: str) -> str:
    return helper(order)


@app.task
@idempotent(STORE, key=lambda order: current_task_id(), lease=LEASE, ttl=600, name="helped_plain")
def helped_plain(order: str) -> str:
    return helper(order)


def current_task_id() -> str:
    return str(app.current_task.request.id)
