"""Plain operations in a process of their own, driven by lines.

Reads ``{"number", "function", "key", "until"}`` per call, and writes ``[what, key, number, time, more]``: a body
``began`` or ``ended``, a call was ``answered`` (with the number of the call whose body ran) or ``refused`` (with the
error's name). Every process on the machine has this clock, ``time.monotonic``.
"""

import asyncio
import json
import sys
import threading
import time
from contextvars import ContextVar
from typing import Any

from pyidempotent import IdempotencyError, idempotent
from pyidempotent.backends.redis import RedisBackend

OPTIONS = json.loads(sys.argv[1])

#: A body that begins after its time is over takes this long, so that two at once are seen.
SHORTEST = 0.2

protected = idempotent(
    RedisBackend(OPTIONS["url"], time_limit=OPTIONS["time_limit"]), key="key", lease=OPTIONS["lease"], ttl=600
)
this_call: ContextVar[int] = ContextVar("this_call")
turn = threading.Lock()


def say(what: str, key: str, number: int, more: Any = None) -> None:
    line = json.dumps([what, key, number, time.monotonic(), more])
    with turn:
        print(line, flush=True)


@protected
def in_thread(key: str, until: float) -> int:
    number = this_call.get()
    say("began", key, number)
    time.sleep(max(until - time.monotonic(), SHORTEST))  # the work, which ends when the outage's plan says
    say("ended", key, number)
    return number


@protected
async def in_loop(key: str, until: float) -> int:
    number = this_call.get()
    say("began", key, number)
    await asyncio.sleep(max(until - time.monotonic(), SHORTEST))
    say("ended", key, number)
    return number


def call_in_thread(number: int, key: str, until: float) -> None:
    this_call.set(number)
    try:
        say("answered", key, number, in_thread(key, until))
    except IdempotencyError as error:
        say("refused", key, number, type(error).__name__)


async def call_in_loop(number: int, key: str, until: float) -> None:
    this_call.set(number)
    try:
        say("answered", key, number, await in_loop(key, until))
    except IdempotencyError as error:
        say("refused", key, number, type(error).__name__)


async def main() -> None:
    tasks = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        call = json.loads(line)
        told = (call["number"], call["key"], call["until"])
        if call["function"] == "in_thread":
            threading.Thread(target=call_in_thread, args=told, daemon=True).start()
        else:
            tasks.add(task := asyncio.create_task(call_in_loop(*told)))
            task.add_done_callback(tasks.discard)


asyncio.run(main())
