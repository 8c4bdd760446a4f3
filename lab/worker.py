"""A process of the lab: does what it is told by lines, with the product, and writes down every effect.

``python -m lab.worker OPTIONS``, a JSON object: ``url``, ``prefix`` (of keys, or empty), ``lease``, ``ttl``,
``time_limit``, ``effects`` (a file).

It reads a call a line: ``{"number", "operation", "caller", "key", "payload", "policy", "colour", "work", "fate"}``; or
``{"fork": calls, "child": number}``, for a child of its own. It writes ``["ready"]``, ``["answered", number, began,
answered, outcome, value]``, ``["paused", from, to]`` where it was not scheduled, ``["forked", number]`` in a child,
``["store", "lost" or "back", at]`` when the product says so, and ``["dies", at]`` before it kills itself.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal

from lab import bodies
from lab.bodies import Failed, die, notice_pauses, open_effects, outcome, store, write
from pyidempotent import idempotent

OPTIONS = json.loads(sys.argv[1])

OPERATIONS = ("pay", "refund")
POLICIES: tuple[Literal["rerun", "refuse"], ...] = ("rerun", "refuse")

effects = open_effects(OPTIONS["effects"])
this_call: ContextVar[dict[str, Any]] = ContextVar("this_call")


def begin(call: dict[str, Any]) -> None:
    if call["fate"] == "dies first":
        die(1)
    bodies.begin(effects, call)


def end(call: dict[str, Any]) -> int:
    is_to_raise = bodies.end(effects, call)
    if call["fate"] == "dies last":
        die(1)
    if is_to_raise:
        raise Failed
    number: int = call["number"]
    return number


def make(operation: str, policy: Literal["rerun", "refuse"]) -> dict[str, Callable[..., Any]]:
    """The protected function of an operation, sync and async."""
    protected = idempotent(
        backend,
        key="key",
        name=operation,
        scope=lambda caller: caller,
        fingerprint=lambda payload: payload,
        lease=OPTIONS["lease"],
        ttl=OPTIONS["ttl"],
        after_crash=policy,
    )

    @protected
    def in_thread(key: str, caller: str, payload: str) -> int:
        call = this_call.get()
        begin(call)
        time.sleep(call["work"])
        return end(call)

    @protected
    async def in_loop(key: str, caller: str, payload: str) -> int:
        call = this_call.get()
        begin(call)
        await asyncio.sleep(call["work"])
        return end(call)

    return {"thread": in_thread, "loop": in_loop}


backend = store(OPTIONS["url"], OPTIONS["time_limit"], OPTIONS["prefix"])
functions = {(operation, policy): make(operation, policy) for operation in OPERATIONS for policy in POLICIES}


def call_in_thread(call: dict[str, Any], function: Callable[..., int]) -> None:
    this_call.set(call)
    began = time.monotonic()
    told: tuple[str, int | None]
    try:
        told = ("value", function(call["key"], call["caller"], call["payload"]))
    except Exception as error:
        told = (outcome(error), None)
    write(1, "answered", call["number"], began, time.monotonic(), *told)


async def call_in_loop(call: dict[str, Any], function: Callable[..., Any]) -> None:
    this_call.set(call)
    began = time.monotonic()
    try:
        told = ("value", await function(call["key"], call["caller"], call["payload"]))
    except Exception as error:
        told = (outcome(error), None)
    write(1, "answered", call["number"], began, time.monotonic(), *told)


class Outages(logging.Handler):
    """Passes on what the product says of the store: after an outage nobody is taken over for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line for each end of an outage."""
        said = record.getMessage()
        if "the store can't be used" in said or "the store answers again" in said:
            write(1, "store", "lost" if "can't" in said else "back", time.monotonic())


def fork(calls: list[dict[str, Any]], number: int) -> None:
    """Forks; the child makes these calls, each in a thread of its own, and ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which is what this is about
        if os.fork():
            return
    write(1, "forked", number)
    threads = []
    for call in calls:
        function = functions[call["operation"], call["policy"]][call["colour"]]
        target = call_in_thread if call["colour"] == "thread" else lambda *told: asyncio.run(call_in_loop(*told))
        threads.append(threading.Thread(target=target, args=(call, function)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    os._exit(0)


async def main() -> None:
    paused = partial(write, 1, "paused")
    threading.Thread(target=notice_pauses, args=(OPTIONS["lease"], paused), daemon=True).start()
    logging.getLogger("pyidempotent").addHandler(Outages())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children end by themselves
    write(1, "ready")
    tasks = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        call = json.loads(line)
        if "fork" in call:
            fork(call["fork"], call["child"])
            continue
        function = functions[call["operation"], call["policy"]][call["colour"]]
        if call["colour"] == "thread":
            threading.Thread(target=call_in_thread, args=(call, function), daemon=True).start()
        else:
            tasks.add(task := asyncio.create_task(call_in_loop(call, function)))
            task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main())
